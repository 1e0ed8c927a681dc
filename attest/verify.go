package attest

import (
	"crypto"
	"crypto/rsa"
	"errors"
	"slices"
	"time"

	"github.com/keyagent/keyagent/attest/hcl"
)

// Names of the checks that are the same for every platform, in the order in which they are made.
// Those of the platforms come between hcl.user-data and ak.public.
const (
	CheckBundleFormat = "bundle.format"
	CheckBundleNonce  = "bundle.nonce"

	CheckHCLStructure = "hcl.structure"
	CheckHCLBinding   = "hcl.binding"
	CheckHCLClaims    = "hcl.claims"
	CheckHCLUserData  = "hcl.user-data"

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

	CheckEventLogReplay = "eventlog.replay"
	CheckEventLogPolicy = "eventlog.policy"

	CheckPolicyTEE        = "policy.tee"
	CheckPolicySecureBoot = "policy.secure-boot"
	CheckPolicyVMID       = "policy.vm-id"
	CheckPolicyPCR        = "policy.pcr"
	CheckPolicyAge        = "policy.age"
)

// step is one row of the procedure. Its function returns nil if the check passes, a *missing if it
// does not apply, else the reason why it fails.
type step struct {
	name string
	do   func() error
}

// procedure is the list of doc.go, in its order. Every row is evaluated; a later row never saves an
// earlier failure.
func (v *verifier) procedure(shares []joined) []step {
	rows := []step{
		{CheckBundleFormat, v.bundleFormat},
		{CheckBundleNonce, v.bundleNonce},

		{CheckHCLStructure, v.hclStructure},
		{CheckHCLBinding, v.hclBinding},
		{CheckHCLClaims, v.hclClaims},
		{CheckHCLUserData, v.hclUserData},
	}
	for _, s := range shares {
		rows = append(rows, s.rows...)
	}
	return append(rows, []step{
		{CheckAKPublic, v.akPublic},
		{CheckAKCertificate, v.akCertificate},

		{CheckKeyPublic, v.keyPublic},
		{CheckKeyCertifyStructure, v.certifyStructure},
		{CheckKeyCertifySignature, v.certifySignature},
		{CheckKeyCertifySigner, v.certifySigner},
		{CheckKeyCertifyName, v.certifyName},
		{CheckKeyCertifyLocation, v.certifyLocation},
		{CheckKeyCertifyNonce, v.certifyNonce},
		{CheckKeyMatch, v.keyMatch},

		{CheckQuoteStructure, v.quoteStructure},
		{CheckQuoteSignature, v.quoteSignature},
		{CheckQuoteSigner, v.quoteSigner},
		{CheckQuoteNonce, v.quoteNonce},
		{CheckQuoteSelection, v.quoteSelection},
		{CheckQuoteDigest, v.quoteDigest},
		{CheckQuoteCoherence, v.quoteCoherence},

		{CheckEventLogReplay, v.eventLogReplay},
		{CheckEventLogPolicy, v.eventLogPolicy},

		{CheckPolicyTEE, v.policyTEE},
		{CheckPolicySecureBoot, v.policySecureBoot},
		{CheckPolicyVMID, v.policyVMID},
		{CheckPolicyPCR, v.policyPCR},
		{CheckPolicyAge, v.policyAge},
	}...)
}

// CheckNames lists every check in the order of the procedure.
func CheckNames() []string {
	var names []string
	v := &verifier{}
	for _, s := range v.procedure(v.join()) {
		names = append(names, s.name)
	}
	return names
}

// Expected is what a verifier expects of evidence that was not made for a [Challenge]: the
// extraData of its statements, byte for byte. A statement is refused if less than MinNonceSize
// bytes are expected in it: a value that can be guessed can be signed in advance.
type Expected struct {
	Certify []byte
	Quote   []byte
	// AllowShort accepts values below MinNonceSize, for evidence of protocols with short nonces.
	// The caller decides how much freshness such a value proves. An empty one proves none and is
	// refused all the same.
	AllowShort bool
	// AllowEmpty accepts statements that were made without a nonce, if an empty one is expected.
	// Nothing is then proven about when they were made, and the result does not say so.
	AllowEmpty bool
	// AKKey is the attestation key if the evidence names it by nothing but the key itself, without
	// its public area. It is compared with the claims. If there are none, statements are checked
	// with it, and nothing vouches for it.
	AKKey *rsa.PublicKey
	// Key, if not nil, is the public key of the request or certificate that comes with the
	// evidence. All [KeyChecks] and key.match are then required, whatever the policy says. A caller
	// that always expects a key must check that it is not nil: package x509 leaves the public key
	// nil if it does not know its algorithm.
	Key crypto.PublicKey

	userData []byte // see [Policy.HardwareFresh]; nil without a challenge
}

// Verify verifies evidence that was requested with ch, at the time now, which must not be the zero
// time. It uses no network, clock or device, does not change its arguments, and may be called
// concurrently.
//
// The evidence is verified only if Result.Err returns nil.
func Verify(e *Evidence, ch Challenge, anchors TrustAnchors, p Policy, now time.Time) *Result {
	return run(&verifier{e: e, challenge: &ch, expected: expectedOf(e, ch), anchors: anchors, policy: p, now: now})
}

// VerifyForKey is Verify with a check that the evidence is about the given public key, such as that
// of a certificate request. All [KeyChecks] and key.match are then required, whatever the policy
// says. With a nil key the check fails.
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
	return Expected{Certify: ch.CertifyData(), Quote: ch.QuoteData(keyName), userData: ch.UserData(keyName)}
}

// VerifyExpected is Verify for evidence that another protocol asked for, whose extraData the caller
// knows.
func VerifyExpected(e *Evidence, expected Expected, anchors TrustAnchors, p Policy, now time.Time) *Result {
	return run(&verifier{e: e, expected: expected, forKey: expected.Key != nil, anchors: anchors, policy: p, now: now})
}

// verifier holds what earlier checks have parsed for later ones. A nil field was not there or could
// not be read.
type verifier struct {
	e         *Evidence
	challenge *Challenge // nil for evidence of another protocol
	expected  Expected
	forKey    bool // the caller asks about expected.Key
	anchors   TrustAnchors
	policy    Policy
	now       time.Time
	result    *Result

	report  *hcl.Report
	claims  *hcl.Claims
	ak      *AK
	key     *publicArea
	certify *statement
	quote   *statement
}

func run(v *verifier) *Result {
	v.result = &Result{}
	shares := v.join()
	for _, s := range v.procedure(shares) {
		v.result.Checks = append(v.result.Checks, outcome(s.name, s.do()))
	}
	answering := v.answering(shares)
	v.result.required = v.required(answering)
	v.result.conclude(v, answering)
	return v.result
}

// required lists the checks that must pass. If the caller asks about a key, those are included that
// prove where the key lives, whatever the policy says.
func (v *verifier) required(answering []joined) []string {
	names := v.policy.required(platformsOf(answering))
	if v.forKey {
		names = append(names, KeyChecks()...)
		names = append(names, CheckKeyMatch)
	}
	return names
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

// claim is a statement for relying parties, and the checks that together prove it.
type claim struct {
	what   string
	checks []string
	anchor func() string
}

// conclude fills in the proven claims. A claim about the TPM rests on the attestation key, and so
// on all checks that vouch for that key.
func (r *Result) conclude(v *verifier, answering []joined) {
	if v.key != nil && r.firstNotPassed(KeyChecks()) == "" {
		r.KeyName, r.PublicKey = v.key.name(), v.key.key
	}
	for _, c := range v.claimsOf(answering) {
		if reason := r.firstNotPassed(c.checks); reason != "" {
			r.NotProven = append(r.NotProven, Claim{Claim: c.what, Reason: reason})
			continue
		}
		r.Proven = append(r.Proven, Claim{Claim: c.what, Anchor: c.anchor()})
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

// claimsOf are the claims of the answering platforms, and what follows from them about the TPM.
func (v *verifier) claimsOf(answering []joined) []claim {
	azure := func() string { return "Azure virtual TPM root" }
	ak := func() string { return "attestation key in the hardware-signed claims" }
	named := CheckHCLClaims // where the attestation key comes from
	var all []claim
	for _, j := range answering {
		all = append(all, j.claims...)
		if w, ok := j.platform.(withoutTEE); ok {
			ak, named = w.anchor, CheckAKPublic
		}
	}
	vouched := vouching(platformsOf(answering), v.policy)
	quoted := slices.Concat(vouched, []string{CheckQuoteStructure, CheckQuoteSignature, CheckQuoteSigner})
	fresh := slices.Concat(quoted, []string{CheckQuoteNonce})
	if len(v.expected.Quote) == 0 {
		fresh = append(fresh, CheckBundleNonce) // which does not apply: there is no nonce
	}
	return append(all, []claim{
		{"the attestation key belongs to an Azure virtual TPM", []string{named, CheckAKCertificate}, azure},
		{"the binding key lives in this TPM and cannot leave it", slices.Concat(vouched, KeyChecks()), ak},
		{"the evidence was made for this challenge", fresh, ak},
		{"the boot measurements are those listed", slices.Concat(quoted, []string{CheckQuoteSelection, CheckQuoteDigest}), ak},
		{"the event log describes the boot", slices.Concat(quoted, []string{CheckQuoteSelection, CheckQuoteDigest, CheckEventLogReplay}), ak},
	}...)
}
