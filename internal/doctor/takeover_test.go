package doctor_test

import (
	"context"
	"net"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/agenttest"
	"github.com/keyagent/keyagent/internal/doctor"
)

// The users whose traffic is taken over are named, and so is that nobody answers them.
func TestTheDiagnosisNamesTheTakeover(t *testing.T) {
	s := agenttest.New(t)
	s.WithoutApplications()
	if got := agenttest.Verdict(s.Diagnose(nil), "takeover"); got != "" {
		t.Errorf("none is configured, and it is %q", got)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.Config.Endpoints.Takeover = &config.Takeover{Listen: listener.Addr().String(), Users: []string{"4101", "web"}}
	d := s.Diagnose(nil)
	if agenttest.Verdict(d, "takeover") != doctor.VerdictOK || !strings.Contains(detail(d, "takeover"), "4101, web; they still get of it: instance, nothing else") {
		t.Errorf("got %+v", d)
	}
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	if got := agenttest.Verdict(s.Diagnose(nil), "takeover"); got != doctor.VerdictWarn {
		t.Errorf("no agent runs: %q", got)
	}
	d = doctor.Diagnose(t.Context(), s.Config, doctor.Options{ConfigPath: "config.yaml", AskAgent: func(context.Context, string) (wire.Status, error) {
		return wire.Status{Ready: true, PID: 1}, nil
	}})
	if got := agenttest.Verdict(d, "takeover"); got != doctor.VerdictFail {
		t.Errorf("the agent runs and does not listen: %q", got)
	}
}
