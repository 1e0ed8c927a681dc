package statedir

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"
)

// What is taken for the note of a storage root is what the agent writes, byte for byte but for the
// case of digits and the newline.
func FuzzDecodePin(f *testing.F) {
	f.Add([]byte("000b" + strings.Repeat("ab", 32) + "\n"))
	f.Add([]byte("000c" + strings.Repeat("00", 48)))
	f.Add([]byte("000b00"))
	f.Add([]byte(""))
	f.Fuzz(func(t *testing.T, text []byte) {
		pin, ok := decodePin(text)
		if !ok {
			return
		}
		if len(pin) < 34 || hex.EncodeToString(pin) != string(bytes.ToLower(bytes.TrimSuffix(text, []byte("\n")))) {
			t.Errorf("%q was taken for %x", text, pin)
		}
	})
}
