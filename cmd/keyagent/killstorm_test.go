package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keyagent/keyagent/client"
	"github.com/keyagent/keyagent/simulator"
)

// What test/e2e/kills.sh sets: how many kills there are, for all kinds of work together, and the
// program that is killed, in the place of this one.
const (
	killCount   = "KEYAGENT_KILLS"
	killProgram = "KEYAGENT_KILL_PROGRAM"
)

// A storm kills one kind of work again and again.
type storm struct {
	*victim
	takes   map[string]time.Duration // each piece of work at best, if it is not killed
	unended int                      // kills before the work had ended
}

// killings are the kinds of work. Each does some of it, and kills it at some moment.
var killings = []struct {
	name   string
	renews bool // the platform's certificates are half over when they come
	kill   func(s *storm, n int)
}{
	{"key creation", false, (*storm).killCreation},
	{"rotation", false, (*storm).killRotation},
	{"renewal", true, (*storm).killRenewal},
	{"state writing", false, (*storm).killWriting},
}

// Killed at random moments of all that changes the state: each next start serves with the last good
// one. A few kills each time; test/e2e/kills.sh asks for 200.
func TestWhateverIsKilledTheLastGoodStateServes(t *testing.T) {
	count := len(killings)
	if text := os.Getenv(killCount); text != "" {
		var err error
		if count, err = strconv.Atoi(text); err != nil || count < len(killings) {
			t.Fatalf("%s: want a number from %d on, got %q", killCount, len(killings), text)
		}
	}
	for i, kind := range killings {
		share := (count + i) / len(killings) // the shares' sum is the count
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			cfg := simulator.Config{}
			if kind.renews {
				cfg.Now, cfg.BindingTokenLife = func() time.Time { return time.Now().Add(-12 * time.Minute) }, 20*time.Minute
			}
			s := &storm{victim: newVictim(t, cfg), takes: map[string]time.Duration{}}
			s.serves()
			for n := range share {
				kind.kill(s, n)
				s.checkState()
				s.serves()
				if t.Failed() {
					return // the state is what it was after the kill
				}
			}
			s.settled(kind.renews)
			t.Logf("%s: %d kills, %d of them before the work had ended; %s=%d", kind.name, share, s.unended, killSeed, s.seed)
			if share >= 20 && s.unended == 0 {
				t.Error("no kill hit the work")
			}
		})
	}
}

// settled wants that whole files cost no certificate, but for renewals.
func (s *storm) settled(renews bool) {
	s.t.Helper()
	had := s.issued("vm") + s.issued("vm-user")
	s.serves()
	if n := s.issued("vm") + s.issued("vm-user"); n != had && !renews {
		s.t.Errorf("a start with whole files issued %d certificates", n-had)
	}
}

// firstGuess is how long work may take, until some was not killed and took its time.
const firstGuess = time.Second / 2

// moment is some time within what the work takes, and a little after.
func (s *storm) moment(work string) time.Duration {
	takes, known := s.takes[work]
	if !known {
		takes = firstGuess
	}
	return time.Duration(s.random.Int64N(int64(takes + takes/4)))
}

// during does the work for at most a moment, and then kills it. Work ends when its channel closes.
func (s *storm) during(work string, ended <-chan struct{}, kill func()) {
	wait, began := s.moment(work), time.Now()
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		s.unended++
	case <-ended:
		if took, best := time.Since(began), s.takes[work]; best == 0 || took < best {
			s.takes[work] = took
		}
	}
	kill()
}

// killCreation kills a first start ever, and the command that makes a key, in turn.
func (s *storm) killCreation(n int) {
	if n%2 == 1 {
		s.killCommand("key create", "key", "create", fmt.Sprintf("app-%d", n), "--algorithm", "ecdsa-p256")
		return
	}
	if err := os.RemoveAll(filepath.Join(s.dir, "state")); err != nil {
		s.t.Fatal(err)
	}
	s.start()
	s.killWhileItServes("first start")
}

// killRotation kills the rotation of the agent's own key, and of another one, in turn.
func (s *storm) killRotation(n int) {
	if n%2 == 1 {
		s.killCommand("rotate binding", "key", "rotate", "binding")
		return
	}
	name := fmt.Sprintf("app-%d", n)
	s.mustRun("key", "create", name, "--algorithm", "ecdsa-p256")
	s.killCommand("rotate", "key", "rotate", name)
	s.mustRun("key", "show", name)
	_ = s.command("key", "rotate", name, "--cancel").Run() // it may not have begun
	s.mustRun("key", "rotate", name)
}

// killRenewal kills an agent whose certificates are due. They are renewed while it serves.
func (s *storm) killRenewal(int) {
	key := s.bindingKey()
	s.disturb()
	before := s.issued("vm") + s.issued("vm-user")
	s.start()
	s.ready()
	tokens, renewed := s.tokens(), make(chan struct{})
	go func() {
		defer close(renewed)
		<-tokens
		s.until(func() bool { return s.issued("vm")+s.issued("vm-user") >= before+2 })
	}()
	s.during("renewal", renewed, s.kill)
	<-renewed
	s.sameKey(key)
}

// killWriting kills an agent as soon as it has changed something in its state directory, or a
// little later.
func (s *storm) killWriting(int) {
	key := s.bindingKey()
	for _, name := range []string{"vm", "vm-user"} {
		if err := os.Remove(s.stateFile(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			s.t.Fatal(err)
		}
	}
	changes := s.watch(filepath.Join(s.dir, "state"))
	s.start()
	tokens := s.tokens()
	after := 1 + s.random.IntN(8) // changes: made, written, closed, renamed, of two files
	seen := 0
	s.until(func() bool {
		seen += changes()
		select {
		case <-tokens:
			return true
		default:
			return seen >= after
		}
	})
	if _, err := os.Stat(s.stateFile("vm-user")); err != nil {
		s.unended++
	}
	s.kill()
	<-tokens
	s.sameKey(key)
}

// watch returns a function that counts what was changed in a directory since it was called last.
func (s *storm) watch(dir string) func() int {
	s.t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = unix.Close(fd) })
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_CREATE|unix.IN_MODIFY|unix.IN_CLOSE_WRITE|unix.IN_MOVED_TO); err != nil {
		s.t.Fatal(err)
	}
	events := make([]byte, 1<<16)
	return func() int {
		n, err := unix.Read(fd, events)
		if err != nil {
			return 0
		}
		count := 0
		for at := 0; at+unix.SizeofInotifyEvent <= n; count++ {
			// The length of the name is the event's last member (inotify(7)).
			at += unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(events[at+12:]))
		}
		return count
	}
}

// killWhileItServes kills an agent between its start and its tokens.
func (s *storm) killWhileItServes(work string) {
	s.t.Helper()
	tokens := s.tokens()
	s.during(work, tokens, s.kill)
	<-tokens
}

// tokens asks for a token of each identity, as soon as the agent answers, and ignores the answers.
// The channel is closed when there are tokens, or the agent has ended.
func (s *storm) tokens() <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for _, name := range []string{"vm", "vm-user"} {
			s.until(func() bool {
				_, err := s.client.Token(s.t.Context(), client.TokenRequest{Identity: name, Resource: vault})
				return err == nil
			})
		}
	}()
	return done
}

// killCommand kills a command. The agent's own key is not its business, unless it is the command's.
func (s *storm) killCommand(work string, args ...string) {
	s.t.Helper()
	s.imds = relayIMDS(s.t, s.platform.Info().IMDS)
	defer s.imds.Close()
	s.config("")
	cmd := s.command(args...)
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	var result error
	ended := make(chan struct{})
	go func() { defer close(ended); result = cmd.Wait() }()
	killed := s.unended
	s.during(work, ended, func() { _ = cmd.Process.Kill() })
	<-ended
	if result != nil && s.unended == killed {
		s.t.Errorf("%s: %v: %s", work, result, said.Bytes())
	}
	s.mustRun("key", "list")
}

// mustRun runs a command that must succeed whatever was killed before.
func (s *storm) mustRun(args ...string) {
	s.t.Helper()
	if out, err := s.command(args...).CombinedOutput(); err != nil {
		s.t.Errorf("keyagent %v: %v: %s", args, err, out)
	}
}

func (s *storm) command(args ...string) *exec.Cmd {
	return exec.Command(s.program, append(args, "--config", filepath.Join(s.dir, "agent.yaml"))...) // #nosec G204 -- the program under test
}

// bindingKey is what the files of the agent's own key say.
func (s *storm) bindingKey() []byte {
	s.t.Helper()
	dir := filepath.Join(s.dir, "state", "keys", "binding")
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) == 0 {
		s.t.Fatalf("the agent has no key: %v", err)
	}
	var all []byte
	for _, entry := range entries {
		text, err := os.ReadFile(filepath.Join(dir, entry.Name()))
		if err != nil {
			s.t.Fatal(err)
		}
		all = append(all, text...)
	}
	return all
}

func (s *storm) sameKey(key []byte) {
	s.t.Helper()
	if !bytes.Equal(s.bindingKey(), key) {
		s.t.Error("the agent's key is another one")
	}
}
