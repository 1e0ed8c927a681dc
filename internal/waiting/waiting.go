package waiting

import (
	"cmp"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// Long is how long a wait may take before it is logged.
const Long = 5 * time.Second

// Config configures a [Board].
type Config struct {
	Logger *slog.Logger     // nil means no log
	Now    func() time.Time // for times that are displayed; nil means time.Now

	// AfterFunc calls f in a goroutine of its own once d is over, unless stop is called before. Nil
	// means time.AfterFunc.
	AfterFunc func(d time.Duration, f func()) (stop func() bool)
}

// Board lists the operations that are being waited for. It is safe for concurrent use. The texts
// that name them must be few, and without secrets.
type Board struct {
	cfg Config

	mu    sync.Mutex
	waits map[string]*wait // by the text that names the operation
}

// wait has all waiters for one thing.
type wait struct {
	began map[*waiter]struct{}
	told  bool // in the log
}

// waiter is one of them. It has two clocks: that of the Config is for display, and may be set.
type waiter struct {
	began time.Time // by the Config's clock
	start time.Time // by the monotonic clock
	long  bool
}

// Wait describes an operation that is being waited for.
type Wait struct {
	What  string
	Since time.Time // the longest wait began
	Count int       // of those who wait
}

// New returns an empty board.
func New(cfg Config) *Board {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.AfterFunc == nil {
		cfg.AfterFunc = func(d time.Duration, f func()) func() bool { return time.AfterFunc(d, f).Stop }
	}
	return &Board{cfg: cfg, waits: map[string]*wait{}}
}

// Begin records that a caller waits, until over is called. Neither blocks. A nil board records
// nothing.
func (b *Board) Begin(what string) (over func()) {
	if b == nil {
		return func() {}
	}
	me := &waiter{began: b.cfg.Now(), start: time.Now()}
	b.mu.Lock()
	w := b.waits[what]
	if w == nil {
		w = &wait{began: map[*waiter]struct{}{}}
		b.waits[what] = w
	}
	w.began[me] = struct{}{}
	b.mu.Unlock()
	stop := b.cfg.AfterFunc(Long, func() { b.late(what, me) })
	return func() {
		stop()
		b.end(what, me)
	}
}

// late logs that a wait takes long, unless another one for the same thing has been logged.
func (b *Board) late(what string, me *waiter) {
	if n, first := b.noteLate(what, me); first {
		b.cfg.Logger.Warn("this takes long: it is still waited for", "for", what, "since", me.began, "waiting", n)
	}
}

// noteLate notes a long wait, unless it has ended in this moment. First says that it is the first
// for the same.
func (b *Board) noteLate(what string, me *waiter) (n int, first bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	w := b.waits[what]
	if w == nil {
		return 0, false
	}
	if _, waits := w.began[me]; !waits {
		return 0, false
	}
	first = !w.told
	me.long, w.told = true, true
	return len(w.began), first
}

// end logs that the last long wait for a thing is over.
func (b *Board) end(what string, me *waiter) {
	if b.noteEnd(what, me) {
		b.cfg.Logger.Info("a long wait is over", "for", what, "waited_seconds", time.Since(me.start).Round(time.Second).Seconds())
	}
}

func (b *Board) noteEnd(what string, me *waiter) (last bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	w := b.waits[what]
	if w == nil {
		return false
	}
	delete(w.began, me)
	last = me.long && !w.hasLong()
	w.told = w.told && !last
	if len(w.began) == 0 {
		delete(b.waits, what)
	}
	return last
}

func (w *wait) hasLong() bool {
	for other := range w.began {
		if other.long {
			return true
		}
	}
	return false
}

// Long returns the operations that have been waited for longer than [Long], the longest wait first.
func (b *Board) Long() []Wait { return b.list(func(w *waiter) bool { return w.long }) }

// Now returns all that is waited for, the longest first.
func (b *Board) Now() []Wait { return b.list(func(*waiter) bool { return true }) }

func (b *Board) list(counts func(*waiter) bool) []Wait {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	var list []Wait
	for what, w := range b.waits {
		found := Wait{What: what}
		for me := range w.began {
			if !counts(me) {
				continue
			}
			found.Count++
			if found.Since.IsZero() || me.began.Before(found.Since) {
				found.Since = me.began
			}
		}
		if found.Count > 0 {
			list = append(list, found)
		}
	}
	slices.SortFunc(list, func(a, b Wait) int { return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.What, b.What)) })
	return list
}
