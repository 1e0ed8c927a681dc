package doctor_test

import (
	"context"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/internal/agenttest"
	"github.com/keyagent/keyagent/internal/doctor"
)

// What the running agent lacks is named, also where it has no configuration that it could use.
func TestWhatTheServiceLacks(t *testing.T) {
	s := agenttest.New(t)
	s.WithoutApplications()
	diagnose := func(status wire.Status) doctor.Diagnosis {
		return doctor.Diagnose(t.Context(), s.Config, doctor.Options{ConfigPath: "config.yaml", AskAgent: func(context.Context, string) (wire.Status, error) {
			return status, nil
		}})
	}
	d := diagnose(wire.Status{PID: 7, SocketsMissing: []string{"app-service"}, NotReady: []string{"the configuration cannot be used: because"}})
	if said := detail(d, "socket app-service"); !strings.Contains(said, "warn it is configured and off") {
		t.Errorf("of a socket it says %q", said)
	}
	if said := detail(d, "running agent"); !strings.Contains(said, "pid 7 is not ready: the configuration cannot be used: because") {
		t.Errorf("of the agent it says %q", said)
	}
	for _, f := range d.Findings {
		if strings.HasPrefix(f.Check, "running agent: ") {
			t.Errorf("an agent that has no configuration is compared with one: %+v", f)
		}
	}
}
