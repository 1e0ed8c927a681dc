package wire

import "time"

// Status is the body of GET [PathStatus]: what the agent is and has, for its administrator. It
// holds no secret.
type Status struct {
	Version string    `json:"version"`
	PID     int       `json:"pid"`
	Started time.Time `json:"started"`
	// StateDir is where the agent keeps its keys and certificates.
	StateDir string `json:"state_dir,omitempty"`
	// Ready says that the TPM answers, that audit records can be written if they are required, and
	// that no identity is known to be unable to give tokens. One that nobody has asked for yet is
	// ready, unless what it needs on this machine is known to be missing, damaged or expired.
	Ready bool `json:"ready"`
	// NotReady says why Ready is false, a sentence each; empty when it is true.
	NotReady []string    `json:"not_ready,omitempty"`
	TPM      TPMStatus   `json:"tpm"`
	Key      KeyStatus   `json:"key"`
	Audit    AuditStatus `json:"audit"`
	// Configuration is the one that is in force, and what became of reloads.
	Configuration ConfigurationStatus `json:"configuration"`
	// CallerIdentity is how certainly the agent knows callers on this machine; nil: it is too old
	// to say.
	CallerIdentity *CallerIdentity  `json:"caller_identity,omitempty"`
	Identities     []IdentityStatus `json:"identities"`
	// Waiting is what the agent has been waiting for for more than five seconds; empty as a rule.
	Waiting []WaitStatus `json:"waiting,omitempty"`
	// RulesOff are the rules that are not in force because they name a user or a group who was not
	// found on this machine. Empty when all are in force.
	RulesOff []RuleStatus `json:"rules_off,omitempty"`
	// AdminsUnknown says which administrators of the configuration were not found; empty when all
	// were.
	AdminsUnknown string `json:"admins_unknown,omitempty"`
	// SocketsMissing are the ways into the agent that are configured and off, as systemd has passed
	// no socket for them, by the names that FileDescriptorName= in .socket units has. Empty as a
	// rule.
	SocketsMissing []string `json:"sockets_missing,omitempty"`
	// Unconfirmed are users and groups of rules in force whose numbers are from before
	// a reload: the directory has not confirmed them since. Empty as a rule.
	Unconfirmed []UnconfirmedAccount `json:"accounts_unconfirmed,omitempty"`
}

// UnconfirmedAccount describes a user or group whose number is from the configuration
// before, as the directory has not confirmed it since.
type UnconfirmedAccount struct {
	Kind   string `json:"kind"` // "user" or "group"
	Name   string `json:"name"`
	Number uint32 `json:"number"`
	Reason string `json:"reason"` // the directory's last answer
	// Until is when the number counts no more if it is not confirmed: the directory
	// says that it does not have the name, or is not running. Absent while it does
	// not answer at all.
	Until *time.Time `json:"until,omitempty"`
}

// ConfigurationStatus describes the configuration that is in force.
type ConfigurationStatus struct {
	File   string    `json:"file,omitempty"`   // that it was read from
	SHA256 string    `json:"sha256,omitempty"` // hexadecimal digest of that file when it was read
	Since  time.Time `json:"since"`            // it is in force
	// Reloads and Refused count the reloads since the start: those after which the new
	// configuration was in force, and those that left the one before in force.
	Reloads uint64 `json:"reloads"`
	Refused uint64 `json:"reloads_refused"`
	// Reloading says that a reload is under way, which is not counted yet.
	Reloading bool `json:"reloading,omitempty"`
	// LastReload is absent before the first reload.
	LastReload *ReloadStatus `json:"last_reload,omitempty"`
}

// ReloadStatus describes an attempt to put another configuration in force.
type ReloadStatus struct {
	At    time.Time `json:"at"`
	Cause string    `json:"cause"` // "SIGHUP", or "retry" of a configuration that cannot be used
	// Error is why the configuration was refused, a line for each fault; empty if it was not.
	Error string `json:"error,omitempty"`
}

// WaitStatus describes something that is waited for.
type WaitStatus struct {
	What  string    `json:"what"`  // as in "IMDS: getplatformmetadata"
	Since time.Time `json:"since"` // the longest wait began
	Count int       `json:"count"` // of those who wait for it
}

// RuleStatus describes a rule that is not in force.
type RuleStatus struct {
	Name   string `json:"name"`
	Reason string `json:"reason"` // a line for each user and group who was not found
}

// AuditStatus says whether what the agent answers is on record.
type AuditStatus struct {
	// To is where records go: "stdout", "file" or "journald". File is the path of the file.
	To   string `json:"to,omitempty"`
	File string `json:"file,omitempty"`
	// Required says that tokens are refused while records cannot be written.
	Required bool `json:"required"`
	// Written counts the records that were written since the start. LastWritten is when the newest
	// of them was; absent before the first.
	Written     uint64     `json:"written"`
	LastWritten *time.Time `json:"last_written,omitempty"`
	// Lost counts the answers since the start whose record could not be written.
	Lost uint64 `json:"lost"`
	// LastError is why records cannot be written; empty when they can.
	LastError string `json:"last_error,omitempty"`
}

// NoTPM is the device of an agent whose key is in software.
const NoTPM = "none"

// TPMStatus describes the TPM as it describes itself.
type TPMStatus struct {
	Device          string `json:"device"`
	Manufacturer    string `json:"manufacturer,omitempty"`
	FirmwareVersion string `json:"firmware_version,omitempty"`
	// LastError is why the TPM does not answer now; empty when it does.
	LastError string `json:"last_error,omitempty"`
}

// KeyStatus describes the binding key.
type KeyStatus struct {
	Algorithm  string   `json:"algorithm,omitempty"`  // as in "RSA-2048"
	Name       string   `json:"name,omitempty"`       // TPM name, hex
	Attributes []string `json:"attributes,omitempty"` // as the TPM reports them, TCG spelling
	// PSSSaltLength is in bytes, as the self-test measured it.
	PSSSaltLength int    `json:"pss_salt_length,omitempty"`
	Strength      string `json:"strength,omitempty"`
	// Generation counts the rotations of the key, from 1; 0 for a key in software.
	Generation int `json:"generation,omitempty"`
}

// IdentityStatus describes one configured identity.
type IdentityStatus struct {
	Name     string `json:"name"`
	Kind     string `json:"kind"` // KindManagedIdentity or KindApplication
	ClientID string `json:"client_id,omitempty"`
	TenantID string `json:"tenant_id,omitempty"`
	State    string `json:"state"`
	// Unable says that the identity is known to be unable to give tokens, so that the agent is not
	// ready. An error of one request alone does not make it so.
	Unable bool `json:"unable,omitempty"`
	// LastError is why the identity is not available; empty when it is.
	LastError string `json:"last_error,omitempty"`
	// LastErrorAt is when the attempt that gave LastError ended; zero if LastError names something
	// that is missing now.
	LastErrorAt time.Time `json:"last_error_at,omitzero"`
	// LastErrorBeforeReload says that trusted hosts, certificate authorities, proxy or attestation
	// were changed since then, so that the next attempt may end otherwise.
	LastErrorBeforeReload bool `json:"last_error_before_reload,omitempty"`

	Certificate *CertificateStatus `json:"certificate,omitempty"`
	TLS         *TLSStatus         `json:"tls,omitempty"`
	Attestation *AttestationStatus `json:"attestation,omitempty"`
	// Credentials are those of an application, in their order.
	Credentials []CredentialStatus `json:"credentials,omitempty"`
}

// CredentialStatus describes one credential of an application.
type CredentialStatus struct {
	Name      string `json:"name"`
	Source    string `json:"source"` // as in "certificate"
	Bound     bool   `json:"bound"`  // the bound form of the entry; one that prefers to be bound has both forms
	State     string `json:"state"`
	LastError string `json:"last_error,omitempty"`
	// LastErrorAt and LastErrorBeforeReload are as in [IdentityStatus].
	LastErrorAt           time.Time `json:"last_error_at,omitzero"`
	LastErrorBeforeReload bool      `json:"last_error_before_reload,omitempty"`

	Strength string `json:"strength,omitempty"` // of the last token that it obtained
	// Certificate is that of a credential with Source "certificate", as far as it can be read.
	Certificate *CertificateStatus `json:"certificate,omitempty"`
}

// CertificateStatus describes an identity's binding certificate, or the certificate of an
// application's credential.
type CertificateStatus struct {
	Subject    string `json:"subject"`
	Issuer     string `json:"issuer"`
	Thumbprint string `json:"thumbprint"` // x5t#S256, base64url
	// ThumbprintSHA1 is how Entra's portal names an application's certificate, upper-case hex.
	ThumbprintSHA1 string    `json:"thumbprint_sha1,omitempty"`
	Serial         string    `json:"serial"` // hex
	NotBefore      time.Time `json:"not_before"`
	NotAfter       time.Time `json:"not_after"`
	// EffectiveExpiry is when it stops being useful: the earlier of NotAfter and what the issuer
	// said about tokens.
	EffectiveExpiry time.Time `json:"effective_expiry"`
	// DaysLeft counts the whole days until EffectiveExpiry: 0 in the last one, negative once it has
	// expired.
	DaysLeft int `json:"days_left"`
	// ExpiresSoon says that somebody should replace it: it has less than 30 days or a third of its
	// life left. It is false for a binding certificate, which the agent renews.
	ExpiresSoon bool `json:"expires_soon,omitempty"`
	// RenewAt is when the agent renews a binding certificate; zero for others, which only their
	// owner can renew.
	RenewAt time.Time `json:"renew_at,omitzero"`
}

// TLSStatus describes the connections on which the certificate was shown.
type TLSStatus struct {
	Version            string `json:"version,omitempty"`             // last negotiated, as in "TLS 1.3"
	SignatureAlgorithm string `json:"signature_algorithm,omitempty"` // of the client's last handshake signature
	Handshakes         int64  `json:"handshakes"`                    // full handshakes, that is, TPM signatures, since start
}

// AttestationStatus describes the attestation behind binding certificates.
type AttestationStatus struct {
	Provider string `json:"provider"` // of attestation tokens, as in "azure-guest" or "none"
	// Expires is when the attestation token that was obtained last expires; nil in capabilities,
	// and while there is none.
	Expires *time.Time `json:"expires,omitempty"`
}
