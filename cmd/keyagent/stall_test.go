package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/client"
	"github.com/keyagent/keyagent/simulator"
)

// stallLimit is far above what a thousand tokens and the end of an agent take, and far below what
// they would if each of them waited for the reader for a second.
const stallLimit = 2 * time.Minute

const requireAudit = "\naudit: {required: true}\n"

// pipe returns a pipe that is as small as the kernel has them.
func pipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = r.Close(), w.Close() })
	if _, err := unix.FcntlInt(w.Fd(), unix.F_SETPIPE_SZ, os.Getpagesize()); err != nil {
		t.Fatal(err)
	}
	return r, w
}

// fill fills a pipe with empty lines.
func fill(t *testing.T, w *os.File) {
	t.Helper()
	size, err := unix.FcntlInt(w.Fd(), unix.F_GETPIPE_SZ, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(bytes.Repeat([]byte("\n"), size)); err != nil {
		t.Fatal(err)
	}
}

// tokens asks for a cached token so many times, one after the other, and returns how many were
// given. Others must have been refused for the sake of the audit.
func (v *victim) tokens(ctx context.Context, n int) (given int) {
	v.t.Helper()
	for range n {
		_, err := v.client.Token(ctx, client.TokenRequest{Identity: "vm", Resource: vault})
		if err == nil {
			given++
			continue
		}
		if said, ok := errors.AsType[*client.Error](err); !ok || said.Problem.Code != wire.CodeAuditUnavailable || said.RetryAfter == 0 {
			v.t.Fatalf("after %d tokens: %v", given, err)
		}
	}
	return given
}

// terminate wants an agent that ends well when it is told to.
func (v *victim) terminate() {
	v.t.Helper()
	if err := v.agent.Process.Signal(syscall.SIGTERM); err != nil {
		v.t.Fatal(err)
	}
	select {
	case <-v.ended:
		if code := v.agent.ProcessState.ExitCode(); code != exitDone {
			v.t.Errorf("exit code %d", code)
		}
	case <-time.After(stallLimit):
		v.t.Error("the agent does not end")
	}
}

func (v *victim) auditStatus() wire.Status {
	v.t.Helper()
	status, err := v.client.Status(v.t.Context())
	if err != nil {
		v.t.Fatal(err)
	}
	return status
}

// No process reads what the agent writes to one or both of its standard streams: a thousand cached
// tokens are handed out or, where records are required, refused, and the agent ends when it is told
// to.
func TestAReaderThatStallsHoldsUpNeitherCallersNorTheEnd(t *testing.T) {
	tests := []struct {
		name         string
		out, err     bool // whether it is not read
		settings     string
		given, ready bool
	}{
		{"nobody reads the audit", true, false, "", true, true},
		{"nobody reads the log", false, true, "", true, true},
		{"nobody reads either, which are one pipe", true, true, "", true, true},
		{"nobody reads the audit, which is required", true, false, requireAudit, false, false},
		{"nobody reads the log, and the audit is required", false, true, requireAudit, true, true},
		{"nobody reads either, and the audit is required", true, true, requireAudit, false, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v := newVictim(t, simulator.Config{})
			_, w := pipe(t)
			fill(t, w)
			var out, log io.Writer = io.Discard, io.Discard
			if tt.out {
				out = w
			}
			if tt.err {
				log = w
			}
			v.startWith(out, log, tt.settings)
			v.ready()
			ctx, cancel := context.WithTimeout(t.Context(), stallLimit)
			defer cancel()
			given := v.tokens(ctx, 1000)
			if want := map[bool]int{true: 1000}[tt.given]; given != want {
				t.Errorf("%d tokens, want %d", given, want)
			}
			if status := v.auditStatus(); (status.Audit.LastError != "") != tt.out || status.Ready != tt.ready {
				t.Errorf("the status has ready %v and audit %+v", status.Ready, status.Audit)
			}
			v.terminate()
		})
	}
}

// A reader that comes back finds the record of every token that was handed out, and of how many
// answers there is none. One that has no record was refused.
func TestAReaderThatComesBackFindsARecordOfEveryToken(t *testing.T) {
	v := newVictim(t, simulator.Config{})
	r, w := pipe(t)
	v.startWith(w, io.Discard, requireAudit)
	v.ready()
	ctx, cancel := context.WithTimeout(t.Context(), stallLimit)
	defer cancel()
	given := v.tokens(ctx, 1000)
	if given == 0 || given == 1000 {
		t.Fatalf("%d tokens, and the pipe is to become full meanwhile", given)
	}
	records := make(chan map[string]int)
	go func() {
		found := map[string]int{}
		for lines := bufio.NewScanner(r); lines.Scan(); {
			var record struct{ Msg, Decision string }
			if err := json.Unmarshal(lines.Bytes(), &record); err != nil {
				t.Errorf("%v: %s", err, lines.Bytes())
			}
			found[record.Msg+" "+record.Decision]++
		}
		records <- found
	}()
	if !v.until(func() bool { given += v.tokens(ctx, 1); return v.auditStatus().Ready }) {
		t.Error("the agent does not find its reader again")
	}
	given += v.tokens(ctx, 1)
	v.terminate()
	_ = w.Close() // the last that can write
	found := <-records
	// One record may be at the pipe when its caller stops waiting: that token was refused, and the
	// next record says so.
	if n := found["answer issued"]; n < given || n > given+1 {
		t.Errorf("%d records of %d tokens: %v", n, given, found)
	}
}

// A pipe whose reader is gone is not the end of the agent, and a reader that takes its place is
// found.
func TestAReaderThatGoesAwayIsNotTheEnd(t *testing.T) {
	tests := []struct {
		name, settings string
		given          bool
	}{
		{"records are not required", "", true},
		{"records are required", requireAudit, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v := newVictim(t, simulator.Config{})
			path := filepath.Join(t.TempDir(), "audit")
			if err := unix.Mkfifo(path, 0o600); err != nil {
				t.Fatal(err)
			}
			reader := openFIFO(t, path, os.O_RDONLY|unix.O_NONBLOCK)
			w := openFIFO(t, path, os.O_WRONLY)
			v.startWith(w, w, tt.settings)
			v.ready()
			_ = reader.Close()
			ctx, cancel := context.WithTimeout(t.Context(), stallLimit)
			defer cancel()
			if given, want := v.tokens(ctx, 100), map[bool]int{true: 100}[tt.given]; given != want {
				t.Errorf("%d tokens, want %d", given, want)
			}
			if status := v.auditStatus(); status.Audit.LastError == "" || status.Ready != tt.given {
				t.Errorf("the status has ready %v and audit %+v", status.Ready, status.Audit)
			}
			reader = openFIFO(t, path, os.O_RDONLY|unix.O_NONBLOCK)
			go func() { _, _ = io.Copy(io.Discard, reader) }() // ends with the test
			if given := v.tokens(ctx, 10); given != 10 {
				t.Errorf("with a new reader %d tokens, want 10", given)
			}
			if status := v.auditStatus(); status.Audit.LastError != "" || !status.Ready {
				t.Errorf("with a new reader the status has ready %v and audit %+v", status.Ready, status.Audit)
			}
			_ = reader.Close()
			v.terminate()
		})
	}
}

func openFIFO(t *testing.T, path string, flags int) *os.File {
	t.Helper()
	file, err := os.OpenFile(path, flags, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = file.Close() })
	return file
}

// A full disk, which /dev/full is always.
func TestAFullDiskUnderTheAudit(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	for settings, want := range map[string]int{"": 10, requireAudit: 0} {
		t.Run(settings, func(t *testing.T) {
			v := newVictim(t, simulator.Config{})
			var log bytes.Buffer
			v.startWith(full, &log, settings)
			v.ready()
			if given := v.tokens(t.Context(), 10); given != want {
				t.Errorf("%d tokens, want %d", given, want)
			}
			if got := v.auditStatus().Audit.LastError; !strings.Contains(got, "no space left on device") {
				t.Errorf("the status says %q", got)
			}
			v.terminate()
			if n := strings.Count(log.String(), "writing an audit record"); n != 1 {
				t.Errorf("the log says it %d times: %s", n, log.String())
			}
		})
	}
}

// A disk that becomes full under a file of records: tokens are refused, or not, and given again
// when there is room. The record of which the disk took a part only is followed by whole ones.
func TestADiskThatBecomesFullUnderTheAuditFile(t *testing.T) {
	for required, want := range map[bool]int{false: 10, true: 0} {
		t.Run(fmt.Sprintf("required=%v", required), func(t *testing.T) {
			v := newVictim(t, simulator.Config{})
			path := filepath.Join(v.dir, "audit.jsonl")
			v.startWith(io.Discard, io.Discard, fmt.Sprintf("\naudit: {to: file, file: %q, required: %v}\n", path, required))
			v.ready()
			if given := v.tokens(t.Context(), 1); given != 1 {
				t.Fatal("no token while there is room")
			}
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			v.limitFiles(uint64(info.Size()) + 20)
			if given := v.tokens(t.Context(), 10); given != want {
				t.Errorf("%d tokens, want %d", given, want)
			}
			status := v.auditStatus()
			if got := status.Audit; got.File != path || !strings.Contains(got.LastError, "file too large") || status.Ready != (want > 0) {
				t.Errorf("the status has ready %v and audit %+v", status.Ready, got)
			}
			v.limitFiles(unix.RLIM_INFINITY)
			_ = v.auditStatus() // whose record is the first that is written again
			if given := v.tokens(t.Context(), 10); given != 10 {
				t.Errorf("with room again, %d tokens", given)
			}
			v.terminate()
			wantOneTornLine(t, path)
		})
	}
}

// limitFiles bounds the size of the files that the agent writes.
func (v *victim) limitFiles(size uint64) {
	v.t.Helper()
	var limit unix.Rlimit
	if err := unix.Prlimit(v.agent.Process.Pid, unix.RLIMIT_FSIZE, nil, &limit); err != nil {
		v.t.Fatal(err)
	}
	limit.Cur = size
	if err := unix.Prlimit(v.agent.Process.Pid, unix.RLIMIT_FSIZE, &limit, nil); err != nil {
		v.t.Fatal(err)
	}
}

func wantOneTornLine(t *testing.T, path string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	torn := 0
	for line := range bytes.Lines(text) {
		if !json.Valid(line) {
			torn++
		}
	}
	if torn != 1 || !bytes.HasSuffix(text, []byte("}\n")) {
		t.Errorf("%d torn lines in %s", torn, text)
	}
}

// An agent that cannot start ends, too, if its log is not read.
func TestAnAgentThatCannotStartEndsThoughNobodyReadsWhy(t *testing.T) {
	for name, flags := range map[string][]string{
		"no configuration":   {"--config", "none.yaml"},
		"no such log format": {"--log-format", "yaml"},
	} {
		_, w := pipe(t)
		fill(t, w)
		ctx, cancel := context.WithTimeout(t.Context(), stallLimit)
		defer cancel()
		cmd := exec.CommandContext(ctx, "keyagent", append([]string{"serve"}, flags...)...)
		cmd.Stdout, cmd.Stderr = w, w
		_ = cmd.Run()
		if code := cmd.ProcessState.ExitCode(); code != exitUsage {
			t.Errorf("%s: exit code %d", name, code)
		}
	}
}

func TestARequiredAuditIsNotWrittenToNowhere(t *testing.T) {
	v := newVictim(t, simulator.Config{})
	var log bytes.Buffer
	v.startWith(nil, &log, requireAudit) // nil is /dev/null
	<-v.ended
	if code := v.agent.ProcessState.ExitCode(); code != exitFailed || !strings.Contains(log.String(), "audit.required: standard output") {
		t.Errorf("exit code %d: %s", code, log.String())
	}
}
