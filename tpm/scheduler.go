package tpm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/google/go-tpm/tpm2"
)

// scheduler owns the transport. Its goroutine, run, takes one turn after the other and executes the turn's commands.
//
//	turns ─▶ grant ─▶ command, command, … ─▶ over ─▶ flush what was left behind ─▶ next turn
//	                     │
//	                     └─ no connection: open it; connection fails: drop it, generation + 1
//
// Turns are served in the order in which they arrived: Go queues the senders of an unbuffered channel.
type scheduler struct {
	device  device
	timeout time.Duration
	log     *slog.Logger
	loaded  *loaded // the keys in the TPM's transient slots

	turns    chan *turn
	lifetime context.Context // ends with TPM.Close
	done     chan struct{}   // closed by run

	// generation counts the connections that were lost. Handles of an older one may name nothing, or something else.
	generation atomic.Uint64

	conn    *conn // of run; nil: not open
	current *turn // of run
}

func newScheduler(lifetime context.Context, d device, timeout time.Duration, log *slog.Logger) *scheduler {
	return &scheduler{
		device: d, timeout: timeout, log: log,
		loaded:   &loaded{},
		turns:    make(chan *turn),
		lifetime: lifetime,
		done:     make(chan struct{}),
	}
}

func (s *scheduler) run() {
	defer close(s.done)
	for {
		select {
		case t := <-s.turns:
			s.serve(t)
		case <-s.lifetime.Done():
			s.shutDown()
			return
		}
	}
}

// serve gives one caller the TPM until it is done.
func (s *scheduler) serve(t *turn) {
	s.current = t
	if s.conn != nil {
		if err := s.conn.checkIdle(); err != nil {
			s.drop(err)
		}
	}
	close(t.granted)
	for {
		select {
		case c := <-t.commands:
			s.answer(c)
		case <-t.over:
			s.current = nil
			s.flush(t.leftover()...)
			return
		}
	}
}

// answer executes a command and hands the response to the caller, or cleans up behind one that has gone.
func (s *scheduler) answer(c *command) {
	rsp, err := s.perform(c.input)
	if c.deliver(rsp, err) || err != nil {
		return
	}
	s.log.Debug("TPM answered after its caller had gone", "command", c.String())
	if h, ok := newHandle(c.input, rsp); ok {
		s.flush(h)
	}
}

// perform executes one command. The response belongs to the caller.
func (s *scheduler) perform(input []byte) ([]byte, error) {
	if err := s.open(); err != nil {
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
func (s *scheduler) open() error {
	if s.conn != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(s.lifetime, s.timeout)
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
	if err := s.greet(ctx); err != nil {
		if s.conn != nil {
			s.drop(err)
		}
		return fmt.Errorf("%w: %s: %w", ErrUnavailable, s.device, err)
	}
	s.log.Info("TPM opened", "device", s.device.String())
	return nil
}

// drop gives the connection up.
func (s *scheduler) drop(cause error) {
	s.log.Warn("TPM connection dropped", "device", s.device.String(), "cause", cause)
	_ = s.conn.stream.Close() // it is broken anyway
	s.conn = nil
	s.generation.Add(1)
}

// evict frees a transient slot by flushing the key that was not used for longest. It reports false if there is none that the
// current turn could do without.
func (s *scheduler) evict() bool {
	h, ok := s.loaded.evict(s.current, s.generation.Load())
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
	s.flush(s.loaded.all(s.generation.Load())...)
	if s.conn != nil {
		_ = s.conn.stream.Close() // everything was read
		s.conn = nil
	}
}
