package daemon_test

import (
	"context"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/client"
	"github.com/keyagent/keyagent/internal/agenttest"
	"github.com/keyagent/keyagent/simulator/fault"
)

// TestALongSilenceHasAName stalls one part after the other.
func TestALongSilenceHasAName(t *testing.T) {
	for _, tt := range []struct{ operation, what string }{
		{"imds.getplatformmetadata", "IMDS: getplatformmetadata"},
		{"imds.issuecredential", "IMDS: issuecredential"},
		{"maa.attest", "the attestation service at 127.0.0.1:"},
		{"entra.mtls.token", "Entra's token endpoint at 127.0.0.1:"},
	} {
		t.Run(tt.operation, func(t *testing.T) {
			t.Parallel()
			s := newStage(t)
			s.start()
			if err := s.platform.Faults().Add(fault.Fault{Operation: tt.operation, Kind: fault.Delay, Delay: fault.Duration(fault.MaxDelay)}); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				_, _ = s.client.Token(ctx, client.TokenRequest{Identity: "vm", Resource: resource})
			}()
			var last wire.WaitStatus
			agenttest.SawWait(t, tt.what, func() (list []string) {
				for _, w := range s.status().Waiting {
					last = w
					list = append(list, w.What)
				}
				return list
			})
			if last.Count != 1 || last.Since.IsZero() {
				t.Errorf("status has %+v", last)
			}
			if log := s.log.String(); !strings.Contains(log, `level=WARN msg="this takes long: it is still waited for" for=`) || !strings.Contains(log, tt.what) {
				t.Errorf("the log has\n%s", log)
			}
			s.platform.Faults().Clear()
			cancel()
			<-ended
		})
	}
}
