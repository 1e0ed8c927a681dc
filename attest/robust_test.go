package attest_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/keyagent/keyagent/attest"
	at "github.com/keyagent/keyagent/attest/internal/attesttest"
)

// strictest asks for all that can be asked.
func strictest(x *trial) {
	x.key = &x.w.keys.Key.PublicKey
	x.policy.UserData = make([]byte, 64)
	x.policy.RequireSecureBoot = true
	x.policy.VMID = at.VMID
	x.policy.Required = attest.CheckNames()
	x.ChangeAnchors = func(a *attest.TrustAnchors) { a.VTPMIntermediates = nil }
}

// TestPartsThatAreMissingOrBrokenAreSurvived verifies evidence with one part dropped, emptied, cut
// and lengthened, under the strictest policy. A later check must cope with what an earlier one
// could not read.
func TestPartsThatAreMissingOrBrokenAreSurvived(t *testing.T) {
	t.Parallel()
	parts := map[string]func(*attest.Evidence) *[]byte{
		"HCL report":        func(e *attest.Evidence) *[]byte { return &e.HCLReport },
		"SNP report":        func(e *attest.Evidence) *[]byte { unwrap(e); return &e.SNPReport },
		"claims":            func(e *attest.Evidence) *[]byte { unwrap(e); return &e.RuntimeClaims },
		"VCEK":              func(e *attest.Evidence) *[]byte { return &e.VCEKChain[0] },
		"AK certificate":    func(e *attest.Evidence) *[]byte { return &e.AKCertificate },
		"AK public":         func(e *attest.Evidence) *[]byte { return &e.AKPublic },
		"key public":        func(e *attest.Evidence) *[]byte { return &e.KeyPublic },
		"certify":           func(e *attest.Evidence) *[]byte { return &e.Certify },
		"certify signature": func(e *attest.Evidence) *[]byte { return &e.CertifySignature },
		"quote":             func(e *attest.Evidence) *[]byte { return &e.Quote },
		"quote signature":   func(e *attest.Evidence) *[]byte { return &e.QuoteSignature },
	}
	breakages := map[string]func([]byte) []byte{
		"missing":    func([]byte) []byte { return nil },
		"empty":      func([]byte) []byte { return []byte{} },
		"one byte":   func(b []byte) []byte { return b[:1] },
		"half":       func(b []byte) []byte { return b[:len(b)/2] },
		"too long":   func(b []byte) []byte { return append(bytes.Clone(b), 1, 2, 3) },
		"much more":  func(b []byte) []byte { return append(bytes.Clone(b), make([]byte, 10_000)...) },
		"only zeros": func(b []byte) []byte { return make([]byte, len(b)) },
	}
	for name, part := range parts {
		for kind, breakage := range breakages {
			x := newTrial(t)
			strictest(x)
			x.ChangeEvidence = func(e *attest.Evidence) {
				p := part(e)
				*p = breakage(*p)
			}
			if r := x.run(t); r.Verified() || r.Err() == nil {
				t.Errorf("%s, %s: verified", name, kind)
			}
		}
	}
}

// TestAnUnreadableReportIsNotReplacedByAnUnsignedKey: with broken claims the key that is sent along
// must not take their place.
func TestAnUnreadableReportIsNotReplacedByAnUnsignedKey(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*attest.Evidence){
		"broken HCL report":    func(e *attest.Evidence) { e.HCLReport[0] = 'X' },
		"broken claims":        func(e *attest.Evidence) { e.HCLReport[1236] = 'X' },
		"broken single claims": func(e *attest.Evidence) { unwrap(e); e.RuntimeClaims[0] = 'X' },
	} {
		x := newTrial(t)
		x.ChangeEvidence = change
		r := x.run(t)
		for _, check := range []string{attest.CheckAKPublic, attest.CheckQuoteSignature, attest.CheckKeyCertifySignature, attest.CheckQuoteSigner} {
			if r.Status(check) != attest.NotApplicable {
				t.Errorf("%s: %s is %q, want not-applicable", name, check, r.Status(check))
			}
		}
		if r.AK != nil {
			t.Errorf("%s: the result names an attestation key", name)
		}
	}
}

// TestATPMWithoutATEEIsNeverVerified: without hardware report the key that is sent along serves to
// look at the statements, and to no more.
func TestATPMWithoutATEEIsNeverVerified(t *testing.T) {
	t.Parallel()
	x := newTrial(t)
	x.policy = attest.Policy{}
	x.ChangeEvidence = func(e *attest.Evidence) { e.HCLReport, e.VCEKChain = nil, nil }
	r := x.run(t)
	if r.Verdict() != attest.Incomplete || r.Status(attest.CheckQuoteSignature) != attest.Pass {
		t.Errorf("verdict %q, quote.signature %q", r.Verdict(), r.Status(attest.CheckQuoteSignature))
	}
	for _, claim := range r.Proven {
		t.Errorf("proven: %+v", claim)
	}
	x.ChangeEvidence = func(e *attest.Evidence) {
		e.HCLReport, e.VCEKChain = nil, nil
		e.AKPublic = at.Public(&x.AK.PublicKey, at.BindingKeyAttributes, nil)
	}
	if r := x.run(t); r.Status(attest.CheckAKPublic) != attest.Fail || r.Status(attest.CheckQuoteSignature) != attest.NotApplicable {
		t.Errorf("unrestricted key: ak.public %q, quote.signature %q", r.Status(attest.CheckAKPublic), r.Status(attest.CheckQuoteSignature))
	}
}

func TestChecksThatAreNotAskedForDoNotApply(t *testing.T) {
	t.Parallel()
	x := newTrial(t)
	x.Claims = bytes.Replace(x.Claims, []byte(`"secure-boot":true`), []byte(`"secure-boot":false`), 1)
	r := x.run(t)
	if err := r.Err(); err != nil {
		t.Error(err)
	}
	for _, check := range []string{attest.CheckPolicySecureBoot, attest.CheckPolicyVMID, attest.CheckHCLUserData, attest.CheckKeyMatch, attest.CheckSNPRevocation, attest.CheckTDXStructure} {
		if r.Status(check) != attest.NotApplicable {
			t.Errorf("%s is %q", check, r.Status(check))
		}
	}
}

func TestWithoutClockWindowStatementsMayBeFarApart(t *testing.T) {
	t.Parallel()
	x := newTrial(t)
	x.policy.ClockWindow = 0
	x.ChangeQuote = func(s *at.Statement) { s.Clock += uint64(time.Hour.Milliseconds()) }
	if err := x.run(t).Err(); err != nil {
		t.Error(err)
	}
}
