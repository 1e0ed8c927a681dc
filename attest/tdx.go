package attest

import (
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"github.com/keyagent/keyagent/attest/hcl"
	"github.com/keyagent/keyagent/attest/tee"
)

// Names of the checks of Intel TDX, in the order in which they are made.
const (
	CheckTDXStructure  = "tdx.structure"
	CheckTDXReport     = "tdx.report"
	CheckTDXChain      = "tdx.chain"
	CheckTDXQE         = "tdx.qe"
	CheckTDXSignature  = "tdx.signature"
	CheckTDXCollateral = "tdx.collateral"
	CheckTDXTCB        = "tdx.tcb"
	CheckTDXPolicy     = "tdx.policy"
	CheckTDXLaunch     = "tdx.launch"
)

// TDXEvidence is what evidence has of Intel TDX. The TDREPORT is in the HCL report; evidence whose
// wrapper is lost has the quote and RuntimeClaims alone. A verifier may have collateral of its own,
// see [TDXPolicy].
type TDXEvidence struct {
	TDQuote       []byte // as the host returned it; integers are little-endian
	TDXCollateral *TDXCollateral
}

// TDXCollateral is what Intel says about the platform's firmware, in the bytes that Intel signed.
type TDXCollateral = tee.TDXCollateral

type tdxWireReport struct {
	TDQuote octets `json:"td_quote,omitempty"`
}

type tdxWireEndorsements struct {
	TDXCollateral *tdxWireCollateral `json:"tdx_collateral,omitempty"`
}

type tdxWireCollateral struct {
	TCBInfo             octets `json:"tcb_info,omitempty"`
	TCBInfoSignature    octets `json:"tcb_info_signature,omitempty"`
	TCBInfoChain        octets `json:"tcb_info_chain,omitempty"`
	QEIdentity          octets `json:"qe_identity,omitempty"`
	QEIdentitySignature octets `json:"qe_identity_signature,omitempty"`
	QEIdentityChain     octets `json:"qe_identity_chain,omitempty"`
	RootCACRL           octets `json:"root_ca_crl,omitempty"`
	PCKCRL              octets `json:"pck_crl,omitempty"`
	PCKCRLChain         octets `json:"pck_crl_chain,omitempty"`
}

// TDXPolicy is what a verifier asks of Intel TDX. Its zero value asks for collateral, for the
// status UpToDate and for what Azure's guests have; it lists no launch identities.
type TDXPolicy struct {
	// CollateralNotRequired takes evidence without Intel's collateral. Nothing then shows that the
	// platform's firmware is in order, or that its key was not revoked. Collateral that is there
	// must be right all the same.
	CollateralNotRequired bool
	// Collateral is the verifier's own, one for each kind of platform (FMSPC). If there is any,
	// that of the evidence is not looked at: a sender of evidence could choose an older review
	// of Intel's that is still valid. A platform of another kind then has none.
	Collateral []*TDXCollateral
	// AcceptedStatuses are TCB statuses to take beside UpToDate. Revoked is refused even if listed.
	AcceptedStatuses []tee.TCBStatus
	// MinTCBEvaluationNumber is the lowest tcbEvaluationDataNumber of the collateral to take. With
	// 0, collateral of an earlier review counts for as long as Intel made it valid.
	MinTCBEvaluationNumber uint32
	// TCBExceptions take single components of single kinds of platforms for good enough.
	TCBExceptions []tee.TCBException

	// MRTDs lists the firmware images that may have been launched, 48 bytes each. Without an entry
	// tdx.launch is not applicable: a genuine processor then vouches for the software of an unknown
	// party.
	MRTDs [][]byte
	// TDAttributes and XFAM name bits that a guest may have beside those that Azure's have. The
	// debug bits (7 to 0) of the attributes are refused even if named.
	TDAttributes uint64
	XFAM         uint64
	// RequiredAttributes are bits of TD_ATTRIBUTES (Intel TDX Module ABI, "ATTRIBUTES") that must
	// be set, and so may be. Bit 28, SEPT_VE_DISABLE, keeps the host from causing exceptions in the
	// guest; genuine Azure hosts of 2023 and 2024 do not set it.
	RequiredAttributes uint64
	// MRConfigIDs, MROwners and MROwnerConfigs list the values to take, 48 bytes each. Without an
	// entry the value must be zero, as on Azure.
	MRConfigIDs    [][]byte
	MROwners       [][]byte
	MROwnerConfigs [][]byte
}

// azureXFAM are the extended features that Azure's guests have: those of FP, SSE, AVX, AVX-512,
// PKRU and AMX.
const azureXFAM = 0x618e7

// waived names the checks of the floor that the policy does without.
func (p TDXPolicy) waived() []string {
	if p.CollateralNotRequired {
		return []string{CheckTDXCollateral, CheckTDXTCB}
	}
	return nil
}

// TDXFacts are what was read from a TD quote and from its collateral.
type TDXFacts struct {
	TDX *tee.TDQuote
	PCK *tee.PCK
	// TCB is the firmware level of the platform, even if it is not acceptable; nil without
	// collateral.
	TCB *tee.TCBResult
}

// AzureMRTDs returns the measurements of Azure's paravisor that have been seen, 2023 to 2026. They
// change with its releases, and Microsoft publishes no list that is signed for good: an operator
// adds new ones to the policy. That of a test service is left out on purpose.
func AzureMRTDs() [][]byte {
	var list [][]byte
	for _, s := range []string{
		"024a32b070383331181619fa387cb4d55d1e38879f989933055ccad5bc2db795d1737b66205949d15469dc8c1ba7ab7b", // 2023 to 2024
		"888b31b57a1cad6a358ce8c6a08f40198fa171596e01f70d5f360ee4798150983e55d2f89d804c3bfec06a44220c91b2", // 2025
		"273828c46252fcbdd8ad2dd907130222b03466d52a2911d70c1a5950895d6bd1ae451d382d5a9b1b4c0ed0e5ae9a3dbd", // 2026
		"ff450b138c5ee6734a43dc35afb437abfa24ef743bc9e9484ef4af365fcd89a6c50913248ed7fcb92a7d42b1ba7da984", // 2026
	} {
		b, err := hex.DecodeString(s)
		if err != nil {
			panic("attest: built-in MRTD: " + err.Error()) // impossible: a test decodes them
		}
		list = append(list, b)
	}
	return list
}

// tdx is Intel TDX: a quote that a quoting enclave signs, for whose key the platform's PCK vouches,
// and Intel's word on the platform's firmware.
type tdx struct{}

// unwrapped is for evidence that has the quote without the paravisor's wrapper, and so without a
// TDREPORT: the claims are then held against the quote itself.
func (tdx) unwrapped(e *Evidence) *hcl.Report {
	if e.TDQuote == nil || e.HCLReport != nil {
		return nil
	}
	r := &hcl.Report{
		Type: hcl.TypeTDX, HashType: hcl.HashSHA256,
		Hardware: e.TDQuote, Claims: e.RuntimeClaims, ReportData: []byte{},
	}
	if quote, err := tee.ParseTDQuote(e.TDQuote); err == nil {
		r.ReportData = quote.ReportData
	}
	return r
}

func (tdx) validate(e *Evidence) error {
	if len(e.TDQuote) > tee.MaxTDQuoteSize {
		return fmt.Errorf("TD quote of %d bytes, want at most %d", len(e.TDQuote), tee.MaxTDQuoteSize)
	}
	if e.TDQuote != nil && e.SNPReport != nil {
		return errors.New("hardware reports of two platforms")
	}
	if e.TDXCollateral == nil {
		return nil
	}
	return e.TDXCollateral.CheckSizes()
}

func (tdx) encode(e *Evidence, w *wire) {
	w.TDQuote = e.TDQuote
	if c := e.TDXCollateral; c != nil {
		w.TDXCollateral = &tdxWireCollateral{
			TCBInfo: c.TCBInfo, TCBInfoSignature: c.TCBInfoSignature, TCBInfoChain: c.TCBInfoChain,
			QEIdentity: c.QEIdentity, QEIdentitySignature: c.QEIdentitySignature, QEIdentityChain: c.QEIdentityChain,
			RootCACRL: c.RootCACRL, PCKCRL: c.PCKCRL, PCKCRLChain: c.PCKCRLChain,
		}
	}
}

func (tdx) decode(w *wire, e *Evidence) {
	e.TDQuote = w.TDQuote
	if c := w.TDXCollateral; c != nil {
		e.TDXCollateral = &TDXCollateral{
			TCBInfo: c.TCBInfo, TCBInfoSignature: c.TCBInfoSignature, TCBInfoChain: c.TCBInfoChain,
			QEIdentity: c.QEIdentity, QEIdentitySignature: c.QEIdentitySignature, QEIdentityChain: c.QEIdentityChain,
			RootCACRL: c.RootCACRL, PCKCRL: c.PCKCRL, PCKCRLChain: c.PCKCRLChain,
		}
	}
}

func (tdx) addAnchors(a *TrustAnchors) { a.Intel = tee.DefaultIntelRoots() }

func (tdx) addPolicy(p *Policy) {
	p.Required = append(p.Required, CheckTDXLaunch)
	p.MRTDs = AzureMRTDs()
}

func (tdx) prefix() string { return "tdx" }

func (tdx) of(v *verifier) bool {
	quoteAlone := v.report == nil && v.e.HCLReport == nil && v.e.TDQuote != nil
	return v.isOf(hcl.TypeTDX) || quoteAlone
}

// vouches names the checks which prove that a genuine processor, at an acceptable firmware level
// and with the host kept out of the guest, signed the hash of the claims.
func (tdx) vouches() []string {
	return append(tdxGenuine(), CheckTDXPolicy, CheckTDXCollateral, CheckTDXTCB, CheckHCLBinding, CheckHCLClaims)
}

// tdxGenuine names the checks which prove that Intel's processor made the report.
func tdxGenuine() []string {
	return []string{CheckTDXStructure, CheckTDXReport, CheckTDXChain, CheckTDXQE, CheckTDXSignature}
}

func (t tdx) join(v *verifier) share {
	s := &tdxShare{v: v, of: func() bool { return t.of(v) }}
	intel := func() string { return "Intel SGX Root CA" }
	launch := func() string { return "launch identity in the verifier's policy" }
	return share{
		rows: []step{
			{CheckTDXStructure, s.structure},
			{CheckTDXReport, s.report},
			{CheckTDXChain, s.chain},
			{CheckTDXQE, s.qe},
			{CheckTDXSignature, s.signature},
			{CheckTDXCollateral, s.collateral},
			{CheckTDXTCB, s.tcb},
			{CheckTDXPolicy, s.guestPolicy},
			{CheckTDXLaunch, s.launch},
		},
		claims: []claim{
			{"hardware is a genuine Intel TDX processor", tdxGenuine(), intel},
			{"the host cannot read or debug the guest's memory", append(tdxGenuine(), CheckTDXPolicy), intel},
			{"the processor's firmware is at a TCB level that the verifier accepts", append(tdxGenuine(), CheckTDXCollateral, CheckTDXTCB), s.tcbAnchor},
			{"the firmware is Azure's paravisor", append(tdxGenuine(), CheckTDXLaunch), launch},
		},
	}
}

// listedOrZero says whether the value is listed or, without a list, zero.
func listedOrZero(list [][]byte, value []byte) bool {
	if len(list) == 0 {
		return !slices.ContainsFunc(value, func(b byte) bool { return b != 0 })
	}
	return contains(list, value)
}
