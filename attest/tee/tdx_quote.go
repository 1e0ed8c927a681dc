package tee

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"

	"golang.org/x/crypto/cryptobyte"
)

// MaxTDQuoteSize bounds a quote, in bytes. Those of Azure have 5006 or 5010.
const MaxTDQuoteSize = 16 << 10

// What a quote must be (Intel TDX DCAP Quoting Library API, "TD Quote Format"). Integers are
// little-endian.
const (
	quoteHeaderSize = 48
	quoteKeyECDSA   = 2    // attestation key type: ECDSA-256 with the curve P-256
	quoteTEETDX     = 0x81 // tee_type
	quoteBodyTD10   = 2    // body types of a version 5 quote
	quoteBodyTD15   = 3
	certQEReport    = 6 // certification data: QE report, its signature, and certification data
	certPCKChain    = 5 // certification data: PEM chain of the PCK certificate
	ecdsaSize       = 64
	qeReportSize    = 384
)

// intelQE is the QE vendor id of Intel's quoting enclaves.
const intelQE = "939a7233f79c4ca9940a0db3957f0607"

// TDQuote is a parsed quote of version 4 or 5. Its fields are claims until VerifySignature,
// VerifyQE and VerifyPCKChain have passed.
type TDQuote struct {
	Version uint16
	TD
	QE QEReport
	// PCKChain is the PEM text of the certification data: the PCK certificate, its CA, the root.
	PCKChain []byte

	signed      []byte // header, descriptor of the body (version 5) and body
	signature   []byte
	key         []byte // public attestation key, x and y
	qeReport    []byte
	qeSignature []byte
	qeAuth      []byte
}

// ParseTDQuote parses one quote. Zero bytes behind it, which Azure's hosts add, are allowed. b is
// not retained.
func ParseTDQuote(b []byte) (*TDQuote, error) {
	if len(b) > MaxTDQuoteSize {
		return nil, fmt.Errorf("TD quote of %d bytes, want at most %d", len(b), MaxTDQuoteSize)
	}
	b = bytes.Clone(b)
	q := &TDQuote{}
	s := cryptobyte.String(b)
	if err := q.readHeader(&s); err != nil {
		return nil, err
	}
	if err := q.readBody(&s); err != nil {
		return nil, err
	}
	q.signed = b[:len(b)-len(s)]
	var data []byte
	if !sized32(&s, &data) {
		return nil, errors.New("TD quote: it is shorter than its signature data say")
	}
	if !allZero(s) {
		return nil, errors.New("TD quote: bytes after the signature data are not zero")
	}
	if err := q.readSignatureData(data); err != nil {
		return nil, err
	}
	return q, nil
}

func (q *TDQuote) readHeader(s *cryptobyte.String) error {
	var h []byte
	if !s.ReadBytes(&h, quoteHeaderSize) {
		return errors.New("TD quote: no complete header")
	}
	le := binary.LittleEndian
	q.Version = le.Uint16(h)
	switch keyType, tee := le.Uint16(h[2:]), le.Uint32(h[4:]); {
	case q.Version != 4 && q.Version != 5:
		return fmt.Errorf("TD quote: version %d is not supported, want 4 or 5", q.Version)
	case keyType != quoteKeyECDSA:
		return fmt.Errorf("TD quote: attestation key of type %d is not supported, want %d (ECDSA P-256)", keyType, quoteKeyECDSA)
	case tee != quoteTEETDX:
		return fmt.Errorf("TD quote: it is of TEE type %#x, want %#x (TDX)", tee, quoteTEETDX)
	case hex.EncodeToString(h[12:28]) != intelQE:
		return fmt.Errorf("TD quote: quoting enclave of vendor %x, want Intel's", h[12:28])
	}
	return nil
}

// readBody reads the body, which version 5 describes by type and size.
func (q *TDQuote) readBody(s *cryptobyte.String) error {
	size := bodySizeTD10
	if q.Version == 5 {
		var kind uint16
		var said uint32
		if !little16(s, &kind) || !little32(s, &said) {
			return errors.New("TD quote: no complete description of its body")
		}
		switch {
		case kind == quoteBodyTD10 && said == bodySizeTD10:
		case kind == quoteBodyTD15 && said == bodySizeTD15:
			size = bodySizeTD15
		default:
			return fmt.Errorf("TD quote: body of type %d with %d bytes is not supported", kind, said)
		}
	}
	var body []byte
	if !s.ReadBytes(&body, size) {
		return errors.New("TD quote: no complete body")
	}
	q.TD = parseBody(body)
	return nil
}

func (q *TDQuote) readSignatureData(data []byte) error {
	s := cryptobyte.String(data)
	var outer, chain []byte
	if !s.ReadBytes(&q.signature, ecdsaSize) || !s.ReadBytes(&q.key, ecdsaSize) {
		return errors.New("TD quote: no complete signature and attestation key")
	}
	if err := certification(&s, certQEReport, &outer); err != nil {
		return err
	}
	if !s.Empty() {
		return errors.New("TD quote: bytes after the certification data")
	}
	s = outer
	if !s.ReadBytes(&q.qeReport, qeReportSize) || !s.ReadBytes(&q.qeSignature, ecdsaSize) || !sized16(&s, &q.qeAuth) {
		return errors.New("TD quote: no complete report of the quoting enclave")
	}
	if err := certification(&s, certPCKChain, &chain); err != nil {
		return err
	}
	if !s.Empty() {
		return errors.New("TD quote: bytes after the certificate chain")
	}
	q.PCKChain = bytes.TrimSuffix(chain, []byte{0}) // Intel's text ends as a string in C does
	q.QE = parseQEReport(q.qeReport)
	return nil
}

// certification reads certification data of the one type that is supported in its place.
func certification(s *cryptobyte.String, want uint16, out *[]byte) error {
	var kind uint16
	if !little16(s, &kind) {
		return errors.New("TD quote: no certification data")
	}
	if kind != want {
		return fmt.Errorf("TD quote: certification data of type %d are not supported, want %d", kind, want)
	}
	if !sized32(s, out) {
		return errors.New("TD quote: the certification data are longer than the field that holds them")
	}
	return nil
}

// VerifySignature checks that the attestation key of the quote signed it. Whose key that is, only
// VerifyQE shows.
func (q *TDQuote) VerifySignature() error {
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), append([]byte{4}, q.key...))
	if err != nil {
		return errors.New("TD quote: its attestation key is no point of the curve P-256")
	}
	if !verifyP256(key, q.signed, q.signature) {
		return errors.New("signature of the TD quote does not verify with its attestation key")
	}
	return nil
}

// VerifyQE checks that a quoting enclave of the platform with this PCK key vouches for the quote's
// attestation key: the PCK key signed the enclave's report, and the report is about this key and
// the authentication data. Which enclave it is, CheckQE shows.
func (q *TDQuote) VerifyQE(pck *ecdsa.PublicKey) error {
	if !verifyP256(pck, q.qeReport, q.qeSignature) {
		return errors.New("report of the quoting enclave is not signed by the PCK key")
	}
	sum := sha256.Sum256(append(bytes.Clone(q.key), q.qeAuth...))
	if !bytes.Equal(q.QE.ReportData, append(sum[:], make([]byte, 32)...)) {
		return errors.New("report of the quoting enclave is about another attestation key")
	}
	return nil
}

// verifyP256 checks an ECDSA signature with SHA-256, r and s of 32 bytes each.
func verifyP256(key *ecdsa.PublicKey, message, signature []byte) bool {
	if len(signature) != ecdsaSize || key.Curve != elliptic.P256() {
		return false
	}
	sum := sha256.Sum256(message)
	r, s := new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:])
	return ecdsa.Verify(key, sum[:], r, s)
}

func little16(s *cryptobyte.String, out *uint16) bool {
	var b []byte
	if !s.ReadBytes(&b, 2) {
		return false
	}
	*out = binary.LittleEndian.Uint16(b)
	return true
}

func little32(s *cryptobyte.String, out *uint32) bool {
	var b []byte
	if !s.ReadBytes(&b, 4) {
		return false
	}
	*out = binary.LittleEndian.Uint32(b)
	return true
}

// sized16 reads bytes behind their number in two bytes.
func sized16(s *cryptobyte.String, out *[]byte) bool {
	var n uint16
	return little16(s, &n) && s.ReadBytes(out, int(n))
}

// sized32 reads bytes behind their number in four bytes.
func sized32(s *cryptobyte.String, out *[]byte) bool {
	var n uint32
	return little32(s, &n) && uint64(n) <= uint64(len(*s)) && s.ReadBytes(out, int(n))
}

func allZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
