package attest_test

import (
	"bytes"
	"maps"
	"testing"

	"github.com/keyagent/keyagent/attest"
	at "github.com/keyagent/keyagent/attest/internal/attesttest"
	"github.com/keyagent/keyagent/attest/tee"
)

// collateralParts are the parts of the collateral, with what makes a part of another length of one.
func collateralParts(c *attest.TDXCollateral) map[string]*[]byte {
	return map[string]*[]byte{
		"TCB info": &c.TCBInfo, "TCB info's signature": &c.TCBInfoSignature, "TCB info's chain": &c.TCBInfoChain,
		"QE identity": &c.QEIdentity, "QE identity's signature": &c.QEIdentitySignature, "QE identity's chain": &c.QEIdentityChain,
		"root CRL": &c.RootCACRL, "PCK CRL": &c.PCKCRL, "PCK CRL's chain": &c.PCKCRLChain,
	}
}

// TestNoChangedByteOfRealTDXEvidenceIsVerified changes one byte at a time of all that a signature
// covers. What is left out of the TDREPORT is what a quote does not repeat and no remote party can
// check: cpusvn, the MAC and the flags that say which fields are valid.
func TestNoChangedByteOfRealTDXEvidenceIsVerified(t *testing.T) {
	t.Parallel()
	v := vectorNamed(t, "tdx-2026")
	e, p := v.evidence(t), v.policy()
	expected := attest.Expected{Quote: unhex(t, v.NonceHex), AllowShort: true}
	anchors := attest.DefaultTrustAnchors()
	verdict := func() attest.Verdict { return attest.VerifyExpected(e, expected, anchors, p, v.Time).Verdict() }
	if got := verdict(); got != attest.Verified {
		t.Fatalf("unchanged: %q", got)
	}
	hcl := e.HCLReport[32:]
	parts := map[string][]byte{
		"TD quote": e.TDQuote,
		"type":     hcl[:16], "hashes and report_data": hcl[32:224], "TEE_TCB_INFO": hcl[256:512], "TDINFO": hcl[512:1024],
		"rest of the hardware report": hcl[1024:1184], "claims": e.HCLReport[1236 : 1236+1196],
		"AK certificate": e.AKCertificate,
	}
	for name, part := range collateralParts(e.TDXCollateral) {
		parts[name] = *part
	}
	const stride = 37
	for name, part := range parts {
		for i := 0; i < len(part); i += stride {
			part[i] ^= 0x10
			if verdict() == attest.Verified {
				t.Errorf("%s: byte %d may be changed", name, i)
			}
			part[i] ^= 0x10
		}
	}
}

// TestEachPartOfTheCollateralMustBeThereAndWhole, and tdx.collateral says so.
func TestEachPartOfTheCollateralMustBeThereAndWhole(t *testing.T) {
	t.Parallel()
	breakages := map[string]func([]byte) []byte{
		"missing":   func([]byte) []byte { return nil },
		"one byte":  func(b []byte) []byte { return b[:1] },
		"half":      func(b []byte) []byte { return b[:len(b)/2] },
		"one less":  func(b []byte) []byte { return b[:len(b)-2] },
		"one more":  func(b []byte) []byte { return append(bytes.Clone(b), 1) },
		"a zero":    func(b []byte) []byte { return append(bytes.Clone(b), 0) },
		"only zero": func(b []byte) []byte { return make([]byte, len(b)) },
		"twice":     func(b []byte) []byte { return append(bytes.Clone(b), b...) },
	}
	for name := range collateralParts(&attest.TDXCollateral{}) {
		for kind, breakage := range breakages {
			x := newTDXTrial(t)
			x.TDX.ChangeSources = func(_ testing.TB, c *tee.TDXCollateral) {
				part := collateralParts(c)[name]
				*part = breakage(*part)
			}
			r := x.run(t)
			if failed := r.Status(attest.CheckTDXCollateral) == attest.Fail || r.Status(attest.CheckBundleFormat) == attest.Fail; r.Verified() || !failed {
				t.Errorf("%s, %s: verdict %q, %s is %q", name, kind, r.Verdict(), attest.CheckTDXCollateral, r.Status(attest.CheckTDXCollateral))
			}
		}
	}
}

// TestEachMemberOfATDXBundleCounts takes each member out of a good bundle, and the check of what is
// missing does not pass. Those that may be missing are no more than on SEV-SNP.
func TestEachMemberOfATDXBundleCounts(t *testing.T) {
	t.Parallel()
	x := newTDXTrial(t)
	good := document(t, x)
	checks := members()
	delete(checks, "vcek_chain")
	checks["hcl_report"] = [2]string{"", attest.CheckHCLClaims}
	checks["td_quote"] = [2]string{"", attest.CheckTDXStructure}
	checks["tdx_collateral"] = [2]string{"", attest.CheckTDXCollateral}
	for name := range good {
		if _, ok := checks[name]; !ok && name != "format" {
			t.Errorf("member %s is in no row", name)
		}
	}
	for name, check := range checks {
		changed := maps.Clone(good)
		delete(changed, name)
		r := parsed(t, x, changed)
		if missing := check[1]; missing == "" {
			if err := r.Err(); err != nil {
				t.Errorf("%s missing, which may be: %v", name, err)
			}
		} else if r.Verified() || r.Status(missing) == attest.Pass {
			t.Errorf("%s missing: verdict %q, %s is %q", name, r.Verdict(), missing, r.Status(missing))
		}
	}
}

// TestPartsOfAnotherGoodMachineAreRefused exchanges each part of one machine's evidence for that of
// another, both good, under one Intel root.
func TestPartsOfAnotherGoodMachineAreRefused(t *testing.T) {
	t.Parallel()
	x := newTDXTrial(t)
	y := newTDXTrial(t)
	y.AK, y.Claims = x.w.keys.Other, at.Claims(&x.w.keys.Other.PublicKey)
	y.TDX.Intel = x.w.intel.SetPCK(x.w.intel.NewPCK(t, nil))
	y.TDX.ChangeTCB = member("tcbEvaluationDataNumber", 20) // so that its documents differ
	y.TDX.ChangeQEID = member("tcbEvaluationDataNumber", 20)
	for name, m := range map[string]*trial{"x": x, "y": y} {
		if err := m.run(t).Err(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	for name, tt := range map[string]struct {
		check string
		swap  func(to, from *attest.Evidence)
	}{
		"TD quote":                {attest.CheckTDXReport, func(to, from *attest.Evidence) { to.TDQuote = from.TDQuote }},
		"HCL report":              {attest.CheckTDXReport, func(to, from *attest.Evidence) { to.HCLReport = from.HCLReport }},
		"TD quote and HCL report": {attest.CheckQuoteSignature, func(to, from *attest.Evidence) { to.TDQuote, to.HCLReport = from.TDQuote, from.HCLReport }},
		"TPM quote":               {attest.CheckQuoteSignature, func(to, from *attest.Evidence) { to.Quote, to.QuoteSignature = from.Quote, from.QuoteSignature }},
		"certify":                 {attest.CheckKeyCertifySignature, func(to, from *attest.Evidence) { to.Certify, to.CertifySignature = from.Certify, from.CertifySignature }},
		"AK certificate":          {attest.CheckAKCertificate, func(to, from *attest.Evidence) { to.AKCertificate = from.AKCertificate }},
		"TCB info":                {attest.CheckTDXCollateral, func(to, from *attest.Evidence) { to.TDXCollateral.TCBInfo = from.TDXCollateral.TCBInfo }},
		"QE identity":             {attest.CheckTDXCollateral, func(to, from *attest.Evidence) { to.TDXCollateral.QEIdentity = from.TDXCollateral.QEIdentity }},
		"QE identity as TCB info": {attest.CheckTDXCollateral, func(to, from *attest.Evidence) {
			to.TDXCollateral.TCBInfo, to.TDXCollateral.TCBInfoSignature = from.TDXCollateral.QEIdentity, from.TDXCollateral.QEIdentitySignature
		}},
	} {
		other := y.Evidence(t, y.challenge)
		x.ChangeEvidence = func(e *attest.Evidence) { tt.swap(e, other) }
		if r := x.run(t); r.Verified() || r.Status(tt.check) != attest.Fail {
			t.Errorf("%s of another machine: verdict %q, %s is %q", name, r.Verdict(), tt.check, r.Status(tt.check))
		}
	}
	// Collateral as a whole is about the kind of platform, not about the machine.
	x.ChangeEvidence = func(e *attest.Evidence) { e.TDXCollateral = y.TDX.Collateral(t) }
	if err := x.run(t).Err(); err != nil {
		t.Errorf("collateral of another machine of the same kind: %v", err)
	}
}
