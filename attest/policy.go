package attest

import (
	"slices"
	"time"
)

// Policy is what a verifier requires beyond the checks of [Floor]. The zero Policy requires less
// than a relying party wants; start from DefaultPolicy.
type Policy struct {
	// Required names checks that must pass, on top of those that every verdict needs (see Floor). A
	// check that is not applicable, say because its part is missing, has not passed. The check of
	// one platform stands for the check of the same name on the platform that the evidence is of.
	Required []string

	// TEE names the kinds of evidence that are accepted. Empty: every platform of this package, and
	// nothing without a TEE. With KindVTPM or KindTPM beside a platform, the sender chooses by
	// which of them the evidence is measured; only the AK certificate of a Confidential VM is
	// refused without its hardware report, as KindVTPM.
	TEE []Kind
	// AKNames, if not empty, lists the Names (see [KeyName]) of the attestation keys that are
	// accepted. For evidence of KindTPM it is the only thing that says whose key it is.
	AKNames [][]byte

	// PCRs must all be covered by the quote. With an empty list a quote is still required, of any
	// PCRs.
	PCRs []int
	// PCRBank is the one bank whose quote is accepted.
	PCRBank PCRBank

	// HardwarePolicy is what each platform must show.
	HardwarePolicy

	// Key is what the binding key must be.
	Key KeyPolicy

	// ClockWindow is how far apart the TPM may have made the certify and the quote statement.
	ClockWindow time.Duration

	// UserData, if not nil, must equal the 64 bytes of guest input that the hardware report covers.
	UserData []byte
	// HardwareFresh asks for a hardware report that was made for the verifier's nonce, and not only
	// for such a quote: its guest input must be [Challenge.UserData].
	HardwareFresh bool
	// RequireSecureBoot asks for secure boot in the VM's configuration.
	RequireSecureBoot bool
	// VMID, if not empty, must equal vmUniqueId, letter case aside.
	VMID string
	// PCRValues lists for a PCR the values that it may have, in PCRBank. A PCR that has an entry
	// must be quoted.
	PCRValues map[int][][]byte
	// MaxAge, if positive, is how long ago the verifier may have given out its nonce
	// (Challenge.Issued) at the time of verification.
	MaxAge time.Duration

	// EventLog is what the log of the boot must show.
	EventLog EventLogPolicy
}

// KeyPolicy is what a certified key's public area must say (TPM 2.0 Part 2, TPMA_OBJECT).
type KeyPolicy struct {
	RequiredAttributes  uint32
	ForbiddenAttributes uint32
	// AuthPolicies lists authPolicy digests that the key may have; an empty authPolicy is always
	// allowed.
	AuthPolicies [][]byte
	// AnyAuthPolicy allows every authPolicy.
	AnyAuthPolicy bool
	// AllowNullHierarchy accepts a key that the TPM forgets at the next reset.
	AllowNullHierarchy bool
}

// TPMA_OBJECT bits (TPM 2.0 Part 2, 8.3.2).
const (
	attrFixedTPM             = 1 << 1
	attrSTClear              = 1 << 2
	attrFixedParent          = 1 << 4
	attrSensitiveDataOrigin  = 1 << 5
	attrUserWithAuth         = 1 << 6
	attrAdminWithPolicy      = 1 << 7
	attrNoDA                 = 1 << 10
	attrEncryptedDuplication = 1 << 11
	attrRestricted           = 1 << 16
	attrDecrypt              = 1 << 17
	attrSign                 = 1 << 18
	attrX509Sign             = 1 << 19
)

// bindingKeyPolicy: made inside this TPM, cannot leave it, signs and does nothing else.
func bindingKeyPolicy() KeyPolicy {
	return KeyPolicy{
		RequiredAttributes: attrFixedTPM | attrFixedParent | attrSensitiveDataOrigin | attrSign,
		ForbiddenAttributes: attrRestricted | attrDecrypt | attrEncryptedDuplication | attrX509Sign |
			attrAdminWithPolicy | attrSTClear,
	}
}

// transportKeyPolicy: made inside this TPM, cannot leave it, opens one answer and is gone at the
// next reset.
func transportKeyPolicy() KeyPolicy {
	return KeyPolicy{
		RequiredAttributes:  attrFixedTPM | attrFixedParent | attrSensitiveDataOrigin | attrDecrypt,
		ForbiddenAttributes: attrRestricted | attrSign | attrEncryptedDuplication | attrX509Sign,
		AnyAuthPolicy:       true,
		AllowNullHierarchy:  true,
	}
}

// DefaultPolicy asks for the binding key certified and fresh, PCRs 0 to 7 quoted in the same boot,
// and the report made by firmware that Azure is known to use: each platform lists what identifies
// it there. Where a processor's maker publishes which firmware levels are in order, that statement
// must come with the evidence, and must call the level up to date.
//
// It does not require an AK certificate, which some hosts do not provision, secure boot, or the
// alias check against BadRAM (PlatformInfo), which hosts with older firmware do not report. Nor
// does it require a lowest firmware level (MinTCB, MinABI, MinGuestSVN) or revocation lists: those
// change with AMD's and Microsoft's advisories, and values built in here would be out of date. A
// relying party that follows the advisories sets MinTCB: without it, one key extracted from a chip
// at an old level is enough to forge the evidence of any machine.
func DefaultPolicy() Policy {
	p := PlatformPolicy()
	p.Required = append(p.Required, KeyChecks()...)
	return p
}

// PlatformPolicy is DefaultPolicy for evidence about the machine alone, without a binding key.
func PlatformPolicy() Policy {
	p := Policy{
		PCRs:        []int{0, 1, 2, 3, 4, 5, 6, 7},
		PCRBank:     BankSHA256,
		Key:         bindingKeyPolicy(),
		ClockWindow: time.Minute,
	}
	for _, platform := range platforms() {
		platform.addPolicy(&p)
	}
	return p
}

// KeyChecks names the checks which prove that the binding key lives in the TPM that the evidence is
// about.
func KeyChecks() []string {
	return []string{
		CheckKeyPublic, CheckKeyCertifySignature, CheckKeyCertifyStructure, CheckKeyCertifySigner,
		CheckKeyCertifyName, CheckKeyCertifyLocation, CheckKeyCertifyNonce, CheckQuoteCoherence,
	}
}

// Floor names the checks that are required under every policy: a genuine, non-debug processor
// vouches for the claims, the claims for the attestation key, and the attestation key made a fresh
// quote. It lists the checks of all platforms; for evidence of one of them, only its own are
// required. What a policy can waive of it is said where the policy's members are.
func Floor() []string { return floor(platforms(), Policy{}) }

func floor(answering []platform, p Policy) []string {
	names := append([]string{CheckBundleFormat, CheckPolicyTEE}, vouching(answering, p)...)
	return append(names,
		CheckQuoteSignature, CheckQuoteStructure, CheckQuoteSigner,
		CheckQuoteNonce, CheckQuoteSelection, CheckQuoteDigest)
}

// Requires lists the checks that p requires, in alphabetical order. For evidence of one platform,
// those of the others do not count.
func (p Policy) Requires() []string { return p.required(platforms()) }

// required lists the checks that must pass under p for evidence of the answering platforms.
func (p Policy) required(answering []platform) []string {
	all := slices.Concat(floor(answering, p), p.asked(), p.EventLog.required())
	for _, name := range p.Required {
		all = append(all, counterparts(name, answering)...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}
