package daemon_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/agentapi"
	"github.com/keyagent/keyagent/internal/agenttest"
)

// An agent with a state directory of its own and the socket of another one makes no key and notes
// no storage root before it is refused.
func TestATakenSocketIsFoundBeforeAnythingIsMade(t *testing.T) {
	s := newStage(t)
	s.start()
	s.cfg.StateDir = filepath.Join(t.TempDir(), "state")
	if err := s.tryOpen(); !errors.Is(err, agentapi.ErrInUse) {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(s.cfg.StateDir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the state directory was made: %v", err)
	}
}

func TestAnAgentOfAnotherUserIsToldAsWhomToRun(t *testing.T) {
	s := newStage(t)
	if err := errors.Join(os.Mkdir(s.cfg.StateDir, 0o700), os.Chown(s.cfg.StateDir, 12345, -1)); err != nil {
		t.Skipf("cannot give a directory to another user: %v", err)
	}
	err := s.tryOpen()
	if err == nil || strings.Contains(err.Error(), "chown") || !strings.Contains(agenttest.Advice(err), "sudo -u '#12345' [run the agent]") {
		t.Errorf("got %v; %s", err, agenttest.Advice(err))
	}
}
