package config

// DefaultPath is where the agent looks for its configuration.
const DefaultPath = "/etc/keyagent/config.yaml"

// Config is the content of the file. Every member says what it is for, its
// form and its default.
type Config struct {
	// TPM is the transport to the TPM: "device:/dev/tpmrm0", "unix:/path" or
	// "tcp:host:port", the latter two for a software TPM. A device without rm
	// in its name, /dev/tpm0, works too, for one program at a time: it has no
	// resource manager. Default: device:/dev/tpmrm0.
	TPM string `yaml:"tpm,omitempty"`

	// TPMOwnerCredential is the name of a systemd credential (LoadCredential= in the
	// unit) that holds the password of the TPM's owner hierarchy. It is needed only
	// where there is one and the agent must make its storage root anew, read what the
	// platform has stored, or keep a key at a persistent handle. Default: none, the
	// owner hierarchy has no password.
	TPMOwnerCredential string `yaml:"tpm_owner_credential,omitempty"`

	// StateDir holds the binding key's file and the binding certificates. It is
	// created with mode 0700. Default: /var/lib/keyagent.
	StateDir string `yaml:"state_dir,omitempty"`

	// Socket is the path of the local API's Unix socket. Default:
	// /run/keyagent/agent.sock.
	Socket string `yaml:"socket,omitempty"`

	// Activated says that systemd holds all sockets, by .socket units: the agent opens none
	// itself, does not start without that of socket, and says which others are missing. The
	// packaged keyagent.service says so itself. Default: false, what is not passed is opened.
	Activated bool `yaml:"activated,omitempty"`

	// IMDSEndpoint is the base URL of the instance metadata service. Default:
	// http://169.254.169.254. Only a test platform needs another one: the service at
	// this address names the token endpoint that the agent talks to.
	IMDSEndpoint string `yaml:"imds_endpoint,omitempty"`

	// CAFile is a PEM file of certificate authorities to trust, besides the
	// system's, for Entra and for attestation. Default: none. A file of which a
	// part cannot be read, or that has anything but authorities in it, is
	// refused as a whole.
	CAFile string `yaml:"ca_file,omitempty"`

	// TrustedHosts are the hosts that IMDS may send the agent to.
	TrustedHosts TrustedHosts `yaml:"trusted_hosts,omitempty"`

	// Proxy is the HTTP proxy on the way to Entra and to attestation. Default: none;
	// variables of the environment do not count.
	Proxy Proxy `yaml:"proxy,omitempty"`

	// Attestation says how the binding key is attested.
	Attestation Attestation `yaml:"attestation,omitempty"`

	// BindingKey says what key the agent has.
	BindingKey BindingKey `yaml:"binding_key,omitempty"`

	// Identities are the identities that the agent gives tokens of.
	Identities []Identity `yaml:"identities,omitempty"`

	// Rules say who may have which token. A caller that no rule names gets none. A rule
	// that names a user or a group unknown on this machine is not in force, and the log,
	// status and doctor say so; the agent checks again every half minute. The other
	// rules are in force meanwhile. If a directory does not answer at a reload, rules
	// that were in force go on with the numbers that they had; if it says that it does
	// not have a name, for ten minutes at most (ADR 0014).
	Rules []Rule `yaml:"rules,omitempty"`

	// CallerIdentity says how certain the agent must be which unit and which program a
	// caller is. With available, that is what the kernel can say: before Linux 6.5, it
	// knows a process by its number only, so that rules with units or executables hold on
	// the Unix socket only for users whom they name, too. strict does not take that: the
	// agent does not start with such a rule on such a kernel. Users and groups are
	// certain on every kernel. Default: available.
	CallerIdentity string `yaml:"caller_identity,omitempty"`

	// Admins may read the agent's status, besides root and the agent's own user. Users
	// and groups unknown on this machine are left out until they exist.
	Admins Principals `yaml:"admins,omitempty"`

	// LogLevel is how much the log says: debug, info, warn or error. No level has tokens,
	// assertions or secrets. A reload changes it while the agent runs. Default: info.
	LogLevel string `yaml:"log_level,omitempty"`

	// Audit says where audit records go, and what happens when they cannot be written.
	Audit Audit `yaml:"audit,omitempty"`

	// Endpoints are ways into the agent besides its socket. Default: none.
	Endpoints Endpoints `yaml:"endpoints,omitempty"`
}

// Places of audit records.
const (
	AuditToStdout   = "stdout"
	AuditToFile     = "file"
	AuditToJournald = "journald"
)

// DefaultAuditFile is where audit records go with to: file, unless the file says otherwise.
const DefaultAuditFile = "/var/log/keyagent/audit.jsonl"

// Audit configures the audit records: one for each answer of the agent.
type Audit struct {
	// To is stdout (the agent's standard output), file, or journald (the journal, with a field
	// for each attribute, as in KEYAGENT_UID and KEYAGENT_DECISION; the message is the same JSON
	// as in a file). The agent does not start if records cannot go there. Default: stdout.
	To string `yaml:"to,omitempty"`
	// File is where records go with to: file, one JSON object a line. It must not be a symbolic
	// link, nor readable for everybody, and its directory must be writable for nobody but root
	// or the agent's user. A file that is not there is made, with mode 0600. It is opened again
	// at SIGHUP, and when it was renamed or removed. Default: /var/log/keyagent/audit.jsonl.
	File string `yaml:"file,omitempty"`
	// Required is true to refuse tokens, also those that are in memory, while their
	// records cannot be written: the disk is full, or what reads the agent's standard output,
	// or the journal, has ended or stopped reading. False hands them out all the same, and lost
	// records are counted. Default: false.
	Required bool `yaml:"required,omitempty"`
}

// TrustedHosts limits where IMDS may send the agent. An entry is a host
// ("mtlsauth.microsoft.com"), a host and port ("127.0.0.1:8443"), or a domain with
// a leading dot (".mtlsauth.microsoft.com"). A list given here replaces the
// default.
type TrustedHosts struct {
	// MTLS: token endpoints. Default: those of Microsoft Entra in all clouds.
	MTLS []string `yaml:"mtls,omitempty"`
	// Attestation: instances of Microsoft Azure Attestation. Default:
	// .attest.azure.net and .attest.azure.us.
	Attestation []string `yaml:"attestation,omitempty"`
}

// Proxy is an HTTP proxy for what leaves the VM: Entra and attestation. IMDS is on
// the VM's own host and never asked through it.
type Proxy struct {
	// URL is the proxy's, http or https with a host and no path, as in
	// http://proxy.example:3128. A user's name or password in it is refused: see
	// credential. Default: none.
	URL string `yaml:"url,omitempty"`
	// Credential is the name of a systemd credential (LoadCredential= in the unit)
	// that holds "user:password" for the proxy. Default: none.
	Credential string `yaml:"credential,omitempty"`
	// Bypass are hosts that are reached without the proxy: a host
	// ("intranet.example"), or a domain with a leading dot (".corp.example").
	// Default: none.
	Bypass []string `yaml:"bypass,omitempty"`
}

// Providers of attestation tokens.
const (
	ProviderNone       = "none"        // no attestation: the issuer decides whether it takes that
	ProviderAzureGuest = "azure-guest" // Microsoft Azure Attestation, /attest/AzureGuest
	ProviderExec       = "exec"        // a program of the operator's
)

// Attestation configures how the binding key is attested.
type Attestation struct {
	// Provider is azure-guest, exec or none. With none, nothing reaches min_strength:
	// attested, and to ask for it is an error. Default: azure-guest.
	Provider string `yaml:"provider,omitempty"`
	// Command is the program of provider exec, by its absolute path, and its arguments,
	// which are no place for secrets. It is started without a shell, as the agent's user
	// and in its sandbox, with the evidence (docs/evidence.md) on its standard input and
	// the address of the attestation service in KEYAGENT_ATTESTATION_ENDPOINT, which is
	// the evidence's audience. Within 30 seconds it writes one signed JWT to its standard
	// output, and ends with exit code 0. Its standard error goes into the log. The token
	// is used until five minutes before it expires. Default: none.
	Command []string `yaml:"command,omitempty"`
	// PCRs are what evidence quotes for callers and for the program, 0 to 23. Microsoft's
	// service gets 0 to 7 in any case. Default: 0 to 7.
	PCRs []int `yaml:"pcrs,omitempty"`
	// EventLog is the file with the log of what the firmware measured. Default: the
	// systemd credential keyagent.event-log (LoadCredential= in the unit), else
	// /sys/kernel/security/tpm0/binary_bios_measurements, which only root can read.
	EventLog string `yaml:"event_log,omitempty"`
	// AMDRoots is a PEM file with an ARK and its ASK to trust besides AMD's own.
	// Default: none. It is read as strictly as ca_file.
	AMDRoots string `yaml:"amd_roots,omitempty"`
	// VTPMRoots is a PEM file with roots of attestation-key certificates to trust
	// besides Azure's, and of their intermediates. Default: none. It is read as
	// strictly as ca_file.
	VTPMRoots string `yaml:"vtpm_roots,omitempty"`
	// AKIntermediates is a directory with issuers of attestation-key certificates below
	// the roots, in *.pem and *.crt files. They are sent along for a verifier that does not
	// know them. They are trusted for nothing by themselves. Default: none. Its files are read
	// as strictly as ca_file.
	AKIntermediates string `yaml:"ak_intermediates,omitempty"`
	// IDKeyDigests are launch identities to trust besides the known ones of
	// Azure's paravisor: hex of the 48 bytes of id_key_digest. Default: none.
	IDKeyDigests []string `yaml:"id_key_digests,omitempty"`
	// TDX is for VMs with Intel TDX.
	TDX TDX `yaml:"tdx,omitempty"`
}

// Banks of PCRs.
const (
	BankSHA256 = "sha256"
	BankSHA384 = "sha384"
)

// BindingKey says what the binding key must be like. It is made at the first start;
// if the existing key differs, the agent does not start: keyagent key rotate binding
// makes another.
type BindingKey struct {
	// PCRs are the PCRs, 0 to 23, to whose values at its creation the key is bound: after
	// a boot with other values it does not sign. Default: none.
	PCRs []int `yaml:"pcrs,omitempty"`
	// PCRBank is sha256 or sha384. Default: sha256.
	PCRBank string `yaml:"pcr_bank,omitempty"`
	// AuthCredential is the name of a systemd credential (LoadCredential= in the
	// unit) that holds the key's authorization value: 1 to 32 bytes. Default: none,
	// the key needs no value.
	AuthCredential string `yaml:"auth_credential,omitempty"`
	// PersistentHandle keeps the key in the TPM's memory, at 0x81010000 to
	// 0x817fffff, which makes signing faster on some TPMs. Default: it is loaded
	// from its file.
	PersistentHandle uint32 `yaml:"persistent_handle,omitempty"`
	// InsecureSoftware keeps the key in a file in the clear, and uses no TPM. It is
	// for development on a machine without one; attestation.provider must be none.
	// Status and every token then say strength "software". Default: false.
	InsecureSoftware bool `yaml:"insecure_software,omitempty"`
}

// Strengths of a credential, as in min_strength. attested is stronger than tpm, and tpm than the
// others, of which neither is stronger than the other.
const (
	StrengthAttested  = "attested"
	StrengthTPM       = "tpm"
	StrengthTPMSigned = "tpm-signed"
	StrengthSoftware  = "software"
)

// Identity is a name and what it stands for: a managed identity or an application.
type Identity struct {
	// Name is how callers ask for the identity: lower-case letters, digits and
	// hyphens, at most 63.
	Name string `yaml:"name,omitempty"`
	// ManagedIdentity makes it a managed identity of this VM; {} is the
	// system-assigned one. Either this or application is required.
	ManagedIdentity *ManagedIdentity `yaml:"managed_identity,omitempty"`
	// Application makes it an app registration, which has a list of credentials.
	Application *Application `yaml:"application,omitempty"`
	// MinStrength refuses tokens that a weaker credential than this would obtain:
	// attested (the key's place in a TPM was proven to the issuer), tpm (the key is
	// in a TPM), tpm-signed (an assertion signed by the TPM is enough, too: nothing
	// on disk or in memory is worth stealing, but an attacker who intercepts the
	// assertion can use it for ten minutes) or software (the connection proves a key,
	// wherever it is kept). Neither tpm-signed nor software satisfies the other; tpm
	// and attested satisfy both. Default: none, every token says its strength.
	MinStrength string `yaml:"min_strength,omitempty"`
}

// What a credential's bound can say.
const (
	BoundRequire = "require"
	BoundPrefer  = "prefer"
	BoundNever   = "never"
)

// ManagedIdentity is one of the VM's managed identities.
type ManagedIdentity struct {
	ManagedIdentitySelector `yaml:",inline"`
	// Bound is require (tokens are obtained with a binding certificate over mutual
	// TLS, or not at all), prefer (without one where the platform has none to give;
	// each such token says so) or never (IMDS gets the token, and no key takes part).
	// Default: require.
	Bound string `yaml:"bound,omitempty"`
}

// ManagedIdentitySelector selects one of the VM's managed identities. At most one
// member is set; none means the system-assigned identity.
type ManagedIdentitySelector struct {
	ClientID   string `yaml:"client_id,omitempty"`   // Client (application) id of a user-assigned identity, a GUID.
	ObjectID   string `yaml:"object_id,omitempty"`   // Object (principal) id of a user-assigned identity, a GUID.
	ResourceID string `yaml:"resource_id,omitempty"` // ARM resource id of a user-assigned identity: /subscriptions/…
}

// Token types of a rule.
const (
	TypeBearer = "bearer"
	TypePoP    = "mtls_pop"
)

// AnyResource as the only entry of [Rule.Resources] stands for any resource except
// those of [Config.AssertionAudiences].
const AnyResource = "*"

// Principals names local users and groups, by name or number.
type Principals struct {
	Users  []string `yaml:"users,omitempty"`  // User names, those of a directory (getent passwd) included, or numeric uids.
	Groups []string `yaml:"groups,omitempty"` // Group names, those of a directory (getent group) included, or numeric gids; supplementary groups count. Over TCP, groups are not known.
}

// Rule lets users, the members of groups and system services have tokens. It names a
// caller that matches each kind that it lists: users or groups, units, executables.
type Rule struct {
	// Name appears in audit records.
	Name       string `yaml:"name,omitempty"`
	Principals `yaml:",inline"`
	// Units are system services: web.service, worker@1.service, or with the slice that
	// the unit's Slice= says, apps.slice/web.service. A caller is in a unit if its process
	// is in the unit's own cgroup, and only while that process runs; one that a
	// service has put into a cgroup of its own (Delegate=) is not. Services of users'
	// own managers cannot be named. It needs a host with cgroups of version 2 alone.
	// Default: none, the unit does not matter.
	Units []string `yaml:"units,omitempty"`
	// Executables are absolute paths of programs, of which the caller must run one. They
	// narrow a rule that names users, groups or units, and are no boundary between
	// programs of the same user, who can start each other and attach to each other. It
	// needs CAP_SYS_PTRACE and an agent without Landlock. Over TCP the caller's program
	// is not known, and such a rule names nobody. Default: none, the program does not
	// matter.
	Executables []string `yaml:"executables,omitempty"`
	// Identities are the names of identities that the rule is about.
	Identities []string `yaml:"identities,omitempty"`
	// Resources are resource URIs, as in https://vault.azure.net, or the single
	// entry "*", in quotes, for any but the audiences of assertions: those of the clouds, as in
	// api://AzureADTokenExchange, and each audience of a credential in this file.
	// With such a token anyone can act as every application that trusts the identity,
	// from any machine, so a rule gives it only if it names the audience. A rule
	// names it as the credential does; the application id of an audience of your own
	// is another name that the agent cannot know.
	Resources []string `yaml:"resources,omitempty"`
	// Types are token types: bearer, and mtls_pop (bound to the certificate that it
	// was obtained with, RFC 8705; of use only together with its key). Default:
	// [bearer].
	Types []string `yaml:"types,omitempty"`
	// Fresh lets callers ask for a token past the cache (force_refresh), each time
	// at the price of a request to Entra. A claims challenge is always passed on.
	// Default: false.
	Fresh bool `yaml:"fresh,omitempty"`
	// Hosts are where callers may use tokens of type mtls_pop through the agent,
	// which has the key that these need: https hosts by name, as in
	// myvault.vault.azure.net, or by domain with a dot before it, as in
	// .vault.azure.net for all names below it. In lower case; with a port if that is
	// not 443. Default: none.
	Hosts []string `yaml:"hosts,omitempty"`
	// Sign lets callers have TLS handshakes signed with the key of the identities'
	// certificates, which tokens of type mtls_pop need, and nothing else. In TLS 1.2
	// the agent sees the server, which must be one of hosts. TLS 1.3 hides the server
	// from it: there a caller can show the certificate to any server, Entra's included,
	// and so get any token of the identities: see sign_hosts_only. Default: false.
	Sign bool `yaml:"sign,omitempty"`
	// SignHostsOnly refuses to sign where the server is not shown, so that the
	// certificate is of use at hosts only: callers then have to offer TLS 1.2 at most,
	// which Key Vault needs anyway. Default: false.
	SignHostsOnly bool `yaml:"sign_hosts_only,omitempty"`
	// Evidence lets callers have attestation evidence of the identities' keys, for a
	// verifier's nonce (docs/evidence.md). A bundle is no secret, but it names the machine:
	// its processor and its attestation key are the same in each. A rule that gives nothing
	// else needs no resources. Default: false.
	Evidence bool `yaml:"evidence,omitempty"`
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
		Audit:       Audit{To: AuditToStdout},

		CallerIdentity: CallerIdentityAvailable,
	}
}
