package token

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Bounds of a program that is not ours.
const (
	maxOutput  = 64 << 10 // far above any token
	maxSaid    = 4 << 10  // of its standard error, the end
	leftBehind = time.Second
)

// process is one run of a program.
type process struct {
	command []string
	env     []string
	input   []byte
	timeout time.Duration
}

var (
	errTooLong = errors.New("it did not end in time, and was killed")
	errTooMuch = fmt.Errorf("it wrote more than %d bytes to its standard output, and was killed", maxOutput)
	errHeld    = errors.New("it ended and left a process behind that holds its output")
)

// do runs the program until it ends, and returns what it wrote to its standard output and the end
// of what it wrote to its standard error, whatever becomes of it. The program has a process group
// of its own, of which nothing is left when do returns.
func (p process) do(ctx context.Context) (output []byte, said string, err error) {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	late := time.AfterFunc(p.timeout, func() { stop(errTooLong) })
	defer late.Stop()
	stdout := &bounded{most: maxOutput, full: func() { stop(errTooMuch) }}
	stderr := &bounded{most: maxSaid, last: true}
	cmd := exec.CommandContext(ctx, p.command[0], p.command[1:]...) // #nosec G204 -- the operator's program
	cmd.Env, cmd.Dir = p.env, "/"
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(p.input), stdout, stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = leftBehind
	group := &group{}
	cmd.Cancel = group.kill
	if err := cmd.Start(); err != nil {
		return nil, "", fmt.Errorf("it cannot be started: %w", err)
	}
	group.begin(cmd.Process.Pid)
	awaitEnd(cmd.Process.Pid)
	group.end()
	err = cmd.Wait()
	return stdout.bytes(), stderr.text(), p.outcome(ctx, err)
}

// outcome says why a run does not count, or nil.
func (p process) outcome(ctx context.Context, err error) error {
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err == nil:
		return nil
	case errors.Is(err, exec.ErrWaitDelay):
		return errHeld
	case errors.As(err, &exit) && exit.Exited():
		return fmt.Errorf("it ended with exit code %d; its messages are in the agent's log", exit.ExitCode())
	}
	return fmt.Errorf("it did not end by itself: %w", err)
}

// awaitEnd returns when the process has ended, and leaves it to be waited for: until then, its
// number and that of its group are nobody else's.
func awaitEnd(pid int) {
	for {
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// group is the process group of a program. It is killed only while its number is known to be its
// own.
type group struct {
	mu  sync.Mutex
	pid int  // of its first process; 0: it has not begun, or has ended
	cut bool // it was to be killed before its number was known
}

func (g *group) begin(pid int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.pid = pid; g.cut {
		_ = unix.Kill(-pid, unix.SIGKILL)
	}
}

// kill ends all processes of the group.
func (g *group) kill() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.pid == 0 {
		g.cut = true
		return nil
	}
	return unix.Kill(-g.pid, unix.SIGKILL)
}

// end kills what the first process has left behind. That must not have been waited for.
func (g *group) end() {
	_ = g.kill()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.pid = 0
}

// bounded keeps a limited number of the bytes written to it: the first, or the last. It is safe for
// concurrent use.
type bounded struct {
	most int
	last bool
	full func() // is called when more is written; nil: the rest is dropped

	mu   sync.Mutex
	kept []byte
}

// Write implements [io.Writer].
func (b *bounded) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch room := b.most - len(b.kept); {
	case len(p) <= room:
		b.kept = append(b.kept, p...)
	case b.last:
		b.kept = append(b.kept, p...)
		b.kept = append(b.kept[:0], b.kept[len(b.kept)-b.most:]...)
	default:
		b.kept = append(b.kept, p[:room]...)
		b.full()
		return room, errTooMuch
	}
	return len(p), nil
}

func (b *bounded) bytes() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return bytes.Clone(b.kept)
}

func (b *bounded) text() string { return strings.TrimSpace(string(b.bytes())) }
