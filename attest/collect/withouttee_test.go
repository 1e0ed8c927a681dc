package collect_test

import (
	"errors"
	"testing"

	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/attest/collect"
	at "github.com/keyagent/keyagent/attest/internal/attesttest"
)

// A machine without a TEE can say what it has, and only a verifier who accepts that believes it.
func TestEvidenceOfAMachineWithoutATEE(t *testing.T) {
	m := newVM(t)
	m.sim.SetHCLReport(nil)
	name, err := attest.KeyName(m.sim.AKPublic())
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name      string
		certified bool
		kind      attest.Kind
	}{{"with a certified key", true, attest.KindVTPM}, {"with a key of nobody's", false, attest.KindTPM}} {
		t.Run(tt.name, func(t *testing.T) {
			if !tt.certified {
				unprovisioned := at.NewNamedCA(t, "MICROSOFT AZURE TRUSTED VM RSA 01")
				if err := m.sim.SetAKCertificate(t.Context(), unprovisioned.Issue(t, m.ak(t), nil)); err != nil {
					t.Fatal(err)
				}
			}
			e, err := collect.New(m.config).CollectFor(t.Context(), collect.Request{Challenge: challenge(), WithoutTEE: true})
			if err != nil {
				t.Fatal(err)
			}
			if n := m.host.requests.Load(); n != 0 {
				t.Errorf("the host was asked %d times for a processor's certificates", n)
			}
			policy := attest.DefaultPolicy()
			if attest.Verify(e, challenge(), m.config.Anchors, policy, at.Epoch()).Verified() {
				t.Error("verified by a policy that wants a TEE")
			}
			policy.Required = attest.KeyChecks()
			policy.TEE, policy.AKNames = []attest.Kind{tt.kind}, [][]byte{name}
			if err := attest.Verify(e, challenge(), m.config.Anchors, policy, at.Epoch()).Err(); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("unless a fresh hardware report is asked for", func(t *testing.T) {
		_, err := collect.New(m.config).CollectFor(t.Context(), collect.Request{Challenge: challenge(), WithoutTEE: true, HardwareFresh: true})
		if !errors.Is(err, collect.ErrNoReport) {
			t.Errorf("got %v", err)
		}
	})
}
