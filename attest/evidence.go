package attest

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/keyagent/keyagent/attest/eventlog"
	"github.com/keyagent/keyagent/attest/hcl"
	"github.com/keyagent/keyagent/attest/internal/strictjson"
)

// MediaType is the media type of an encoded bundle.
const MediaType = "application/vnd.keyagent.evidence+json"

// Format names the version of the bundle's layout. Another value is another format, and is refused.
const Format = "keyagent-evidence/1"

// MaxEvidenceSize is the largest bundle that is read, in bytes. It leaves room for an event log;
// all the rest of a bundle has at most MaxSizeWithoutLog bytes.
const (
	MaxEvidenceSize   = 1 << 20
	MaxSizeWithoutLog = 64 << 10
)

// Limits of a bundle's parts, in bytes unless said otherwise.
const (
	maxHCLReportSize   = 4096
	maxCertificateSize = 8 << 10
	maxCertificates    = 6 // in each list
	maxStatementSize   = 1 << 10
	maxPublicSize      = 1 << 10
	maxSignatureSize   = 1 << 10
	maxPCR             = 23
)

// Evidence is what a machine sends: bytes as TPM and processor gave them, none of them verified
// yet. Verify is the only way to a [Result]; no field of Evidence proves anything by itself.
//
// A part that is not there is nil. Integers inside TPM structures are big-endian, those inside the
// HCL report little-endian.
type Evidence struct {
	// Nonce and Audience repeat the verifier's challenge, so that a mix-up gets a clear message.
	// The verifier checks the extraData of the statements.
	Nonce    []byte
	Audience string

	// HCLReport is the content of NV index 0x01400001. Evidence that passed through a party which
	// unwraps it (MAA does) has the platform's hardware report and RuntimeClaims instead, never
	// both forms.
	HCLReport     []byte
	RuntimeClaims []byte

	// HardwareEvidence is the unwrapped report of the platform, and what vouches for its signer.
	HardwareEvidence

	AKCertificate   []byte   // DER, zero padding of the NV index allowed
	AKIntermediates [][]byte // DER
	AKPublic        []byte   // TPMT_PUBLIC of the attestation key

	KeyPublic        []byte // TPMT_PUBLIC of the binding key
	Certify          []byte // TPMS_ATTEST of type TPM_ST_ATTEST_CERTIFY, without size prefix
	CertifySignature []byte // TPMT_SIGNATURE, or the bare RSASSA signature
	Quote            []byte // TPMS_ATTEST of type TPM_ST_ATTEST_QUOTE
	QuoteSignature   []byte
	PCRs             map[int][]byte // of the bank that the quote names, SHA-256 or SHA-384

	EventLog []byte // as firmware and kernel keep it, in the crypto agile format; padding allowed
}

// wire is the JSON form. Any member may be left out of the JSON; which of them are needed is
// policy.
type wire struct {
	Format    string `json:"format"`
	Nonce     octets `json:"nonce,omitempty"`
	Audience  string `json:"audience,omitempty"`
	HCLReport octets `json:"hcl_report,omitempty"`
	wireReports
	RuntimeClaims octets `json:"runtime_claims,omitempty"`
	wireEndorsements
	AKCertificate    octets            `json:"ak_certificate,omitempty"`
	AKIntermediates  []octets          `json:"ak_intermediates,omitempty"`
	AKPublic         octets            `json:"ak_public,omitempty"`
	KeyPublic        octets            `json:"key_public,omitempty"`
	Certify          octets            `json:"certify,omitempty"`
	CertifySignature octets            `json:"certify_signature,omitempty"`
	Quote            octets            `json:"quote,omitempty"`
	QuoteSignature   octets            `json:"quote_signature,omitempty"`
	PCRs             map[string]octets `json:"pcrs,omitempty"`
	EventLog         octets            `json:"event_log,omitempty"`
}

// checkSize holds a bundle of size bytes to its limits.
func (w *wire) checkSize(size int) error {
	if log := base64.RawURLEncoding.EncodedLen(len(w.EventLog)); size-log > MaxSizeWithoutLog {
		return fmt.Errorf("%d bytes without the event log, want at most %d", size-log, MaxSizeWithoutLog)
	}
	if size > MaxEvidenceSize {
		return fmt.Errorf("%d bytes, want at most %d", size, MaxEvidenceSize)
	}
	return nil
}

// octets are encoded as base64url without padding (RFC 4648, 5), in the one canonical spelling.
type octets []byte

func (o octets) MarshalText() ([]byte, error) {
	return []byte(base64.RawURLEncoding.EncodeToString(o)), nil
}

// UnmarshalJSON reads a string in which nothing is escaped: no letter of base64url needs it.
func (o *octets) UnmarshalJSON(quoted []byte) error {
	if len(quoted) < 2 || quoted[0] != '"' {
		return errors.New("not a string")
	}
	text := quoted[1 : len(quoted)-1]
	if len(text) == 0 {
		return errors.New("empty value; leave the member out")
	}
	b := make([]byte, base64.RawURLEncoding.DecodedLen(len(text)))
	if _, err := base64.RawURLEncoding.Strict().Decode(b, text); err != nil {
		return errors.New("not base64url without padding")
	}
	*o = b
	return nil
}

// Parse reads a bundle. It refuses what two readers could understand differently: members that
// occur twice, are unknown or differ from known ones in case, bytes after the document, invalid
// UTF-8, base64 in another spelling, and parts beyond their size limits. Input that is accepted
// gives the same Evidence when it is encoded and parsed again.
func Parse(data []byte) (*Evidence, error) {
	if len(data) > MaxEvidenceSize {
		return nil, fmt.Errorf("evidence of %d bytes, want at most %d", len(data), MaxEvidenceSize)
	}
	var w wire
	if err := strictjson.Unmarshal(data, &w); err != nil {
		return nil, fmt.Errorf("evidence: %w", err)
	}
	if w.Format != Format {
		return nil, fmt.Errorf("evidence: format %.40q is not %q", w.Format, Format)
	}
	if err := w.checkSize(len(data)); err != nil {
		return nil, fmt.Errorf("evidence: %w", err)
	}
	pcrs, err := parsePCRs(w.PCRs)
	if err != nil {
		return nil, fmt.Errorf("evidence: %w", err)
	}
	e := &Evidence{
		Nonce: w.Nonce, Audience: w.Audience,
		HCLReport: w.HCLReport, RuntimeClaims: w.RuntimeClaims,
		AKCertificate: w.AKCertificate, AKIntermediates: fromOctets(w.AKIntermediates),
		AKPublic: w.AKPublic, KeyPublic: w.KeyPublic,
		Certify: w.Certify, CertifySignature: w.CertifySignature,
		Quote: w.Quote, QuoteSignature: w.QuoteSignature, PCRs: pcrs, EventLog: w.EventLog,
	}
	for _, p := range platforms() {
		p.decode(&w, e)
	}
	if err := e.validate(); err != nil {
		return nil, fmt.Errorf("evidence: %w", err)
	}
	return e, nil
}

// Encode returns the bundle as JSON. It refuses what Parse would refuse.
func (e *Evidence) Encode() ([]byte, error) {
	if err := e.validate(); err != nil {
		return nil, fmt.Errorf("encoding evidence: %w", err)
	}
	w := wire{
		Format: Format, Nonce: e.Nonce, Audience: e.Audience,
		HCLReport: e.HCLReport, RuntimeClaims: e.RuntimeClaims,
		AKCertificate: e.AKCertificate, AKIntermediates: toOctets(e.AKIntermediates),
		AKPublic: e.AKPublic, KeyPublic: e.KeyPublic,
		Certify: e.Certify, CertifySignature: e.CertifySignature,
		Quote: e.Quote, QuoteSignature: e.QuoteSignature, EventLog: e.EventLog,
	}
	for _, p := range platforms() {
		p.encode(e, &w)
	}
	for index, digest := range e.PCRs {
		if w.PCRs == nil {
			w.PCRs = map[string]octets{}
		}
		w.PCRs[strconv.Itoa(index)] = digest
	}
	data, err := json.Marshal(w)
	if err != nil {
		return nil, fmt.Errorf("encoding evidence: %w", err)
	}
	if err := w.checkSize(len(data)); err != nil {
		return nil, fmt.Errorf("encoding evidence: %w", err)
	}
	return data, nil
}

// HardwareReport returns the hardware report with its claims, from whichever form the evidence has
// them in. It is nil if the evidence has none; the error says that the wrapper cannot be read.
func (e *Evidence) HardwareReport() (*hcl.Report, error) {
	if e.HCLReport != nil {
		return hcl.Parse(e.HCLReport)
	}
	return e.unwrapped(), nil
}

// Hardware returns the bytes of the hardware report and the runtime claims, from whichever form the
// evidence has them in.
func (e *Evidence) Hardware() (report, claims []byte, err error) {
	r, err := e.HardwareReport()
	if err != nil || r == nil {
		return nil, e.RuntimeClaims, err
	}
	return r.Hardware, r.Claims, nil
}

// unwrapped returns the report that was given without the paravisor's wrapper, or nil.
func (e *Evidence) unwrapped() *hcl.Report {
	for _, p := range platforms() {
		if r := p.unwrapped(e); r != nil {
			return r
		}
	}
	return nil
}

func parsePCRs(in map[string]octets) (map[int][]byte, error) {
	if in == nil {
		return nil, nil
	}
	if len(in) == 0 {
		return nil, errors.New("pcrs is empty; leave the member out")
	}
	out := make(map[int][]byte, len(in))
	for name, digest := range in {
		index, err := strconv.Atoi(name)
		if err != nil || strconv.Itoa(index) != name {
			return nil, fmt.Errorf("PCR index %.20q is not a number", name)
		}
		out[index] = digest
	}
	return out, nil
}

// validate checks the sizes and combinations that hold for every bundle, whatever its policy.
func (e *Evidence) validate() error {
	if e.HCLReport != nil && (e.unwrapped() != nil || e.RuntimeClaims != nil) {
		return errors.New("both an HCL report and its parts")
	}
	if len(e.Audience) > MaxAudienceSize {
		return fmt.Errorf("audience of %d bytes, want at most %d", len(e.Audience), MaxAudienceSize)
	}
	if err := checkCertificates(e.AKIntermediates); err != nil {
		return err
	}
	for _, p := range platforms() {
		if err := p.validate(e); err != nil {
			return err
		}
	}
	for _, part := range e.parts() {
		if len(part.value) > part.max {
			return fmt.Errorf("%s of %d bytes, want at most %d", part.name, len(part.value), part.max)
		}
	}
	return e.checkPCRs()
}

// checkPCRs holds the values to the indices of a TPM and to the size of one bank.
func (e *Evidence) checkPCRs() error {
	size := 0
	for index, digest := range e.PCRs {
		known := len(digest) == BankSHA256.Size() || len(digest) == BankSHA384.Size()
		if index < 0 || index > maxPCR || !known {
			return fmt.Errorf("PCR %d with a digest of %d bytes, want index 0 to %d and %d or %d bytes",
				index, len(digest), maxPCR, BankSHA256.Size(), BankSHA384.Size())
		}
		if size != 0 && size != len(digest) {
			return errors.New("values of PCRs of two banks")
		}
		size = len(digest)
	}
	return nil
}

// part is a byte string of the bundle with its largest size in bytes.
type part struct {
	name  string
	value []byte
	max   int
}

func (e *Evidence) parts() []part {
	return []part{
		{"nonce", e.Nonce, MaxNonceSize},
		{"HCL report", e.HCLReport, maxHCLReportSize},
		{"runtime claims", e.RuntimeClaims, maxHCLReportSize},
		{"AK certificate", e.AKCertificate, maxCertificateSize},
		{"AK public area", e.AKPublic, maxPublicSize},
		{"key public area", e.KeyPublic, maxPublicSize},
		{"certify statement", e.Certify, maxStatementSize},
		{"certify signature", e.CertifySignature, maxSignatureSize},
		{"quote", e.Quote, maxStatementSize},
		{"quote signature", e.QuoteSignature, maxSignatureSize},
		{"event log", e.EventLog, eventlog.MaxSize},
	}
}

// checkCertificates checks the size of a list of certificates and of each of them.
func checkCertificates(list [][]byte) error {
	if len(list) > maxCertificates {
		return fmt.Errorf("more than %d certificates in a chain", maxCertificates)
	}
	for _, c := range list {
		if len(c) > maxCertificateSize {
			return fmt.Errorf("certificate of %d bytes, want at most %d", len(c), maxCertificateSize)
		}
	}
	return nil
}

func fromOctets(in []octets) [][]byte {
	if len(in) == 0 {
		return nil
	}
	out := make([][]byte, len(in))
	for i, o := range in {
		out[i] = o
	}
	return out
}

func toOctets(in [][]byte) []octets {
	out := make([]octets, len(in))
	for i, b := range in {
		out[i] = b
	}
	return out
}
