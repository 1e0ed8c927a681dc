package tee

import (
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/google/go-sev-guest/abi"
	"github.com/google/go-sev-guest/kds"
	spb "github.com/google/go-sev-guest/proto/sevsnp"
)

// SNPReportSize is the size of an ATTESTATION_REPORT in bytes.
const SNPReportSize = abi.ReportSize

// The bits of the guest policy that give the host access to the guest (AMD 56860, "Guest Policy").
const (
	policySMT           = 1 << 16
	policyMigrateAgent  = 1 << 18
	policyDebug         = 1 << 19
	signatureECDSAP384  = 1
	minReportVersion    = 2
	maxReportVersion    = 5
	cpuidReportVersion  = 3 // from this version on the report names the CPU family and model
	signingKeyVCEK      = abi.VcekReportSigner
	signedComponentSize = 0x2A0
)

// SNPReport is a parsed ATTESTATION_REPORT. Its fields are claims until VerifySignature has passed
// with the right VCEK.
type SNPReport struct {
	Version         uint32
	GuestSVN        uint32
	Policy          uint64 // guest policy, as in AMD 56860
	VMPL            uint32
	PlatformInfo    uint64
	CurrentTCB      TCB
	ReportedTCB     TCB // the one that the VCEK was derived for
	CommittedTCB    TCB
	LaunchTCB       TCB
	ReportData      []byte // 64 bytes chosen by the guest
	Measurement     []byte // 48 bytes, launch digest
	IDKeyDigest     []byte // 48 bytes, SHA-384 of the key that signed the ID block
	AuthorKeyDigest []byte
	ChipID          []byte // 64 bytes
	ProductLine     string // "Milan", "Genoa", by the CPU's family and model; empty before version 3

	raw []byte
}

// ParseSNPReport parses exactly one report of SNPReportSize bytes. b is not retained.
func ParseSNPReport(b []byte) (*SNPReport, error) {
	if len(b) != SNPReportSize {
		return nil, fmt.Errorf("SNP report of %d bytes, want %d", len(b), SNPReportSize)
	}
	p, err := abi.ReportToProto(b)
	if err != nil {
		return nil, fmt.Errorf("SNP report: %w", err)
	}
	if p.GetVersion() < minReportVersion || p.GetVersion() > maxReportVersion {
		return nil, fmt.Errorf("SNP report version %d is not supported, want %d to %d", p.GetVersion(), minReportVersion, maxReportVersion)
	}
	if p.GetSignatureAlgo() != signatureECDSAP384 {
		return nil, fmt.Errorf("SNP report: signature algorithm %d, want %d (ECDSA P-384)", p.GetSignatureAlgo(), signatureECDSAP384)
	}
	signer, err := abi.ParseSignerInfo(p.GetSignerInfo())
	if err != nil {
		return nil, fmt.Errorf("SNP report: %w", err)
	}
	if signer.SigningKey != signingKeyVCEK {
		return nil, fmt.Errorf("SNP report: signed by %v, want VCEK", signer.SigningKey)
	}
	return snpReport(p, b), nil
}

func snpReport(p *spb.Report, raw []byte) *SNPReport {
	r := &SNPReport{
		Version:         p.GetVersion(),
		GuestSVN:        p.GetGuestSvn(),
		Policy:          p.GetPolicy(),
		VMPL:            p.GetVmpl(),
		PlatformInfo:    p.GetPlatformInfo(),
		CurrentTCB:      TCB(p.GetCurrentTcb()),
		ReportedTCB:     TCB(p.GetReportedTcb()),
		CommittedTCB:    TCB(p.GetCommittedTcb()),
		LaunchTCB:       TCB(p.GetLaunchTcb()),
		ReportData:      p.GetReportData(),
		Measurement:     p.GetMeasurement(),
		IDKeyDigest:     p.GetIdKeyDigest(),
		AuthorKeyDigest: p.GetAuthorKeyDigest(),
		ChipID:          p.GetChipId(),
		raw:             append([]byte(nil), raw...),
	}
	if r.Version >= cpuidReportVersion {
		r.ProductLine = kds.ProductLineFromFms(p.GetCpuid1EaxFms())
	}
	return r
}

// VerifySignature checks the report's signature with the public key of vcek: ECDSA on P-384 with
// SHA-384 over everything before the signature. It says nothing about the chip that vcek belongs
// to; see VerifyVCEK and CheckIdentity.
func (r *SNPReport) VerifySignature(vcek *x509.Certificate) error {
	der, err := abi.ReportToSignatureDER(r.raw)
	if err != nil {
		return fmt.Errorf("SNP report: %w", err)
	}
	if err := vcek.CheckSignature(x509.ECDSAWithSHA384, r.raw[:signedComponentSize], der); err != nil {
		return errors.New("signature of the SNP report does not verify with the VCEK")
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

// ABIVersion is the lowest firmware ABI version under which the guest's owner lets it run, as
// major<<8 | minor.
func (r *SNPReport) ABIVersion() uint16 { return uint16(r.Policy & 0xffff) }
