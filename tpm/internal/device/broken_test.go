package device

import (
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
)

// unopened returns a device whose queue works and that is nowhere.
func unopened(t *testing.T) *Device {
	t.Helper()
	return New(t.Context(), Address{Network: "unix", Path: "/nonexistent"}, Config{
		Logger: slog.New(slog.DiscardHandler), CommandTimeout: time.Minute, SessionIdle: time.Minute,
		Waiting: func(string) func() { return func() {} },
	})
}

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
	s.answer = binary.BigEndian.AppendUint32([]byte{0x80, 0x01, 0, 0, 0, HeaderBytes}, uint32(tpm2.TPMRCObjectMemory))
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

// spare is an object that gives way.
type spare struct{}

func (*spare) GivesWay() bool { return true }
func (*spare) Retired() bool  { return false }

func TestConnectionThatDiesUnderAnEvictionIsAnError(t *testing.T) {
	d := unopened(t)
	if err := d.Attach(&dyingStream{}); err != nil {
		t.Fatal(err)
	}
	d.residents.put(slot{resident: &spare{}, handle: 0x80000000})
	if _, err := d.perform(&Turn{ctx: t.Context(), device: d}, flushCommand(1)); !errors.Is(err, ErrUnavailable) {
		t.Errorf("got %v, want ErrUnavailable", err)
	}
}

// emptySuccess answers every command with success and nothing else.
type emptySuccess struct{}

func (emptySuccess) Send([]byte) ([]byte, error) {
	return []byte{0x80, 1, 0, 0, 0, 10, 0, 0, 0, 0}, nil
}

func TestCapabilityWithoutContentIsAnError(t *testing.T) {
	if got, err := Properties(emptySuccess{}, tpm2.TPMPTFamilyIndicator, 1); err == nil {
		t.Errorf("properties: got %v", got)
	}
}
