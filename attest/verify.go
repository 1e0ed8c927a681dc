package attest

import (
	"crypto"
	"crypto/x509"
	"errors"
	"slices"
	"time"

	"github.com/keyagent/keyagent/attest/hcl"
	"github.com/keyagent/keyagent/attest/tee"
)

// Names of the checks, in the order in which they are made.
const (
	CheckBundleFormat = "bundle.format"
	CheckBundleNonce  = "bundle.nonce"

	CheckHCLStructure = "hcl.structure"
	CheckHCLBinding   = "hcl.binding"
	CheckHCLClaims    = "hcl.claims"
	CheckHCLUserData  = "hcl.user-data"

	CheckTDXStructure = "tdx.structure"

	CheckSNPStructure  = "snp.structure"
	CheckSNPChain      = "snp.chain"
	CheckSNPIdentity   = "snp.identity"
	CheckSNPSignature  = "snp.signature"
	CheckSNPPolicy     = "snp.policy"
	CheckSNPTCB        = "snp.tcb"
	CheckSNPLaunch     = "snp.launch"
	CheckSNPRevocation = "snp.revocation"

	CheckAKPublic      = "ak.public"
	CheckAKCertificate = "ak.certificate"

	CheckKeyPublic           = "key.public"
	CheckKeyCertifySignature = "key.certify.signature"
	CheckKeyCertifyStructure = "key.certify.structure"
	CheckKeyCertifySigner    = "key.certify.signer"
	CheckKeyCertifyName      = "key.certify.name"
	CheckKeyCertifyLocation  = "key.certify.location"
	CheckKeyCertifyNonce     = "key.certify.nonce"
	CheckKeyMatch            = "key.match"

	CheckQuoteSignature = "quote.signature"
	CheckQuoteStructure = "quote.structure"
	CheckQuoteSigner    = "quote.signer"
	CheckQuoteNonce     = "quote.nonce"
	CheckQuoteSelection = "quote.selection"
	CheckQuoteDigest    = "quote.digest"
	CheckQuoteCoherence = "quote.coherence"

	CheckPolicySecureBoot = "policy.secure-boot"
	CheckPolicyVMID       = "policy.vm-id"
)

// step is one row of the procedure. Its function returns nil if the check passes, a *missing if it does not apply, else
// the reason why it fails.
type step struct {
	name string
	do   func(*verifier) error
}

// procedure is the list of doc.go, in its order. Every row is evaluated; a later row never saves an earlier failure.
func procedure() []step {
	return []step{
		{CheckBundleFormat, (*verifier).bundleFormat},
		{CheckBundleNonce, (*verifier).bundleNonce},

		{CheckHCLStructure, (*verifier).hclStructure},
		{CheckHCLBinding, (*verifier).hclBinding},
		{CheckHCLClaims, (*verifier).hclClaims},
		{CheckHCLUserData, (*verifier).hclUserData},

		{CheckTDXStructure, (*verifier).tdxStructure},

		{CheckSNPStructure, (*verifier).snpStructure},
		{CheckSNPChain, (*verifier).snpChain},
		{CheckSNPIdentity, (*verifier).snpIdentity},
		{CheckSNPSignature, (*verifier).snpSignature},
		{CheckSNPPolicy, (*verifier).snpPolicy},
		{CheckSNPTCB, (*verifier).snpTCB},
		{CheckSNPLaunch, (*verifier).snpLaunch},
		{CheckSNPRevocation, (*verifier).snpRevocation},

		{CheckAKPublic, (*verifier).akPublic},
		{CheckAKCertificate, (*verifier).akCertificate},

		{CheckKeyPublic, (*verifier).keyPublic},
		{CheckKeyCertifyStructure, (*verifier).certifyStructure},
		{CheckKeyCertifySignature, (*verifier).certifySignature},
		{CheckKeyCertifySigner, (*verifier).certifySigner},
		{CheckKeyCertifyName, (*verifier).certifyName},
		{CheckKeyCertifyLocation, (*verifier).certifyLocation},
		{CheckKeyCertifyNonce, (*verifier).certifyNonce},
		{CheckKeyMatch, (*verifier).keyMatch},

		{CheckQuoteStructure, (*verifier).quoteStructure},
		{CheckQuoteSignature, (*verifier).quoteSignature},
		{CheckQuoteSigner, (*verifier).quoteSigner},
		{CheckQuoteNonce, (*verifier).quoteNonce},
		{CheckQuoteSelection, (*verifier).quoteSelection},
		{CheckQuoteDigest, (*verifier).quoteDigest},
		{CheckQuoteCoherence, (*verifier).quoteCoherence},

		{CheckPolicySecureBoot, (*verifier).policySecureBoot},
		{CheckPolicyVMID, (*verifier).policyVMID},
	}
}

// CheckNames lists every check in the order of the procedure.
func CheckNames() []string {
	var names []string
	for _, s := range procedure() {
		names = append(names, s.name)
	}
	return names
}

// Expected is what a verifier expects of evidence that was not made for a [Challenge]: the extraData of its statements, byte for byte.
// A statement is refused if less than MinNonceSize bytes are expected of it: what can be guessed can be signed in advance.
type Expected struct {
	Certify []byte
	Quote   []byte
	// AllowShort accepts values below MinNonceSize, for evidence of protocols with short nonces. How much freshness such a value proves
	// is then the caller's to judge. An empty one proves none and is refused all the same.
	AllowShort bool
	// Key, if not nil, is the public key of the request or certificate that comes with the evidence. All [KeyChecks] and key.match are then
	// required, whatever the policy says. A caller who always expects one makes sure that it is not nil: x509 leaves the key of an
	// algorithm that it does not know nil.
	Key crypto.PublicKey
}

// Verify judges evidence that was asked for with ch, at the time now, which must not be the zero time. It uses no network, clock or device, does not
// change its arguments, and may be called concurrently.
//
// The answer is no unless Result.Err returns nil.
func Verify(e *Evidence, ch Challenge, anchors TrustAnchors, p Policy, now time.Time) *Result {
	return run(&verifier{e: e, challenge: &ch, expected: expectedOf(e, ch), anchors: anchors, policy: p, now: now})
}

// VerifyForKey is Verify with a check that the evidence is about the public key: the one of a certificate request, say. All [KeyChecks] and
// key.match are then required, whatever the policy says. A nil key is no evidence's.
func VerifyForKey(e *Evidence, ch Challenge, key crypto.PublicKey, anchors TrustAnchors, p Policy, now time.Time) *Result {
	expected := expectedOf(e, ch)
	expected.Key = key
	return run(&verifier{e: e, challenge: &ch, expected: expected, forKey: true, anchors: anchors, policy: p, now: now})
}

func expectedOf(e *Evidence, ch Challenge) Expected {
	var keyName []byte
	if e.KeyPublic != nil {
		keyName = nameOf(e.KeyPublic)
	}
	return Expected{Certify: ch.CertifyData(), Quote: ch.QuoteData(keyName)}
}

// VerifyExpected is Verify for evidence of other making, whose extraData the caller knows.
func VerifyExpected(e *Evidence, expected Expected, anchors TrustAnchors, p Policy, now time.Time) *Result {
	return run(&verifier{e: e, expected: expected, forKey: expected.Key != nil, anchors: anchors, policy: p, now: now})
}

// verifier carries what earlier rows have parsed to later ones. A nil field was not there or could not be read.
type verifier struct {
	e         *Evidence
	challenge *Challenge // nil for foreign evidence
	expected  Expected
	forKey    bool // the caller asks about expected.Key
	anchors   TrustAnchors
	policy    Policy
	now       time.Time
	result    *Result

	report  *hcl.Report
	claims  *hcl.Claims
	snp     *tee.SNPReport
	vcek    *x509.Certificate
	root    *tee.AMDRoot
	ak      *AK
	key     *publicArea
	certify *statement
	quote   *statement
}

func run(v *verifier) *Result {
	v.result = &Result{required: v.policy.required()}
	if v.forKey { // whoever asks about a key wants all of it, whatever the policy says
		v.result.required = append(v.result.required, KeyChecks()...)
		v.result.required = append(v.result.required, CheckKeyMatch)
	}
	for _, s := range procedure() {
		v.result.Checks = append(v.result.Checks, outcome(s.name, s.do(v)))
	}
	v.result.conclude(v)
	return v.result
}

// missing is the error of a check that does not apply.
type missing struct{ reason string }

func (m *missing) Error() string { return m.reason }

func absent(reason string) error { return &missing{reason} }

func outcome(name string, err error) Check {
	if err == nil {
		return Check{Name: name, Status: Pass}
	}
	var m *missing
	if errors.As(err, &m) {
		return Check{Name: name, Status: NotApplicable, Reason: m.reason}
	}
	return Check{Name: name, Status: Fail, Reason: err.Error()}
}

// claim is something that relying parties care about, and the checks that together prove it.
type claim struct {
	what   string
	checks []string
	anchor func(*verifier) string
}

// conclude fills in what was proven. A claim about the TPM rests on the attestation key, and so on all that vouches for it.
func (r *Result) conclude(v *verifier) {
	if v.key != nil && r.firstNotPassed(KeyChecks()) == "" {
		r.KeyName, r.PublicKey = v.key.name(), v.key.key
	}
	for _, c := range claims() {
		if reason := r.firstNotPassed(c.checks); reason != "" {
			r.NotProven = append(r.NotProven, Claim{Claim: c.what, Reason: reason})
			continue
		}
		r.Proven = append(r.Proven, Claim{Claim: c.what, Anchor: c.anchor(v)})
	}
}

// firstNotPassed returns the first of the checks that did not pass, or "".
func (r *Result) firstNotPassed(checks []string) string {
	for _, name := range checks {
		if r.Status(name) != Pass {
			return name
		}
	}
	return ""
}

func claims() []claim {
	amd := func(v *verifier) string { return "AMD root " + v.root.ARK.Subject.CommonName }
	ak := func(*verifier) string { return "attestation key in the hardware-signed claims" }
	hardware := []string{CheckSNPStructure, CheckSNPChain, CheckSNPIdentity, CheckSNPSignature}
	closed := slices.Concat(hardware, []string{CheckSNPPolicy, CheckSNPTCB})
	vouched := slices.Concat(closed, []string{CheckHCLBinding, CheckHCLClaims})
	quoted := slices.Concat(vouched, []string{CheckQuoteStructure, CheckQuoteSignature, CheckQuoteSigner})
	return []claim{
		{"hardware is a genuine AMD SEV-SNP processor", hardware, amd},
		{"the host cannot read or migrate the guest's memory", closed, amd},
		{"the firmware is Azure's paravisor", slices.Concat(hardware, []string{CheckSNPLaunch}),
			func(*verifier) string { return "launch identity in the verifier's policy" }},
		{"the attestation key belongs to an Azure virtual TPM", []string{CheckHCLClaims, CheckAKCertificate},
			func(*verifier) string { return "Azure virtual TPM root" }},
		{"the binding key lives in this TPM and cannot leave it", slices.Concat(vouched, KeyChecks()), ak},
		{"the evidence was made for this challenge", slices.Concat(quoted, []string{CheckQuoteNonce}), ak},
		{"the boot measurements are those listed", slices.Concat(quoted, []string{CheckQuoteSelection, CheckQuoteDigest}), ak},
	}
}
