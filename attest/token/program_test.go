package token_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keyagent/keyagent/attest/token"
)

var programNow = time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)

// jwt makes a token with these claims, whose signature is nobody's.
func jwt(header, claims string) string {
	enc := base64.RawURLEncoding.EncodeToString
	return enc([]byte(header)) + "." + enc([]byte(claims)) + "." + enc([]byte("a signature"))
}

func goodJWT() string {
	return jwt(`{"alg":"RS256","typ":"JWT"}`, fmt.Sprintf(`{"exp":%d,"x-ms-ver":"1.0"}`, programNow.Add(8*time.Hour).Unix()))
}

// program is a provider with a shell script for a program. The script finds its directory in $0.
func program(t *testing.T, script string, change func(*token.ProgramConfig)) (p *token.Program, dir string, log *bytes.Buffer) {
	t.Helper()
	dir, log = t.TempDir(), new(bytes.Buffer)
	path := filepath.Join(dir, "program")
	if err := os.WriteFile(path, []byte("#!/bin/sh\nD=${0%/*}\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	cfg := token.ProgramConfig{
		Command: []string{path, "an argument", "$(touch $D/shell)"}, Timeout: time.Minute,
		Now: func() time.Time { return programNow }, Logger: slog.New(slog.NewTextHandler(log, nil)),
	}
	if change != nil {
		change(&cfg)
	}
	return token.NewProgram(cfg), dir, log
}

func TestAProgramMakesATokenOfEvidence(t *testing.T) {
	t.Setenv("KEYAGENT_TEST_SECRET", "of the agent")
	p, dir, log := program(t, `cat >$D/stdin; env >$D/env; pwd >$D/pwd; printf '%s\n' "$#" "$1" "$2" >$D/args; ls /proc/self/fd >$D/fds
echo "asking https://verifier.example for eyJhbGciOiJSUzI1NiJ9.eyJleHAiOjF9.c2ln" >&2
echo `+goodJWT(), nil)
	bundle := bytes.Repeat([]byte(`{"format":"keyagent-evidence/1"}`), 8<<10) // more than a pipe holds
	got, expires, err := p.Ask(t.Context(), endpoint, bundle)
	if err != nil || got.Reveal() != goodJWT() || !expires.Equal(programNow.Add(8*time.Hour)) {
		t.Fatalf("%v, %v, %v", got, expires, err)
	}
	for name, want := range map[string]string{
		"stdin": string(bundle), "pwd": "/\n", "args": "2\nan argument\n$(touch $D/shell)\n",
	} {
		if text, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(text) != want {
			t.Errorf("%s: %.100q, %v", name, text, err)
		}
	}
	env, err := os.ReadFile(filepath.Join(dir, "env"))
	if err != nil || strings.Contains(string(env), "SECRET") || !strings.Contains(string(env), token.EnvEndpoint+"="+endpoint) {
		t.Errorf("environment %s, %v", env, err)
	}
	if said := log.String(); !strings.Contains(said, "asking https://verifier.example for …") || strings.Contains(said, "eyJ") {
		t.Errorf("log %s", said)
	}
}

func TestProgramsThatMisbehave(t *testing.T) {
	t.Parallel()
	good := goodJWT()
	for _, tt := range []struct {
		name, script string
		timeout      time.Duration
		want         string
	}{
		{"it hangs", "cat >/dev/null; exec sleep 600", 300 * time.Millisecond, "did not end in time"},
		{"it hangs with what it has started", "(trap '' TERM; exec sleep 600) & wait", 300 * time.Millisecond, "did not end in time"},
		{"it goes on after the token", "echo " + good + "; exec sleep 600", 300 * time.Millisecond, "did not end in time"},
		{"it writes without end", "yes", 0, "more than " + strconv.Itoa(token.MaxOutput)},
		{"it fails", "echo " + good + "; exit 3", 0, "exit code 3"},
		{"it is killed", "kill -9 $$", 0, "did not end by itself"},
		{"it says nothing", "cat >/dev/null", 0, "not one signed JWT"},
		{"it writes two tokens", "echo " + good + "; echo " + good, 0, "not one signed JWT"},
		{"it writes more than the token", "echo token: " + good, 0, "not one signed JWT"},
		{"a token that has expired", "echo " + jwt(`{"alg":"RS256"}`, fmt.Sprintf(`{"exp":%d}`, programNow.Unix())), 0, "has expired already"},
		{"it is no program", "", 0, "cannot be started"},
		{"one of another session holds the output", "mkfifo $D/f; setsid -f sh -c \": >$D/f; exec sleep 5\"; cat $D/f; echo " + good, 0, "left a process behind"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p, dir, _ := program(t, "echo $$ >$D/pid\n"+tt.script, func(cfg *token.ProgramConfig) {
				if tt.timeout > 0 {
					cfg.Timeout = tt.timeout
				}
				if tt.script == "" {
					cfg.Command = []string{"/does/not/exist"}
				}
			})
			got, _, err := p.Ask(t.Context(), endpoint, []byte("{}"))
			if err == nil || !strings.Contains(err.Error(), tt.want) || !got.IsZero() {
				t.Errorf("%v, %v; want %q", got, err, tt.want)
			}
			if err != nil && strings.Contains(err.Error(), "eyJ") {
				t.Errorf("the error has a token: %v", err)
			}
			if tt.script != "" {
				checkGroupGone(t, dir)
			}
		})
	}
}

// checkGroupGone sees that nothing of a program's process group is left.
func checkGroupGone(t *testing.T, dir string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "pid"))
	if errors.Is(err, os.ErrNotExist) {
		return // it was killed before it could say its number
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	alive := livingOf(t, pid)
	for deadline := time.Now().Add(10 * time.Second); len(alive) > 0 && time.Now().Before(deadline); alive = livingOf(t, pid) {
		runtime.Gosched() // a signal that was sent takes effect when its process is scheduled
	}
	if len(alive) > 0 {
		t.Errorf("of the group %d there are still %v", pid, alive)
	}
}

// livingOf lists the processes of a group that have not ended: one that was killed may wait for
// somebody to take note of it.
func livingOf(t *testing.T, group int) (alive []string) {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, stat := range stats {
		text, err := os.ReadFile(stat)
		if err != nil {
			continue // it has ended meanwhile
		}
		fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
		if fields[2] == strconv.Itoa(group) && fields[0] != "Z" {
			alive = append(alive, string(text))
		}
	}
	return alive
}

// A program that has done its work is not held up by what it has left behind, which is killed.
func TestProcessesThatAProgramLeavesAreKilled(t *testing.T) {
	t.Parallel()
	p, dir, _ := program(t, "echo $$ >$D/pid\nsleep 600 &\necho "+goodJWT(), nil)
	got, _, err := p.Ask(t.Context(), endpoint, []byte("{}"))
	if err != nil || got.Reveal() != goodJWT() {
		t.Fatalf("%v, %v", got, err)
	}
	checkGroupGone(t, dir)
}

func TestAProgramEndsWithTheContext(t *testing.T) {
	t.Parallel()
	p, dir, _ := program(t, "echo $$ >$D/pid\nmkfifo $D/fifo\nsleep 600 &\n: >$D/fifo\nsleep 600", nil)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		// The pipe is there when the program is.
		for {
			f, err := os.OpenFile(filepath.Join(dir, "fifo"), os.O_RDONLY, 0)
			if err == nil {
				_ = f.Close()
				break
			}
			if !errors.Is(err, os.ErrNotExist) {
				t.Error(err)
				break
			}
			syscall.Sync() // something that takes its time
		}
		cancel()
	}()
	if _, _, err := p.Ask(ctx, endpoint, []byte("{}")); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	checkGroupGone(t, dir)
}

func TestWhatIsAToken(t *testing.T) {
	t.Parallel()
	in := func(d time.Duration) string { return fmt.Sprintf(`{"exp":%d}`, programNow.Add(d).Unix()) }
	for name, tt := range map[string]struct {
		output  string
		expires time.Duration // 0: it is none
	}{
		"a token":                       {jwt(`{"alg":"ES256"}`, in(time.Hour)), time.Hour},
		"with an end of line":           {jwt(`{"alg":"ES256"}`, in(time.Hour)) + "\n", time.Hour},
		"with that of another system":   {jwt(`{"alg":"ES256"}`, in(time.Hour)) + "\r\n", time.Hour},
		"one that never ends":           {jwt(`{"alg":"ES256"}`, in(10000*time.Hour)), 24 * time.Hour},
		"a fraction of a second":        {jwt(`{"alg":"ES256"}`, fmt.Sprintf(`{"exp":%d.5}`, programNow.Add(time.Hour).Unix())), time.Hour},
		"nothing":                       {"", 0},
		"an empty line before it":       {"\n" + jwt(`{"alg":"ES256"}`, in(time.Hour)), 0},
		"two ends of line":              {jwt(`{"alg":"ES256"}`, in(time.Hour)) + "\n\n", 0},
		"two parts":                     {"e30.e30", 0},
		"four parts":                    {jwt(`{"alg":"ES256"}`, in(time.Hour)) + ".e30", 0},
		"no signature":                  {strings.TrimSuffix(jwt(`{"alg":"ES256"}`, in(time.Hour)), "YSBzaWduYXR1cmU"), 0},
		"padding":                       {jwt(`{"alg":"ES256"}`, in(time.Hour)) + "=", 0},
		"no algorithm":                  {jwt(`{}`, in(time.Hour)), 0},
		"none for an algorithm":         {jwt(`{"alg":"None"}`, in(time.Hour)), 0},
		"an algorithm twice":            {jwt(`{"alg":"none","alg":"ES256"}`, in(time.Hour)), 0},
		"a header that is not JSON":     {jwt(`alg`, in(time.Hour)), 0},
		"claims that are not an object": {jwt(`{"alg":"ES256"}`, `[]`), 0},
		"no end":                        {jwt(`{"alg":"ES256"}`, `{}`), 0},
		"an end that is a text":         {jwt(`{"alg":"ES256"}`, `{"exp":"1"}`), 0},
		"an end twice":                  {jwt(`{"alg":"ES256"}`, `{"exp":1,"exp":9999999999}`), 0},
		"an end beyond all times":       {jwt(`{"alg":"ES256"}`, `{"exp":1e300}`), 0},
		"an end in the past":            {jwt(`{"alg":"ES256"}`, `{"exp":-1}`), 0},
		"an end at this moment":         {jwt(`{"alg":"ES256"}`, in(0)), 0},
	} {
		t.Run(name, func(t *testing.T) {
			got, expires, err := token.ReadToken([]byte(tt.output), programNow)
			if (err == nil) != (tt.expires > 0) || err == nil && (!expires.Equal(programNow.Add(tt.expires)) || got.IsZero()) {
				t.Errorf("%v, %v, %v", got, expires, err)
			}
		})
	}
}

func FuzzReadToken(f *testing.F) {
	f.Add([]byte(goodJWT()))
	f.Add([]byte(goodJWT() + "\r\n"))
	f.Add([]byte("a.b.c"))
	f.Fuzz(func(t *testing.T, output []byte) {
		got, expires, err := token.ReadToken(output, programNow)
		if err != nil {
			if !got.IsZero() {
				t.Error("a token with an error")
			}
			return
		}
		if !expires.After(programNow) || expires.After(programNow.Add(24*time.Hour)) || strings.ContainsAny(got.Reveal(), " \r\n") {
			t.Errorf("%q until %v", got.Reveal(), expires)
		}
	})
}
