package tpm

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
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

	commands  chan *command
	granted   chan struct{} // closed by the scheduler: the turn has begun
	connected bool          // at that moment; set before
	over      chan struct{} // closed by the caller: the turn has ended

	mu    sync.Mutex
	flush []tpm2.TPMHandle // under mu: to be flushed when the turn is over
}

var _ transport.TPM = (*turn)(nil)

func newTurn(ctx context.Context, s *scheduler) *turn {
	return &turn{
		ctx: ctx, scheduler: s,
		commands: make(chan *command),
		granted:  make(chan struct{}),
		over:     make(chan struct{}),
	}
}

// wait queues for the turn.
func (t *turn) wait() error {
	if err := t.ctx.Err(); err != nil {
		return fmt.Errorf("waiting for the TPM: %w", err)
	}
	select {
	case t.scheduler.turns <- t:
		<-t.granted // at once: the scheduler has nothing to wait for
		return nil
	case <-t.ctx.Done():
		return fmt.Errorf("waiting for the TPM: %w", t.ctx.Err())
	case <-t.scheduler.closing:
		return ErrClosed
	}
}

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
	if t.ctx.Err() != nil && t.flushLater(input) {
		return flushed(), nil
	}
	return t.send(bytes.Clone(input)) // an abandoned command is still read by the scheduler
}

// send is Send for an input that nobody changes any more.
func (t *turn) send(input []byte) ([]byte, error) {
	var waited time.Duration
	for pause := firstPause; ; pause = min(2*pause, maxPause) {
		rsp, err := t.once(input)
		if err != nil {
			return nil, err
		}
		code := responseCode(rsp)
		if !retryable(code) || waited >= t.scheduler.timeout {
			return rsp, nil
		}
		if err := sleep(t.ctx, pause); err != nil {
			return nil, fmt.Errorf("the TPM still answers %w: %w", code, err)
		}
		waited += pause
	}
}

// connect opens the connection if there is none, and so finds out which keys are still loaded.
func (t *turn) connect() error {
	if t.connected {
		return nil
	}
	_, err := t.once(nil)
	return err
}

// once gives one command to the scheduler and waits for the response, but no longer than the context allows.
func (t *turn) once(input []byte) ([]byte, error) {
	c := &command{input: input, reply: make(chan reply, 1)}
	select {
	case <-t.over:
		return nil, errors.New("TPM used after the end of Do")
	default:
	}
	if err := t.ctx.Err(); err != nil {
		return nil, fmt.Errorf("before sending %v: %w", c, err)
	}
	select {
	case t.commands <- c:
	case <-t.ctx.Done():
		return nil, fmt.Errorf("before sending %v: %w", c, t.ctx.Err())
	}
	select {
	case r := <-c.reply:
		return r.rsp, r.err
	case <-t.ctx.Done():
	}
	if c.abandon() {
		return nil, fmt.Errorf("waiting for the answer to %v: %w", c, t.ctx.Err())
	}
	r := <-c.reply // it was being delivered at this moment
	return r.rsp, r.err
}

// flushLater notes the handle of a TPM2_FlushContext for the end of the turn.
func (t *turn) flushLater(input []byte) bool {
	if commandCode(input) != tpm2.TPMCCFlushContext || len(input) != headerBytes+4 {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.flush = append(t.flush, handleAt(input, headerBytes))
	return true
}

// leftover returns what flushLater noted.
func (t *turn) leftover() []tpm2.TPMHandle {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.flush
}

// command is one command on its way through the scheduler. Exactly one of deliver and abandon succeeds.
type command struct {
	input   []byte
	settled atomic.Bool
	reply   chan reply // holds one
}

type reply struct {
	rsp []byte
	err error
}

// deliver hands the response to the caller. It reports false if the caller has gone.
func (c *command) deliver(rsp []byte, err error) bool {
	if !c.settled.CompareAndSwap(false, true) {
		return false
	}
	c.reply <- reply{rsp, err}
	return true
}

// abandon leaves the response to the scheduler. It reports false if the response was delivered already.
func (c *command) abandon() bool { return c.settled.CompareAndSwap(false, true) }

func (c *command) String() string {
	return fmt.Sprintf("TPM command 0x%03x", uint32(commandCode(c.input)))
}

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
