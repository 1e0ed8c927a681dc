package tee

import (
	"bytes"
	"cmp"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha512"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"slices"
)

// SNPReportSize is the size of an ATTESTATION_REPORT in bytes.
const SNPReportSize = 1184

// The bits of the guest policy that give the host access to the guest (AMD 56860, "Guest Policy").
const (
	policySMT          = 1 << 16
	policyMustBeOne    = 1 << 17
	policyMigrateAgent = 1 << 18
	policyDebug        = 1 << 19
	policySingleSocket = 1 << 20
	policyKnown        = 1<<26 - 1 // up to PAGE_SWAP_DISABLE, bit 25
)

const (
	signatureECDSAP384 = 1
	minReportVersion   = 2
	maxReportVersion   = 5
	maxVMPL            = 3

	cpuidReportVersion      = 3 // from this version on the report names the CPU family and model
	mitigationReportVersion = 5 // from this version on it has mitigation vectors

	// knownPlatformInfo are SMT, TSME, ECC, RAPL disabled, ciphertext hiding, alias check complete
	// and TIO (AMD 56860, "PLATFORM_INFO").
	knownPlatformInfo = 0xBF

	signerAuthorKey  = 1 << 0
	signerKeyShift   = 2
	signerKeyMask    = 7
	signerKnown      = 0x1F
	signatureAt      = 0x2A0 // everything before it is signed
	signatureField   = 72    // of R and of S, little-endian
	signatureScalar  = 48    // bytes of them that a number on P-384 can fill
	signatureEnd     = signatureAt + 2*signatureField
	chipIDSize       = 64
	turinChipIDSize  = 8
	platformInfoAt   = 0x40
	cpuidReservedEnd = 0x1A0
)

// SigningKey says which key of the chip signed a report (AMD 56860, SIGNING_KEY).
type SigningKey uint8

// The keys that sign reports.
const (
	SigningKeyVCEK SigningKey = 0 // derived from the chip and its firmware level
	SigningKeyVLEK SigningKey = 1 // loaded by a cloud provider, the same on many chips
	SigningKeyNone SigningKey = 7
)

func (k SigningKey) String() string {
	switch k {
	case SigningKeyVCEK:
		return "VCEK"
	case SigningKeyVLEK:
		return "VLEK"
	case SigningKeyNone:
		return "no key"
	}
	return fmt.Sprintf("key %d", uint8(k))
}

// SNPReport is an ATTESTATION_REPORT. Its fields are claims until VerifySignature has passed with
// the right certificate.
type SNPReport struct {
	Version         uint32
	GuestSVN        uint32
	Policy          uint64 // guest policy, as in AMD 56860
	FamilyID        []byte // 16 bytes
	ImageID         []byte // 16 bytes
	VMPL            uint32
	SignatureAlgo   uint32
	PlatformInfo    uint64
	SignerInfo      uint32
	SigningKey      SigningKey
	CurrentTCB      TCB
	ReportedTCB     TCB // the one that the VCEK was derived for
	CommittedTCB    TCB
	LaunchTCB       TCB
	ReportData      []byte // 64 bytes chosen by the guest
	Measurement     []byte // 48 bytes, launch digest
	HostData        []byte // 32 bytes
	IDKeyDigest     []byte // 48 bytes, SHA-384 of the key that signed the ID block
	AuthorKeyDigest []byte
	ReportID        []byte // 32 bytes
	ReportIDMA      []byte // 32 bytes
	ChipID          []byte // 64 bytes; on Turin the first 8 and zeros
	CPUID           [3]byte
	// ProductLine is "Milan", "Genoa" or "Turin" by the CPU's family and model, "unknown" for
	// others, and empty before version 3, which does not name them.
	ProductLine      string
	LaunchMitVector  uint64 // from version 5 on
	CurrentMitVector uint64

	raw []byte
}

// ParseSNPReport parses exactly one report of SNPReportSize bytes, signed by a VCEK, and refuses
// what [SNPReport.CheckStructure] refuses. b is not retained.
func ParseSNPReport(b []byte) (*SNPReport, error) {
	r, err := ReadSNPReport(b)
	if err != nil {
		return nil, err
	}
	if err := r.CheckStructure(StructureRules{}); err != nil {
		return nil, err
	}
	return r, nil
}

// ReadSNPReport reads the fields of SNPReportSize bytes, whatever is in them: for verifiers that
// report each step by itself. See ParseSNPReport for the whole.
func ReadSNPReport(b []byte) (*SNPReport, error) {
	if len(b) != SNPReportSize {
		return nil, fmt.Errorf("SNP report of %d bytes, want %d", len(b), SNPReportSize)
	}
	raw := bytes.Clone(b)
	le := binary.LittleEndian
	tcb := func(at int) TCB { return TCB(le.Uint64(raw[at:])) }
	r := &SNPReport{
		Version:          le.Uint32(raw),
		GuestSVN:         le.Uint32(raw[0x04:]),
		Policy:           le.Uint64(raw[0x08:]),
		FamilyID:         raw[0x10:0x20],
		ImageID:          raw[0x20:0x30],
		VMPL:             le.Uint32(raw[0x30:]),
		SignatureAlgo:    le.Uint32(raw[0x34:]),
		CurrentTCB:       tcb(0x38),
		PlatformInfo:     le.Uint64(raw[platformInfoAt:]),
		SignerInfo:       le.Uint32(raw[0x48:]),
		ReportData:       raw[0x50:0x90],
		Measurement:      raw[0x90:0xC0],
		HostData:         raw[0xC0:0xE0],
		IDKeyDigest:      raw[0xE0:0x110],
		AuthorKeyDigest:  raw[0x110:0x140],
		ReportID:         raw[0x140:0x160],
		ReportIDMA:       raw[0x160:0x180],
		ReportedTCB:      tcb(0x180),
		ChipID:           raw[0x1A0:0x1E0],
		CommittedTCB:     tcb(0x1E0),
		LaunchTCB:        tcb(0x1F0),
		LaunchMitVector:  le.Uint64(raw[0x1F8:]),
		CurrentMitVector: le.Uint64(raw[0x200:]),
		raw:              raw,
	}
	r.SigningKey = SigningKey(r.SignerInfo >> signerKeyShift & signerKeyMask)
	if r.Version >= cpuidReportVersion {
		r.CPUID = [3]byte(raw[0x188:0x18B])
		r.ProductLine = lineOfCPU(r.CPUID[0], r.CPUID[1])
	}
	return r, nil
}

// StructureRules allow deviations that CheckStructure refuses otherwise.
type StructureRules struct {
	// VLEK accepts reports that a VLEK signed.
	VLEK bool
	// PlatformInfo names bits of PLATFORM_INFO to accept although this version does not know them.
	PlatformInfo uint64
	// Line is the product line of the chip's certificate. It counts for reports of version 2, which
	// do not say what CPU they are from.
	Line string
}

// CheckStructure refuses a report that has anything in it whose meaning is not known here: another
// version, reserved bits and bytes, a signature of another kind.
func (r *SNPReport) CheckStructure(rules StructureRules) error {
	switch {
	case r.Version < minReportVersion || r.Version > maxReportVersion:
		return fmt.Errorf("SNP report version %d is not supported, want %d to %d", r.Version, minReportVersion, maxReportVersion)
	case r.SignatureAlgo != signatureECDSAP384:
		return fmt.Errorf("SNP report: signature algorithm %d, want %d (ECDSA P-384)", r.SignatureAlgo, signatureECDSAP384)
	case r.SignerInfo&^signerKnown != 0:
		return fmt.Errorf("SNP report: reserved bits of the signer information %#x", r.SignerInfo)
	case r.SigningKey != SigningKeyVCEK && (r.SigningKey != SigningKeyVLEK || !rules.VLEK):
		return fmt.Errorf("SNP report: signed by %v, want VCEK", r.SigningKey)
	case r.VMPL > maxVMPL:
		return fmt.Errorf("SNP report: VMPL %d does not exist", r.VMPL)
	case r.UnknownPolicyBits():
		return fmt.Errorf("SNP report: guest policy %#x has reserved bits that are wrong", r.Policy)
	case r.UnknownPlatformInfo()&^rules.PlatformInfo != 0:
		return fmt.Errorf("SNP report: reserved bits in platform info %#x", r.PlatformInfo)
	}
	for _, f := range reservedBytes {
		if r.Version >= f.first && r.Version <= f.last && !zero(r.raw[f.from:f.to]) {
			return fmt.Errorf("SNP report: reserved bytes from %#x to %#x are not zero", f.from, f.to)
		}
	}
	return r.checkTCBs(cmp.Or(r.ProductLine, rules.Line)) // what the report itself says comes first
}

// reserved is a range of bytes that reports of some versions must leave zero (AMD 56860, table
// "ATTESTATION_REPORT Structure").
type reserved struct {
	from, to    int
	first, last uint32
}

var reservedBytes = [...]reserved{
	{0x04C, 0x050, minReportVersion, maxReportVersion},
	{0x188, 0x18B, minReportVersion, cpuidReportVersion - 1},
	{0x18B, cpuidReservedEnd, minReportVersion, maxReportVersion},
	{0x1EB, 0x1EC, minReportVersion, maxReportVersion},
	{0x1EF, 0x1F0, minReportVersion, maxReportVersion},
	{0x1F8, 0x208, minReportVersion, mitigationReportVersion - 1},
	{0x208, signatureAt, minReportVersion, maxReportVersion},
	{signatureEnd, SNPReportSize, minReportVersion, maxReportVersion},
}

func (r *SNPReport) checkTCBs(line string) error {
	for _, level := range []struct {
		name string
		tcb  TCB
	}{{"current", r.CurrentTCB}, {"reported", r.ReportedTCB}, {"committed", r.CommittedTCB}, {"launch", r.LaunchTCB}} {
		if level.tcb.reserved(line) {
			return fmt.Errorf("SNP report: reserved bytes of the %s TCB %v are not zero", level.name, level.tcb)
		}
	}
	return nil
}

// UnknownPlatformInfo returns the bits of PLATFORM_INFO whose meaning is not known here.
func (r *SNPReport) UnknownPlatformInfo() uint64 { return r.PlatformInfo &^ knownPlatformInfo }

// UnknownPolicyBits reports whether the guest policy has bits whose meaning is not known here, or
// lacks the one that must be set.
func (r *SNPReport) UnknownPolicyBits() bool {
	return r.Policy&^policyKnown != 0 || r.Policy&policyMustBeOne == 0
}

// VerifySignature checks the report's signature with the public key of signer: ECDSA on P-384 with
// SHA-384 over everything before the signature. It says nothing about the chip that the certificate
// belongs to; see VerifySigner and CheckIdentity.
func (r *SNPReport) VerifySignature(signer *x509.Certificate) error {
	key, ok := signer.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P384() {
		return errors.New("the certificate's key is not on curve P-384")
	}
	scalars := make([]*big.Int, 0, 2)
	for at := signatureAt; at < signatureEnd; at += signatureField {
		field := r.raw[at : at+signatureField]
		if !zero(field[signatureScalar:]) {
			return fmt.Errorf("signature of the SNP report: a number of more than %d bytes", signatureScalar)
		}
		bigEndian := bytes.Clone(field[:signatureScalar])
		slices.Reverse(bigEndian)
		scalars = append(scalars, new(big.Int).SetBytes(bigEndian))
	}
	digest := sha512.Sum384(r.raw[:signatureAt])
	if !ecdsa.Verify(key, digest[:], scalars[0], scalars[1]) { // refuses numbers outside 1 to n-1
		return fmt.Errorf("signature of the SNP report does not verify with the %v", r.SigningKey)
	}
	return nil
}

// DebugAllowed reports whether the host may decrypt the guest's memory.
func (r *SNPReport) DebugAllowed() bool { return r.Policy&policyDebug != 0 }

// MigrationAllowed reports whether a migration agent may move the guest's memory to another
// machine.
func (r *SNPReport) MigrationAllowed() bool { return r.Policy&policyMigrateAgent != 0 }

// SMTAllowed reports whether the guest's cores may share hardware threads.
func (r *SNPReport) SMTAllowed() bool { return r.Policy&policySMT != 0 }

// SingleSocket reports whether the guest may run on one socket only.
func (r *SNPReport) SingleSocket() bool { return r.Policy&policySingleSocket != 0 }

// AuthorKeyUsed reports whether the ID key was itself signed, by the author key.
func (r *SNPReport) AuthorKeyUsed() bool { return r.SignerInfo&signerAuthorKey != 0 }

// ABIVersion is the lowest firmware ABI version under which the guest's owner lets it run, as
// major<<8 | minor.
func (r *SNPReport) ABIVersion() uint16 { return uint16(r.Policy & 0xffff) }

func zero(b []byte) bool { return !slices.ContainsFunc(b, func(c byte) bool { return c != 0 }) }
