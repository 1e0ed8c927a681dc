package maa

import (
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/simulator/internal/endpoint"
	"github.com/keyagent/keyagent/simulator/journal"
	"github.com/keyagent/keyagent/simulator/pki"
)

// Names of the operations in journal and faults.
const (
	OpAttest   = "maa.attest"
	OpMetadata = "maa.metadata" // signing certificates and OpenID configuration
	OpUnknown  = "maa.unknown"  // every other path
)

// TokenLife is how long a token is good for.
const TokenLife = 8 * time.Hour

// Config says whose evidence the instance believes.
type Config struct {
	BaseURL      string // of this instance, https, without trailing slash: issuer of its tokens and audience of evidence
	Anchors      attest.TrustAnchors
	IDKeyDigests [][]byte              // launch identities that count as Azure's paravisor; 48 bytes each
	MRTDs        [][]byte              // the same on Intel TDX
	Collateral   *attest.TDXCollateral // what the service has from Intel; nil if it knows no TDX
	Keys         pki.Keys              // for the signing key; nil generates one
	Now          func() time.Time      // nil means time.Now
	Recorder     endpoint.Recorder
}

// Server is the instance. It is safe for concurrent use.
type Server struct {
	cfg         Config
	policy      attest.Policy
	signer      jose.Signer
	certificate *x509.Certificate // of the signing key
	keyID       string
	routes      map[string]http.Handler

	mu     sync.Mutex      // guards what follows
	nonces map[string]bool // used ones; they are never forgotten
}

// New returns an instance with a fresh signing key.
func New(cfg Config) (*Server, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	s := &Server{cfg: cfg, policy: attest.DefaultPolicy(), nonces: map[string]bool{}}
	s.policy.Launch = attest.Launch{IDKeyDigests: cfg.IDKeyDigests}
	s.policy.MRTDs = cfg.MRTDs
	s.policy.Required = append(s.policy.Required, attest.CheckAKCertificate)
	if err := s.makeKey(); err != nil {
		return nil, fmt.Errorf("signing key of the attestation service: %w", err)
	}
	record := cfg.Recorder.Handler
	s.routes = map[string]http.Handler{
		"/attest/AzureGuest":                record(OpAttest, s.serveAttest),
		"/certs":                            record(OpMetadata, s.serveCertificates),
		"/.well-known/openid-configuration": record(OpMetadata, s.serveConfiguration),
		"":                                  record(OpUnknown, serveUnknown),
	}
	return s, nil
}

func (s *Server) makeKey() error {
	key, err := s.cfg.Keys.Next()
	if err != nil {
		return err
	}
	now := s.cfg.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.Unix()),
		Subject:      pkix.Name{CommonName: s.cfg.BaseURL},
		NotBefore:    now.Add(-time.Hour),
		NotAfter:     now.AddDate(1, 0, 0),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	if s.certificate, err = x509.ParseCertificate(der); err != nil {
		return err
	}
	s.keyID = endpoint.Thumbprint(der)
	options := (&jose.SignerOptions{}).WithType("JWT").WithHeader("kid", s.keyID).WithHeader("jku", s.cfg.BaseURL+"/certs")
	s.signer, err = jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: key}, options)
	return err
}

// Keys are the keys that tokens are signed with.
func (s *Server) Keys() jose.JSONWebKeySet {
	return jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{KeyID: s.keyID, Key: s.certificate.PublicKey}}}
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h, ok := s.routes[r.URL.Path]
	if !ok {
		h = s.routes[""]
	}
	h.ServeHTTP(w, r)
}

// useNonce reports whether nonce is new, and remembers it.
func (s *Server) useNonce(nonce []byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.nonces[string(nonce)] {
		return false
	}
	s.nonces[string(nonce)] = true
	return true
}

func (s *Server) serveAttest(w http.ResponseWriter, r *http.Request, e *journal.Entry) {
	answer, err := s.attest(w, r, e)
	if err != nil {
		refused := asRefusal(err)
		e.Error = refused.message
		endpoint.WriteJSON(w, refused.status, refused.body())
		return
	}
	endpoint.WriteJSON(w, http.StatusOK, map[string]string{"token": answer})
}

// serveCertificates lists the signing certificate as the real service does: the key is in x5c, and
// nowhere else.
func (s *Server) serveCertificates(w http.ResponseWriter, _ *http.Request, _ *journal.Entry) {
	type jwk struct {
		KeyID string   `json:"kid"`
		Type  string   `json:"kty"`
		Chain [][]byte `json:"x5c"` // standard base64 (RFC 7517, 4.7)
	}
	endpoint.WriteJSON(w, http.StatusOK, map[string][]jwk{"keys": {{s.keyID, "RSA", [][]byte{s.certificate.Raw}}}})
}

func (s *Server) serveConfiguration(w http.ResponseWriter, _ *http.Request, _ *journal.Entry) {
	endpoint.WriteJSON(w, http.StatusOK, map[string]any{
		"issuer":                                s.cfg.BaseURL,
		"jwks_uri":                              s.cfg.BaseURL + "/certs",
		"response_types_supported":              []string{"token", "none"},
		"id_token_signing_alg_values_supported": []string{string(jose.RS256)},
	})
}

func serveUnknown(w http.ResponseWriter, _ *http.Request, e *journal.Entry) {
	refused := &refusal{status: http.StatusNotFound, code: "NotFound", message: "no such operation"}
	e.Error = refused.message
	endpoint.WriteJSON(w, refused.status, refused.body())
}

// refusal is an error answer.
type refusal struct {
	status  int
	code    string
	message string
	failed  []attest.Check
}

func (r *refusal) Error() string { return r.code + ": " + r.message }

// malformed refuses a request that is not of the form that the service takes.
func malformed(format string, args ...any) error {
	return &refusal{status: http.StatusBadRequest, code: "InvalidParameter", message: fmt.Sprintf(format, args...)}
}

func asRefusal(err error) *refusal {
	if r, ok := errors.AsType[*refusal](err); ok {
		return r
	}
	return &refusal{status: http.StatusInternalServerError, code: "InternalError", message: err.Error()}
}

// body is r in the service's form.
func (r *refusal) body() any {
	type innerError struct {
		Details []attest.Check `json:"details"`
	}
	type errorMember struct {
		Code    string      `json:"code"`
		Message string      `json:"message"`
		Inner   *innerError `json:"innererror,omitempty"`
	}
	m := errorMember{Code: r.code, Message: r.message}
	if len(r.failed) > 0 {
		m.Inner = &innerError{r.failed}
	}
	return map[string]errorMember{"error": m}
}
