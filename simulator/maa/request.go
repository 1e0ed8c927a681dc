package maa

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"

	"github.com/keyagent/keyagent/attest"
)

// maxBodyBytes leaves room for an event log.
const maxBodyBytes = 2 << 20

// binary64 is a byte string that travels in standard base64 with padding.
type binary64 []byte

// UnmarshalJSON implements json.Unmarshaler. Unlike encoding/json's own decoding of byte slices it
// takes neither line breaks nor stray bits.
func (b *binary64) UnmarshalJSON(data []byte) error {
	var text string
	if err := json.Unmarshal(data, &text); err != nil {
		return err
	}
	for _, c := range text {
		if c == '\r' || c == '\n' {
			return errors.New("line break in base64")
		}
	}
	decoded, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil {
		return fmt.Errorf("not standard base64: %w", err)
	}
	*b = nil // a part that is empty is a part that is not there
	if len(decoded) > 0 {
		*b = decoded
	}
	return nil
}

// Kinds of isolation.
const (
	isolationSNP = "SevSnp"
	isolationTDX = "Tdx"
)

// attestationInfo is protocol version 2.0.
type attestationInfo struct {
	ProtocolVersion string `json:"AttestationProtocolVersion"`
	OSType          binary64
	OSDistro        binary64
	OSBuild         binary64
	OSVersionMajor  int
	OSVersionMinor  int
	TcgLogs         *binary64
	ClientPayload   map[string]binary64
	TpmInfo         struct {
		AikCert                    binary64
		AikPub                     sized
		PcrQuote                   binary64
		PcrSignature               bareSignature
		PcrSet                     []int
		PCRs                       []pcrValue
		EncKeyPub                  sized
		EncKeyCertifyInfo          binary64
		EncKeyCertifyInfoSignature bareSignature
	}
	IsolationInfo struct {
		Type     string
		Evidence struct {
			Proof       binary64 // JSON, see snpProof; a TD quote as it is
			RunTimeData binary64 // runtime claims, byte for byte
		}
	}
}

type pcrValue struct {
	Index  int
	Digest binary64
}

type snpProof struct {
	SnpReport     eitherBase64
	VcekCertChain eitherBase64 // PEM
}

// sized is a TPM2B: the structure behind its length in two bytes, big-endian.
type sized []byte

// UnmarshalJSON implements json.Unmarshaler.
func (s *sized) UnmarshalJSON(data []byte) error {
	var b binary64
	if err := b.UnmarshalJSON(data); err != nil {
		return err
	}
	if len(b) < 2 || int(binary.BigEndian.Uint16(b)) != len(b)-2 {
		return errors.New("not a TPM2B: its size does not match")
	}
	*s = sized(b[2:])
	return nil
}

// bareSignature is an RSASSA signature without TPMT_SIGNATURE around it.
type bareSignature []byte

// UnmarshalJSON implements json.Unmarshaler.
func (s *bareSignature) UnmarshalJSON(data []byte) error {
	const size = 256
	var b binary64
	if err := b.UnmarshalJSON(data); err != nil {
		return err
	}
	if len(b) != size {
		return fmt.Errorf("signature of %d bytes, want %d", len(b), size)
	}
	*s = bareSignature(b)
	return nil
}

// eitherBase64 takes both alphabets, with or without padding: Microsoft's own clients differ here,
// and the service takes them all.
type eitherBase64 []byte

// UnmarshalText implements encoding.TextUnmarshaler.
func (b *eitherBase64) UnmarshalText(text []byte) error {
	for _, encoding := range []*base64.Encoding{base64.StdEncoding, base64.RawStdEncoding, base64.URLEncoding, base64.RawURLEncoding} {
		if decoded, err := encoding.Strict().DecodeString(string(text)); err == nil {
			*b = decoded
			return nil
		}
	}
	return errors.New("not base64")
}

// readRequest takes the request apart as far as its form goes.
func readRequest(w http.ResponseWriter, r *http.Request) (*attestationInfo, error) {
	if r.Method != http.MethodPost {
		return nil, &refusal{status: http.StatusMethodNotAllowed, code: "MethodNotAllowed", message: "only POST is allowed here"}
	}
	if v := r.URL.Query()["api-version"]; len(v) != 1 || v[0] != "2020-10-01" {
		return nil, malformed("api-version must be 2020-10-01")
	}
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/json" {
		return nil, &refusal{status: http.StatusUnsupportedMediaType, code: "UnsupportedMediaType", message: "Content-Type must be application/json"}
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBodyBytes))
	if err != nil {
		return nil, malformed("the body cannot be read, or has more than %d bytes", maxBodyBytes)
	}
	return parseRequest(body)
}

func parseRequest(body []byte) (*attestationInfo, error) {
	var outer struct{ AttestationInfo string }
	if err := json.Unmarshal(body, &outer); err != nil {
		return nil, malformed("the body is not JSON: %v", err)
	}
	inner, err := base64.RawURLEncoding.Strict().DecodeString(outer.AttestationInfo)
	if err != nil || len(inner) == 0 {
		return nil, malformed("AttestationInfo is not base64url without padding")
	}
	info := &attestationInfo{}
	if err := json.Unmarshal(inner, info); err != nil {
		return nil, malformed("AttestationInfo: %v", err)
	}
	return info, info.check()
}

func (info *attestationInfo) check() error {
	switch {
	case info.ProtocolVersion != "2.0":
		return malformed("AttestationProtocolVersion %.20q, want 2.0", info.ProtocolVersion)
	case string(info.OSType) != "Linux" || len(info.OSDistro) == 0 || len(info.OSBuild) == 0:
		return malformed("OSType must be Linux, OSDistro and OSBuild must be given")
	case info.TcgLogs == nil:
		return malformed("TcgLogs is missing; it may be empty")
	case info.IsolationInfo.Type != isolationSNP && info.IsolationInfo.Type != isolationTDX:
		return malformed("IsolationInfo.Type %.20q is not supported, want %s or %s", info.IsolationInfo.Type, isolationSNP, isolationTDX)
	}
	return nil
}

// evidence puts the parts into the form that package attest verifies.
func (info *attestationInfo) evidence() (*attest.Evidence, error) {
	pcrs, err := info.pcrs()
	if err != nil {
		return nil, err
	}
	e := &attest.Evidence{
		RuntimeClaims:    info.IsolationInfo.Evidence.RunTimeData,
		AKCertificate:    info.TpmInfo.AikCert,
		AKPublic:         info.TpmInfo.AikPub,
		KeyPublic:        info.ClientPayload["key-public"],
		Certify:          info.ClientPayload["key-certify"],
		CertifySignature: info.ClientPayload["key-certify-signature"],
		Quote:            info.TpmInfo.PcrQuote,
		QuoteSignature:   info.TpmInfo.PcrSignature,
		PCRs:             pcrs,
		EventLog:         *info.TcgLogs,
	}
	return e, info.addProof(e)
}

// addProof puts what the hardware says into the evidence.
func (info *attestationInfo) addProof(e *attest.Evidence) error {
	raw := info.IsolationInfo.Evidence.Proof
	if info.IsolationInfo.Type == isolationTDX {
		e.TDQuote = raw
		return nil
	}
	var proof snpProof
	if err := json.Unmarshal(raw, &proof); err != nil {
		return malformed("IsolationInfo.Evidence.Proof: %v", err)
	}
	e.SNPReport, e.VCEKChain = proof.SnpReport, certificates(proof.VcekCertChain)
	return nil
}

func (info *attestationInfo) pcrs() (map[int][]byte, error) {
	pcrs := map[int][]byte{}
	for _, p := range info.TpmInfo.PCRs {
		if !slices.Contains(info.TpmInfo.PcrSet, p.Index) {
			return nil, malformed("PCR %d is not in PcrSet", p.Index)
		}
		pcrs[p.Index] = p.Digest
	}
	if len(pcrs) != len(info.TpmInfo.PcrSet) || len(pcrs) != len(info.TpmInfo.PCRs) {
		return nil, malformed("PcrSet and PCRs do not list the same registers once each")
	}
	return pcrs, nil
}

// certificates returns the DER of every certificate in PEM data.
func certificates(data []byte) [][]byte {
	var out [][]byte
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		out = append(out, block.Bytes)
	}
	return out
}
