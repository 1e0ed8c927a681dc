package writequeue_test

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/keyagent/keyagent/internal/writequeue"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	patience = time.Second
	limit    = 8
)

var errDisk = errors.New("no space left on device")

// sink is what a queue writes to. It may be told to stall and to fail.
type sink struct {
	mu      sync.Mutex
	fails   error
	blocked chan struct{} // nil: writes do not stall
	written []string
	told    []uint64
	news    []error
}

func (s *sink) stall() (resume func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	blocked := make(chan struct{})
	s.blocked = blocked
	return func() {
		s.mu.Lock()
		s.blocked = nil
		s.mu.Unlock()
		close(blocked)
	}
}

func (s *sink) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fails = err
}

func (s *sink) wait() {
	s.mu.Lock()
	blocked := s.blocked
	s.mu.Unlock()
	if blocked != nil {
		<-blocked
	}
}

func (s *sink) write(name string) func() error {
	return func() error {
		s.wait()
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.fails != nil {
			return s.fails
		}
		s.written = append(s.written, name)
		return nil
	}
}

func (s *sink) job(name string) writequeue.Job { return writequeue.Job{Write: s.write(name)} }

func (s *sink) queue() *writequeue.Queue {
	return writequeue.New(writequeue.Config{
		Limit:    limit,
		Patience: patience,
		TellLost: func(n uint64) error {
			if err := s.write("lost")(); err != nil {
				return err
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			s.told = append(s.told, n)
			return nil
		},
		Changed: func(err error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.news = append(s.news, err)
		},
	})
}

// took returns what f returns, and for how long it made its caller wait.
func took(f func() error) (time.Duration, error) {
	begin := time.Now()
	err := f()
	return time.Since(begin), err
}

func wantWritten(t *testing.T, s *sink, want ...string) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Equal(s.written, want) {
		t.Errorf("written: %q, want %q", s.written, want)
	}
}

func TestNobodyWaitsLongerThanThePatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := new(sink)
		q := s.queue()
		if d, err := took(func() error { return q.Do(s.job("a")) }); err != nil || d != 0 {
			t.Errorf("a write that works: %v after %v", err, d)
		}
		resume := s.stall()
		var callers sync.WaitGroup
		for range 4 { // at the same time
			callers.Go(func() {
				if d, err := took(func() error { return q.Do(s.job("b")) }); !errors.Is(err, writequeue.ErrStalled) || d != patience {
					t.Errorf("a write that stalls: %v after %v", err, d)
				}
			})
		}
		callers.Wait()
		for range 2 { // and afterwards
			if d, err := took(func() error { return q.Do(s.job("c")) }); !errors.Is(err, writequeue.ErrStalled) || d != 0 {
				t.Errorf("a write after one that stalled: %v after %v", err, d)
			}
		}
		if !errors.Is(q.State().Fault, writequeue.ErrStalled) {
			t.Errorf("the state is %v", q.State())
		}
		if d, _ := took(func() error { q.Drain(patience / 2); return nil }); d != patience/2 {
			t.Errorf("draining a queue that stalls took %v", d)
		}
		resume()
		if !q.Drain(patience) {
			t.Error("the queue is not empty")
		}
		wantWritten(t, s, "a", "b", "b", "b", "b", "c", "c")
		if d, err := took(func() error { return q.Do(s.job("d")) }); err != nil || d != 0 {
			t.Errorf("a write after the reader came back: %v after %v", err, d)
		}
		q.Drain(patience)
		if want := []error{writequeue.ErrStalled, nil}; !slices.Equal(s.news, want) {
			t.Errorf("told of %v, want %v", s.news, want)
		}
	})
}

// A reader that reads a little before each patience ends holds up nobody longer, either.
func TestASlowReaderHoldsUpNobodyLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := new(sink)
		q := s.queue()
		slow := func(name string) writequeue.Job {
			return writequeue.Job{Write: func() error {
				<-time.After(patience * 3 / 4)
				return s.write(name)()
			}}
		}
		var callers sync.WaitGroup
		for range limit {
			callers.Go(func() {
				if d, _ := took(func() error { return q.Do(slow("x")) }); d > patience {
					t.Errorf("a caller waited %v", d)
				}
			})
		}
		callers.Wait()
		q.Drain(time.Hour)
	})
}

func TestAWithdrawnWriteIsNotMade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := new(sink)
		q := s.queue()
		resume := s.stall()
		withdraw := func(name string) writequeue.Job {
			job := s.job(name)
			job.Withdraw = true
			return job
		}
		var callers sync.WaitGroup
		callers.Go(func() { _ = q.Do(s.job("begun")) })
		synctest.Wait()
		callers.Go(func() { _ = q.Do(withdraw("withdrawn")) })
		callers.Wait()
		if err := q.Do(withdraw("refused")); !errors.Is(err, writequeue.ErrStalled) {
			t.Errorf("a write that must not be made later: %v", err)
		}
		resume()
		q.Drain(patience)
		wantWritten(t, s, "begun")
		if got := q.State(); got.Lost != 0 || got.Fault != nil {
			t.Errorf("the state is %+v", got)
		}
		if err := q.Do(withdraw("later")); err != nil {
			t.Error(err)
		}
		q.Drain(patience)
		wantWritten(t, s, "begun", "later")
	})
}

func TestLostRecordsAreReported(t *testing.T) {
	t.Run("writes that fail", func(t *testing.T) {
		s := new(sink)
		q := s.queue()
		s.fail(errDisk)
		for range 3 {
			if err := q.Do(s.job("lost")); !errors.Is(err, errDisk) {
				t.Errorf("got %v", err)
			}
		}
		withdraw := s.job("refused")
		withdraw.Withdraw = true
		if err := q.Do(withdraw); !errors.Is(err, errDisk) { // whose caller knows
			t.Errorf("got %v", err)
		}
		if got := q.State(); got.Lost != 3 || !errors.Is(got.Fault, errDisk) {
			t.Errorf("the state is %+v", got)
		}
		s.fail(nil)
		if err := q.Do(s.job("good")); err != nil {
			t.Error(err)
		}
		q.Drain(patience)
		wantWritten(t, s, "good", "lost")
		if want := []uint64{3}; !slices.Equal(s.told, want) {
			t.Errorf("told %v, want %v", s.told, want)
		}
		if got := q.State(); got.Lost != 3 || got.Fault != nil {
			t.Errorf("the state is %+v", got)
		}
	})
	t.Run("writes without room", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := new(sink)
			q := s.queue()
			resume := s.stall()
			if err := q.Do(s.job("begun")); !errors.Is(err, writequeue.ErrStalled) {
				t.Errorf("got %v", err)
			}
			full := 0
			for range limit + 5 {
				if err := q.Do(s.job("more")); errors.Is(err, writequeue.ErrFull) {
					full++
				}
			}
			resume()
			q.Drain(patience)
			if want := []uint64{5}; full != 5 || !slices.Equal(s.told, want) || len(s.written) != 1+limit+1 {
				t.Errorf("%d found no room, told %v, written %q", full, s.told, s.written)
			}
		})
	})
	t.Run("again, if telling fails", func(t *testing.T) {
		s := new(sink)
		q := s.queue()
		s.fail(errDisk)
		_ = q.Do(s.job("lost"))
		s.fail(nil)
		_ = q.Do(writequeue.Job{Write: func() error { s.fail(errDisk); return nil }}) // the last that the disk takes
		q.Drain(patience)
		if got := q.State(); got.Fault == nil || len(s.told) != 0 {
			t.Errorf("told %v, %+v", s.told, got)
		}
		s.fail(nil)
		_ = q.Do(s.job("good"))
		q.Drain(patience)
		if want := []uint64{1}; !slices.Equal(s.told, want) {
			t.Errorf("told %v, want %v", s.told, want)
		}
	})
}

func TestMinorWritesLeaveRoomForOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := new(sink)
		q := s.queue()
		resume := s.stall()
		_ = q.Do(s.job("begun"))
		minor := s.job("minor")
		minor.Minor = true
		for range 3 * limit {
			_ = q.Post(minor)
		}
		for range limit / 2 {
			if err := q.Post(s.job("major")); err != nil {
				t.Error(err)
			}
		}
		resume()
		q.Drain(patience)
	})
}

func TestWritesAreMadeInOrderAndOneAtATime(t *testing.T) {
	q := writequeue.New(writequeue.Config{Limit: 1050, Patience: time.Minute})
	var got []int // without a lock, for the race detector
	var callers sync.WaitGroup
	for i := range 1000 {
		if err := q.Post(writequeue.Job{Write: func() error { got = append(got, i); return nil }}); err != nil {
			t.Fatal(err)
		}
	}
	for range 50 {
		callers.Go(func() {
			if err := q.Do(writequeue.Job{Write: func() error { got = append(got, 1000); return nil }}); err != nil {
				t.Error(err)
			}
		})
	}
	callers.Wait()
	if !q.Drain(time.Minute) || len(got) != 1050 || !slices.IsSorted(got) {
		t.Errorf("%d writes, in order: %v", len(got), slices.IsSorted(got))
	}
}

// partial is a disk that takes so many bytes.
type partial struct {
	room int
	got  bytes.Buffer
}

func (p *partial) Write(b []byte) (int, error) {
	n := min(p.room, len(b))
	p.room -= n
	p.got.Write(b[:n])
	if n < len(b) {
		return n, errDisk
	}
	return n, nil
}

func TestALineThatWasTornDoesNotSpoilTheNext(t *testing.T) {
	for room := range 12 {
		disk := &partial{room: room}
		lines := writequeue.NewLines(disk)
		for range 3 {
			_, _ = lines.Write([]byte("first\n"))
		}
		disk.room = 100
		if _, err := lines.Write([]byte("second\n")); err != nil {
			t.Fatal(err)
		}
		if text := disk.got.String(); !strings.HasSuffix("\n"+text, "\nsecond\n") {
			t.Errorf("%d bytes of room: %q", room, text)
		}
	}
}

func TestTheWriterNeitherWaitsNorKeepsItsInput(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := new(sink)
		q := s.queue()
		resume := s.stall()
		var got bytes.Buffer
		w := q.Writer(writerFunc(func(p []byte) (int, error) { s.wait(); return got.Write(p) }))
		line := []byte("one\n")
		for range 2 * limit {
			if n, err := w.Write(line); n != len(line) || err != nil {
				t.Errorf("%d, %v", n, err)
			}
		}
		copy(line, "two\n")
		resume()
		q.Drain(patience)
		if text := got.String(); !strings.HasPrefix(text, "one\none\n") || strings.Contains(text, "two") {
			t.Errorf("written: %q", text)
		}
		if len(s.told) != 1 {
			t.Errorf("told %v", s.told)
		}
	})
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
