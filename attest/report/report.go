package report

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"strconv"
	"time"

	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/attest/eventlog"
)

// Format names the version of the JSON form.
const Format = "keyagent-verification/1"

// Question is what somebody asks about evidence.
type Question struct {
	File string // of the evidence, for the report alone
	// Challenge is what the evidence must answer. Without one nothing is verified: freshness is
	// then shown as failed, and all else as it is.
	Challenge *attest.Challenge
	Rules     attest.Policy
	Anchors   attest.TrustAnchors
	At        time.Time // must not be zero
	Policy    Policy    // where Rules and Anchors come from
}

// Policy says where a policy comes from.
type Policy struct {
	File    string `json:"file,omitempty"` // absent: the default policy
	SHA256  string `json:"sha256,omitempty"`
	Anchors []File `json:"anchor_files,omitempty"`
}

// File is a file by its content.
type File struct {
	Use    string `json:"use,omitempty"`
	File   string `json:"file"`
	SHA256 string `json:"sha256"`
}

// Report is what was found.
type Report struct {
	Format   string         `json:"format"`
	Verdict  attest.Verdict `json:"verdict"`
	Verified bool           `json:"verified"`
	Time     time.Time      `json:"time"` // that the evidence was verified at

	Evidence  Evidence   `json:"evidence"`
	Challenge *Challenge `json:"challenge"` // null: there was none
	Policy    Policy     `json:"policy"`
	// Kind is what vouches for the machine, as the evidence says; empty if that is not known.
	Kind attest.Kind `json:"kind"`

	Checks    []Check        `json:"checks"`
	Proven    []attest.Claim `json:"proven"`
	NotProven []attest.Claim `json:"not_proven"`
	Chains    []Chain        `json:"chains"`

	Facts *Facts `json:"facts"` // null unless verified

	Explanation *Explanation `json:"explanation,omitempty"` // if it was asked for

	result *attest.Result
}

// Result is what the verification gave, for other forms of telling it; nil if the bundle cannot be
// parsed.
func (r *Report) Result() *attest.Result { return r.result }

// Evidence says which bundle it was.
type Evidence struct {
	File   string `json:"file,omitempty"`
	SHA256 string `json:"sha256"`
	Bytes  int    `json:"bytes"`
}

// Challenge is what the evidence had to answer.
type Challenge struct {
	Nonce    string     `json:"nonce"` // hexadecimal
	Audience string     `json:"audience"`
	Issued   *time.Time `json:"issued,omitempty"`
}

// Check is an outcome and whether the verdict needs it. A check that is required and does not apply
// makes the verdict incomplete.
type Check struct {
	attest.Check
	Required bool `json:"required"`
}

// Met says that the check is no hindrance.
func (c Check) Met() bool {
	return c.Status == attest.Pass || c.Status == attest.NotApplicable && !c.Required
}

// Chain leads from a certificate of the evidence to an anchor.
type Chain struct {
	Check        string        `json:"check"`
	Certificates []Certificate `json:"certificates"` // the anchor last
}

// Anchor is the last certificate.
func (c Chain) Anchor() Certificate {
	if len(c.Certificates) == 0 {
		return Certificate{}
	}
	return c.Certificates[len(c.Certificates)-1]
}

// Certificate is one by its fingerprint.
type Certificate struct {
	Subject   string    `json:"subject"`
	SHA256    string    `json:"sha256"` // of the DER
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
}

// Facts are what verified evidence says.
type Facts struct {
	VMID      string            `json:"vm_id,omitempty"` // vmUniqueId
	AKName    string            `json:"ak_name,omitempty"`
	Key       *Key              `json:"key"`  // null: the evidence is about no key
	PCRs      map[string]string `json:"pcrs"` // hexadecimal
	PCRBank   attest.PCRBank    `json:"pcr_bank,omitempty"`
	Reset     uint32            `json:"reset_count"`
	Restart   uint32            `json:"restart_count"`
	ClockMS   uint64            `json:"clock_ms"`
	ClockSafe bool              `json:"clock_safe"`
	EventLog  *eventlog.Facts   `json:"event_log"` // null: there is no log that explains the PCRs
}

// Key is the binding key.
type Key struct {
	Name       string `json:"name"`        // TPM 2.0 Name, hexadecimal
	SPKISHA256 string `json:"spki_sha256"` // of the SubjectPublicKeyInfo
	PublicKey  string `json:"public_key"`  // PEM
}

// Verify parses a bundle, verifies it and reports what was found.
func Verify(bundle []byte, q Question) *Report {
	r := New(q, bundle)
	evidence, err := attest.Parse(bundle)
	if err != nil {
		r.unreadable(err)
		return r
	}
	r.result = result(evidence, q)
	r.add(r.result)
	return r
}

func result(e *attest.Evidence, q Question) *attest.Result {
	if q.Challenge == nil {
		return attest.VerifyExpected(e, attest.Expected{}, q.Anchors, q.Rules, q.At)
	}
	return attest.Verify(e, *q.Challenge, q.Anchors, q.Rules, q.At)
}

// New returns a report in which nothing was found yet.
func New(q Question, bundle []byte) *Report {
	sum := sha256.Sum256(bundle)
	r := &Report{
		Format: Format, Verdict: attest.Incomplete, Time: q.At.UTC(), Policy: q.Policy,
		Evidence: Evidence{q.File, hex.EncodeToString(sum[:]), len(bundle)},
		Checks:   []Check{}, Proven: []attest.Claim{}, NotProven: []attest.Claim{}, Chains: []Chain{},
	}
	if q.Challenge != nil {
		r.Challenge = &Challenge{Nonce: hex.EncodeToString(q.Challenge.Nonce), Audience: q.Challenge.Audience}
		if issued := q.Challenge.Issued.UTC(); !issued.IsZero() {
			r.Challenge.Issued = &issued
		}
	}
	return r
}

func (r *Report) unreadable(err error) {
	r.Verdict = attest.Rejected
	failed := attest.Check{Name: attest.CheckBundleFormat, Status: attest.Fail, Reason: err.Error()}
	r.Checks = append(r.Checks, Check{failed, true})
}

func (r *Report) add(found *attest.Result) {
	r.Verdict = found.Verdict()
	r.Verified = found.Verified() && r.Challenge != nil
	r.Kind = found.Kind
	required := map[string]bool{}
	for _, name := range found.Required() {
		required[name] = true
	}
	for _, c := range found.Checks {
		r.Checks = append(r.Checks, Check{c, required[c.Name]})
		delete(required, c.Name)
	}
	for _, name := range found.Required() {
		if required[name] {
			none := attest.Check{Name: name, Status: attest.NotApplicable, Reason: "there is no such check"}
			r.Checks = append(r.Checks, Check{none, true})
		}
	}
	r.Proven = append(r.Proven, found.Proven...)
	r.NotProven = append(r.NotProven, found.NotProven...)
	for _, c := range found.Chains {
		r.Chains = append(r.Chains, chain(c))
	}
	if r.Verified {
		r.Facts = facts(found)
	}
}

func chain(c attest.Chain) Chain {
	out := Chain{Check: c.Check}
	for _, cert := range c.Certificates {
		sum := sha256.Sum256(cert.Raw)
		out.Certificates = append(out.Certificates, Certificate{
			Subject: cert.Subject.String(), SHA256: hex.EncodeToString(sum[:]), NotBefore: cert.NotBefore.UTC(), NotAfter: cert.NotAfter.UTC(),
		})
	}
	return out
}

func facts(found *attest.Result) *Facts {
	f := &Facts{
		VMID: found.VMID, PCRs: map[string]string{}, PCRBank: found.PCRBank,
		Reset: found.Clock.ResetCount, Restart: found.Clock.RestartCount, ClockMS: found.Clock.Milliseconds, ClockSafe: found.Clock.Safe,
	}
	if found.Status(attest.CheckEventLogReplay) == attest.Pass {
		f.EventLog = found.EventLog
	}
	if found.AK != nil {
		f.AKName = hex.EncodeToString(found.AK.Name)
	}
	for index, value := range found.PCRs {
		f.PCRs[strconv.Itoa(index)] = hex.EncodeToString(value)
	}
	if found.PublicKey == nil {
		return f
	}
	spki, err := x509.MarshalPKIXPublicKey(found.PublicKey)
	if err != nil {
		return f
	}
	sum := sha256.Sum256(spki)
	f.Key = &Key{
		Name: hex.EncodeToString(found.KeyName), SPKISHA256: hex.EncodeToString(sum[:]),
		PublicKey: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki})),
	}
	return f
}

// Hindrances are the checks for which the evidence is not verified, in their order.
func (r *Report) Hindrances() []Check {
	var list []Check
	for _, c := range r.Checks {
		if !c.Met() {
			list = append(list, c)
		}
	}
	return list
}
