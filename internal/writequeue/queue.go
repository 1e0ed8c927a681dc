package writequeue

import (
	"errors"
	"sync"
	"time"
)

// Why a write was not made, or is not known to have been made.
var (
	// ErrStalled: the write, or one before it, takes longer than Config.Patience.
	ErrStalled = errors.New("the reader of the records has stopped reading")
	// ErrFull: there is no room for the write, which is lost.
	ErrFull = errors.New("too many records wait to be written")
)

// Config is what a [Queue] is made of. Limit and Patience are required.
type Config struct {
	Limit    int           // how many writes may wait, besides the one that is being made
	Patience time.Duration // how long [Queue.Do] waits at most
	// TellLost is called, like a write, with how many writes were lost since it last
	// returned nil; it writes that down. Nil: lost writes are only counted.
	TellLost func(n uint64) error
	// Changed is called with why writes begin to fail or stall, and with nil when they
	// work again. It must not block, and may be called by several goroutines. Nil:
	// nobody is told.
	Changed func(err error)
}

// Job is one write.
type Job struct {
	// Write is called at most once, by the queue's goroutine.
	Write func() error
	// Minor leaves half of the queue to other writes.
	Minor bool
	// Withdraw is for a write that must not be made unless its caller learns of it: while
	// others stall it is refused, and it is taken out of the queue when its caller stops
	// waiting. It does not count as lost.
	Withdraw bool
}

// linger is how long the queue's goroutine stays when there is nothing to write: its
// stack has grown to what a write takes, which that of a new one would have to do again.
const linger = 50 * time.Millisecond

// Queue makes writes. It is safe for concurrent use.
type Queue struct {
	cfg     Config
	waiting chan *item    // sent to with mu held, and never full
	waiters sync.Pool     // of *waiter
	hurry   chan struct{} // has room for one: do not linger

	mu      sync.Mutex
	pending int           // jobs in waiting, and the one that is being done
	running bool          // whether there is a goroutine that receives from waiting
	stalled bool          // from when somebody waited in vain until nothing is pending
	failed  error         // of the last write
	lost    uint64        // and not told yet
	total   uint64        // lost since the start
	written uint64        // since the start
	ended   chan struct{} // closed when running becomes false; nil if nobody waits for that
}

// item is a job in the queue. Its flags are guarded by the queue's mu.
type item struct {
	job                     Job
	done                    chan error // takes one value; nil if nobody waits
	begun, ended, withdrawn bool
}

// waiter is what it takes to wait for a job.
type waiter struct {
	done     chan error
	patience *time.Timer
}

// New returns an empty queue.
func New(cfg Config) *Queue {
	q := &Queue{cfg: cfg, waiting: make(chan *item, cfg.Limit+1), hurry: make(chan struct{}, 1)}
	q.waiters.New = func() any { return &waiter{make(chan error, 1), time.NewTimer(cfg.Patience)} }
	return q
}

// Post hands a write over and does not wait for it. It fails if there is no room.
func (q *Queue) Post(job Job) error {
	_, err := q.add(&item{job: job})
	return err
}

// Do hands a write over and waits until it is made, but not longer than
// Config.Patience, and not at all while writes stall. It returns nil if the write was
// made, its error if it failed, and [ErrStalled] or [ErrFull] otherwise.
func (q *Queue) Do(job Job) error {
	w := q.waiters.Get().(*waiter)
	it := &item{job: job, done: w.done}
	stalled, err := q.add(it)
	if err != nil {
		q.waiters.Put(w)
		return err
	}
	if stalled {
		return ErrStalled
	}
	w.patience.Reset(q.cfg.Patience)
	select {
	case err = <-w.done:
	case <-w.patience.C:
		if ended := q.giveUp(it); !ended {
			return ErrStalled
		}
		err = <-w.done
	}
	w.patience.Stop()
	q.waiters.Put(w)
	return err
}

// add puts a job into the queue. It reports whether there is no use in waiting for it.
func (q *Queue) add(it *item) (stalled bool, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.stalled && it.job.Withdraw {
		return true, ErrStalled
	}
	room := q.cfg.Limit
	if it.job.Minor {
		room /= 2
	}
	if q.pending > room {
		q.lose(it)
		return q.stalled, ErrFull
	}
	q.pending++
	q.waiting <- it
	if !q.running {
		q.running = true
		go q.run()
	}
	return q.stalled, nil
}

// lose counts a job that will not be done. The caller holds mu.
func (q *Queue) lose(it *item) {
	if !it.job.Withdraw {
		q.lost++
		q.total++
	}
}

// giveUp is what a caller does that has waited in vain, unless the job ended meanwhile.
func (q *Queue) giveUp(it *item) (ended bool) {
	q.mu.Lock()
	if it.ended {
		q.mu.Unlock()
		return true
	}
	before := q.fault()
	q.stalled = true
	it.withdrawn = it.job.Withdraw && !it.begun
	q.unlock(before)
	return false
}

// fault says why writes do not work; nil: they do. The caller holds mu.
func (q *Queue) fault() error {
	if q.failed == nil && q.stalled {
		return ErrStalled
	}
	return q.failed
}

// unlock releases mu, and says so if writes worked before and do not now, or the other
// way round.
func (q *Queue) unlock(before error) {
	now := q.fault()
	q.mu.Unlock()
	if (before == nil) != (now == nil) && q.cfg.Changed != nil {
		q.cfg.Changed(now)
	}
}

// run makes writes until there have been none for a while.
func (q *Queue) run() {
	idle := time.NewTimer(linger)
	defer idle.Stop()
	for {
		select {
		case it := <-q.waiting:
			q.take(it)
			continue
		default:
		}
		idle.Reset(linger)
		select {
		case it := <-q.waiting:
			q.take(it)
		case <-idle.C:
			if q.quit() {
				return
			}
		case <-q.hurry:
			if q.quit() {
				return
			}
		}
	}
}

// quit reports whether there is nothing to do, and the caller does not run any more.
func (q *Queue) quit() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.pending > 0 {
		return false
	}
	q.running = false
	if q.ended != nil {
		close(q.ended)
		q.ended = nil
	}
	return true
}

// take does a job, and tells of lost ones when it was the last.
func (q *Queue) take(it *item) {
	tell := q.do(it)
	for tell > 0 {
		err := q.cfg.TellLost(tell)
		q.mu.Lock()
		before := q.fault()
		q.failed = err
		if err == nil {
			q.lost -= tell
			q.written++
		}
		tell = q.settle()
		q.unlock(before)
	}
}

// do does a job and gives its result to the caller that waits for it. It returns how many
// lost writes are to be told of now.
func (q *Queue) do(it *item) (tell uint64) {
	q.mu.Lock()
	before := q.fault()
	if it.withdrawn {
		tell = q.settle()
		q.unlock(before)
		return tell
	}
	it.begun = true
	q.mu.Unlock()
	err := it.job.Write()
	q.mu.Lock()
	before = q.fault()
	it.ended = true
	q.failed = err
	if err != nil {
		q.lose(it)
	} else {
		q.written++
	}
	tell = q.settle()
	q.unlock(before)
	if it.done != nil {
		it.done <- err
	}
	return tell
}

// settle notes that a job is done with. It returns how many lost writes are to be told
// of now, which is a job, too. The caller holds mu.
func (q *Queue) settle() (tell uint64) {
	q.pending--
	if q.pending > 0 {
		return 0
	}
	q.stalled = false
	if q.lost > 0 && q.failed == nil && q.cfg.TellLost != nil {
		q.pending++
		return q.lost
	}
	return 0
}

// State is how a queue fares.
type State struct {
	Fault   error  // why writes do not work; nil: they do
	Lost    uint64 // writes that were lost since the start
	Written uint64 // writes that were made since the start
}

// State returns how the queue fares now.
func (q *Queue) State() State {
	q.mu.Lock()
	defer q.mu.Unlock()
	return State{Fault: q.fault(), Lost: q.total, Written: q.written}
}

// Drain waits until nothing is left to write and the queue's goroutine has ended, but
// not longer than within. It reports whether that is so. The queue can be used again.
func (q *Queue) Drain(within time.Duration) bool {
	ended := q.end()
	if ended == nil {
		return true
	}
	patience := time.NewTimer(within)
	defer patience.Stop()
	select {
	case <-ended:
		return true
	case <-patience.C:
		return false
	}
}

// end has the queue's goroutine end as soon as there is nothing to write. It returns a channel that
// is closed then, nil if there is no goroutine.
func (q *Queue) end() <-chan struct{} {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.running {
		return nil
	}
	if q.ended == nil {
		q.ended = make(chan struct{})
	}
	select {
	case q.hurry <- struct{}{}:
	default: // it knows
	}
	return q.ended
}
