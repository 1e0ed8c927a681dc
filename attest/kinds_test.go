package attest_test

import (
	"crypto/x509"
	"slices"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/attest"
	at "github.com/keyagent/keyagent/attest/internal/attesttest"
)

// without takes the hardware's part away, as a Trusted Launch VM has none.
func without(e *attest.Evidence) { e.HCLReport, e.VCEKChain = nil, nil }

// trustedLaunch issues an AK certificate as such a VM has it.
func trustedLaunch(t testing.TB, x *trial) func(*attest.Evidence) {
	t.Helper()
	policy, err := x509.OIDFromInts([]uint64{1, 3, 6, 1, 4, 1, 311, 108})
	if err != nil {
		t.Fatal(err)
	}
	certificate := x.CA.Issue(t, &x.AK.PublicKey, func(c *x509.Certificate) { c.Policies = []x509.OID{policy} })
	return func(e *attest.Evidence) {
		without(e)
		e.AKCertificate = certificate
	}
}

func TestEvidenceWithoutATEENeedsAPolicyThatNamesIt(t *testing.T) {
	t.Parallel()
	x := newTrial(t)
	launch := trustedLaunch(t, x)
	bare := func(e *attest.Evidence) { without(e); e.AKCertificate = nil }
	name := at.Name(attest.AKPublicArea(x.AK.N.Bytes()))
	vtpm, tpm, tees := []attest.Kind{attest.KindVTPM}, []attest.Kind{attest.KindTPM}, []attest.Kind{attest.KindSNP, attest.KindTDX}
	for title, tt := range map[string]struct {
		change  func(*attest.Evidence)
		tee     []attest.Kind
		akNames [][]byte
		want    attest.Verdict
		missing string // a check that the refusal names
	}{
		"Trusted Launch by default":                     {launch, nil, nil, attest.Incomplete, attest.CheckPolicyTEE},
		"Trusted Launch where TEEs are named":           {launch, tees, nil, attest.Rejected, attest.CheckPolicyTEE},
		"Trusted Launch where a bare TPM is named":      {launch, tpm, nil, attest.Incomplete, attest.CheckAKPublic},
		"Trusted Launch where it is named":              {launch, vtpm, nil, attest.Verified, ""},
		"Trusted Launch beside TEEs":                    {launch, append(slices.Clone(tees), vtpm...), nil, attest.Verified, ""},
		"a Confidential VM's key without its report":    {without, nil, nil, attest.Incomplete, attest.CheckPolicyTEE},
		"the same where that is named":                  {without, vtpm, nil, attest.Verified, ""},
		"the same where that is named beside TEEs":      {without, append(slices.Clone(tees), vtpm...), nil, attest.Rejected, attest.CheckPolicyTEE},
		"the same beside one TEE, and the key is known": {without, []attest.Kind{attest.KindVTPM, attest.KindTDX}, [][]byte{name}, attest.Rejected, attest.CheckPolicyTEE},
		"the same beside a bare TPM":                    {without, append(slices.Clone(vtpm), tpm...), nil, attest.Verified, ""},
		"no certificate where one is what vouches":      {bare, vtpm, nil, attest.Rejected, attest.CheckPolicyTEE},
		"a list of keys, and this one is on it":         {launch, vtpm, [][]byte{{1}, name}, attest.Verified, ""},
		"a list of keys, and this one is not on it":     {launch, vtpm, [][]byte{{1}}, attest.Rejected, attest.CheckAKPublic},
		"a bare TPM by default":                         {bare, nil, [][]byte{name}, attest.Incomplete, attest.CheckPolicyTEE},
		"a bare TPM whose key is known":                 {bare, tpm, [][]byte{name}, attest.Verified, ""},
		"a bare TPM whose key is another":               {bare, tpm, [][]byte{at.Name([]byte("x"))}, attest.Rejected, attest.CheckAKPublic},
		"a bare TPM and no list":                        {bare, tpm, nil, attest.Incomplete, attest.CheckAKPublic},
		"a known key with a certificate":                {launch, tpm, [][]byte{name}, attest.Verified, ""},
		"a Confidential VM where only others are":       {func(*attest.Evidence) {}, vtpm, nil, attest.Rejected, attest.CheckPolicyTEE},
		"a Confidential VM whose key is on the list":    {func(*attest.Evidence) {}, nil, [][]byte{name}, attest.Verified, ""},
		"a Confidential VM whose key is not":            {func(*attest.Evidence) {}, nil, [][]byte{{1}}, attest.Rejected, attest.CheckAKPublic},
		"a chip's certificate left behind":              {func(e *attest.Evidence) { e.HCLReport = nil }, vtpm, nil, attest.Incomplete, attest.CheckPolicyTEE},
		"claims left behind":                            {func(e *attest.Evidence) { without(e); e.RuntimeClaims = x.Claims }, vtpm, nil, attest.Incomplete, attest.CheckPolicyTEE},
		"a report that cannot be read":                  {func(e *attest.Evidence) { e.HCLReport = []byte("HCLA") }, vtpm, nil, attest.Rejected, attest.CheckHCLStructure},
		"no public area of the key":                     {func(e *attest.Evidence) { launch(e); e.AKPublic = nil }, vtpm, nil, attest.Incomplete, attest.CheckAKPublic},
		"a public area that is no attestation key's":    {func(e *attest.Evidence) { launch(e); e.AKPublic = e.KeyPublic }, vtpm, nil, attest.Rejected, attest.CheckAKPublic},
		"a certificate of another machine's key":        {func(e *attest.Evidence) { launch(e); e.AKCertificate = x.CA.Issue(t, &x.w.keys.Other.PublicKey, nil) }, vtpm, nil, attest.Rejected, attest.CheckAKCertificate},
		"a certificate of a CA that is not trusted":     {func(e *attest.Evidence) { launch(e); e.AKCertificate = at.NewCA(t).Issue(t, &x.AK.PublicKey, nil) }, vtpm, nil, attest.Rejected, attest.CheckAKCertificate},
		"a quote by another key than the certificate's": {func(e *attest.Evidence) { launch(e); e.QuoteSignature[20] ^= 1 }, vtpm, nil, attest.Rejected, attest.CheckQuoteSignature},
	} {
		t.Run(title, func(t *testing.T) {
			x := newTrial(t)
			x.policy.TEE, x.policy.AKNames, x.ChangeEvidence = tt.tee, tt.akNames, tt.change
			r := x.run(t)
			if r.Verdict() != tt.want {
				t.Errorf("%s, want %s: %v", r.Verdict(), tt.want, r.Err())
			}
			if tt.missing != "" && (r.Err() == nil || !strings.Contains(r.Err().Error(), tt.missing+": ")) {
				t.Errorf("%v does not name %s", r.Err(), tt.missing)
			}
		})
	}
}

func TestTheResultSaysThatNoTEEVouches(t *testing.T) {
	t.Parallel()
	x := newTrial(t)
	x.policy.TEE, x.ChangeEvidence = []attest.Kind{attest.KindVTPM}, trustedLaunch(t, x)
	r := x.run(t)
	if err := r.Err(); err != nil {
		t.Fatal(err)
	}
	if r.Kind != attest.KindVTPM || r.KeyName == nil {
		t.Errorf("kind %q, key %x", r.Kind, r.KeyName)
	}
	if len(r.NotProven) != 1 || !strings.Contains(r.NotProven[0].Claim, "TEE") {
		t.Errorf("not proven: %v", r.NotProven)
	}
	for _, c := range r.Proven {
		if strings.Contains(c.Claim, "this TPM") && !strings.Contains(c.Anchor, "no TEE") {
			t.Errorf("%q rests on %q", c.Claim, c.Anchor)
		}
	}
}

// What a policy asks of the VM's configuration is in the claims, and there are none.
func TestWithoutATEEAPolicyAboutTheClaimsIsNotMet(t *testing.T) {
	t.Parallel()
	for check, ask := range map[string]func(*attest.Policy){
		attest.CheckPolicySecureBoot: func(p *attest.Policy) { p.RequireSecureBoot = true },
		attest.CheckPolicyVMID:       func(p *attest.Policy) { p.VMID = at.VMID },
		attest.CheckHCLUserData:      func(p *attest.Policy) { p.UserData = make([]byte, 64) },
	} {
		x := newTrial(t)
		x.policy.TEE, x.ChangeEvidence = []attest.Kind{attest.KindVTPM}, trustedLaunch(t, x)
		ask(&x.policy)
		if err := x.run(t).Err(); err == nil || !strings.Contains(err.Error(), check) {
			t.Errorf("%s: %v", check, err)
		}
	}
}

// A report that must be fresh cannot be left out where evidence without a TEE is accepted, too.
func TestLeavingTheHardwareOutIsNoWayAroundItsFreshness(t *testing.T) {
	t.Parallel()
	for _, change := range []func(*testing.T, *trial) func(*attest.Evidence){
		func(*testing.T, *trial) func(*attest.Evidence) { return without },
		func(t *testing.T, x *trial) func(*attest.Evidence) { return trustedLaunch(t, x) },
	} {
		x := newTrial(t)
		x.policy.TEE, x.policy.HardwareFresh = []attest.Kind{attest.KindSNP, attest.KindVTPM}, true
		x.ChangeEvidence = change(t, x)
		if err := x.run(t).Err(); err == nil || !strings.Contains(err.Error(), attest.CheckHCLUserData) {
			t.Errorf("%v", err)
		}
	}
}

// A key of which only the numbers are known can check signatures, and vouches for nothing.
func TestAnAttestationKeyWithoutItsPublicArea(t *testing.T) {
	t.Parallel()
	x := newTrial(t)
	x.ChangeEvidence = func(e *attest.Evidence) { without(e); e.AKPublic, e.AKCertificate = nil, nil }
	x.policy.TEE, x.policy.AKNames = []attest.Kind{attest.KindTPM}, [][]byte{at.Name(attest.AKPublicArea(x.AK.N.Bytes()))}
	e := x.Evidence(t, x.challenge)
	expected := attest.Expected{
		Certify: x.challenge.CertifyData(), Quote: x.challenge.QuoteData(at.Name(x.KeyPublic)), AKKey: &x.AK.PublicKey,
	}
	r := attest.VerifyExpected(e, expected, x.Anchors(), x.policy, x.now)
	if r.Verdict() != attest.Incomplete || r.Status(attest.CheckQuoteSignature) != attest.Pass || r.Status(attest.CheckAKPublic) != attest.NotApplicable {
		t.Errorf("%s: %v", r.Verdict(), r.Err())
	}
	expected.AKKey = &x.w.keys.Other.PublicKey
	if r := attest.VerifyExpected(e, expected, x.Anchors(), x.policy, x.now); r.Status(attest.CheckQuoteSignature) != attest.Fail {
		t.Errorf("another key: %v", r.Err())
	}
	whole := newTrial(t).Evidence(t, x.challenge)
	if r := attest.VerifyExpected(whole, expected, x.Anchors(), x.policy, x.now); r.Status(attest.CheckAKPublic) != attest.Fail {
		t.Errorf("another key beside the claims: %v", r.Err())
	}
}

// Without a nonce nothing is proven about when statements were made, and the result says so.
func TestAnEmptyNonceIsAcceptedOnRequestAndProvesNothing(t *testing.T) {
	t.Parallel()
	x := newTrial(t)
	x.ChangeQuote = func(s *at.Statement) { s.ExtraData = nil }
	x.ChangeCertify = x.ChangeQuote
	e := x.Evidence(t, x.challenge)
	r := attest.VerifyExpected(e, attest.Expected{AllowShort: true}, x.Anchors(), x.policy, x.now)
	if r.Status(attest.CheckQuoteNonce) != attest.Fail || r.Status(attest.CheckKeyCertifyNonce) != attest.Fail {
		t.Errorf("an empty nonce that was not asked for: %v", r.Err())
	}
	r = attest.VerifyExpected(e, attest.Expected{AllowEmpty: true}, x.Anchors(), x.policy, x.now)
	if err := r.Err(); err != nil {
		t.Error(err)
	}
	if !slices.ContainsFunc(r.NotProven, func(c attest.Claim) bool { return strings.Contains(c.Claim, "challenge") }) {
		t.Errorf("freshness is called proven: %v", r.Proven)
	}
	x.ChangeQuote, x.ChangeCertify = nil, nil
	r = attest.VerifyExpected(x.Evidence(t, x.challenge), attest.Expected{AllowEmpty: true}, x.Anchors(), x.policy, x.now)
	if r.Status(attest.CheckQuoteNonce) != attest.Fail {
		t.Errorf("a nonce where none is expected: %v", r.Err())
	}
}
