package attest

import (
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"github.com/keyagent/keyagent/attest/hcl"
	"github.com/keyagent/keyagent/attest/tee"
	"github.com/keyagent/keyagent/internal/certs"
)

// Names of the checks of AMD SEV-SNP, in the order in which they are made.
const (
	CheckSNPStructure  = "snp.structure"
	CheckSNPChain      = "snp.chain"
	CheckSNPIdentity   = "snp.identity"
	CheckSNPSignature  = "snp.signature"
	CheckSNPPolicy     = "snp.policy"
	CheckSNPTCB        = "snp.tcb"
	CheckSNPLaunch     = "snp.launch"
	CheckSNPRevocation = "snp.revocation"
)

// SNPEvidence is what evidence has of AMD SEV-SNP.
type SNPEvidence struct {
	SNPReport []byte   // without the paravisor's wrapper; integers are little-endian
	VCEKChain [][]byte // DER, the VCEK (or VLEK) first; ASK and ARK, if sent, are ignored
}

type snpWireReport struct {
	SNPReport octets `json:"snp_report,omitempty"`
}

type snpWireEndorsements struct {
	VCEKChain []octets `json:"vcek_chain,omitempty"`
}

// SNPPolicy is what a verifier asks of AMD SEV-SNP.
type SNPPolicy struct {
	// Launch lists whose firmware may have made the report. Without an entry snp.launch is not
	// applicable: a genuine processor then vouches for the software of an unknown party.
	Launch Launch

	// MinTCB is the lowest acceptable reported TCB, compared by component; 0 asks for nothing.
	MinTCB tee.TCB
	// MinTCBOf, if not empty, has the lowest acceptable reported TCB of each product line
	// ("Milan"), on top of MinTCB: which component is which differs between them. A line that it
	// does not have is refused.
	MinTCBOf map[string]tee.TCB
	// MinABI is the lowest acceptable ABI version of the guest policy, as major<<8 | minor.
	MinABI uint16
	// PlatformInfo names bits of the report's PLATFORM_INFO that must be set; bit 5 is the alias
	// check against BadRAM.
	PlatformInfo uint64
	// AllowPlatformInfo names bits of PLATFORM_INFO to accept although this version does not know
	// what they say.
	AllowPlatformInfo uint64
	// RequireRevocationList refuses a chip of a product line for which there is no revocation list.
	RequireRevocationList bool
	// ForbidSMT refuses guests whose policy lets their cores share hardware threads. Azure's do.
	ForbidSMT bool
	// VLEKProviders names the cloud providers whose VLEK may sign reports, as AMD's certificate
	// spells them (cspID). A VLEK is one key on many chips: its holder can make reports of any of
	// them, and nothing says which chip it was. Empty, the default: only the chip's own VCEK.
	VLEKProviders []string
}

// Launch identifies Azure's paravisor in an SNP report.
type Launch struct {
	IDKeyDigests [][]byte // SHA-384 of the key that signed the ID block, 48 bytes each
	MinGuestSVN  uint32   // goes with an id_key_digest
	Measurements [][]byte // launch digests, 48 bytes each; need no id_key_digest
}

// SNPFacts are the facts in an SNP report and in its endorsements.
type SNPFacts struct {
	SNP         *tee.SNPReport
	Endorsement *tee.Endorsement // what AMD's certificate says of the key that signed the report
	Product     string           // AMD product line of the root that the chain ended in
}

// AMDRoot is AMD's certificate pair for one product line.
type AMDRoot = tee.AMDRoot

// ParseAMDRoots reads ASK and ARK certificates from PEM; see [tee.ParseAMDRoots].
func ParseAMDRoots(data []byte) ([]AMDRoot, error) { return tee.ParseAMDRoots(data) }

// AzureIDKeyDigests returns the digests of the ID keys under which Azure's paravisor has been seen
// to launch, 2022 to 2026. Microsoft publishes no list and changes the key about once a year: an
// operator adds new ones to the policy. The key of a test service that was seen in 2022 is left out
// on purpose.
func AzureIDKeyDigests() [][]byte {
	var digests [][]byte
	for _, s := range []string{
		"0356215882a825279a85b300b0b742931d113bf7e32dde2e50ffde7ec743ca491ecdd7f336dc28a6e0b2bb57af7a44a3", // 2023 to 2025
		"942fd93ebde6ea7a96efadeafc60f1c6b3d10e703b1dafd7555b92f7f3d32d0e006767648cba5b102af3d65756af4177", // 2025 to 2026, Milan and Genoa
		"934f68bd8ba01938eec21475c872e3a942b60c59fafc6df9e9a76ee66bc47f2d09c676f61c0315c578da26085fb13a71", // 2023
	} {
		b, err := hex.DecodeString(s)
		if err != nil {
			panic("attest: built-in ID key digest: " + err.Error()) // impossible: a test decodes them
		}
		digests = append(digests, b)
	}
	return digests
}

// snp is AMD SEV-SNP: a report that the chip's key VCEK signs, or a provider's VLEK, and AMD's
// certificates for that key.
type snp struct{}

func (snp) unwrapped(e *Evidence) *hcl.Report {
	if e.SNPReport == nil {
		return nil
	}
	return &hcl.Report{
		Type: hcl.TypeSNP, HashType: hcl.HashSHA256,
		Hardware: e.SNPReport, Claims: e.RuntimeClaims,
	}
}

func (snp) validate(e *Evidence) error {
	if e.SNPReport != nil && len(e.SNPReport) != tee.SNPReportSize {
		return fmt.Errorf("SNP report of %d bytes, want %d", len(e.SNPReport), tee.SNPReportSize)
	}
	return checkCertificates(e.VCEKChain)
}

func (snp) encode(e *Evidence, w *wire) {
	w.SNPReport, w.VCEKChain = e.SNPReport, toOctets(e.VCEKChain)
}

func (snp) decode(w *wire, e *Evidence) {
	e.SNPReport, e.VCEKChain = w.SNPReport, fromOctets(w.VCEKChain)
}

func (snp) addAnchors(a *TrustAnchors) { a.AMD = tee.DefaultAMDRoots() }

func (snp) addPolicy(p *Policy) {
	p.Required = append(p.Required, CheckSNPLaunch)
	p.Launch = Launch{IDKeyDigests: AzureIDKeyDigests()}
}

func (snp) prefix() string      { return "snp" }
func (snp) of(v *verifier) bool { return v.isOf(hcl.TypeSNP) }

// vouches names the checks which prove that a genuine processor, at an acceptable firmware level
// and with the host kept out of the guest, signed the hash of the claims.
func (snp) vouches() []string {
	return append(snpClosed(), CheckHCLBinding, CheckHCLClaims)
}

// snpGenuine names the checks which prove that AMD's processor made the report.
func snpGenuine() []string {
	return []string{CheckSNPStructure, CheckSNPChain, CheckSNPIdentity, CheckSNPSignature}
}

// snpClosed names the checks which also prove that the host has no access to the guest's memory.
func snpClosed() []string { return append(snpGenuine(), CheckSNPPolicy, CheckSNPTCB) }

func (snp) join(v *verifier) share {
	s := &snpShare{v: v}
	amd := func() string { return "AMD root " + s.root.ARK.Subject.CommonName }
	launch := func() string { return "launch identity in the verifier's policy" }
	return share{
		rows: []step{
			{CheckSNPStructure, s.structure},
			{CheckSNPChain, s.chain},
			{CheckSNPIdentity, s.identity},
			{CheckSNPSignature, s.signature},
			{CheckSNPPolicy, s.guestPolicy},
			{CheckSNPTCB, s.tcb},
			{CheckSNPLaunch, s.launch},
			{CheckSNPRevocation, s.revocation},
		},
		claims: []claim{
			{"hardware is a genuine AMD SEV-SNP processor", snpGenuine(), amd},
			{"the host cannot read or migrate the guest's memory", snpClosed(), amd},
			{"the firmware is Azure's paravisor", append(snpGenuine(), CheckSNPLaunch), launch},
		},
	}
}

// snpShare carries what earlier checks have parsed to later ones. A nil field was not there or
// could not be read.
type snpShare struct {
	v *verifier

	report  *tee.SNPReport
	vcek    *x509.Certificate // or VLEK
	vcekErr error
	root    *tee.AMDRoot
}

// structure reads the report, and the certificate of the key that signed it: a report of version 2
// has a layout that only the certificate names. Fields that can be read go to the checks that
// follow even if this one fails: each check stands for itself.
func (s *snpShare) structure() error {
	if err := s.v.needReport(); err != nil {
		return err
	}
	switch other := s.v.report.Type != hcl.TypeSNP; {
	case other && len(s.v.e.VCEKChain) > 0:
		return errors.New("there is a VCEK beside the report of other hardware")
	case other:
		return absent("the hardware is not AMD SEV-SNP")
	}
	s.readSigner()
	report, err := tee.ReadSNPReport(s.v.report.Hardware)
	if err != nil {
		return err
	}
	s.report, s.v.result.SNP = report, report
	rules := tee.StructureRules{VLEK: len(s.v.policy.VLEKProviders) > 0, PlatformInfo: s.v.policy.AllowPlatformInfo}
	if s.v.result.Endorsement != nil {
		rules.Line = s.v.result.Endorsement.Line()
	}
	return report.CheckStructure(rules)
}

func (s *snpShare) readSigner() {
	if len(s.v.e.VCEKChain) == 0 {
		return
	}
	if s.vcek, s.vcekErr = certs.Parse(s.v.e.VCEKChain[0]); s.vcekErr != nil {
		return
	}
	if e, err := tee.ParseEndorsement(s.vcek); err == nil {
		s.v.result.Endorsement = e
	}
}

// needSNP is the condition of checks that read the report.
func (s *snpShare) needSNP() error {
	if s.report == nil {
		return absent("no readable SNP report")
	}
	return nil
}

// needVCEK is needSNP for checks that also need the chip's certificate. It does not ask whether the
// certificate's chain holds: each check stands for itself.
func (s *snpShare) needVCEK() error {
	if s.vcek == nil {
		return absent("no readable VCEK certificate")
	}
	return s.needSNP()
}

func (s *snpShare) chain() error {
	switch {
	case !s.v.isOf(hcl.TypeSNP):
		return s.needSNP()
	case len(s.v.e.VCEKChain) == 0:
		return absent("no VCEK certificate")
	case s.vcekErr != nil:
		return fmt.Errorf("VCEK: %w", s.vcekErr)
	}
	root, err := tee.VerifySigner(s.vcek, s.v.anchors.AMD, s.v.now)
	s.root = root
	if err != nil {
		return err
	}
	s.v.result.Product = root.Product
	s.v.result.addChain(CheckSNPChain, s.vcek, root.IssuerOf(s.vcek), root.ARK)
	return nil
}

func (s *snpShare) identity() error {
	if err := s.needVCEK(); err != nil {
		return err
	}
	return tee.CheckIdentity(s.report, s.vcek, s.root, s.v.policy.VLEKProviders...)
}

func (s *snpShare) signature() error {
	if err := s.needVCEK(); err != nil {
		return err
	}
	return s.report.VerifySignature(s.vcek)
}

func (s *snpShare) guestPolicy() error {
	if err := s.needSNP(); err != nil {
		return err
	}
	r := s.report
	switch {
	case r.UnknownPolicyBits():
		return fmt.Errorf("the guest policy %#x has bits of unknown meaning", r.Policy)
	case r.DebugAllowed():
		return errors.New("the guest policy lets the host debug the guest")
	case r.MigrationAllowed():
		return errors.New("the guest policy lets a migration agent take the guest")
	case r.VMPL != 0:
		return fmt.Errorf("the report was requested at VMPL %d, want 0 (the paravisor's)", r.VMPL)
	case r.ABIVersion() < s.v.policy.MinABI:
		return fmt.Errorf("ABI version %s, want at least %s", abi(r.ABIVersion()), abi(s.v.policy.MinABI))
	case s.v.policy.ForbidSMT && r.SMTAllowed():
		return errors.New("the guest policy allows SMT")
	case r.UnknownPlatformInfo()&^s.v.policy.AllowPlatformInfo != 0:
		return fmt.Errorf("platform info %#x has bits of unknown meaning, which the policy does not accept", r.PlatformInfo)
	case r.PlatformInfo&s.v.policy.PlatformInfo != s.v.policy.PlatformInfo:
		return fmt.Errorf("platform info %#x lacks bits of %#x", r.PlatformInfo, s.v.policy.PlatformInfo)
	}
	return nil
}

func abi(version uint16) string { return fmt.Sprintf("%d.%d", version>>8, version&0xff) }

// tcb requires the order that AMD's firmware keeps, reported ≤ committed ≤ current, and for the
// policy's minimum. Equality is not required: genuine Azure hosts run ahead of the level that they
// report.
func (s *snpShare) tcb() error {
	if err := s.needSNP(); err != nil {
		return err
	}
	r := s.report
	if !r.CommittedTCB.AtLeast(r.ReportedTCB) || !r.CurrentTCB.AtLeast(r.CommittedTCB) {
		return fmt.Errorf("TCB levels are out of order: reported %v, committed %v, current %v", r.ReportedTCB, r.CommittedTCB, r.CurrentTCB)
	}
	if !r.ReportedTCB.AtLeast(s.v.policy.MinTCB) {
		return fmt.Errorf("reported TCB %v is below the minimum %v", r.ReportedTCB, s.v.policy.MinTCB)
	}
	return s.tcbOfLine(r.ReportedTCB)
}

// tcbOfLine holds the level to the minimum of its product line, which the chip's certificate names.
func (s *snpShare) tcbOfLine(reported tee.TCB) error {
	if len(s.v.policy.MinTCBOf) == 0 {
		return nil
	}
	if s.root == nil {
		return absent("the product line is not known: no trusted certificate names it")
	}
	low, listed := s.v.policy.MinTCBOf[s.root.Product]
	if !listed {
		return fmt.Errorf("the policy has no minimum TCB for %s", s.root.Product)
	}
	if !reported.AtLeast(low) {
		return fmt.Errorf("reported TCB %v is below the minimum %v for %s", reported, low, s.root.Product)
	}
	return nil
}

// launch distinguishes Azure's paravisor from other firmware on a genuine chip.
func (s *snpShare) launch() error {
	want := s.v.policy.Launch
	if len(want.IDKeyDigests) == 0 && len(want.Measurements) == 0 {
		return absent("the policy lists no launch identities")
	}
	if err := s.needSNP(); err != nil {
		return err
	}
	if contains(want.Measurements, s.report.Measurement) {
		return nil
	}
	if !slices.ContainsFunc(s.report.IDKeyDigest, func(b byte) bool { return b != 0 }) {
		// Every guest that was launched without an ID block has this digest, whatever a list says.
		return fmt.Errorf("firmware of an unknown party: no ID key signed it, measurement %x", s.report.Measurement)
	}
	if !contains(want.IDKeyDigests, s.report.IDKeyDigest) {
		return fmt.Errorf("firmware of an unknown party: id_key_digest %x, measurement %x", s.report.IDKeyDigest, s.report.Measurement)
	}
	if s.report.GuestSVN < want.MinGuestSVN {
		return fmt.Errorf("guest SVN %d, want at least %d", s.report.GuestSVN, want.MinGuestSVN)
	}
	return nil
}

func (s *snpShare) revocation() error {
	if s.root == nil || s.vcek == nil {
		return absent("no chain of certificates")
	}
	if s.root.CRL == nil && s.v.policy.RequireRevocationList {
		return fmt.Errorf("the verifier has no revocation list for %s", s.root.Product)
	}
	if s.root.CRL == nil {
		return absent("no revocation list")
	}
	return tee.CheckRevocation(s.vcek, s.root, s.v.now)
}
