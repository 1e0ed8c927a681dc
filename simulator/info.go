package simulator

// Info has the platform's addresses, and its tenant, VM, identities and applications. As JSON it is
// the content of azuresim.json.
type Info struct {
	IMDS     string `json:"imds"`      // base URLs, without trailing slash
	MAA      string `json:"maa"`       //
	MTLSAuth string `json:"mtlsauth"`  // token endpoint for clients with a TLS certificate
	Login    string `json:"login"`     // token endpoint for clients with an assertion alone
	Resource string `json:"resource"`  // asks for the client's certificate in the handshake, as Graph does
	KeyVault string `json:"key_vault"` // the same, which asks late, as Key Vault does: see package resource
	Control  string `json:"control"`   //

	TPM string `json:"tpm"` // transport, as the agent takes it

	CAFile         string `json:"ca_file"`                    // PEM: authority of the https servers
	AppCAFile      string `json:"app_ca_file"`                // PEM: authority for applications, on the control endpoint
	AMDRootsFile   string `json:"amd_roots_file"`             // PEM: ASK and ARK
	VTPMRootsFile  string `json:"vtpm_roots_file"`            // PEM: root and issuer of the AK certificate
	IDKeyDigest    string `json:"id_key_digest"`              // launch identity of this VM, hex
	TEE            string `json:"tee"`                        // sev-snp or tdx
	IntelRootsFile string `json:"intel_roots_file,omitempty"` // PEM, on a VM with TDX
	MRTD           string `json:"mrtd,omitempty"`             // launch identity of a VM with TDX, hex
	CollateralDir  string `json:"collateral_dir,omitempty"`   // Intel's collateral for the VM's platform
	ConfigFile     string `json:"config_file"`                // an agent's configuration for this platform
	PolicyFile     string `json:"policy_file"`                // a verifier's policy that trusts this platform: keyagent verify --policy
	EventLogFile   string `json:"event_log_file"`             // TCG event log of this VM's boot, as securityfs has it

	TenantID         string        `json:"tenant_id"`
	VMID             string        `json:"vm_id"`
	Identities       []Identity    `json:"identities"`
	Applications     []Application `json:"applications"`
	ResourceAudience string        `json:"resource_audience"` // the URI that tokens for Resource are asked for
	TokenIssuer      string        `json:"token_issuer"`      // claim iss of access tokens
	AssertionIssuer  string        `json:"assertion_issuer"`  // claim iss of the tokens that a federated credential takes
}

// Application is an app registration in the VM's tenant. app-fic trusts the identity vm-user;
// app-cert waits for a certificate.
type Application struct {
	Name     string `json:"name"` // in the agent's configuration
	ClientID string `json:"client_id"`
	ObjectID string `json:"object_id"`
}

// Identity is a managed identity of the VM.
type Identity struct {
	Name       string `json:"name"` // in the agent's configuration
	Kind       string `json:"kind"` // SystemAssigned or UserAssigned
	ClientID   string `json:"client_id"`
	ObjectID   string `json:"object_id"`
	ResourceID string `json:"resource_id"`
}

// Kinds of managed identities, as IMDS calls them.
const (
	SystemAssigned = "SystemAssigned"
	UserAssigned   = "UserAssigned"
)
