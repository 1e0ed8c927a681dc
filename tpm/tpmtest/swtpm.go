package tpmtest

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/keyagent/keyagent/internal/tooltest"
)

// startPatience bounds how long a program may take to listen on its socket.
const startPatience = 20 * time.Second

// SoftTPM is a swtpm process on a Unix socket. It serves one connection at a time.
type SoftTPM struct {
	program, dir, socket string
	cmd                  *exec.Cmd
	output               bytes.Buffer
}

// Swtpm starts a fresh swtpm. It ends with the test. The test is skipped where swtpm is not
// installed.
func Swtpm(t testing.TB) *SoftTPM {
	t.Helper()
	return swtpm(t, shortDir(t))
}

// SwtpmOf starts a swtpm that goes on from a copy of the given state, the file tpm2-00.permall of another one. It ends with the test.
// The test is skipped where swtpm is not installed.
func SwtpmOf(t testing.TB, state []byte) *SoftTPM {
	t.Helper()
	dir := shortDir(t)
	if err := os.WriteFile(filepath.Join(dir, "tpm2-00.permall"), state, 0o600); err != nil {
		t.Fatal(err)
	}
	return swtpm(t, dir)
}

func swtpm(t testing.TB, dir string) *SoftTPM {
	t.Helper()
	s := &SoftTPM{program: tooltest.Tool(t, "swtpm"), dir: dir, socket: filepath.Join(dir, "tpm.sock")}
	s.start(t)
	t.Cleanup(func() { s.stop(t) })
	return s
}

// Device is the address to open it by.
func (s *SoftTPM) Device() string { return "unix:" + s.socket }

// PID is the number of the process, which Reboot changes.
func (s *SoftTPM) PID() int { return s.cmd.Process.Pid }

// Reboot kills the process, without an orderly shutdown, and starts it again on its state.
func (s *SoftTPM) Reboot(t testing.TB) {
	t.Helper()
	s.stop(t)
	s.start(t)
}

func (s *SoftTPM) start(t testing.TB) {
	t.Helper()
	s.cmd = exec.Command(s.program, "socket", "--tpm2", // #nosec G204 -- a program that the test asked for
		"--server", "type=unixio,path="+s.socket, "--tpmstate", "dir="+s.dir, "--flags", "not-need-init,startup-clear")
	s.cmd.Stdout, s.cmd.Stderr = &s.output, &s.output
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s.awaitSocket(t)
}

// awaitSocket waits until the program takes connections. The one made here ends before the next
// begins, so that the program's only place is free.
func (s *SoftTPM) awaitSocket(t testing.TB) {
	t.Helper()
	poll := time.NewTicker(time.Millisecond)
	defer poll.Stop()
	deadline := time.After(startPatience)
	for {
		conn, err := net.Dial("unix", s.socket)
		if err == nil {
			_ = conn.Close() // nothing was said
			return
		}
		select {
		case <-poll.C:
		case <-deadline:
			t.Fatalf("swtpm does not listen: %v: %s", err, s.output.Bytes())
		}
	}
}

func (s *SoftTPM) stop(t testing.TB) {
	t.Helper()
	if err := s.cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	_ = s.cmd.Wait() // its status is that it was killed
	if err := os.Remove(s.socket); err != nil && !os.IsNotExist(err) {
		t.Error(err)
	}
}
