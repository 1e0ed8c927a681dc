package collect

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/attest/hcl"
	"github.com/keyagent/keyagent/internal/certs"
	"github.com/keyagent/keyagent/internal/cloud"
	"github.com/keyagent/keyagent/internal/waiting"
	"github.com/keyagent/keyagent/tpm"
)

// ErrNoReport is in the error of a machine without HCL report: one that is no Azure Confidential
// VM.
const ErrNoReport = finalError("no HCL report in the TPM: this machine is not an Azure Confidential VM")

// finalError is an error that a later attempt would give again.
type finalError string

func (e finalError) Error() string { return string(e) }

// Refuses is true; see [HostError.Refuses].
func (finalError) Refuses() bool { return true }

// unprovisionedIssuer begins the issuer's name in the certificate that the index holds before Azure
// has certified the AK.
const unprovisionedIssuer = "MICROSOFT AZURE TRUSTED VM RSA"

// Config says what to collect from.
type Config struct {
	TPM *tpm.TPM
	Key *tpm.Key // the binding key, loaded in TPM

	// IMDSEndpoint is the base URL of the host's metadata service; empty means
	// cloud.MetadataEndpoint.
	IMDSEndpoint string
	// HTTP reaches it. Nil: a client that uses no proxy and follows no redirect.
	HTTP *http.Client

	// HardwareConfig is for the platforms that need more than the host.
	HardwareConfig

	// EventLogFile has the log of what the firmware measured; empty means SecurityFSLog.
	EventLogFile string

	// Anchors and Policy are what the evidence is verified with before it leaves.
	Anchors attest.TrustAnchors
	Policy  attest.Policy

	Now    func() time.Time // nil: time.Now
	Logger *slog.Logger     // nil: nothing is logged
	// Sleep waits between two looks for a fresh report; nil: a timer.
	Sleep func(ctx context.Context, d time.Duration) error
}

// Collector collects evidence. It is safe for concurrent use; the TPM does one thing at a time.
type Collector struct {
	cfg   Config
	host  host
	input waiting.Lock // of the guest's input to reports

	mu       sync.Mutex
	endorsed endorsements // guarded by mu

	hardware hardwareState
}

// New makes a Collector. It does no I/O.
func New(cfg Config) *Collector {
	if cfg.IMDSEndpoint == "" {
		cfg.IMDSEndpoint = cloud.MetadataEndpoint
	}
	if cfg.EventLogFile == "" {
		cfg.EventLogFile = SecurityFSLog
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Sleep == nil {
		cfg.Sleep = waiting.Sleep
	}
	return &Collector{cfg: cfg, host: newHost(cfg), input: waiting.NewLock()}
}

// Request says what evidence is wanted.
type Request struct {
	attest.Challenge
	Key  *tpm.Key // that it is about, loaded in the TPM; nil: that of the Config
	PCRs []int    // to be quoted; none: those of the Config's policy
	// PCRBank is the bank that is quoted; empty: that of the Config's policy.
	PCRBank attest.PCRBank
	// EventLog adds the log of what the firmware measured, if it can be read and explains the
	// quoted PCRs.
	EventLog bool
	// HardwareFresh has the paravisor make a report that carries [attest.Challenge.UserData], which
	// takes up to ten seconds.
	HardwareFresh bool
	// WithoutTEE makes evidence also on a machine without a hardware report, of the kinds that
	// [attest.Policy.TEE] has to name. Else there is none: [ErrNoReport].
	WithoutTEE bool
}

// Collect makes evidence of the Config's key for ch, as [Collector.CollectFor] does.
func (c *Collector) Collect(ctx context.Context, ch attest.Challenge) (*attest.Evidence, error) {
	return c.CollectFor(ctx, Request{Challenge: ch})
}

// CollectFor makes evidence. It blocks for as long as the TPM needs for two signatures and some NV
// reads, and the host for one answer, but not longer than ctx.
func (c *Collector) CollectFor(ctx context.Context, req Request) (*attest.Evidence, error) {
	if req.Key == nil {
		req.Key = c.cfg.Key
	}
	if len(req.PCRs) == 0 {
		req.PCRs = c.cfg.Policy.PCRs
	}
	if req.PCRBank == "" {
		req.PCRBank = c.cfg.Policy.PCRBank
	}
	e, err := c.collect(ctx, req)
	if err != nil {
		return nil, fmt.Errorf("collecting attestation evidence: %w", err)
	}
	return e, nil
}

func (c *Collector) collect(ctx context.Context, req Request) (*attest.Evidence, error) {
	if err := req.Validate(); err != nil {
		return nil, err
	}
	e := &attest.Evidence{Nonce: req.Nonce, Audience: req.Audience, KeyPublic: req.Key.PublicArea()}
	if err := c.addAttestationKey(ctx, e); err != nil {
		return nil, err
	}
	if err := c.addStatements(ctx, e, req); err != nil {
		return nil, err
	}
	err := c.addReport(ctx, e, req)
	switch {
	case errors.Is(err, ErrNoReport) && req.WithoutTEE && !req.HardwareFresh:
		c.cfg.Logger.WarnContext(ctx, "evidence without a hardware report: no TEE vouches for this machine")
	case err != nil:
		return nil, err
	default:
		if err := c.addEndorsements(ctx, e); err != nil {
			return nil, err
		}
	}
	if err := c.addAKCertificate(ctx, e); err != nil {
		return nil, err
	}
	if req.EventLog {
		c.addEventLog(ctx, e)
	}
	return e, c.selfVerify(ctx, e, req)
}

func (c *Collector) addAttestationKey(ctx context.Context, e *attest.Evidence) error {
	area, _, err := c.cfg.TPM.ReadPublic(ctx, HandleAK)
	if err != nil {
		return fmt.Errorf("attestation key: %w", err)
	}
	if _, err := attest.ParseAK(area); err != nil {
		return fmt.Errorf("attestation key at %#x: %w", uint32(HandleAK), err)
	}
	e.AKPublic = area
	return nil
}

func (c *Collector) addStatements(ctx context.Context, e *attest.Evidence, req Request) error {
	certify, err := c.cfg.TPM.Certify(ctx, req.Key, HandleAK, req.CertifyData())
	if err != nil {
		return err
	}
	e.Certify, e.CertifySignature = certify.Attest, certify.Signature
	bank, err := bankHash(req.PCRBank)
	if err != nil {
		return err
	}
	quote, err := c.cfg.TPM.QuoteBank(ctx, HandleAK, tpm.PCRSelection{Bank: bank, PCRs: req.PCRs}, req.QuoteData(req.Key.Name()))
	if err != nil {
		return err
	}
	e.Quote, e.QuoteSignature, e.PCRs = quote.Attest, quote.Signature, quote.PCRs
	return nil
}

// bankHash is the hash of a bank that can be quoted.
func bankHash(bank attest.PCRBank) (crypto.Hash, error) {
	switch bank {
	case "", attest.BankSHA256:
		return crypto.SHA256, nil
	case attest.BankSHA384:
		return crypto.SHA384, nil
	}
	return 0, finalError(fmt.Sprintf("PCR bank %.20q is not one of %v", string(bank), attest.PCRBanks()))
}

// report reads the report. That may make a new one.
func (c *Collector) report(ctx context.Context) ([]byte, error) {
	raw, err := c.cfg.TPM.ReadNV(ctx, NVHCLReport)
	if errors.Is(err, tpm.ErrNoNVIndex) {
		return nil, ErrNoReport
	}
	if err != nil {
		return nil, fmt.Errorf("HCL report: %w", err)
	}
	return raw, nil
}

// addReport adds the report and compares its attestation key with the one that has just signed, so
// that a replaced key is reported here and by its cause, not by a remote verifier.
func (c *Collector) addReport(ctx context.Context, e *attest.Evidence, req Request) error {
	read := c.report
	if req.HardwareFresh {
		read = func(ctx context.Context) ([]byte, error) { return c.freshReport(ctx, req.UserData(req.Key.Name())) }
	}
	raw, err := read(ctx)
	if err != nil {
		return err
	}
	report, err := hcl.Parse(raw)
	if err != nil {
		return err
	}
	claims, err := hcl.ParseClaims(report.Claims)
	if err != nil {
		return err
	}
	if !bytes.Equal(e.AKPublic, attest.AKPublicArea(claims.AK.N.Bytes())) {
		return finalError(fmt.Sprintf("the key at %#x is not the attestation key in the HCL report: it was replaced after boot; restart the VM",
			uint32(HandleAK)))
	}
	e.HCLReport = raw
	return nil
}

// addAKCertificate adds the certificate if Azure has provisioned one. Evidence without it proves
// less, and is accepted.
func (c *Collector) addAKCertificate(ctx context.Context, e *attest.Evidence) error {
	nv, err := c.cfg.TPM.ReadNV(ctx, NVAKCertificate)
	if errors.Is(err, tpm.ErrNoNVIndex) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("AK certificate: %w", err)
	}
	if len(bytes.Trim(nv, "\x00")) == 0 {
		return nil
	}
	cert, err := attest.ParseAKCertificate(nv)
	if err != nil {
		return err
	}
	if strings.HasPrefix(cert.Issuer.CommonName, unprovisionedIssuer) {
		c.cfg.Logger.InfoContext(ctx, "the attestation key has no Azure certificate yet", "issuer", cert.Issuer.CommonName)
		return nil
	}
	e.AKCertificate = cert.Raw
	for _, ca := range c.issuers(cert) {
		e.AKIntermediates = append(e.AKIntermediates, ca.Raw)
	}
	return nil
}

// issuers lists the intermediates of our store above cert, for verifiers that do not have them.
func (c *Collector) issuers(cert *x509.Certificate) []*x509.Certificate {
	const deepest = 3
	var chain []*x509.Certificate
	for range deepest {
		next := issuer(cert, c.cfg.Anchors.VTPMIntermediates)
		if next == nil {
			break
		}
		chain, cert = append(chain, next), next
	}
	return chain
}

func issuer(cert *x509.Certificate, store []*x509.Certificate) *x509.Certificate {
	for _, ca := range store {
		if certs.Equal(cert.RawIssuer, ca.RawSubject) && !certs.Equal(ca.RawIssuer, ca.RawSubject) && cert.CheckSignatureFrom(ca) == nil {
			return ca
		}
	}
	return nil
}
