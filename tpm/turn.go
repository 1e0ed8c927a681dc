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
)

// The pauses before a command is sent again that the TPM asked to repeat: firstPause, doubled each time up to maxPause.
const (
	firstPause = time.Millisecond
	maxPause   = 250 * time.Millisecond
	// flushPatience is how long in all a flush is repeated for which nobody waits.
	flushPatience = 2 * time.Second
)

// turn is one caller's exclusive use of the TPM. It is the transport.TPM that Do hands out.
type turn struct {
	ctx       context.Context // of the caller; ends waiting, not a command that was sent
	scheduler *scheduler

	mu    sync.Mutex // held while a command is executed
	over  bool
	made  tpm2.TPMHandle   // what the last command loaded or started, if it did
	flush []tpm2.TPMHandle // to be flushed when the turn is over
}

var _ transport.TPM = (*turn)(nil)

// Send executes one command and returns its response, whatever code it carries. Codes that ask for a repetition are
// repeated until the context ends, or for as long as one command may take.
//
// TPM2_FlushContext is taken also after the context has ended and then executed at the end of the turn, so that a deferred
// clean-up always works; its response is made up.
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
	if t.ctx.Err() != nil && t.flushLater(input) {
		return flushed(), nil
	}
	rsp, err := t.sendLocked(input)
	if err != nil && t.ctx.Err() != nil && (t.scheduler.flushing(input) || t.flushLater(input)) {
		return flushed(), nil
	}
	return rsp, err
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

// end is the end of the turn: nothing can be sent any more. It returns what is left to flush.
func (t *turn) end() []tpm2.TPMHandle {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.over = true
	return t.flush
}

// flushLater notes the handle of a TPM2_FlushContext for the end of the turn. It needs the lock.
func (t *turn) flushLater(input []byte) bool {
	if !isFlush(input) {
		return false
	}
	t.flush = append(t.flush, handleAt(input, headerBytes))
	return true
}

// command is a command that prints as its code.
type command []byte

func (c command) String() string { return fmt.Sprintf("TPM command 0x%03x", uint32(commandCode(c))) }

// sleep waits for d or for the end of ctx, whose error it returns.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
