package config

// DefaultPath is where the agent looks for its configuration.
const DefaultPath = "/etc/keyagent/config.yaml"

// Config is the content of the file. Every member says what it is for, its
// form and its default.
type Config struct {
	// TPM is the transport to the TPM: "device:/dev/tpmrm0", "unix:/path" or
	// "tcp:host:port", the latter two for a software TPM. Default:
	// device:/dev/tpmrm0.
	TPM string `yaml:"tpm"`

	// StateDir holds the binding key's file and the binding certificates. It is
	// created with mode 0700. Default: /var/lib/keyagent.
	StateDir string `yaml:"state_dir"`

	// Socket is the path of the local API's Unix socket. Default:
	// /run/keyagent/agent.sock.
	Socket string `yaml:"socket"`

	// IMDSEndpoint is the base URL of the instance metadata service. Default:
	// http://169.254.169.254. Only a test platform needs another one: whoever
	// answers there says which token endpoint the agent talks to.
	IMDSEndpoint string `yaml:"imds_endpoint"`

	// CAFile is a PEM file of certificate authorities to trust, besides the
	// system's, for Entra and for attestation. Default: none.
	CAFile string `yaml:"ca_file"`

	// TrustedHosts are the hosts that IMDS may send the agent to.
	TrustedHosts TrustedHosts `yaml:"trusted_hosts"`

	// Attestation says how the binding key is attested.
	Attestation Attestation `yaml:"attestation"`

	// BindingKey says what key the agent has.
	BindingKey BindingKey `yaml:"binding_key"`

	// Identities are the identities that the agent gives tokens of.
	Identities []Identity `yaml:"identities"`

	// Rules say who may have which token. Whom no rule names gets nothing.
	Rules []Rule `yaml:"rules"`

	// Admins may read the agent's status, besides root and the agent's own user.
	Admins Principals `yaml:"admins"`
}

// TrustedHosts limits where IMDS may send the agent. An entry is a host
// ("mtlsauth.microsoft.com"), a host and port ("127.0.0.1:8443"), or a domain with
// a leading dot (".mtlsauth.microsoft.com"). A list given here replaces the
// default.
type TrustedHosts struct {
	// MTLS: token endpoints. Default: those of Microsoft Entra in all clouds.
	MTLS []string `yaml:"mtls"`
	// Attestation: instances of Microsoft Azure Attestation. Default:
	// .attest.azure.net and .attest.azure.us.
	Attestation []string `yaml:"attestation"`
}

// Providers of attestation tokens.
const (
	ProviderNone       = "none"        // no attestation: the issuer decides whether it takes that
	ProviderAzureGuest = "azure-guest" // Microsoft Azure Attestation, /attest/AzureGuest
)

// Attestation configures how the binding key is attested.
type Attestation struct {
	// Provider is azure-guest or none. Default: azure-guest.
	Provider string `yaml:"provider"`
	// AMDRoots is a PEM file with an ARK and its ASK to trust besides AMD's own.
	// Default: none.
	AMDRoots string `yaml:"amd_roots"`
	// VTPMRoots is a PEM file with roots of attestation-key certificates to trust
	// besides Azure's. Default: none.
	VTPMRoots string `yaml:"vtpm_roots"`
	// IDKeyDigests are launch identities to trust besides the known ones of
	// Azure's paravisor: hex of the 48 bytes of id_key_digest. Default: none.
	IDKeyDigests []string `yaml:"id_key_digests"`
}

// Banks of PCRs.
const (
	BankSHA256 = "sha256"
	BankSHA384 = "sha384"
)

// BindingKey says what the binding key must be like. It is made at the first start;
// if the key that is there is otherwise, the agent does not start: keyagent key
// rotate binding makes another.
type BindingKey struct {
	// PCRs are the PCRs, 0 to 23, whose values at the key's making it is bound to:
	// after another boot it does not sign. Default: none.
	PCRs []int `yaml:"pcrs"`
	// PCRBank is sha256 or sha384. Default: sha256.
	PCRBank string `yaml:"pcr_bank"`
	// AuthCredential is the name of a systemd credential (LoadCredential= in the
	// unit) that holds the key's authorization value: 1 to 32 bytes. Default: none,
	// the key needs no value.
	AuthCredential string `yaml:"auth_credential"`
	// PersistentHandle keeps the key in the TPM's memory, at 0x81010000 to
	// 0x817fffff, which makes signing faster on some TPMs. Default: it is loaded
	// from its file.
	PersistentHandle uint32 `yaml:"persistent_handle"`
	// InsecureSoftware keeps the key in a file in the clear, and uses no TPM. It is
	// for development on a machine without one; attestation.provider must be none.
	// Status and every token then say strength "software". Default: false.
	InsecureSoftware bool `yaml:"insecure_software"`
}

// Strengths of a credential, as in min_strength, the strongest first.
const (
	StrengthAttested = "attested"
	StrengthTPM      = "tpm"
	StrengthSoftware = "software"
)

// Identity is a name and what it stands for.
type Identity struct {
	// Name is how callers ask for the identity: lower-case letters, digits and
	// hyphens, at most 63.
	Name string `yaml:"name"`
	// ManagedIdentity makes it a managed identity of this VM. Required; {} is the
	// system-assigned one.
	ManagedIdentity *ManagedIdentity `yaml:"managed_identity"`
	// MinStrength refuses tokens that a weaker credential than this would obtain:
	// attested (the key's place in a TPM was proven to the issuer), tpm (the key is
	// in a TPM) or software. Default: none, every token says what it was.
	MinStrength string `yaml:"min_strength"`
}

// ManagedIdentity selects one of the VM's managed identities. At most one member
// is set; none means the system-assigned identity.
type ManagedIdentity struct {
	ClientID   string `yaml:"client_id"`   // Client (application) id of a user-assigned identity, a GUID.
	ObjectID   string `yaml:"object_id"`   // Object (principal) id of a user-assigned identity, a GUID.
	ResourceID string `yaml:"resource_id"` // ARM resource id of a user-assigned identity: /subscriptions/…
}

// Principals names local users and groups, by name or number.
type Principals struct {
	Users  []string `yaml:"users"`  // User names or numeric uids.
	Groups []string `yaml:"groups"` // Group names or numeric gids; supplementary groups count.
}

// Rule lets users and the members of groups have tokens.
type Rule struct {
	// Name appears in audit records.
	Name       string `yaml:"name"`
	Principals `yaml:",inline"`
	// Identities are the names of identities that the rule is about.
	Identities []string `yaml:"identities"`
	// Resources are resource URIs, as in https://vault.azure.net, or the single
	// entry "*" for any.
	Resources []string `yaml:"resources"`
	// Types are token types. Default: [bearer].
	Types []string `yaml:"types"`
}

// maxFileBytes limits a configuration file.
const maxFileBytes = 1 << 20

func defaults() Config {
	return Config{
		TPM:         "device:/dev/tpmrm0",
		StateDir:    "/var/lib/keyagent",
		Socket:      "/run/keyagent/agent.sock",
		Attestation: Attestation{Provider: ProviderAzureGuest},
		BindingKey:  BindingKey{PCRBank: BankSHA256},
	}
}
