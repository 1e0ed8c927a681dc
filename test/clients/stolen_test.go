package clients_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/config"
)

// thief is a user whom the rules allow just what they allow the user of the tests.
const thief = 65533

// What exec gives one program is worth nothing to the same program that somebody else starts, be it
// with all of its environment: it is refused, and that is on record.
func TestWhatExecGivesAProgramIsWorthNothingToOthers(t *testing.T) {
	t.Parallel()
	s := newWorld(t).newStation(func(c *config.Config) { c.Rules[0].Users = append(c.Rules[0].Users, "65533") })
	app := append(unmodifiedApps()[0].args(t), vault) // azidentity
	steal := func(env []string, attributes *syscall.SysProcAttr) (answer, []event) {
		t.Helper()
		before := len(s.record.since(0))
		cmd := exec.CommandContext(t.Context(), app[0], app[1:]...)
		cmd.Dir, cmd.Env, cmd.SysProcAttr = "/", env, attributes
		return says(t, cmd), s.record.since(before)
	}
	refused := func(t *testing.T, got answer, asked []event, uid int, reason string) {
		t.Helper()
		if got.Token != "" || len(asked) != 1 || asked[0].Code != string(wire.CodeSecretRefused) || !strings.Contains(asked[0].Reason, reason) ||
			asked[0].UID == nil || *asked[0].UID != uint32(uid) {
			t.Errorf("token %t, %q; the audit has %+v", got.Token != "", got.Error, asked)
		}
	}
	t.Run("the program itself, and its children", func(t *testing.T) {
		env := s.startHolder(t, asAppUser())
		if got, _ := steal(env, asAppUser()); got.Error != "" {
			t.Errorf("got %q", got.Error)
		}
	})
	t.Run("after it has ended", func(t *testing.T) {
		out, err := s.exec(t.Context(), t, "vm", "env").Output()
		if err != nil {
			t.Fatal(err)
		}
		got, asked := steal(lines(string(out)), asAppUser())
		refused(t, got, asked, appUser, "has ended")
	})
	t.Run("another user", func(t *testing.T) {
		if os.Getuid() != 0 {
			t.Skip("becoming another user takes root")
		}
		got, asked := steal(s.startHolder(t, asAppUser()), &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: thief, Gid: thief}})
		refused(t, got, asked, thief, "another user")
	})
	t.Run("the same user in another cgroup", func(t *testing.T) {
		got, asked := steal(s.startHolder(t, inCgroup(t)), inCgroup(t))
		refused(t, got, asked, appUser, "another systemd unit or cgroup")
	})
	t.Run("a secret of nobody's", func(t *testing.T) {
		env := append(s.startHolder(t, asAppUser()), "IDENTITY_HEADER=keyagent1_AAAA")
		got, asked := steal(env, asAppUser())
		refused(t, got, asked, appUser, "not one that this agent has made")
	})
	if strings.Contains(s.record.whole(), "keyagent1_") {
		t.Error("the audit has a secret")
	}
}

// startHolder starts a program under exec, and returns its environment. It runs until the test
// ends.
func (s *station) startHolder(t *testing.T, attributes *syscall.SysProcAttr) []string {
	t.Helper()
	cmd := s.exec(t.Context(), t, "vm", "sh", "-c", "env; echo; read line")
	cmd.SysProcAttr = attributes
	in, errIn := cmd.StdinPipe()
	out, errOut := cmd.StdoutPipe()
	if err := errors.Join(errIn, errOut, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait() // read says 1 at the end of its input
	})
	var text strings.Builder
	for buffer := make([]byte, 4096); !strings.HasSuffix(text.String(), "\n\n"); {
		n, err := out.Read(buffer)
		text.Write(buffer[:n])
		if err != nil {
			t.Fatal(err)
		}
	}
	return lines(text.String())
}

func lines(text string) []string { return strings.Split(strings.TrimSpace(text), "\n") }

// inCgroup starts a process in a cgroup of its own.
func inCgroup(t *testing.T) *syscall.SysProcAttr {
	t.Helper()
	for _, tree := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		if _, err := os.Stat(filepath.Join(tree, "cgroup.procs")); err != nil {
			continue
		}
		dir, err := os.MkdirTemp(tree, "keyagent-test")
		if err != nil {
			t.Skipf("no cgroup can be made here: %v", err)
		}
		t.Cleanup(func() { _ = os.Remove(dir) })
		file, err := os.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = file.Close() })
		attributes := asAppUser()
		attributes.UseCgroupFD, attributes.CgroupFD = true, int(file.Fd())
		return attributes
	}
	t.Skip("there is no cgroup v2 here")
	return nil
}
