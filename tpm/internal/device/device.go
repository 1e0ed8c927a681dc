package device

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/go-tpm/tpm2"
	"golang.org/x/sync/semaphore"
)

// Config says how to use a TPM. All of it but Observer must be set.
type Config struct {
	Logger *slog.Logger
	// CommandTimeout is the longest that one command may take before the transport is given up.
	CommandTimeout time.Duration
	// SessionIdle is after how long without use of any a session is flushed.
	SessionIdle time.Duration
	// Waiting is told what a caller waits for, and its result is called when that is over. Neither
	// may block.
	Waiting func(what string) (over func())
	// Observer is told of turns and commands; nil: nobody is.
	Observer Observer
}

// Device gives the TPM to one caller after the other, in the order in which they came, and keeps
// what outlives a turn: the connection, and the table of residents.
//
//	queue ─▶ turn: command, command, … ─▶ settle: late answer, flushes that are owed ─▶ next turn
//	                  │
//	                  └─ no connection: open it; connection fails: drop it
//
// The caller's own goroutine speaks to the TPM: handing each command to another would cost more
// than all the rest. Only what a caller leaves behind that goes before the TPM has answered is
// settled by a goroutine, which keeps the turn meanwhile.
type Device struct {
	address  Address
	timeout  time.Duration
	maxIdle  time.Duration // of sessions
	log      *slog.Logger
	told     func(what string) (over func()) // Config.Waiting
	observer Observer                        // nil: none

	lifetime   context.Context     // for work that no caller waits for
	queue      *semaphore.Weighted // the one turn; first come, first served
	closed     atomic.Bool
	waiting    atomic.Int32   // callers in the queue
	retired    atomic.Int32   // residents that were given up since the table of them was last swept
	moved      atomic.Int64   // how long after the epoch the turn under way began, or a command of it was sent or answered last; 0: there is none
	epoch      time.Time      // when the device was made
	background sync.WaitGroup // settling turns, and the timer of idle sessions

	// The rest belongs to the turn:

	conn      *conn                 // nil: not open
	managed   bool                  // conn goes to a resource manager, where each connection begins with an empty space of its own
	boots     boots                 // of the TPM
	bootAsked bool                  // over conn: else boots is of an earlier one
	fixed     map[tpm2.TPMPT]uint32 // what the TPM said of itself when conn was opened
	residents residents
	used      time.Time   // when a resident session was last used
	timer     *time.Timer // runs while there is a resident session, or a flush is owed
	owed      owed
	loading   []byte      // Name of the object of ours that TPM2_Load may have loaded, while its answer is not read
	lost      []owedFlush // those whose answer will never be read: their handles are not known
}

// New returns a device that connects on first use. The context's values, not its end, are those of
// what no caller waits for. Close it.
func New(ctx context.Context, at Address, cfg Config) *Device {
	return &Device{
		address: at, timeout: cfg.CommandTimeout, maxIdle: cfg.SessionIdle, log: cfg.Logger, told: cfg.Waiting,
		observer: cfg.Observer,
		lifetime: context.WithoutCancel(ctx),
		queue:    semaphore.NewWeighted(1),
		epoch:    time.Now(),
	}
}

// Begin waits for the turn, no longer than ctx allows, and gives it to the caller, who ends it with
// [Turn.End].
func (d *Device) Begin(ctx context.Context) (*Turn, error) {
	if d.closed.Load() {
		return nil, ErrClosed
	}
	d.waiting.Add(1)
	over, begun := d.told("a turn at the TPM"), time.Now()
	err := d.queue.Acquire(ctx, 1)
	over()
	d.waiting.Add(-1)
	if err != nil {
		return nil, fmt.Errorf("waiting for the TPM: %w", err)
	}
	if d.closed.Load() {
		d.queue.Release(1)
		return nil, ErrClosed
	}
	d.moves()
	if d.observer != nil {
		d.observer.TPMTurn(time.Since(begun))
	}
	d.dropDead()
	return &Turn{ctx: ctx, device: d, left: d.told("the TPM")}, nil
}

// dropDead drops a connection that ended while nobody used it.
func (d *Device) dropDead() {
	if d.conn == nil {
		return
	}
	if err := d.conn.checkIdle(); err != nil {
		d.drop(err)
	}
}

// finish ends a turn. What its caller left behind is settled before the next turn begins, but not
// while the caller waits.
func (d *Device) finish(t *Turn) {
	t.end()
	t.left()
	if !d.late() && !d.owed.toDo() && d.retired.Load() == 0 {
		d.release()
		return
	}
	d.settleInBackground()
}

// settleInBackground settles, and ends the turn after that.
func (d *Device) settleInBackground() {
	d.background.Go(func() {
		d.settle()
		d.release()
	})
}

// release gives the turn to the next caller. Residents that were given up at this very moment,
// before there was a next turn, are flushed.
func (d *Device) release() {
	d.moved.Store(0)
	d.queue.Release(1)
	d.sweepIfFree()
}

// Retired says that a resident was given up. It does not wait: the resident is flushed at the end
// of the turn under way, or at once if there is none.
func (d *Device) Retired() {
	d.retired.Add(1)
	d.sweepIfFree()
}

// sweepIfFree flushes residents that were given up, if nobody has the TPM or waits for it.
func (d *Device) sweepIfFree() {
	if d.retired.Load() == 0 || !d.queue.TryAcquire(1) {
		return
	}
	if d.closed.Load() { // close sees to it, or has
		d.queue.Release(1)
		return
	}
	d.moves()
	d.settleInBackground()
}

// sweep moves residents that were given up to the list of owed flushes. It reports whether there
// were any.
func (d *Device) sweep() bool {
	if d.retired.Swap(0) == 0 {
		return false
	}
	gone := d.residents.removeRetired()
	d.oweSlots(gone)
	return len(gone) > 0
}

// late reports whether the answer to an abandoned command is due.
func (d *Device) late() bool { return d.conn != nil && d.conn.late != nil }

// ready reports whether a command can be sent.
func (d *Device) ready() bool { return d.conn != nil && d.conn.late == nil }

// settle reads the answer that is due, and makes the owed flushes.
func (d *Device) settle() {
	d.readLate()
	d.dropDead()
	d.sweep()
	d.flushPatiently(d.lifetime, flushPatience, true)
	d.owed.fresh = false
	if !d.owed.empty() {
		d.watch(d.maxIdle)
	}
}

// readLate reads the answer that is due. If its command loaded something, a flush is owed; if it
// flushed something, that flush is owed no more.
func (d *Device) readLate() {
	if !d.late() {
		return
	}
	d.log.Debug("TPM answers after its caller had gone")
	rsp, err := d.conn.late()
	if err != nil {
		d.warnLost(d.conn.lateCommand)
		d.drop(err)
		return
	}
	d.loading = nil
	clearLayer(rsp)
	if h, ok := newHandle(d.conn.lateCommand, rsp); ok {
		d.taken(h)
		d.owe(h, nil)
	}
	if isFlush(d.conn.lateCommand) && freedBy(ResponseCode(rsp)) {
		d.owed.remove(handleAt(d.conn.lateCommand, HeaderBytes))
	}
}

// taken says that the TPM just gave out h: an object or session noted there is gone.
func (d *Device) taken(h tpm2.TPMHandle) {
	d.residents.taken(h)
	d.owed.remove(h)
}

// Close turns waiting callers away, waits for the turn that is running, flushes all residents, for
// ten seconds at most, and closes the connection.
func (d *Device) Close() {
	d.closed.Store(true)
	d.waiting.Add(1)
	_ = d.queue.Acquire(d.lifetime, 1) // it never ends, so neither can this fail
	d.waiting.Add(-1)
	d.shutDown(d.lifetime)
	d.moved.Store(0)
	d.queue.Release(1)
	d.background.Wait()
}

func (d *Device) shutDown(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, closePatience)
	defer cancel()
	d.stopWatch()
	d.dropDead()
	d.oweSlots(d.residents.list())
	d.residents.clear()
	if d.conn == nil && !d.owed.empty() {
		// Without a resource manager, they are still there.
		_ = d.openWithin(ctx, flushPatience) // or they are not
	}
	d.flushPatiently(ctx, flushPatience, false)
	if !d.owed.empty() && !d.managed {
		d.log.Warn("the TPM keeps handles that could not be flushed; tpm2_flushcontext frees them, and so does a restart of the TPM", "handles", d.owed.handles())
	}
	d.owed.clear()
	if d.conn != nil {
		_ = d.conn.stream.Close() // everything was read
		d.conn = nil
	}
}
