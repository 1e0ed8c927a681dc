package tpm_test

import (
	"context"
	"encoding/binary"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/keyagent/keyagent/tpm"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

// observed keeps what an observer is told.
type observed struct {
	mu       sync.Mutex
	turns    int
	commands []string // name and outcome
}

func (o *observed) TPMTurn(time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.turns++
}

func (o *observed) TPMCommand(name string, took time.Duration, outcome string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if took < 0 {
		outcome += " before it was sent"
	}
	o.commands = append(o.commands, name+" "+outcome)
}

func (o *observed) take() (turns int, commands []string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	turns, commands = o.turns, o.commands
	o.turns, o.commands = 0, nil
	return turns, commands
}

func TestAnObserverIsToldOfTurnsAndCommands(t *testing.T) {
	proxy := tpmtest.NewProxy(t, tpmtest.Simulator(t).Device())
	o := new(observed)
	at := tpmtest.ConnectWith(t, tpm.Config{Device: proxy.Device(), Observer: o})
	ctx, cancel := context.WithCancel(t.Context())
	late := make(chan struct{})
	for _, tt := range []struct {
		name    string
		answer  func() ([]byte, error) // nil: the TPM's own
		ctx     context.Context
		outcome string
	}{
		{"it answers", nil, t.Context(), "success"},
		{"it answers with a code", func() ([]byte, error) { return tpmtest.Response(uint32(tpm2.TPMRCFailure)), nil }, t.Context(), "error"},
		{"the connection ends", func() ([]byte, error) { return nil, tpmtest.ErrHangUp }, t.Context(), "lost"},
		{"the caller goes", func() ([]byte, error) { cancel(); <-late; return nil, tpmtest.ErrHangUp }, ctx, "abandoned"},
	} {
		proxy.Handle(func(command []byte, forward tpmtest.Forward) ([]byte, error) {
			if tt.answer != nil && tpm2.TPMCC(binary.BigEndian.Uint32(command[6:])) == tpm2.TPMCCGetRandom {
				return tt.answer()
			}
			return forward(command)
		})
		if err := at.Answers(t.Context()); err != nil { // so that there is a connection
			t.Fatal(err)
		}
		o.take()
		_ = at.Do(tt.ctx, func(tp transport.TPM) error {
			_, err := tpm2.GetRandom{BytesRequested: 8}.Execute(tp)
			return err
		})
		if turns, commands := o.take(); turns != 1 || !slices.Equal(commands, []string{"TPM2_GetRandom " + tt.outcome}) {
			t.Errorf("%s: %d turns, %q", tt.name, turns, commands)
		}
	}
	close(late)
	if n := at.Queued(); n != 0 {
		t.Errorf("%d callers wait", n)
	}
}
