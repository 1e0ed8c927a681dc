package tpm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/go-tpm/tpm2"
	"golang.org/x/sync/semaphore"

	"github.com/keyagent/keyagent/internal/secret"
)

// scheduler gives the TPM to one caller after the other, in the order in which they came, and keeps what outlives a turn: the
// connection, the loaded keys, the sessions.
//
//	queue ─▶ turn: command, command, … ─▶ settle: late answer, flush what was left behind ─▶ next turn
//	                  │
//	                  └─ no connection: open it; connection fails: drop it
//
// The caller's own goroutine speaks to the TPM: handing each command to another would cost more than all the rest. Only what a
// caller leaves behind that goes before the TPM has answered is settled by a goroutine, which keeps the turn meanwhile.
type scheduler struct {
	device  device
	timeout time.Duration
	log     *slog.Logger

	lifetime   context.Context     // for what no caller waits for
	queue      *semaphore.Weighted // the one turn; first come, first served
	closed     atomic.Bool
	background sync.WaitGroup // settling turns, and the timer of kept sessions

	// Of whoever has the turn:

	conn     *conn // nil: not open
	loaded   *loaded
	sessions sessions

	parents          map[string]place        // by Name: where storage keys were found last
	locked           map[tpm2.TPMHandle]bool // where storage keys have passwords of their own
	ownerAuth        func() (secret.String, error)
	ownerHasPassword bool // and it was the one given
}

func newScheduler(ctx context.Context, d device, cfg Config) *scheduler {
	return &scheduler{
		device: d, timeout: cfg.CommandTimeout, log: cfg.Logger,
		lifetime: context.WithoutCancel(ctx),
		queue:    semaphore.NewWeighted(1),
		loaded:   &loaded{},
		sessions: sessions{
			plain: cfg.PlainSessions, rootName: cfg.StorageRoot,
			maxUses: cfg.SessionUses, maxIdle: cfg.SessionIdle,
		},
		parents:   make(map[string]place),
		locked:    make(map[tpm2.TPMHandle]bool),
		ownerAuth: cfg.OwnerAuth,
	}
}

// begin waits for the turn, no longer than ctx allows.
func (s *scheduler) begin(ctx context.Context) (*turn, error) {
	if s.closed.Load() {
		return nil, ErrClosed
	}
	if err := s.queue.Acquire(ctx, 1); err != nil {
		return nil, fmt.Errorf("waiting for the TPM: %w", err)
	}
	if s.closed.Load() {
		s.queue.Release(1)
		return nil, ErrClosed
	}
	s.dropDead()
	return &turn{ctx: ctx, scheduler: s}, nil
}

// dropDead drops a connection that ended while nobody used it.
func (s *scheduler) dropDead() {
	if s.conn == nil {
		return
	}
	if err := s.conn.checkIdle(); err != nil {
		s.drop(err)
	}
}

// finish ends a turn. What its caller left behind is settled before the next turn begins, but not while the caller waits.
func (s *scheduler) finish(t *turn) {
	flush := t.end()
	if len(flush) == 0 && !s.late() {
		s.queue.Release(1)
		return
	}
	s.background.Go(func() {
		defer s.queue.Release(1)
		s.settle(flush)
	})
}

// late reports whether the answer to an abandoned command is due.
func (s *scheduler) late() bool { return s.conn != nil && s.conn.late != nil }

// flushing reports whether the answer to this TPM2_FlushContext is due.
func (s *scheduler) flushing(input []byte) bool {
	return s.late() && isFlush(input) && bytes.Equal(s.conn.lateCommand, input)
}

// settle reads the answer that is due and flushes what it loaded, or what it did not flush, and what else is to be flushed.
func (s *scheduler) settle(flush []tpm2.TPMHandle) {
	if s.late() {
		s.log.Debug("TPM answers after its caller had gone")
		rsp, err := s.conn.late()
		if err != nil {
			s.drop(err)
			return
		}
		clearLayer(rsp)
		if h, ok := newHandle(s.conn.lateCommand, rsp); ok {
			s.loaded.taken(h)
			flush = append(flush, h)
		}
		if retryable(responseCode(rsp)) && isFlush(s.conn.lateCommand) {
			flush = append(flush, handleAt(s.conn.lateCommand, headerBytes))
		}
	}
	s.flush(s.lifetime, flush...)
}

// perform executes one command within a turn. The response belongs to the caller.
func (s *scheduler) perform(t *turn, input []byte) ([]byte, error) {
	if err := s.open(t.ctx); err != nil {
		return nil, err
	}
	rsp, err := s.roundTrip(t.ctx, input)
	for err == nil && s.makeRoom(t, responseCode(rsp)) {
		rsp, err = s.roundTrip(t.ctx, input)
	}
	if err != nil {
		return nil, err
	}
	h, ok := newHandle(input, rsp)
	if ok {
		s.loaded.taken(h)
		s.sessions.taken(h)
	}
	t.made = h
	return rsp, nil
}

// makeRoom frees what a command failed for want of. It reports false if there is nothing more of ours that the turn could do
// without.
func (s *scheduler) makeRoom(t *turn, code tpm2.TPMRC) bool {
	switch {
	case slotsFull(code):
		return s.evict(t)
	case sessionsFull(code):
		return s.sessions.giveWay(t)
	}
	return false
}

// roundTrip sends one command over the open connection. If that fails the connection is dropped, unless only the caller has
// gone.
func (s *scheduler) roundTrip(ctx context.Context, input []byte) ([]byte, error) {
	if s.late() && ctx.Err() != nil { // a command that had to go first, such as a flush, was left
		return nil, fmt.Errorf("before sending %v: %w", command(input), ctx.Err())
	}
	if s.conn == nil || s.late() { // or it has lost the connection
		return nil, &lostError{device: s.device.String(), cause: net.ErrClosed}
	}
	rsp, err := s.conn.exchange(ctx, input)
	if errors.Is(err, errAbandoned) {
		s.conn.lateCommand = bytes.Clone(input)
		return nil, fmt.Errorf("waiting for the answer to %v: %w", command(input), ctx.Err())
	}
	if err != nil {
		s.drop(err)
		return nil, &lostError{device: s.device.String(), cause: err}
	}
	rsp = append([]byte(nil), rsp...)
	clearLayer(rsp)
	return rsp, nil
}

// patiently sends a command again for as long as the TPM asks for it, no longer than ctx and limit allow. The time that the TPM takes
// to ask counts, too: there may be no other end to it, where nobody's context does.
func (s *scheduler) patiently(ctx context.Context, limit time.Duration, send func() ([]byte, error)) ([]byte, error) {
	var until time.Time // since the TPM asked first; a command that works needs no clock
	for pause := firstPause; ; pause = min(2*pause, maxPause) {
		rsp, err := send()
		if err != nil || !retryable(responseCode(rsp)) {
			return rsp, err
		}
		now := time.Now()
		if until.IsZero() {
			until = now.Add(limit)
		}
		if !now.Before(until) {
			return rsp, nil
		}
		if err := sleep(ctx, pause); err != nil {
			return nil, fmt.Errorf("the TPM still answers %w: %w", responseCode(rsp), err)
		}
	}
}

// open makes sure that there is a connection with a TPM 2.0 behind it.
func (s *scheduler) open(ctx context.Context) error {
	if s.conn != nil {
		return nil
	}
	return s.openWithin(ctx, s.timeout)
}

func (s *scheduler) openWithin(ctx context.Context, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
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
		if s.conn == nil || s.conn.late != nil {
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
		s.loaded.clear()   // each open of the kernel's resource manager is an empty space
		s.sessions.clear() // with the sessions it is the same
	}
}

// evict frees a transient slot by flushing the key that was not used for longest. It reports false if there is none that the
// turn could do without.
func (s *scheduler) evict(t *turn) bool {
	h, ok := s.loaded.evict(t)
	if ok {
		s.log.Debug("TPM slots are full: flushing a key, it is loaded again on next use", "handle", fmt.Sprintf("0x%08x", uint32(h)))
		s.flush(t.ctx, h)
	}
	return ok
}

// flush frees transient handles and sessions. One that is gone already is fine; a connection that dies meanwhile took them
// along, or the next one finds them.
func (s *scheduler) flush(ctx context.Context, handles ...tpm2.TPMHandle) {
	for _, h := range handles {
		if s.conn == nil || s.conn.late != nil {
			return
		}
		rsp, err := s.patiently(ctx, flushPatience, func() ([]byte, error) { return s.roundTrip(ctx, flushCommand(h)) })
		if err == nil && responseCode(rsp) != tpm2.TPMRCSuccess {
			s.log.Debug("TPM handle could not be flushed", "handle", fmt.Sprintf("0x%08x", uint32(h)), "code", responseCode(rsp))
		}
	}
}

// close turns waiting callers away, waits for the turn that is running, flushes keys and sessions and closes the connection.
func (s *scheduler) close() {
	s.closed.Store(true)
	_ = s.queue.Acquire(s.lifetime, 1) // it never ends, so neither can this fail
	s.shutDown(s.lifetime)
	s.queue.Release(1)
	s.background.Wait()
}

func (s *scheduler) shutDown(ctx context.Context) {
	s.sessions.stop(s)
	s.dropDead()
	if s.conn == nil && (len(s.loaded.list()) > 0 || !s.sessions.none()) {
		// Without a resource manager, they are still there.
		_ = s.openWithin(ctx, flushPatience) // or they are not
	}
	for _, slot := range s.loaded.list() {
		s.flush(ctx, slot.handle)
	}
	s.flush(ctx, s.sessions.handles()...)
	s.loaded.clear()
	s.sessions.clear()
	if s.conn != nil {
		_ = s.conn.stream.Close() // everything was read
		s.conn = nil
	}
}
