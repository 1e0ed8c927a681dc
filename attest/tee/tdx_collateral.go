package tee

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"fmt"
	"time"
)

// TDXCollateral is what Intel says about a platform's firmware, each part as Intel's service
// (Provisioning Certification Service, version 4) or a cache of it hands it out.
type TDXCollateral struct {
	TCBInfo             []byte // JSON: the value of member "tcbInfo", exactly as signed
	TCBInfoSignature    []byte // r and s of 32 bytes each
	TCBInfoChain        []byte // PEM: TCB signing certificate, root
	QEIdentity          []byte // JSON: the value of member "enclaveIdentity", exactly as signed
	QEIdentitySignature []byte
	QEIdentityChain     []byte // PEM: TCB signing certificate, root
	RootCACRL           []byte // DER
	PCKCRL              []byte // DER
	PCKCRLChain         []byte // PEM: the CA of PCK certificates, root
}

// Largest sizes of the parts of TDXCollateral, in bytes.
const (
	maxTCBInfo    = 32 << 10
	maxQEIdentity = 8 << 10
	maxRootCRL    = 8 << 10
	maxPCKCRL     = 32 << 10
)

// CheckSizes checks that no part is larger than it can be.
func (c *TDXCollateral) CheckSizes() error {
	for _, part := range []struct {
		name  string
		value []byte
		most  int
	}{
		{"TCB info", c.TCBInfo, maxTCBInfo},
		{"signature of the TCB info", c.TCBInfoSignature, ecdsaSize},
		{"chain of the TCB info", c.TCBInfoChain, maxChainPEM},
		{"QE identity", c.QEIdentity, maxQEIdentity},
		{"signature of the QE identity", c.QEIdentitySignature, ecdsaSize},
		{"chain of the QE identity", c.QEIdentityChain, maxChainPEM},
		{"root CA's revocation list", c.RootCACRL, maxRootCRL},
		{"revocation list of PCK certificates", c.PCKCRL, maxPCKCRL},
		{"chain of that revocation list", c.PCKCRLChain, maxChainPEM},
	} {
		if len(part.value) > part.most {
			return fmt.Errorf("TDX collateral: %s of %d bytes, want at most %d", part.name, len(part.value), part.most)
		}
	}
	return nil
}

// Until returns when the first part of the collateral ends, a list or a statement. It proves
// nothing.
func (c *TDXCollateral) Until() (time.Time, error) {
	info, infoErr := ParseTCBInfo(c.TCBInfo)
	qe, qeErr := ParseQEIdentity(c.QEIdentity)
	root, rootErr := parseCRL("root CA's revocation list", c.RootCACRL)
	pck, pckErr := parseCRL("revocation list of PCK certificates", c.PCKCRL)
	if err := errors.Join(infoErr, qeErr, rootErr, pckErr); err != nil {
		return time.Time{}, err
	}
	first := info.statement.Until
	for _, end := range []time.Time{qe.statement.Until, root.list.NextUpdate, pck.list.NextUpdate} {
		if end.Before(first) {
			first = end
		}
	}
	return first, nil
}

// CollateralUse is what collateral is used for.
type CollateralUse struct {
	Roots []*x509.Certificate
	Time  time.Time
	// PCKChain is the chain of the quote, and PCK what its first certificate says.
	PCKChain []*x509.Certificate
	PCK      *PCK
	// MinEvaluationNumber is the lowest tcbEvaluationDataNumber to accept.
	MinEvaluationNumber uint32
}

// Verify checks that Intel made all of the collateral, that it is valid at the time, that it is
// about this platform, and that none of the certificates is revoked. info and qe are what
// [ParseTCBInfo] and [ParseQEIdentity] read from it. The chain in use must have been verified.
func (c *TDXCollateral) Verify(info *TCBInfo, qe *QEIdentity, use CollateralUse) error {
	signers, err := c.verifyStatements(info, qe, use)
	if err != nil {
		return err
	}
	if err := c.verifyRevocation(signers, use); err != nil {
		return err
	}
	if info.FMSPC != use.PCK.FMSPC || info.PCEID != use.PCK.PCEID {
		return fmt.Errorf("TCB info is about FMSPC %X and PCE %X, the platform has FMSPC %X and PCE %X",
			info.FMSPC, info.PCEID, use.PCK.FMSPC, use.PCK.PCEID)
	}
	return nil
}

// verifyStatements checks both documents and returns the certificates of their signers. As a rule
// that is one certificate, whose chain is then looked at once.
func (c *TDXCollateral) verifyStatements(info *TCBInfo, qe *QEIdentity, use CollateralUse) ([]*x509.Certificate, error) {
	var signers []*x509.Certificate
	var last []byte // the chain in PEM that the last signer came from
	for _, s := range []struct {
		what                    string
		signed, signature, text []byte
		statement               statement
	}{
		{"TCB info", c.TCBInfo, c.TCBInfoSignature, c.TCBInfoChain, info.statement},
		{"QE identity", c.QEIdentity, c.QEIdentitySignature, c.QEIdentityChain, qe.statement},
	} {
		if len(signers) == 0 || !bytes.Equal(s.text, last) {
			signer, err := signingCertificate(s.text, use)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", s.what, err)
			}
			signers, last = append(signers, signer), s.text
		}
		signer := signers[len(signers)-1]
		if !verifyP256(signer.PublicKey.(*ecdsa.PublicKey), s.signed, s.signature) {
			return nil, fmt.Errorf("%s: its signature does not verify with Intel's key", s.what)
		}
		if err := s.statement.valid(use); err != nil {
			return nil, fmt.Errorf("%s: %w", s.what, err)
		}
	}
	return signers, nil
}

// signingCertificate reads and verifies a chain of a TCB signing certificate and the root.
func signingCertificate(text []byte, use CollateralUse) (*x509.Certificate, error) {
	chain, err := ParseChain(text)
	if err != nil {
		return nil, err
	}
	return chain[0], verifyChain(chain, []string{nameTCBSigning}, use.Roots, use.Time)
}

// verifyRevocation checks both lists, and against them the certificates of the quote and the
// signers of the collateral.
func (c *TDXCollateral) verifyRevocation(signers []*x509.Certificate, use CollateralUse) error {
	if len(use.PCKChain) != maxChain || !isChainOf(c.PCKCRLChain, use.PCKChain[1:]) {
		return errors.New("revocation list of PCK certificates: its chain is not that above the PCK certificate")
	}
	pck, ca, root := use.PCKChain[0], use.PCKChain[1], use.PCKChain[2]
	if pinned(root, use.Roots) == nil {
		return errors.New("revocation list of PCK certificates: its chain ends in no root that the verifier trusts")
	}
	pckCRL, err := parseCRL("revocation list of PCK certificates", c.PCKCRL)
	if err != nil {
		return err
	}
	rootCRL, err := parseCRL("root CA's revocation list", c.RootCACRL)
	if err != nil {
		return err
	}
	if err := pckCRL.verify(ca, use.Time); err != nil {
		return err
	}
	if err := rootCRL.verify(root, use.Time); err != nil {
		return err
	}
	if err := pckCRL.covers(pck); err != nil {
		return err
	}
	for _, issued := range append(signers, ca) {
		if err := rootCRL.covers(issued); err != nil {
			return err
		}
	}
	return nil
}

// statement is what Intel's two signed documents have in common.
type statement struct {
	Issued           time.Time
	Until            time.Time
	EvaluationNumber uint32 // grows with each of Intel's reviews of TCB levels
}

func (s statement) valid(use CollateralUse) error {
	if use.Time.Before(s.Issued) || !use.Time.Before(s.Until) {
		return fmt.Errorf("it is valid from %v to %v, not at %v", s.Issued, s.Until, use.Time)
	}
	if s.EvaluationNumber < use.MinEvaluationNumber {
		return fmt.Errorf("TCB evaluation data number %d, want at least %d", s.EvaluationNumber, use.MinEvaluationNumber)
	}
	return nil
}
