package tpm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/google/go-tpm/tpm2"
)

// scheduler owns the transport. Its goroutine, run, takes one turn after the other and executes the turn's commands.
//
//	turns ─▶ grant ─▶ command, command, … ─▶ over ─▶ flush what was left behind ─▶ next turn
//	                     │
//	                     └─ no connection: open it; connection fails: drop it
//
// Turns are served in the order in which they arrived: Go queues the senders of an unbuffered channel.
type scheduler struct {
	device  device
	timeout time.Duration
	log     *slog.Logger
	loaded  *loaded // the keys in the TPM's transient slots

	turns   chan *turn
	closing <-chan struct{} // the end of run's context
	done    chan struct{}   // closed by run

	conn    *conn // of run; nil: not open
	current *turn // of run
}

func newScheduler(d device, timeout time.Duration, log *slog.Logger) *scheduler {
	return &scheduler{
		device: d, timeout: timeout, log: log,
		loaded: &loaded{},
		turns:  make(chan *turn),
		done:   make(chan struct{}),
	}
}

// start runs the scheduler until ctx ends and its last turn is over.
func (s *scheduler) start(ctx context.Context) {
	s.closing = ctx.Done()
	go s.run(ctx)
}

func (s *scheduler) run(ctx context.Context) {
	defer close(s.done)
	for {
		select {
		case t := <-s.turns:
			s.serve(ctx, t)
		case <-ctx.Done():
			s.shutDown()
			return
		}
	}
}

// serve gives one caller the TPM until it is done.
func (s *scheduler) serve(ctx context.Context, t *turn) {
	s.current = t
	if s.conn != nil {
		if err := s.conn.checkIdle(); err != nil {
			s.drop(err)
		}
	}
	t.connected = s.conn != nil
	close(t.granted)
	for {
		select {
		case c := <-t.commands:
			s.answer(ctx, c)
		case <-t.over:
			s.current = nil
			s.flush(t.leftover()...)
			return
		}
	}
}

// answer executes a command and hands the response to the caller, or cleans up behind one that has gone.
func (s *scheduler) answer(ctx context.Context, c *command) {
	rsp, err := s.perform(ctx, c.input)
	if c.deliver(rsp, err) || err != nil {
		return
	}
	s.log.Debug("TPM answered after its caller had gone", "command", c.String())
	if h, ok := newHandle(c.input, rsp); ok {
		s.flush(h)
	}
}

// perform executes one command. The response belongs to the caller. No command at all only opens the connection.
func (s *scheduler) perform(ctx context.Context, input []byte) ([]byte, error) {
	if err := s.open(ctx); err != nil || len(input) == 0 {
		return nil, err
	}
	rsp, err := s.roundTrip(input)
	for err == nil && slotsFull(responseCode(rsp)) && s.evict() {
		rsp, err = s.roundTrip(input)
	}
	if err != nil {
		return nil, err
	}
	if h, ok := newHandle(input, rsp); ok {
		s.loaded.taken(h)
	}
	return rsp, nil
}

// roundTrip sends one command over the open connection. If that fails the connection is dropped.
func (s *scheduler) roundTrip(input []byte) ([]byte, error) {
	if s.conn == nil { // a command that had to go first, such as a flush, has lost it
		return nil, &lostError{device: s.device.String(), cause: net.ErrClosed}
	}
	rsp, err := s.conn.exchange(input)
	if err != nil {
		s.drop(err)
		return nil, &lostError{device: s.device.String(), cause: err}
	}
	rsp = append([]byte(nil), rsp...)
	clearLayer(rsp)
	return rsp, nil
}

// open makes sure that there is a connection with a TPM 2.0 behind it. Its context is the scheduler's own: a caller that
// loses patience leaves, and who comes next finds the connection ready.
func (s *scheduler) open(ctx context.Context) error {
	if s.conn != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	stream, err := s.device.open(ctx)
	if err != nil {
		return err
	}
	conn, err := newConn(stream, s.timeout)
	if err != nil {
		return errors.Join(err, stream.Close())
	}
	s.conn = conn
	err = s.greet(ctx)
	if err == nil {
		err = s.recount(ctx)
	}
	if err != nil {
		if s.conn != nil {
			s.drop(err)
		}
		return fmt.Errorf("%w: %s: %w", ErrUnavailable, s.device, err)
	}
	s.log.Info("TPM opened", "device", s.device.String())
	return nil
}

// recount finds out which keys are still loaded now that there is a new connection. Behind a resource manager none is; a
// bare TPM keeps them, and they take its slots.
func (s *scheduler) recount(ctx context.Context) error {
	for _, slot := range s.loaded.list() {
		o, err := readPublic(&greeting{ctx: ctx, scheduler: s}, slot.handle)
		if s.conn == nil {
			return err
		}
		if err != nil || !bytes.Equal(o.name, slot.key.object.name) {
			s.loaded.forget(slot.key)
		}
	}
	return nil
}

// drop gives the connection up.
func (s *scheduler) drop(cause error) {
	s.log.Warn("TPM connection dropped", "device", s.device.String(), "cause", cause)
	_ = s.conn.stream.Close() // it is broken anyway
	s.conn = nil
	if s.device.network == "" {
		s.loaded.clear() // each open of the kernel's resource manager is an empty space
	}
}

// evict frees a transient slot by flushing the key that was not used for longest. It reports false if there is none that the
// current turn could do without.
func (s *scheduler) evict() bool {
	h, ok := s.loaded.evict(s.current)
	if ok {
		s.log.Debug("TPM slots are full: flushing a key, it is loaded again on next use", "handle", fmt.Sprintf("0x%08x", uint32(h)))
		s.flush(h)
	}
	return ok
}

// flush frees transient handles. One that is gone already is fine; a connection that dies meanwhile took them along.
func (s *scheduler) flush(handles ...tpm2.TPMHandle) {
	for _, h := range handles {
		if s.conn == nil {
			return
		}
		rsp, err := s.roundTrip(flushCommand(h))
		if err == nil && responseCode(rsp) != tpm2.TPMRCSuccess {
			s.log.Debug("TPM handle could not be flushed", "handle", fmt.Sprintf("0x%08x", uint32(h)), "code", responseCode(rsp))
		}
	}
}

func (s *scheduler) shutDown() {
	for _, slot := range s.loaded.list() {
		s.flush(slot.handle)
	}
	if s.conn != nil {
		_ = s.conn.stream.Close() // everything was read
		s.conn = nil
	}
}
