package tee

import (
	"encoding/binary"
	"fmt"
)

// TCB is AMD's TCB_VERSION: eight security levels, one byte each. Which byte is which differs
// between products (Milan and Genoa: boot loader, TEE, four reserved, SNP firmware, microcode, from
// the lowest byte), but newer is higher in each of them, so two values of one product compare byte
// by byte without knowing the names.
type TCB uint64

// AtLeast reports whether every component of t is at least that of low.
func (t TCB) AtLeast(low TCB) bool {
	var have, want [8]byte
	binary.LittleEndian.PutUint64(have[:], uint64(t))
	binary.LittleEndian.PutUint64(want[:], uint64(low))
	for i := range want {
		if have[i] < want[i] {
			return false
		}
	}
	return true
}

func (t TCB) String() string { return fmt.Sprintf("%016x", uint64(t)) }
