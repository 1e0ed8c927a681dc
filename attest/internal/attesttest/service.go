package attesttest

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/keyagent/keyagent/attest"
)

// Service is an attestation service with wire types of its own: what the client spells wrongly, it
// does not find.
type Service struct {
	*httptest.Server
	anchors attest.TrustAnchors

	mu       sync.Mutex
	requests int      // guarded by mu
	problems []string // guarded by mu

	// Collateral is what the service has from Intel; nil for SEV-SNP.
	Collateral *attest.TDXCollateral

	// What to do otherwise than the real one does. Set before the first request.
	Answer   func(w http.ResponseWriter, r *http.Request, n int) bool // true: done
	Claims   func(map[string]any)
	Envelope func(map[string]any)
	InnerKey func([]byte) []byte
	AAD      string
	Compact  func(string) string
}

type guestRequest struct {
	Version       string `json:"AttestationProtocolVersion"`
	OSType        string
	OSDistro      string
	OSBuild       string
	TcgLogs       *string
	ClientPayload map[string]string
	TpmInfo       struct {
		AikCert, AikPub, PcrQuote, PcrSignature, EncKeyPub, EncKeyCertifyInfo, EncKeyCertifyInfoSignature string

		PcrSet []int
		PCRs   []struct {
			Index  int
			Digest string
		}
	}
	IsolationInfo struct {
		Type     string
		Evidence struct{ Proof, RunTimeData string }
	}
}

// NewService starts a service that verifies evidence under anchors. Evidence that does not verify
// fails the test, unless Answer takes over.
func NewService(t testing.TB, anchors attest.TrustAnchors) *Service {
	t.Helper()
	s := &Service{anchors: anchors, AAD: "Transport Key"}
	s.Server = httptest.NewTLSServer(s)
	t.Cleanup(s.Close)
	t.Cleanup(func() {
		for _, p := range s.problems {
			t.Error(p)
		}
	})
	return s
}

// Requests is how many requests have come.
func (s *Service) Requests() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests
}

// ServeHTTP answers one request.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests++
	if s.Answer != nil && s.Answer(w, r, s.requests) {
		return
	}
	answer, err := s.attest(r)
	if err != nil {
		s.problems = append(s.problems, err.Error())
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]string{"token": answer})
}

func (s *Service) attest(r *http.Request) (string, error) {
	if r.Method != http.MethodPost || r.URL.Path != "/attest/AzureGuest" || r.URL.RawQuery != "api-version=2020-10-01" {
		return "", fmt.Errorf("request line: %s %s", r.Method, r.URL)
	}
	if ct := r.Header.Get("Content-Type"); ct != "application/json" {
		return "", fmt.Errorf("content type %q", ct)
	}
	var outer struct{ AttestationInfo string }
	if err := json.NewDecoder(r.Body).Decode(&outer); err != nil {
		return "", err
	}
	raw, err := base64.RawURLEncoding.DecodeString(outer.AttestationInfo)
	if err != nil {
		return "", err
	}
	var info guestRequest
	if err := json.Unmarshal(raw, &info); err != nil {
		return "", err
	}
	return s.verify(&info)
}

// std decodes standard base64; a mistake makes the evidence fail.
func std(s string) []byte {
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		return nil
	}
	return b
}

func (s *Service) verify(info *guestRequest) (string, error) {
	if info.Version != "2.0" || string(std(info.OSType)) != "Linux" || (info.IsolationInfo.Type == "Tdx") != (s.Collateral != nil) || info.TcgLogs == nil {
		return "", fmt.Errorf("version %q, OS %q, isolation %q", info.Version, info.OSType, info.IsolationInfo.Type)
	}
	e, err := info.evidence()
	if err != nil {
		return "", err
	}
	e.TDXCollateral = s.Collateral
	ch := attest.Challenge{Nonce: std(info.ClientPayload["nonce"]), Audience: s.URL}
	result := attest.Verify(e, ch, s.anchors, attest.DefaultPolicy(), Epoch())
	if err := result.Err(); err != nil {
		return "", err
	}
	encKey := std(info.TpmInfo.EncKeyPub)
	err = attest.VerifyTransportKey(result.AK, attest.Certified{
		Public: encKey[2:], Attest: std(info.TpmInfo.EncKeyCertifyInfo), Signature: std(info.TpmInfo.EncKeyCertifyInfoSignature),
	})
	if err != nil {
		return "", err
	}
	return s.seal(s.jwt(info, result.AK), encKey[len(encKey)-256:])
}

func (info *guestRequest) evidence() (*attest.Evidence, error) {
	if len(std(info.TpmInfo.PcrSignature)) != 256 || len(std(info.TpmInfo.AikPub)) < 2 {
		return nil, errors.New("PcrSignature is not bare, or AikPub is empty")
	}
	e := &attest.Evidence{
		RuntimeClaims: std(info.IsolationInfo.Evidence.RunTimeData),
		AKCertificate: std(info.TpmInfo.AikCert), AKPublic: std(info.TpmInfo.AikPub)[2:],
		KeyPublic: std(info.ClientPayload["key-public"]), Certify: std(info.ClientPayload["key-certify"]),
		CertifySignature: std(info.ClientPayload["key-certify-signature"]),
		Quote:            std(info.TpmInfo.PcrQuote), QuoteSignature: std(info.TpmInfo.PcrSignature), PCRs: map[int][]byte{},
	}
	if log := std(*info.TcgLogs); len(log) > 0 {
		e.EventLog = log
	}
	if err := info.addProof(e); err != nil {
		return nil, err
	}
	for i, p := range info.TpmInfo.PCRs {
		if i >= len(info.TpmInfo.PcrSet) || info.TpmInfo.PcrSet[i] != p.Index {
			return nil, fmt.Errorf("PcrSet %v does not go with PCRs", info.TpmInfo.PcrSet)
		}
		e.PCRs[p.Index] = std(p.Digest)
	}
	return e, nil
}

// addProof reads what the hardware says.
func (info *guestRequest) addProof(e *attest.Evidence) error {
	raw := std(info.IsolationInfo.Evidence.Proof)
	switch info.IsolationInfo.Type {
	case "Tdx":
		e.TDQuote = raw
		return nil
	case "SevSnp":
		var proof struct{ SnpReport, VcekCertChain string }
		if err := json.Unmarshal(raw, &proof); err != nil {
			return err
		}
		for block, rest := pem.Decode(std(proof.VcekCertChain)); block != nil; block, rest = pem.Decode(rest) {
			e.VCEKChain = append(e.VCEKChain, block.Bytes)
		}
		var err error
		e.SNPReport, err = base64.RawURLEncoding.DecodeString(proof.SnpReport)
		return err
	}
	return fmt.Errorf("isolation %q", info.IsolationInfo.Type)
}

// jwt makes a token; its signature is random, since the client does not check it.
func (s *Service) jwt(info *guestRequest, ak *attest.AK) string {
	claims := map[string]any{
		"iss": s.URL, "exp": Epoch().Add(8 * time.Hour).Unix(), "x-ms-attestation-type": "azurevm",
		"x-ms-runtime": map[string]any{"client-payload": info.ClientPayload},
		"x-ms-isolation-tee": map[string]any{"x-ms-runtime": map[string]any{
			"keys": []any{map[string]any{"kid": "HCLAkPub", "n": base64.RawURLEncoding.EncodeToString(ak.Public.N.Bytes())}},
		}},
	}
	if s.Claims != nil {
		s.Claims(claims)
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		return ""
	}
	jwt := "eyJhbGciOiJSUzI1NiJ9." + base64.RawURLEncoding.EncodeToString(payload) + ".c2ln"
	if s.Compact != nil {
		jwt = s.Compact(jwt)
	}
	return jwt
}

func (s *Service) seal(jwt string, modulus []byte) (string, error) {
	inner := bytes.Repeat([]byte{0x42}, 32)
	if s.InnerKey != nil {
		inner = s.InnerKey(inner)
	}
	public := &rsa.PublicKey{N: new(big.Int).SetBytes(modulus), E: 65537}
	//lint:ignore SA1019 the service's envelope is RSAES-PKCS1-v1_5
	wrapped, err := rsa.EncryptPKCS1v15(rand.Reader, public, inner)
	if err != nil {
		return "", err
	}
	block, err := aes.NewCipher(bytes.Repeat([]byte{0x42}, 32))
	if err != nil {
		return "", err
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		return "", err
	}
	iv := make([]byte, 12)
	sealed := gcm.Seal(nil, iv, []byte(jwt), []byte(s.AAD))
	envelope := map[string]any{
		"EncryptedInnerKey": wrapped, "AuthenticationData": sealed[len(sealed)-16:], "Jwt": sealed[:len(sealed)-16],
		"EncryptionParams": map[string]any{
			"Cipher": "AES", "BlockMode": "ChainingModeGCM", "BlockPadding": "PKCS7", "KeySizeInBits": 256, "Iv": iv,
		},
	}
	if s.Envelope != nil {
		s.Envelope(envelope)
	}
	b, err := json.Marshal(envelope)
	return base64.RawURLEncoding.EncodeToString(b), err
}
