package entra

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/keyagent/keyagent/simulator/internal/leg"
)

// Names of the legs in journal and faults.
const (
	LegToken   = "entra.mtls.token"
	LegKeys    = "entra.keys"
	LegUnknown = "entra.unknown" // every other path
)

// DefaultTokenLife is how long an access token is good for. Half of it is refresh_in.
const DefaultTokenLife = 24 * time.Hour

// Principal is the service principal of a managed identity.
type Principal struct {
	ClientID   string // GUID
	ObjectID   string // GUID
	ResourceID string // ARM resource id, claim xms_mirid
}

// Config says what the tenant looks like.
type Config struct {
	BaseURL    string // of this service, https, without trailing slash
	TenantID   string // GUID
	Principals []Principal
	Resources  []string          // URIs of the resources that the tenant knows, without trailing slash
	Issuer     *x509.Certificate // of binding certificates
	TokenLife  time.Duration     // 0 means DefaultTokenLife
	Now        func() time.Time  // nil means time.Now
	Recorder   leg.Recorder
}

// Server is the service. It is safe for concurrent use.
type Server struct {
	cfg    Config
	signer jose.Signer
	keys   jose.JSONWebKeySet
	routes map[string]http.Handler

	mu      sync.Mutex      // guards what follows
	revoked map[string]bool // by certificate thumbprint
}

// New returns the service with a fresh signing key; serve it with TLSConfig.
func New(cfg Config) (*Server, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.TokenLife == 0 {
		cfg.TokenLife = DefaultTokenLife
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, fmt.Errorf("signing key of the token endpoint: %w", err)
	}
	s := &Server{cfg: cfg, revoked: map[string]bool{}}
	if err := s.useKey(key); err != nil {
		return nil, err
	}
	s.routes = map[string]http.Handler{
		"/" + cfg.TenantID + "/discovery/v2.0/keys": cfg.Recorder.Handler(LegKeys, s.serveKeys),
	}
	return s, nil
}

func (s *Server) useKey(key *rsa.PrivateKey) error {
	public := jose.JSONWebKey{Key: key.Public(), Use: "sig", Algorithm: string(jose.RS256)}
	thumbprint, err := public.Thumbprint(crypto.SHA256)
	if err != nil {
		return fmt.Errorf("key id of the token endpoint: %w", err)
	}
	public.KeyID = fmt.Sprintf("%x", thumbprint[:10])
	s.keys = jose.JSONWebKeySet{Keys: []jose.JSONWebKey{public}}
	options := (&jose.SignerOptions{}).WithType("JWT").WithHeader("kid", public.KeyID)
	s.signer, err = jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: key}, options)
	return err
}

// TLSConfig returns the configuration to serve with, certificate being the server's.
func TLSConfig(certificate tls.Certificate) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS12,
		Certificates:           []tls.Certificate{certificate},
		ClientAuth:             tls.RequestClientCert, // judged by the token endpoint, which can say why not
		SessionTicketsDisabled: true,                  // a resumed session would prove nothing
	}
}

// Keys are the keys that access tokens are signed with.
func (s *Server) Keys() jose.JSONWebKeySet { return s.keys }

// Issuer is the iss claim of access tokens.
func (s *Server) Issuer() string { return s.cfg.BaseURL + "/" + s.cfg.TenantID + "/" }

// Revoke makes the endpoint refuse the certificate with this thumbprint (x5t#S256) from now on.
func (s *Server) Revoke(thumbprint string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.revoked[thumbprint] = true
}

func (s *Server) isRevoked(thumbprint string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.revoked[thumbprint]
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if h, ok := s.routes[r.URL.Path]; ok {
		h.ServeHTTP(w, r)
		return
	}
	if tenant, ok := strings.CutSuffix(r.URL.Path, "/oauth2/v2.0/token"); ok && strings.Count(tenant, "/") == 1 {
		s.cfg.Recorder.Handler(LegToken, s.serveToken).ServeHTTP(w, r)
		return
	}
	s.cfg.Recorder.Handler(LegUnknown, serveUnknown).ServeHTTP(w, r)
}
