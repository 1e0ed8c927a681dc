package formats

import (
	"crypto/x509"
	"encoding/hex"
	"time"

	"github.com/keyagent/keyagent/attest"
)

// Profiles of the two spellings of an EAR. A version of the draft has a profile of its own.
const (
	EARProfile         = "tag:ietf.org,2026:rats/ear#04"
	EARVeraisonProfile = "tag:github.com,2023:veraison/ear"
)

// Label names the one attester of a result.
const Label = "keyagent"

const developer = "https://github.com/keyagent/keyagent"

// Appraisal is a verification to be told.
type Appraisal struct {
	Result *attest.Result
	Nonce  []byte    // that the evidence answers; nil: none was asked for
	At     time.Time // of the verification
	Build  string    // version of the program that verified
	// PolicyIDs name what the evidence was held against, as sha-256:… of a policy file.
	PolicyIDs []string
}

// verifierID is the same in both spellings (AR4SI, 3.3).
type verifierID struct {
	Developer string `json:"developer"`
	Build     string `json:"build"`
}

func (a Appraisal) verifier() verifierID {
	build := a.Build
	if build == "" {
		build = "keyagent"
	}
	return verifierID{developer, build}
}

// ear is a claims set of draft-ietf-rats-ear-04, 3.
type ear struct {
	Profile  string                  `json:"eat_profile"`
	IssuedAt int64                   `json:"iat"`
	Verifier verifierID              `json:"ear_verifier_id"`
	Status   tier                    `json:"ear_status"`
	Submods  map[string]earAppraisal `json:"submods"`
}

type earAppraisal struct {
	Status         tier            `json:"ear_status"`
	Vector         vector          `json:"ear_trustworthiness_vector"`
	PolicyIDs      []string        `json:"ear_appraisal_policy_ids,omitempty"`
	Nonce          string          `json:"eat_nonce,omitempty"`
	AttesterClaims *attesterClaims `json:"ear_attester_claims,omitempty"`
	VerifierClaims verifierClaims  `json:"ear_verifier_claims"`
}

// attesterClaims are facts of verified evidence, the inside of which is ours.
type attesterClaims struct {
	Kind      attest.Kind       `json:"keyagent_kind"`
	VMID      string            `json:"keyagent_vm_id,omitempty"`
	KeyName   string            `json:"keyagent_key_name,omitempty"` // TPM 2.0 Name, hexadecimal
	PublicKey string            `json:"keyagent_key,omitempty"`      // SubjectPublicKeyInfo, base64url
	PCRs      map[string]string `json:"keyagent_pcrs_sha256,omitempty"`
	PCRs384   map[string]string `json:"keyagent_pcrs_sha384,omitempty"` // in place of PCRs
	EventLog  any               `json:"keyagent_event_log,omitempty"`
}

// verifierClaims are the findings; their members are our own.
type verifierClaims struct {
	Verdict   attest.Verdict `json:"keyagent_verdict"`
	Checks    []attest.Check `json:"keyagent_checks"`
	Proven    []attest.Claim `json:"keyagent_proven,omitempty"`
	NotProven []attest.Claim `json:"keyagent_not_proven,omitempty"`
	Reason    string         `json:"keyagent_reason,omitempty"` // of a fleet: what stands against it beside its checks
}

func (a Appraisal) ear() ear {
	v := newVector(a.Result)
	s := status(a.Result, v)
	return ear{
		Profile: EARProfile, IssuedAt: a.At.Unix(), Verifier: a.verifier(), Status: s,
		Submods: map[string]earAppraisal{Label: {
			Status: s, Vector: v, PolicyIDs: a.PolicyIDs, Nonce: b64(a.Nonce),
			AttesterClaims: a.attesterClaims(), VerifierClaims: a.verifierClaims(),
		}},
	}
}

func (a Appraisal) verifierClaims() verifierClaims {
	r := a.Result
	return verifierClaims{Verdict: r.Verdict(), Checks: r.Checks, Proven: r.Proven, NotProven: r.NotProven}
}

// attesterClaims is nil for evidence that is not verified: nobody should read facts from it.
func (a Appraisal) attesterClaims() *attesterClaims {
	r := a.Result
	if !r.Verified() {
		return nil
	}
	c := &attesterClaims{Kind: r.Kind, VMID: r.VMID, KeyName: hex.EncodeToString(r.KeyName), PublicKey: b64(a.publicKey())}
	if values := hexValues(r.PCRs); r.PCRBank == attest.BankSHA384 {
		c.PCRs384 = values
	} else {
		c.PCRs = values
	}
	if r.EventLog != nil {
		c.EventLog = r.EventLog
	}
	return c
}

// publicKey is the SubjectPublicKeyInfo of the key that was proven to be in the TPM, or nil.
func (a Appraisal) publicKey() []byte {
	if a.Result.PublicKey == nil || !a.Result.Verified() {
		return nil
	}
	der, err := x509.MarshalPKIXPublicKey(a.Result.PublicKey)
	if err != nil {
		return nil
	}
	return der
}

// veraison is the spelling of github.com/veraison/ear v1: draft-ietf-rats-ear before -03.
type veraison struct {
	Profile  string                       `json:"eat_profile"`
	IssuedAt int64                        `json:"iat"`
	Verifier verifierID                   `json:"ear.verifier-id"`
	Nonce    string                       `json:"eat_nonce,omitempty"`
	Submods  map[string]veraisonAppraisal `json:"submods"`
}

type veraisonAppraisal struct {
	Status       tier               `json:"ear.status"`
	Vector       vector             `json:"ear.trustworthiness-vector"`
	PolicyID     string             `json:"ear.appraisal-policy-id,omitempty"`
	Annotated    *attesterClaims    `json:"ear.veraison.annotated-evidence,omitempty"`
	PolicyClaims verifierClaims     `json:"ear.veraison.policy-claims"`
	Key          *veraisonAttestKey `json:"ear.veraison.key-attestation,omitempty"`
}

type veraisonAttestKey struct {
	Public string `json:"akpub"` // SubjectPublicKeyInfo, base64url
}

func (a Appraisal) veraison() veraison {
	v := newVector(a.Result)
	one := veraisonAppraisal{
		Status: status(a.Result, v), Vector: v,
		Annotated: a.attesterClaims(), PolicyClaims: a.verifierClaims(),
	}
	if len(a.PolicyIDs) > 0 {
		one.PolicyID = a.PolicyIDs[0]
	}
	if key := a.publicKey(); key != nil {
		one.Key = &veraisonAttestKey{b64(key)}
	}
	return veraison{
		Profile: EARVeraisonProfile, IssuedAt: a.At.Unix(), Verifier: a.verifier(), Nonce: b64(a.Nonce),
		Submods: map[string]veraisonAppraisal{Label: one},
	}
}
