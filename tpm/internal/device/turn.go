package device

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
	"github.com/keyagent/keyagent/internal/waiting"
	"github.com/keyagent/keyagent/tpm/internal/rc"
)

// The pauses before a command is sent again that the TPM asked to repeat: FirstPause, doubled each
// time up to MaxPause.
const (
	FirstPause = time.Millisecond
	MaxPause   = 250 * time.Millisecond
)

// Turn is one caller's exclusive use of the TPM. It is the transport.TPM that Do hands out.
type Turn struct {
	ctx    context.Context // of the caller; ends waiting, not a command that was sent
	device *Device
	left   func() // is called when it ends

	mu    sync.Mutex // held while a command is executed
	over  bool
	begun bool           // a command was sent
	made  tpm2.TPMHandle // what the last command loaded or started, if it did
}

var _ transport.TPM = (*Turn)(nil)

// Send executes one command and returns its response, whatever code it carries. Codes that ask for
// a repetition are repeated until the context ends, or for as long as one command may take.
//
// TPM2_FlushContext is taken also after the context has ended, and when the TPM puts it off. It is
// then executed when the turn is over, or later, so that a deferred clean-up always works and
// nobody waits for it; its response is made up.
func (t *Turn) Send(input []byte) ([]byte, error) {
	// A TPM would wait for the rest of a command that is shorter than it says.
	if len(input) < HeaderBytes || int64(binary.BigEndian.Uint32(input[2:])) != int64(len(input)) {
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

func (t *Turn) sendLocked(input []byte) ([]byte, error) {
	return t.device.patiently(t.ctx, t.device.timeout, func() ([]byte, error) {
		if err := t.ctx.Err(); err != nil {
			return nil, fmt.Errorf("before sending %v: %w", command(input), err)
		}
		return t.device.perform(t, input)
	})
}

// Context is the caller's.
func (t *Turn) Context() context.Context { return t.ctx }

// Pause waits for d, or for the end of the caller's context, whose error it returns.
func (t *Turn) Pause(d time.Duration) error { return waiting.Sleep(t.ctx, d) }

// Connect opens the connection if there is none, and so finds out which residents are still there.
func (t *Turn) Connect() error { return t.device.open(t.ctx) }

// Fixed returns the properties that do not change while a connection lasts, as the TPM gave them
// when it was opened (TPM 2.0 Part 2, 6.13, from TPM_PT_FAMILY_INDICATOR). It opens the connection
// if there is none.
func (t *Turn) Fixed() (map[tpm2.TPMPT]uint32, error) {
	if err := t.Connect(); err != nil {
		return nil, err
	}
	return t.device.fixed, nil
}

// End ends the turn: nothing can be sent any more, and the next caller has the TPM.
func (t *Turn) End() { t.device.finish(t) }

func (t *Turn) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.over = true
}

// Flush flushes an object, or a session, that was made or used in this turn. The Name may be nil.
func (t *Turn) Flush(h tpm2.TPMHandle, name []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, err := t.flushLocked(flushCommand(h), name); err != nil {
		t.device.log.Debug("TPM handle not flushed", "handle", hexHandle(h), "cause", err)
	}
}

// Discard flushes what the last command made, where its answer is not to be used.
func (t *Turn) Discard() {
	if t.made != 0 {
		t.Flush(t.made, nil)
	}
}

// flushLocked executes a TPM2_FlushContext. If it cannot be done now, it is owed. It needs the
// lock.
func (t *Turn) flushLocked(input []byte, name []byte) ([]byte, error) {
	h := handleAt(input, HeaderBytes)
	if t.ctx.Err() != nil {
		t.device.owe(h, name)
		return flushed(), nil //nolint:nilerr // it is done later
	}
	rsp, err := t.device.perform(t, input)
	switch {
	case err == nil && !rc.Retryable(ResponseCode(rsp)):
		return rsp, nil
	case err == nil || t.ctx.Err() != nil:
		t.device.owe(h, name)
		return flushed(), nil //nolint:nilerr // it is done later
	case !t.device.managed: // nothing is flushed there by a connection that breaks
		t.device.owe(h, name)
	}
	return nil, err
}

// command is a command that prints as its name.
type command []byte

func (c command) String() string { return "TPM command " + tcg.Command(uint32(commandCode(c))) }
