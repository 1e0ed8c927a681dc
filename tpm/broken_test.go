package tpm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
)

// dyingStream answers one command with TPM_RC_OBJECT_MEMORY and is dead for the next.
type dyingStream struct {
	written int
	answer  []byte
}

func (s *dyingStream) Write(b []byte) (int, error) {
	s.written++
	if s.written > 1 {
		return 0, io.ErrClosedPipe
	}
	s.answer = binary.BigEndian.AppendUint32([]byte{0x80, 0x01, 0, 0, 0, headerBytes}, uint32(tpm2.TPMRCObjectMemory))
	return len(b), nil
}

func (s *dyingStream) Read(b []byte) (int, error) {
	n := copy(b, s.answer)
	s.answer = s.answer[n:]
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

func (*dyingStream) Close() error                { return nil }
func (*dyingStream) SetDeadline(time.Time) error { return nil }

func TestConnectionThatDiesUnderAnEvictionIsAnError(t *testing.T) {
	s := newScheduler(t.Context(), device{network: "unix", address: "/nonexistent"}, Config{}.withDefaults())
	conn, err := newConn(&dyingStream{}, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	s.conn = conn
	s.loaded.put(&resident{}, 0x80000000, nil)
	if _, err := s.perform(&turn{ctx: t.Context(), scheduler: s}, flushCommand(1)); !errors.Is(err, ErrUnavailable) {
		t.Errorf("got %v, want ErrUnavailable", err)
	}
}

// emptySuccess answers every command with success and nothing else.
type emptySuccess struct{}

func (emptySuccess) Send([]byte) ([]byte, error) {
	return []byte{0x80, 1, 0, 0, 0, 10, 0, 0, 0, 0}, nil
}

func TestCapabilityWithoutContentIsAnError(t *testing.T) {
	if got, err := algorithms(emptySuccess{}); err == nil {
		t.Errorf("algorithms: got %v", got)
	}
	if got, err := properties(emptySuccess{}, tpm2.TPMPTFamilyIndicator, 1); err == nil {
		t.Errorf("properties: got %v", got)
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
