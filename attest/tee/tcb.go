package tee

import (
	"encoding/binary"
	"fmt"
)

// AMD's product lines, as the names of its certificates spell them.
const (
	lineMilan   = "Milan"
	lineGenoa   = "Genoa"
	lineTurin   = "Turin"
	lineUnknown = "unknown"
)

// TCB is AMD's TCB_VERSION: eight security levels, one byte each. Which byte is which differs
// between products: on Milan and Genoa boot loader, TEE, four reserved, SNP firmware, microcode,
// from the lowest byte; on Turin FMC, boot loader, TEE, SNP firmware, three reserved, microcode.
// Newer is higher in each of them, so two values of one product compare byte by byte without
// knowing the names.
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

// reserved reports whether a component is set that the product line does not have. On an unknown
// line those count that no known line has.
func (t TCB) reserved(line string) bool {
	const zen3, zen5 = 0x0000_FFFF_FFFF_0000, 0x00FF_FFFF_0000_0000
	switch line {
	case lineMilan, lineGenoa:
		return t&zen3 != 0
	case lineTurin:
		return t&zen5 != 0
	}
	return t&zen3&zen5 != 0
}

// lineOfCPU is the product line of a CPU by the combined family and model of CPUID function 1.
func lineOfCPU(family, model byte) string {
	switch {
	case family == 0x19 && model <= 0x0F:
		return lineMilan
	case family == 0x19 && (model >= 0x10 && model <= 0x1F || model >= 0xA0 && model <= 0xAF):
		return lineGenoa // and Bergamo and Siena, which have Genoa's roots
	case family == 0x1A && model <= 0x11:
		return lineTurin
	}
	return lineUnknown
}
