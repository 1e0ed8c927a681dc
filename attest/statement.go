package attest

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"

	"golang.org/x/crypto/cryptobyte"

	"github.com/keyagent/keyagent/internal/tcg"
)

const (
	generatedValue = 0xFF544347 // TPM_GENERATED_VALUE: a restricted key signs it only for the TPM itself
	typeCertify    = 0x8017     // TPM_ST_ATTEST_CERTIFY
	typeQuote      = 0x8018     // TPM_ST_ATTEST_QUOTE

	selectSize      = 3 // bytes of a PCR bitmap on every PC client TPM
	maxSelections   = 4
	rsaSignatureLen = 256
)

// statement is a parsed TPMS_ATTEST (TPM 2.0 Part 2, 10.12.12). Parsing is exact: a parsed
// statement has no other encoding.
type statement struct {
	kind      uint16
	signer    []byte // Qualified Name of the signing key
	extraData []byte
	clock     Clock

	// of a certify
	name          []byte
	qualifiedName []byte

	// of a quote
	selections []selection
	pcrDigest  []byte
}

// selection is a TPMS_PCR_SELECTION.
type selection struct {
	bank   uint16
	bitmap []byte
}

// pcrs lists the selected registers in ascending order.
func (s selection) pcrs() []int {
	var out []int
	for i := range len(s.bitmap) * 8 {
		if s.bitmap[i/8]&(1<<(i%8)) != 0 {
			out = append(out, i)
		}
	}
	return out
}

func parseStatement(b []byte, kind uint16) (*statement, error) {
	malformed := errors.New("statement is malformed")
	if len(b) > maxStatementSize {
		return nil, fmt.Errorf("statement of %d bytes, want at most %d", len(b), maxStatementSize)
	}
	s := cryptobyte.String(b)
	var magic uint32
	st := &statement{}
	if !s.ReadUint32(&magic) || !s.ReadUint16(&st.kind) {
		return nil, malformed
	}
	if magic != generatedValue {
		return nil, fmt.Errorf("magic %#08x: not made by a TPM", magic)
	}
	if st.kind != kind {
		return nil, fmt.Errorf("statement of type %s, want %s", tcg.Structure(st.kind), tcg.Structure(kind))
	}
	if !readBytes(&s, &st.signer) || !readBytes(&s, &st.extraData) || !st.readClock(&s) {
		return nil, malformed
	}
	read := st.readCertify
	if kind == typeQuote {
		read = st.readQuote
	}
	if !read(&s) || !s.Empty() {
		return nil, malformed
	}
	return st, nil
}

func (st *statement) readClock(s *cryptobyte.String) bool {
	var safe uint8
	c := &st.clock
	ok := s.ReadUint64(&c.Milliseconds) && s.ReadUint32(&c.ResetCount) && s.ReadUint32(&c.RestartCount) &&
		s.ReadUint8(&safe) && s.ReadUint64(&c.FirmwareVersion)
	c.Safe = safe == 1
	return ok && safe <= 1
}

func (st *statement) readCertify(s *cryptobyte.String) bool {
	return readBytes(s, &st.name) && readBytes(s, &st.qualifiedName)
}

func (st *statement) readQuote(s *cryptobyte.String) bool {
	var count uint32
	if !s.ReadUint32(&count) || count > maxSelections {
		return false
	}
	for range count {
		var sel selection
		var bitmap cryptobyte.String
		if !s.ReadUint16(&sel.bank) || !s.ReadUint8LengthPrefixed(&bitmap) {
			return false
		}
		sel.bitmap = bitmap
		st.selections = append(st.selections, sel)
	}
	return readBytes(s, &st.pcrDigest)
}

func readBytes(s *cryptobyte.String, out *[]byte) bool {
	var v cryptobyte.String
	ok := s.ReadUint16LengthPrefixed(&v)
	*out = v
	return ok
}

// verifySignature checks a TPM's RSASSA-PKCS1-v1_5 signature with SHA-256 over a statement.
// signature is a TPMT_SIGNATURE or, as some tools write it, the 256 bytes alone. No other scheme is
// accepted: an attestation key has just one.
func verifySignature(ak *rsa.PublicKey, data, signature []byte) error {
	bare := signature
	if len(signature) != rsaSignatureLen {
		var ok bool
		bare, ok = bytes.CutPrefix(signature, []byte{algRSASSA >> 8, algRSASSA & 0xff, 0, algSHA256, rsaSignatureLen >> 8, 0})
		if !ok || len(bare) != rsaSignatureLen {
			return fmt.Errorf("signature of %d bytes is not RSASSA with SHA-256 by a 2048-bit key", len(signature))
		}
	}
	sum := sha256.Sum256(data)
	if err := rsa.VerifyPKCS1v15(ak, crypto.SHA256, sum[:], bare); err != nil {
		return errors.New("signature does not verify with the attestation key")
	}
	return nil
}

// Statement is what a TPM's signed statement (TPMS_ATTEST) says. Nothing of it is verified.
type Statement struct {
	QualifiedSigner []byte // Qualified Name of the signing key
	ExtraData       []byte
	Clock           Clock

	Name          []byte // of the certified key
	QualifiedName []byte // of the certified key

	Selections []PCRSelection // of a quote
	PCRDigest  []byte         // of a quote
}

// PCRSelection is the part of one PCR bank that a quote covers.
type PCRSelection struct {
	Bank   uint16 // TPM_ALG_ID of the bank's hash
	Bitmap []byte // PCR i is bit i mod 8 of byte i div 8
}

// ReadQuote reads a TPMS_ATTEST of type TPM_ST_ATTEST_QUOTE, for those who show evidence. It
// verifies nothing.
func ReadQuote(b []byte) (*Statement, error) { return readStatement(b, typeQuote) }

// ReadCertify is ReadQuote for the type TPM_ST_ATTEST_CERTIFY.
func ReadCertify(b []byte) (*Statement, error) { return readStatement(b, typeCertify) }

func readStatement(b []byte, kind uint16) (*Statement, error) {
	st, err := parseStatement(b, kind)
	if err != nil {
		return nil, err
	}
	out := &Statement{
		QualifiedSigner: st.signer, ExtraData: st.extraData, Clock: st.clock,
		Name: st.name, QualifiedName: st.qualifiedName, PCRDigest: st.pcrDigest,
	}
	for _, s := range st.selections {
		out.Selections = append(out.Selections, PCRSelection{Bank: s.bank, Bitmap: s.bitmap})
	}
	return out, nil
}
