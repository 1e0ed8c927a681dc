package daemon_test

import (
	"encoding/base64"
	"encoding/hex"
	"os"
	"slices"
	"testing"

	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/simulator"
)

// On a VM with Intel TDX the agent gets its certificate on the evidence of that hardware, and a
// relying party believes the same evidence.
func TestAnAgentOnIntelTDX(t *testing.T) {
	s := newStageOn(t, simulator.Config{Dir: t.TempDir(), TEE: simulator.TDX})
	s.cfg.Rules[0].Evidence = true
	s.start()
	if token := s.mustToken(); token.Strength != "attested" {
		t.Errorf("a token of strength %q", token.Strength)
	}
	challenge := attest.Challenge{Nonce: []byte("a nonce of thirty-two bytes here"), Audience: "https://verifier.example"}
	bundle, err := s.client.Evidence(t.Context(), wire.EvidenceRequest{
		Nonce: base64.RawURLEncoding.EncodeToString(challenge.Nonce), Audience: challenge.Audience, Key: "binding",
	})
	if err != nil {
		t.Fatal(err)
	}
	made, err := attest.Parse(bundle)
	if err != nil {
		t.Fatal(err)
	}
	anchors, policy := s.verifier()
	roots, err := os.ReadFile(s.cfg.Attestation.TDX.Roots)
	if err != nil {
		t.Fatal(err)
	}
	if anchors.Intel, err = attest.ParseIntelRoots(roots); err != nil {
		t.Fatal(err)
	}
	if r := attest.Verify(made, challenge, anchors, policy, s.clock()()); r.Verified() || r.Status(attest.CheckTDXLaunch) != attest.Fail {
		t.Errorf("under the default policy, which does not know the simulated paravisor: %v", r.Err())
	}
	mrtd, err := hex.DecodeString(s.cfg.Attestation.TDX.MRTDs[0])
	if err != nil {
		t.Fatal(err)
	}
	policy.MRTDs = append(policy.MRTDs, mrtd)
	r := attest.Verify(made, challenge, anchors, policy, s.clock()())
	if err := r.Err(); err != nil {
		t.Fatal(err)
	}
	if firmware := slices.ContainsFunc(r.NotProven, func(c attest.Claim) bool { return c.Reason != attest.CheckEventLogReplay }); firmware {
		t.Errorf("not proven: %+v", r.NotProven)
	}
}
