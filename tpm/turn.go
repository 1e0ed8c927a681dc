package tpm

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/keyagent/keyagent/internal/tcg"
)

// The pauses before a command is sent again that the TPM asked to repeat: firstPause, doubled each time up to maxPause.
const (
	firstPause = time.Millisecond
	maxPause   = 250 * time.Millisecond
)

// turn is one caller's exclusive use of the TPM. It is the transport.TPM that Do hands out.
type turn struct {
	ctx       context.Context // of the caller; ends waiting, not a command that was sent
	scheduler *scheduler
	left      func() // is called when it ends

	mu    sync.Mutex // held while a command is executed
	over  bool
	begun bool           // a command was sent
	made  tpm2.TPMHandle // what the last command loaded or started, if it did
}

var _ transport.TPM = (*turn)(nil)

// Send executes one command and returns its response, whatever code it carries. Codes that ask for a repetition are
// repeated until the context ends, or for as long as one command may take.
//
// TPM2_FlushContext is taken also after the context has ended, and when the TPM puts it off. It is
// then executed when the turn is over, or later, so that a deferred clean-up always works and
// nobody waits for it; its response is made up.
func (t *turn) Send(input []byte) ([]byte, error) {
	// A TPM would wait for the rest of a command that is shorter than it says.
	if len(input) < headerBytes || int64(binary.BigEndian.Uint32(input[2:])) != int64(len(input)) {
		return nil, fmt.Errorf("%d bytes that are not a TPM command", len(input))
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over {
		return nil, errors.New("TPM used after the end of Do")
	}
	if isFlush(input) {
		return t.flushLocked(input, nil)
	}
	return t.sendLocked(input)
}

func (t *turn) sendLocked(input []byte) ([]byte, error) {
	return t.scheduler.patiently(t.ctx, t.scheduler.timeout, func() ([]byte, error) {
		if err := t.ctx.Err(); err != nil {
			return nil, fmt.Errorf("before sending %v: %w", command(input), err)
		}
		return t.scheduler.perform(t, input)
	})
}

// connect opens the connection if there is none, and so finds out which keys are still loaded.
func (t *turn) connect() error { return t.scheduler.open(t.ctx) }

// end is the end of the turn: nothing can be sent any more.
func (t *turn) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.over = true
}

// flushHandle flushes an object, or a session, that was made or used in this turn. The Name may be
// nil.
func (t *turn) flushHandle(h tpm2.TPMHandle, name []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, err := t.flushLocked(flushCommand(h), name); err != nil {
		t.scheduler.log.Debug("TPM handle not flushed", "handle", hexHandle(h), "cause", err)
	}
}

// flushLocked executes a TPM2_FlushContext. If it cannot be done now, it is owed. It needs the
// lock.
func (t *turn) flushLocked(input []byte, name []byte) ([]byte, error) {
	h := handleAt(input, headerBytes)
	if t.ctx.Err() != nil {
		t.scheduler.owe(h, name)
		return flushed(), nil //nolint:nilerr // it is done later
	}
	rsp, err := t.scheduler.perform(t, input)
	switch {
	case err == nil && !retryable(responseCode(rsp)):
		return rsp, nil
	case err == nil || t.ctx.Err() != nil:
		t.scheduler.owe(h, name)
		return flushed(), nil //nolint:nilerr // it is done later
	case !t.scheduler.managed: // nothing is flushed there by a connection that breaks
		t.scheduler.owe(h, name)
	}
	return nil, err
}

// command is a command that prints as its name.
type command []byte

func (c command) String() string { return "TPM command " + tcg.Command(uint32(commandCode(c))) }
