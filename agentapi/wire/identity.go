package wire

// Kinds of identities.
const (
	KindManagedIdentity = "managed_identity"
	KindApplication     = "application"
)

// Identity is an element of the body of GET [PathIdentities]: an identity that rules give the
// caller, and what for. The lists are the union over all rules that give the identity; a
// combination that no single rule has is refused.
type Identity struct {
	Name      string   `json:"name"`
	Kind      string   `json:"kind"`
	ClientID  string   `json:"client_id,omitempty"` // as far as the configuration says it
	Resources []string `json:"resources"`           // "*" stands for any but the audiences of assertions
	Types     []string `json:"types"`
	Hosts     []string `json:"hosts,omitempty"`    // where the caller may use tokens of type mtls_pop through the agent
	Sign      bool     `json:"sign,omitempty"`     // the caller may have TLS handshakes signed: see PathBindingSign
	Evidence  bool     `json:"evidence,omitempty"` // the caller may have evidence of the identity's keys: see PathEvidence
}

// Capabilities is the body of GET [PathCapabilities]: how well tokens can be bound to this VM, and
// why not better.
type Capabilities struct {
	// StrongestBinding is the best strength that a credential can have here, and Reason says why it
	// is not a better one, or what it rests on.
	StrongestBinding  string            `json:"strongest_binding"`
	Reason            string            `json:"reason"`
	ManagedIdentityV2 Capability        `json:"managed_identity_v2"` // with a binding certificate
	ManagedIdentityV1 Capability        `json:"managed_identity_v1"` // IMDS gets the token
	Certificate       Capability        `json:"certificate"`         // a key of an application in the TPM
	Forms             []Form            `json:"forms"`               // of credentials, all that there are
	Attestation       AttestationStatus `json:"attestation"`
	TokenTypes        []string          `json:"token_types"` // that can be asked for
	// CallerIdentity is how certainly the agent knows callers on this machine; nil: it is too old
	// to say.
	CallerIdentity *CallerIdentity `json:"caller_identity,omitempty"`
	// Evidence is whether the agent can prove where its keys are: see [PathEvidence]; nil: it is
	// too old to say.
	Evidence *Capability `json:"evidence,omitempty"`
}

// Form is one form of a credential, a row of the table "What works today" in docs/credentials.md,
// and whether this machine and its tenants reach it: as far as that is known without asking Entra,
// from what was obtained or refused since the agent's start.
type Form struct {
	Name          string `json:"name"`
	Configuration string `json:"configuration"` // how a credential of this form is written
	// Available is null as long as it is not known.
	Available *bool `json:"available"`
	// Strength is what a token that was obtained so would have; empty if that depends on another
	// identity.
	Strength string `json:"strength,omitempty"`
	Reason   string `json:"reason,omitempty"`
}

// Reached spells Available: "yes", "no" or "not known yet".
func (f Form) Reached() string {
	switch {
	case f.Available == nil:
		return "not known yet"
	case *f.Available:
		return "yes"
	}
	return "no"
}

// Capability is one way to get a token.
type Capability struct {
	// Available is null as long as it is not known.
	Available *bool `json:"available"`
	// Strength is what a token that was got this way would have.
	Strength string `json:"strength,omitempty"`
	Reason   string `json:"reason,omitempty"`
}
