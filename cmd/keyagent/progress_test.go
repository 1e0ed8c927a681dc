package main

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/keyagent/keyagent/internal/waiting"
)

// newTerminal returns both sides of a pseudo-terminal: what is written to one is read from the
// other.
func newTerminal(t *testing.T) (screen, program *os.File) {
	t.Helper()
	screen = terminal(t)
	if err := unix.IoctlSetPointerInt(int(screen.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Skipf("no pseudo-terminals: %v", err)
	}
	n, err := unix.IoctlGetInt(int(screen.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Skipf("no pseudo-terminals: %v", err)
	}
	program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no pseudo-terminals: %v", err)
	}
	t.Cleanup(func() { _ = program.Close() })
	return screen, program
}

// On a terminal, a command says how long it takes and what it waits for, until that is over.
func TestProgressNamesTheWait(t *testing.T) {
	screen, program := newTerminal(t)
	a := &app{streams: streams{err: program}, waits: waiting.New(waiting.Config{})}
	over := a.waits.Begin("IMDS: getplatformmetadata")
	defer over()
	read := bufio.NewReader(screen)
	got, err := awaited(t.Context(), a, "rotating the agent's own key", func() (string, error) { return read.ReadString('a') }) // of "data"
	if err != nil {
		t.Fatal(err)
	}
	for !strings.HasSuffix(got, "metadata") {
		more, err := read.ReadString('a')
		if err != nil {
			t.Fatal(err)
		}
		got += more
	}
	if !strings.Contains(got, "rotating the agent's own key ... 1s, waiting for IMDS: getplatformmetadata") {
		t.Errorf("got %q", got)
	}
}

// Elsewhere nothing is said.
func TestNoProgressWhereNobodyLooks(t *testing.T) {
	var said strings.Builder
	a := &app{streams: streams{err: &said}}
	if got, err := awaited(t.Context(), a, "x", func() (int, error) { return 7, nil }); got != 7 || err != nil || said.Len() != 0 {
		t.Errorf("got %d, %v, %q", got, err, said.String())
	}
}
