package eventlog

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"fmt"
	"slices"
	"strings"
)

// bankOf tells the bank of quoted values by their size. Values of another size than their bank's
// match nothing.
func bankOf(quoted map[int][]byte) uint16 {
	for _, value := range quoted {
		if len(value) == digestSize(algSHA384) {
			return algSHA384
		}
	}
	return algSHA256
}

// choose returns the first of the banks that a log has digests of, or 0.
func choose(algorithms, banks []uint16) uint16 {
	for _, bank := range banks {
		if slices.Contains(algorithms, bank) {
			return bank
		}
	}
	return 0
}

// names are those of banks, for a message.
func names(banks []uint16) string {
	var texts []string
	for _, bank := range banks {
		texts = append(texts, fmt.Sprintf("SHA-%d", 8*digestSize(bank)))
	}
	return strings.Join(texts, " or ")
}

// covers reports whether the digest, of either bank, is that of the data.
func covers(digest, data []byte) bool { return bytes.Equal(sum(len(digest), data), digest) }

// sum hashes as the bank whose digests have size bytes does.
func sum(size int, parts ...[]byte) []byte {
	h := sha256.New()
	if size == sha512.Size384 {
		h = sha512.New384()
	}
	for _, part := range parts {
		h.Write(part)
	}
	return h.Sum(nil)
}
