package setup

// Facts are what was found on a machine. Texts of other programs in it are fit to be shown.
type Facts struct {
	TPM     TPM
	Kind    Kind
	Host    Host
	Agent   Agent
	Systemd bool // it is the machine's service manager
	// NoUnits says why callers cannot be known by their unit here; empty: they can.
	NoUnits string
	// WeakUnits says why a unit names callers only together with their user here; empty: it names
	// them alone, too.
	WeakUnits string
	// Unknown are users and groups that were chosen and that this machine does not know (yet),
	// each with why.
	Unknown []string
	// InUse says why the agent could not listen at [AppServiceAddress]; empty: it can, as far as is
	// known.
	InUse string
}

// TPM is what was found of the machine's TPM.
type TPM struct {
	Device   string // transport, as in the configuration
	Maker    string // such as "MSFT"
	Firmware string
	// Fault says why the TPM cannot be used at all; empty: it answers.
	Fault string
	// Barred says why the agent's user may not use it though it answers; empty: they may.
	Barred string
	// Group is the group that may use it, if joining it would help.
	Group string
	// NoManager says that the device has no resource manager, so that one program at a time can
	// use it.
	NoManager     bool
	OwnerPassword bool // the owner hierarchy has one
	Lockout       bool // it is in dictionary-attack lockout
	NoSHA256      bool // PCRs have no SHA-256 bank, which evidence needs
}

// Kind is which kind of machine this is, by what its TPM holds.
type Kind string

// The kinds.
const (
	KindSNP     Kind = "snp"     // Azure Confidential VM, AMD SEV-SNP
	KindTDX     Kind = "tdx"     // Azure Confidential VM, Intel TDX
	KindTrusted Kind = "trusted" // a vTPM with Azure's attestation key and no hardware report
	KindBare    Kind = "bare"    // another TPM
	KindUnknown Kind = ""        // the TPM did not tell
)

// Confidential reports whether the machine has a hardware report that evidence can stand on.
func (k Kind) Confidential() bool { return k == KindSNP || k == KindTDX }

func (k Kind) String() string {
	switch k {
	case KindSNP:
		return "Azure Confidential VM (AMD SEV-SNP)"
	case KindTDX:
		return "Azure Confidential VM (Intel TDX)"
	case KindTrusted:
		return "Azure VM with Trusted Launch: a vTPM without hardware report"
	case KindBare:
		return "a machine with a TPM that is not Azure's"
	}
	return "not known"
}

// Presence says whether the host has something.
type Presence string

// The three answers.
const (
	Unknown Presence = "" // it did not say
	Absent  Presence = "absent"
	Present Presence = "present"
)

// Host is what the instance metadata service says. Nothing of it is proven.
type Host struct {
	Endpoint string
	// Fault says why it could not be asked; empty: it answered.
	Fault  string
	V2, V1 Presence // binding certificates; tokens that IMDS obtains itself

	Region, Cloud, Size, SecurityType string // empty: it did not say

	// ClientID and TenantID are those of the identity that IMDS names: the one that was chosen, or
	// where none was, the one that it takes for that. Empty: it named none.
	ClientID, TenantID string
	// NoIdentity says why it named none.
	NoIdentity string
}

// Agent is the user that the agent will run as.
type Agent struct {
	User    string
	Missing bool // there is no such user yet
	Root    bool // it is root
}
