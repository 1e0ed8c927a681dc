package daemon_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/keyagent/keyagent/agentapi/peer"
	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/daemon"
)

// unitTree makes a tree of cgroups in which system services have theirs, and returns its root.
func unitTree(t *testing.T) string {
	t.Helper()
	for _, dir := range []string{peer.CgroupRoot, filepath.Join(peer.CgroupRoot, "unified")} {
		var fs unix.Statfs_t
		if err := unix.Statfs(dir, &fs); err != nil || fs.Type != unix.CGROUP2_SUPER_MAGIC {
			continue
		}
		root := filepath.Join(dir, fmt.Sprintf("keyagent-test-%d-%s", os.Getpid(), t.Name()))
		slice := filepath.Join(root, "system.slice")
		if err := errors.Join(os.Mkdir(root, 0o755), os.Mkdir(slice, 0o755)); err != nil {
			t.Skipf("no cgroup can be made here: %v", err)
		}
		t.Cleanup(func() {
			if err := errors.Join(os.Remove(slice), os.Remove(root)); err != nil {
				t.Error(err)
			}
		})
		return root
	}
	t.Skip("no cgroup v2 here")
	return ""
}

func byUnit(c *config.Config) { c.Rules[0].Units = []string{"web.service"} }

// On a host where units cannot be told apart, a rule with units is an error, at the start as at a
// reload: it would name nobody.
func TestRulesWithUnitsNeedAHostWithUnits(t *testing.T) {
	s := newStage(t)
	if err := (peer.Host{}).CheckUnits(); err == nil {
		s.cgroups = t.TempDir() // no tree of cgroups
	}
	s.start()
	err := s.reload(byUnit)
	if err == nil || !strings.Contains(err.Error(), "units:") || !strings.Contains(err.Error(), "version 1 or both") {
		t.Errorf("a reload: %v", err)
	}
	if known := s.status().CallerIdentity; known == nil || known.Units.Available || known.Units.Reason == "" || known.Required != "available" {
		t.Errorf("status has %+v", known)
	}
	s.stop()
	byUnit(s.cfg)
	if s.cgroups != "" {
		return // the start below is on this machine
	}
	if err := s.tryOpen(); err == nil || !strings.Contains(err.Error(), "version 1 or both") {
		t.Errorf("the start: %v", err)
	}
	if err := daemon.Check(t.Context(), s.cfg); err == nil || !strings.Contains(err.Error(), "version 1 or both") {
		t.Errorf("the check: %v", err)
	}
}

func TestRulesWithUnitsOnAHostWithUnits(t *testing.T) {
	s := newStage(t)
	s.cgroups = unitTree(t)
	s.start()
	first := s.mustToken()
	s.mustReload(byUnit)
	if _, err := s.token(); err == nil {
		t.Error("this process is in no unit, and gets a token")
	}
	capabilities, err := s.client.Capabilities(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if known := capabilities.CallerIdentity; known == nil || !known.Units.Available || !known.Loopback.Available || known.Process == wire.ProcessUnknown {
		t.Errorf("capabilities have %+v", known)
	}
	s.mustReload(func(c *config.Config) { c.CallerIdentity = config.CallerIdentityStrict })
	if known := s.status().CallerIdentity; known.Required != "strict" {
		t.Errorf("status has %+v", known)
	}
	if again := s.mustToken(); again.AccessToken.Reveal() != first.AccessToken.Reveal() {
		t.Error("the token is another one")
	}
}
