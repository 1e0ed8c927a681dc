package waiting_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyagent/keyagent/internal/waiting"
)

// log collects what a board says; it is safe for concurrent use.
type log struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *log) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.buf.String(), text)
}

const (
	begins = `level=WARN msg="this takes long: it is still waited for"`
	ends   = `level=INFO msg="a long wait is over"`
)

// onBoard runs a test whose clock advances when all goroutines wait.
func onBoard(t *testing.T, test func(*waiting.Board, *log)) {
	t.Helper()
	synctest.Test(t, func(*testing.T) {
		said := &log{}
		test(waiting.New(waiting.Config{Logger: slog.New(slog.NewTextHandler(said, nil))}), said)
	})
}

// pass lets time go by.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func TestALongWaitIsLoggedOnce(t *testing.T) {
	onBoard(t, func(b *waiting.Board, said *log) {
		began := time.Now()
		first := b.Begin("the TPM")
		pass(4 * time.Second)
		second := b.Begin("the TPM")
		if len(b.Long()) != 0 || said.count("level") != 0 {
			t.Errorf("after 4 seconds: %+v", b.Long())
		}
		if now := b.Now(); len(now) != 1 || now[0].Count != 2 || !now[0].Since.Equal(began) {
			t.Errorf("is waited for: %+v", now)
		}
		pass(time.Second)
		if got := b.Long(); len(got) != 1 || got[0] != (waiting.Wait{What: "the TPM", Since: began, Count: 1}) {
			t.Errorf("after 5 seconds: %+v", got)
		}
		pass(10 * time.Second)
		if got := b.Long(); len(got) != 1 || got[0].Count != 2 || said.count(begins) != 1 {
			t.Errorf("after 15 seconds: %+v, told %d times", got, said.count(begins))
		}
		first()
		if said.count(ends) != 0 {
			t.Error("it is said to be over while another waits for long")
		}
		second()
		if len(b.Now()) != 0 || said.count(ends) != 1 || said.count("waited_seconds=11") != 1 {
			t.Errorf("over: %+v, told %d times", b.Now(), said.count(ends))
		}
		again := b.Begin("the TPM")
		pass(6 * time.Second)
		again()
		if said.count(begins) != 2 || said.count(ends) != 2 {
			t.Errorf("the next long wait is told %d and %d times", said.count(begins)-1, said.count(ends)-1)
		}
	})
}

func TestAShortWaitIsNotLogged(t *testing.T) {
	onBoard(t, func(b *waiting.Board, said *log) {
		for range 100 { // there is always a waiter, and none waits for long
			over := b.Begin("IMDS: getplatformmetadata")
			pass(3 * time.Second)
			next := b.Begin("IMDS: getplatformmetadata")
			over()
			pass(time.Second)
			next()
		}
		if len(b.Long()) != 0 || said.count("level") != 0 {
			t.Errorf("told: %+v", b.Long())
		}
	})
}

func TestTheLongestComesFirst(t *testing.T) {
	onBoard(t, func(b *waiting.Board, said *log) {
		for _, what := range []string{"c", "a", "b"} {
			defer b.Begin(what)()
			pass(time.Second)
		}
		pass(waiting.Long)
		var order string
		for _, w := range b.Long() {
			order += w.What
		}
		if order != "cab" || said.count(begins) != 3 {
			t.Errorf("got %q, told %d times", order, said.count(begins))
		}
	})
}

func TestANilBoardRecordsNothing(*testing.T) {
	var none *waiting.Board
	none.Begin("anything")()
}

// For the race detector.
func TestManyWaitAtOnce(t *testing.T) {
	b := waiting.New(waiting.Config{})
	var group sync.WaitGroup
	for i := range 50 {
		group.Go(func() {
			for range 100 {
				over := b.Begin(fmt.Sprint(i % 3))
				b.Now()
				b.Long()
				over()
			}
		})
	}
	group.Wait()
	if left := b.Now(); len(left) != 0 {
		t.Errorf("left: %+v", left)
	}
}
