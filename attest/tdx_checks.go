package attest

import (
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/keyagent/keyagent/attest/tee"
)

// tdxShare carries what earlier checks have parsed to later ones. A nil field was not there or
// could not be read.
type tdxShare struct {
	v  *verifier
	of func() bool

	quote *tee.TDQuote
	certs []*x509.Certificate // PCK certificate, its CA, root
	pck   *tee.PCK
	intel *intelSays
}

// intelSays is the collateral as far as it could be read. It is proven by tdx.collateral only.
type intelSays struct {
	info    *tee.TCBInfo
	infoErr error
	qe      *tee.QEIdentity
	qeErr   error
}

func (s *tdxShare) structure() error {
	e := s.v.e
	switch {
	case e.HCLReport != nil && s.v.report == nil:
		return absent("the HCL report could not be read")
	case s.elsewhere() && e.TDQuote != nil:
		return errors.New("there is a TD quote beside the report of other hardware")
	case !s.of():
		return absent("the hardware is not Intel TDX")
	case e.TDQuote == nil:
		return absent("no TD quote; a TDREPORT alone can only be checked by the processor that made it")
	}
	quote, err := tee.ParseTDQuote(e.TDQuote)
	if err != nil {
		return err
	}
	s.quote, s.v.result.TDX = quote, quote
	return nil
}

// elsewhere says that the evidence is about other hardware than Intel TDX.
func (s *tdxShare) elsewhere() bool { return s.v.report != nil && !s.of() }

// needQuote is the condition of checks that read the quote.
func (s *tdxShare) needQuote() error {
	if s.quote == nil {
		return absent("no readable TD quote")
	}
	return nil
}

// needPCK is needQuote for checks that also need the platform's certificate. It does not ask
// whether the certificate's chain holds: each check stands for itself.
func (s *tdxShare) needPCK() error {
	if s.pck == nil {
		return absent("no readable PCK certificate")
	}
	return s.needQuote()
}

// report compares the TDREPORT, which the claims are held against, with the quote, which is signed.
// Evidence without the wrapper has no TDREPORT: its claims are held against the quote.
func (s *tdxShare) report() error {
	if err := s.needQuote(); err != nil {
		return err
	}
	if s.v.report == nil {
		return absent("no TDREPORT, and no claims that the quote could be about")
	}
	if s.v.e.HCLReport == nil {
		return nil
	}
	report, err := tee.ParseTDReport(s.v.report.Hardware)
	if err != nil {
		return err
	}
	return report.Matches(s.quote)
}

func (s *tdxShare) chain() error {
	if err := s.needQuote(); err != nil {
		return err
	}
	chain, err := tee.ParseChain(s.quote.PCKChain)
	if err != nil {
		return err
	}
	pck, err := tee.ParsePCK(chain[0])
	if err != nil {
		return err
	}
	s.certs, s.pck, s.v.result.PCK = chain, pck, pck
	if err := tee.VerifyPCKChain(chain, s.v.anchors.Intel, s.v.now); err != nil {
		return err
	}
	s.v.result.addChain(CheckTDXChain, chain...)
	return nil
}

// qe checks that Intel's quoting enclave holds the attestation key. Which enclave is Intel's, the
// collateral says; without it, what is built in.
func (s *tdxShare) qe() error {
	if err := s.needPCK(); err != nil {
		return err
	}
	if err := s.quote.VerifyQE(s.pck.Key); err != nil {
		return err
	}
	identity := tee.DefaultQEIdentity()
	if intel := s.says(); intel != nil {
		if intel.qe == nil {
			return absent("the QE identity could not be read")
		}
		identity = intel.qe
	}
	return s.quote.CheckQE(identity)
}

func (s *tdxShare) signature() error {
	if err := s.needQuote(); err != nil {
		return err
	}
	return s.quote.VerifySignature()
}

// collateralInForce is the verifier's own for this kind of platform if the verifier has any, and
// else that of the evidence; nil: there is none.
func (s *tdxShare) collateralInForce() *TDXCollateral {
	own := s.v.policy.Collateral
	if len(own) == 0 {
		return s.v.e.TDXCollateral
	}
	for _, c := range own {
		info, err := tee.ParseTCBInfo(c.TCBInfo)
		if err == nil && s.pck != nil && info.FMSPC == s.pck.FMSPC {
			return c
		}
	}
	return nil
}

// says returns the collateral, read once; nil if there is none.
func (s *tdxShare) says() *intelSays {
	if s.intel != nil {
		return s.intel
	}
	c := s.collateralInForce()
	if s.intel == nil && c != nil {
		s.intel = &intelSays{}
		s.intel.info, s.intel.infoErr = tee.ParseTCBInfo(c.TCBInfo)
		s.intel.qe, s.intel.qeErr = tee.ParseQEIdentity(c.QEIdentity)
	}
	return s.intel
}

func (s *tdxShare) collateral() error {
	c, intel := s.collateralInForce(), s.says()
	switch {
	case s.v.e.TDXCollateral != nil && s.elsewhere():
		return errors.New("there is collateral of Intel TDX beside the report of other hardware")
	case c == nil && s.of() && len(s.v.policy.Collateral) > 0 && s.pck != nil:
		return absent(fmt.Sprintf("the verifier's own collateral has none for platforms of FMSPC %x", s.pck.FMSPC))
	case c == nil && s.of():
		return absent("no collateral")
	}
	if err := s.needPCK(); err != nil {
		return err
	}
	if err := errors.Join(intel.infoErr, intel.qeErr); err != nil {
		return err
	}
	return c.Verify(intel.info, intel.qe, tee.CollateralUse{
		Roots: s.v.anchors.Intel, Time: s.v.now,
		PCKChain: s.certs, PCK: s.pck,
		MinEvaluationNumber: s.v.policy.MinTCBEvaluationNumber,
	})
}

func (s *tdxShare) tcb() error {
	if err := s.needPCK(); err != nil {
		return err
	}
	intel := s.says()
	if intel == nil {
		return absent("no collateral: Intel's word on the platform's firmware is missing")
	}
	if intel.info == nil || intel.qe == nil {
		return absent("the collateral could not be read")
	}
	level, err := intel.info.Evaluate(tee.Platform{PCK: s.pck, Quote: s.quote, QE: intel.qe, Exceptions: s.v.policy.TCBExceptions})
	if err != nil {
		return err
	}
	s.v.result.TCB = level
	if level.Status == tee.UpToDate || level.Status != tee.Revoked && slices.Contains(s.v.policy.AcceptedStatuses, level.Status) {
		return nil
	}
	return fmt.Errorf("TCB status %s (platform %s, TDX module %s, quoting enclave %s), level of %s%s", level.Status,
		level.Platform, level.Module, level.QE, level.Date.Format("2006-01-02"), advisories(level.Advisories))
}

func advisories(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return "; see " + strings.Join(list, ", ")
}

// tcbAnchor says what a claim about the firmware rests on, exceptions included.
func (s *tdxShare) tcbAnchor() string {
	anchor := "Intel SGX Root CA"
	if level := s.v.result.TCB; level != nil && len(level.Exceptions) > 0 {
		anchor += ", and exceptions in the verifier's policy: " + strings.Join(level.Exceptions, "; ")
	}
	return anchor
}

func (s *tdxShare) guestPolicy() error {
	if err := s.needQuote(); err != nil {
		return err
	}
	q, p := s.quote, s.v.policy
	allowed := uint64(tee.TDAttributeSEPTDisabled) | p.TDAttributes | p.RequiredAttributes
	switch {
	case q.Attributes&tee.TDAttributesUnderDebug != 0:
		return fmt.Errorf("the host can debug or profile the guest: TD attributes %#x", q.Attributes)
	case q.Attributes&^allowed != 0:
		return fmt.Errorf("TD attributes %#x, want none beside %#x", q.Attributes, allowed)
	case p.RequiredAttributes&^q.Attributes != 0:
		return fmt.Errorf("TD attributes %#x, without %#x of those that the policy requires", q.Attributes, p.RequiredAttributes&^q.Attributes)
	case q.XFAM&^(azureXFAM|p.XFAM) != 0:
		return fmt.Errorf("XFAM %#x, want none beside %#x", q.XFAM, azureXFAM|p.XFAM)
	case !listedOrZero(nil, q.MRSignerSEAM) || q.SEAMAttributes != 0:
		return errors.New("the TDX module is not Intel's own, or is under debug")
	case !listedOrZero(nil, q.MRServiceTD):
		return errors.New("a service TD, which can move the guest to another machine, is bound to it")
	case !listedOrZero(p.MRConfigIDs, q.MRConfigID):
		return fmt.Errorf("mrconfigid %x is not what the policy asks", q.MRConfigID)
	case !listedOrZero(p.MROwners, q.MROwner):
		return fmt.Errorf("mrowner %x is not what the policy asks", q.MROwner)
	case !listedOrZero(p.MROwnerConfigs, q.MROwnerConfig):
		return fmt.Errorf("mrownerconfig %x is not what the policy asks", q.MROwnerConfig)
	}
	return nil
}

// launch distinguishes Azure's paravisor from other firmware on a genuine processor.
func (s *tdxShare) launch() error {
	if len(s.v.policy.MRTDs) == 0 {
		return absent("the policy lists no launch identities")
	}
	if err := s.needQuote(); err != nil {
		return err
	}
	if !contains(s.v.policy.MRTDs, s.quote.MRTD) {
		return fmt.Errorf("firmware of an unknown party: mrtd %x", s.quote.MRTD)
	}
	return nil
}
