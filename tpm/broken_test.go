package tpm

import (
	"fmt"
	"testing"

	"github.com/google/go-tpm/tpm2"
)

// emptySuccess answers every command with success and nothing else.
type emptySuccess struct{}

func (emptySuccess) Send([]byte) ([]byte, error) {
	return []byte{0x80, 1, 0, 0, 0, 10, 0, 0, 0, 0}, nil
}

func TestCapabilityWithoutContentIsAnError(t *testing.T) {
	if got, err := algorithms(emptySuccess{}); err == nil {
		t.Errorf("algorithms: got %v", got)
	}
}

func TestStaleHandles(t *testing.T) {
	for _, tc := range []struct {
		name string
		err  error
		want bool
	}{
		{"a handle of before a reset", fmt.Errorf("x: %w", tpm2.TPMRCReferenceH0), true},
		{"a handle that is nobody's", tpm2.TPMRCHandle, true},
		{"a handle that is another object's", fmt.Errorf("x: %w", errWrongObject), true},
		{"a refusal", tpm2.TPMRCScheme, false},
		{"no error", nil, false},
	} {
		if got := staleHandle(tc.err); got != tc.want {
			t.Errorf("%s: got %v, want %v", tc.name, got, tc.want)
		}
	}
}
