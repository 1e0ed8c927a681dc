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
	"github.com/keyagent/keyagent/tpm/internal/rc"
)

// scheduler gives the TPM to one caller after the other, in the order in which they came, and keeps what outlives a turn: the
// connection, the loaded keys, the sessions.
//
//	queue ─▶ turn: command, command, … ─▶ settle: late answer, flushes that are owed ─▶ next turn
//	                  │
//	                  └─ no connection: open it; connection fails: drop it
//
// The caller's own goroutine speaks to the TPM: handing each command to another would cost more than all the rest. Only what a
// caller leaves behind that goes before the TPM has answered is settled by a goroutine, which keeps the turn meanwhile.
type scheduler struct {
	device  device
	timeout time.Duration
	log     *slog.Logger
	told    func(what string) (over func()) // of what is waited for

	lifetime   context.Context     // for what no caller waits for
	queue      *semaphore.Weighted // the one turn; first come, first served
	closed     atomic.Bool
	waiting    atomic.Int32   // callers in the queue
	retired    atomic.Int32   // objects that were closed since the table of loaded ones was last swept
	background sync.WaitGroup // settling turns, and the timer of kept sessions

	// The rest belongs to the turn:

	conn     *conn // nil: not open
	managed  bool  // conn goes to a resource manager, where each connection begins with an empty space of its own
	boots    boots // of the TPM
	loaded   *loaded
	sessions sessions
	owed     owed
	loading  []byte      // Name of the key of ours that TPM2_Load may have loaded, while its answer is not read
	lost     []owedFlush // those whose answer will never be read: their handles are not known

	parents          map[string]place  // by Name: where storage keys were found last
	locked           map[objectAt]bool // storage keys that have passwords of their own
	counted          map[objectAt]bool // those that were tried where a wrong password counts: true, it has none; false, it has
	misses           misses
	now              func() time.Time
	ownerAuth        func() (secret.String, error)
	ownerHasPassword bool // and it was the one given
}

func newScheduler(ctx context.Context, d device, cfg Config) *scheduler {
	return &scheduler{
		device: d, timeout: cfg.CommandTimeout, log: cfg.Logger, told: cfg.Waiting,
		lifetime: context.WithoutCancel(ctx),
		queue:    semaphore.NewWeighted(1),
		loaded:   &loaded{},
		sessions: sessions{
			plain: cfg.PlainSessions, rootName: cfg.StorageRoot, rootNoted: cfg.StorageRoot != nil,
			maxUses: cfg.SessionUses, maxIdle: cfg.SessionIdle,
		},
		parents:   make(map[string]place),
		locked:    make(map[objectAt]bool),
		ownerAuth: cfg.OwnerAuth,
		counted:   make(map[objectAt]bool),
		misses:    make(misses),
		now:       time.Now,
	}
}

// begin waits for the turn, no longer than ctx allows.
func (s *scheduler) begin(ctx context.Context) (*turn, error) {
	if s.closed.Load() {
		return nil, ErrClosed
	}
	s.waiting.Add(1)
	over := s.told("a turn at the TPM")
	err := s.queue.Acquire(ctx, 1)
	over()
	s.waiting.Add(-1)
	if err != nil {
		return nil, fmt.Errorf("waiting for the TPM: %w", err)
	}
	if s.closed.Load() {
		s.queue.Release(1)
		return nil, ErrClosed
	}
	s.dropDead()
	return &turn{ctx: ctx, scheduler: s, left: s.told("the TPM")}, nil
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
	t.end()
	t.left()
	if !s.late() && !s.owed.toDo() && s.retired.Load() == 0 {
		s.release()
		return
	}
	s.settleInBackground()
}

// settleInBackground settles, and ends the turn after that.
func (s *scheduler) settleInBackground() {
	s.background.Go(func() {
		s.settle()
		s.release()
	})
}

// release gives the turn to the next caller. What was closed in this moment, when there was none
// yet, is flushed.
func (s *scheduler) release() {
	s.queue.Release(1)
	s.sweepIfFree()
}

// retire gives an object up. It does not wait: whoever has the TPM flushes it when they are done,
// and if nobody has, it is flushed now.
func (s *scheduler) retire(r *resident) {
	if r.closed.Swap(true) {
		return
	}
	s.retired.Add(1)
	s.sweepIfFree()
}

// sweepIfFree flushes what was closed, if nobody has the TPM or waits for it.
func (s *scheduler) sweepIfFree() {
	if s.retired.Load() == 0 || !s.queue.TryAcquire(1) {
		return
	}
	if s.closed.Load() { // close sees to it, or has
		s.queue.Release(1)
		return
	}
	s.settleInBackground()
}

// sweep moves what was closed from the table of what is loaded to what is owed. It reports whether
// there was any.
func (s *scheduler) sweep() bool {
	if s.retired.Swap(0) == 0 {
		return false
	}
	closed := s.loaded.removeClosed()
	for _, slot := range closed {
		s.owe(slot.handle, slot.object.name)
	}
	return len(closed) > 0
}

// late reports whether the answer to an abandoned command is due.
func (s *scheduler) late() bool { return s.conn != nil && s.conn.late != nil }

// ready reports whether a command can be sent.
func (s *scheduler) ready() bool { return s.conn != nil && s.conn.late == nil }

// settle reads the answer that is due, and flushes what is owed.
func (s *scheduler) settle() {
	s.readLate()
	s.dropDead()
	s.sweep()
	s.flushPatiently(s.lifetime, flushPatience, true)
	s.owed.fresh = false
	if !s.owed.empty() {
		s.watch(s.sessions.maxIdle)
	}
}

// readLate reads the answer that is due. What it loaded is owed; what it flushed is not any more.
func (s *scheduler) readLate() {
	if !s.late() {
		return
	}
	s.log.Debug("TPM answers after its caller had gone")
	rsp, err := s.conn.late()
	if err != nil {
		s.warnLost(s.conn.lateCommand)
		s.drop(err)
		return
	}
	s.loading = nil
	clearLayer(rsp)
	if h, ok := newHandle(s.conn.lateCommand, rsp); ok {
		s.taken(h)
		s.owe(h, nil)
	}
	if isFlush(s.conn.lateCommand) && freedBy(responseCode(rsp)) {
		s.owed.remove(handleAt(s.conn.lateCommand, headerBytes))
	}
}

// taken says that the TPM just gave out h: whatever was thought to be there is gone.
func (s *scheduler) taken(h tpm2.TPMHandle) {
	s.loaded.taken(h)
	s.sessions.taken(h)
	s.owed.remove(h)
}

// perform executes one command within a turn. The response belongs to the caller.
func (s *scheduler) perform(t *turn, input []byte) ([]byte, error) {
	if err := s.open(t.ctx); err != nil {
		return nil, err
	}
	if !t.begun {
		t.begun = true
		if s.sweep() {
			s.flushPatiently(t.ctx, flushGrace, false)
		} else {
			s.flushOwed(t.ctx)
		}
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
		s.taken(h)
	}
	t.made = h
	return rsp, nil
}

// makeRoom frees what a command failed for want of. It reports false if there is nothing more of ours that the turn could do
// without.
func (s *scheduler) makeRoom(t *turn, code tpm2.TPMRC) bool {
	if !rc.SlotsFull(code) && !rc.SessionsFull(code) {
		return false
	}
	if freed, _ := s.flushOwed(t.ctx); freed {
		return true
	}
	if rc.SlotsFull(code) {
		return s.evict(t)
	}
	return s.sessions.giveWay(t)
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
		s.warnLost(input)
		s.drop(err)
		return nil, &lostError{device: s.device.String(), cause: err}
	}
	rsp = append([]byte(nil), rsp...)
	clearLayer(rsp)
	return rsp, nil
}

// warnLost tells of a slot that may be lost with the answer to a command.
func (s *scheduler) warnLost(input []byte) {
	if !s.managed && makesHandle(commandCode(input)) && s.loading == nil {
		s.log.Warn("TPM may keep what this command has made until it restarts: the answer with its handle was lost, and this TPM has no resource manager",
			"command", command(input).String())
	}
}

// patiently sends a command again for as long as the TPM asks for it, no longer than ctx and limit allow. The time that the TPM takes
// to ask counts, too: there may be no other end to it, where nobody's context does.
func (s *scheduler) patiently(ctx context.Context, limit time.Duration, send func() ([]byte, error)) ([]byte, error) {
	var until time.Time // since the TPM asked first; a command that works needs no clock
	for pause := firstPause; ; pause = min(2*pause, maxPause) {
		rsp, err := send()
		if err != nil || !rc.Retryable(responseCode(rsp)) {
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
	s.managed = s.device.managed(stream)
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

// recount finds out what of ours is still loaded now that there is a new connection. Behind a
// resource manager nothing is; a bare TPM keeps what it has, and it takes its slots.
func (s *scheduler) recount(ctx context.Context) error {
	if s.managed {
		s.boots = boots{{known: true}} // all the same: see findBoot
		return nil
	}
	if err := s.findBoot(&greeting{ctx: ctx, scheduler: s}); !s.ready() {
		return err
	} else if err != nil {
		s.boots = boots{}
		s.log.Warn("TPM does not tell whether it was reset: what of ours is still loaded in it will not be flushed", "cause", err)
	}
	s.sessions.giveUpOthers(s)
	for _, slot := range s.loaded.list() {
		o, err := readPublic(&greeting{ctx: ctx, scheduler: s}, slot.handle)
		if !s.ready() {
			return err
		}
		if err != nil || !bytes.Equal(o.name, slot.object.name) {
			s.loaded.forget(slot.object)
		}
	}
	return s.findLost(ctx)
}

// drop gives the connection up.
func (s *scheduler) drop(cause error) {
	s.log.Warn("TPM connection dropped", "device", s.device.String(), "cause", cause)
	_ = s.conn.stream.Close() // it is broken anyway
	s.conn = nil
	if s.managed { // with the connection, all that was loaded over it went
		s.loaded.clear()
		s.sessions.clear()
		s.owed.clear()
	} else if s.loading != nil && len(s.lost) < maxOwed {
		s.lost = append(s.lost, owedFlush{name: s.loading, boots: s.boots})
	}
	s.loading = nil
}

// evict frees a transient slot by flushing the key that was not used for longest. It reports false if there is none that the
// turn could do without.
func (s *scheduler) evict(t *turn) bool {
	slot, ok := s.loaded.evict(t)
	if ok {
		s.log.Debug("TPM slots are full: flushing a key, it is loaded again on next use", "handle", hexHandle(slot.handle))
		s.owe(slot.handle, slot.object.name)
		s.flushPatiently(t.ctx, flushPatience, false)
	}
	return ok
}

// close turns waiting callers away, waits for the turn that is running, flushes keys and sessions and closes the connection.
func (s *scheduler) close() {
	s.closed.Store(true)
	s.waiting.Add(1)
	_ = s.queue.Acquire(s.lifetime, 1) // it never ends, so neither can this fail
	s.waiting.Add(-1)
	s.shutDown(s.lifetime)
	s.queue.Release(1)
	s.background.Wait()
}

func (s *scheduler) shutDown(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, closePatience)
	defer cancel()
	s.sessions.stop(s)
	s.dropDead()
	for _, slot := range s.loaded.list() {
		s.owe(slot.handle, slot.object.name)
	}
	s.sessions.giveUp(s)
	s.loaded.clear()
	if s.conn == nil && !s.owed.empty() {
		// Without a resource manager, they are still there.
		_ = s.openWithin(ctx, flushPatience) // or they are not
	}
	s.flushPatiently(ctx, flushPatience, false)
	if !s.owed.empty() && !s.managed {
		s.log.Warn("the TPM keeps handles that could not be flushed; tpm2_flushcontext frees them, and so does a restart of the TPM", "handles", s.owed.handles())
	}
	s.owed.clear()
	if s.conn != nil {
		_ = s.conn.stream.Close() // everything was read
		s.conn = nil
	}
}
