package entra

import (
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/keyagent/keyagent/simulator/internal/endpoint"
	"github.com/keyagent/keyagent/simulator/pki"
)

// Names of the operations in journal and faults.
const (
	OpToken     = "entra.mtls.token"
	OpLogin     = "entra.login.token"
	OpKeys      = "entra.keys"
	OpDiscovery = "entra.discovery" // openid configuration and instance discovery
	OpUnknown   = "entra.unknown"   // every other path
)

// DefaultTokenLife is how long an access token is good for. Half of it is refresh_in.
const DefaultTokenLife = 24 * time.Hour

// TokenExchange is the resource whose tokens are assertions for a federated credential. Every
// tenant has it.
const TokenExchange = "api://AzureADTokenExchange"

// Principal is the service principal of a managed identity.
type Principal struct {
	ClientID   string // GUID
	ObjectID   string // GUID
	ResourceID string // ARM resource id, claim xms_mirid
}

// Config says what the tenant looks like.
type Config struct {
	MTLSURL  string // base URL of the mutual-TLS face, https, without trailing slash
	LoginURL string // base URL of the login face, likewise
	TenantID string // GUID

	Keys pki.Keys // for the signing key; nil generates one

	Principals   []Principal
	Applications []Application
	Resources    []string // URIs of the resources that the tenant knows, without trailing slash; TokenExchange is always one
	BearerOnly   []string // those of them that take no certificate-bound tokens

	Issuer          *x509.Certificate             // of binding certificates
	ExternalIssuers map[string]jose.JSONWebKeySet // keys of other issuers that federated credentials may name
	TokenLife       time.Duration                 // 0 means DefaultTokenLife
	Now             func() time.Time              // nil means time.Now
	Recorder        endpoint.Recorder
}

// Server is the tenant's token service. Its two faces, MTLS and Login, share clients, keys and
// journal. It is safe for concurrent use.
type Server struct {
	cfg    Config
	signer jose.Signer
	keys   jose.JSONWebKeySet

	mu           sync.Mutex              // guards what follows
	tenant       TenantPolicy            //
	applications map[string]*Application // by client id in lower case
	external     map[string]jose.JSONWebKeySet
	refused      map[string]int  // AADSTS code by certificate thumbprint
	met          map[string]bool // thumbprints of certificates that applications have shown
}

// New returns the service with a fresh signing key. Serve its faces with TLSConfig and
// LoginTLSConfig.
func New(cfg Config) (*Server, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.TokenLife == 0 {
		cfg.TokenLife = DefaultTokenLife
	}
	key, err := cfg.Keys.Next()
	if err != nil {
		return nil, fmt.Errorf("signing key of the token endpoint: %w", err)
	}
	s := &Server{
		cfg: cfg, applications: map[string]*Application{}, external: map[string]jose.JSONWebKeySet{},
		refused: map[string]int{}, met: map[string]bool{},
	}
	for _, app := range cfg.Applications {
		s.applications[strings.ToLower(app.ClientID)] = app.clone()
	}
	for issuer, keys := range cfg.ExternalIssuers {
		s.external[issuer] = keys
	}
	return s, s.useKey(key)
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

// Keys are the keys that access tokens are signed with.
func (s *Server) Keys() jose.JSONWebKeySet { return s.keys }

// Issuer is the iss claim of access tokens.
func (s *Server) Issuer() string { return s.cfg.MTLSURL + "/" + s.cfg.TenantID + "/" }

// FederationIssuer is the iss claim of tokens for TokenExchange, and what a federated credential
// names as its issuer.
func (s *Server) FederationIssuer() string { return s.cfg.LoginURL + "/" + s.cfg.TenantID + "/v2.0" }

// TenantPolicy is what holds for every client of the tenant.
type TenantPolicy struct {
	DenyBound   bool `json:"deny_bound"`   // no certificate-bound tokens: AADSTS3921996
	BoundBearer bool `json:"bound_bearer"` // a Bearer token for a bound assertion is bound as well
}

// SetTenant replaces the tenant's policy, which is empty at first.
func (s *Server) SetTenant(policy TenantPolicy) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tenant = policy
}

func (s *Server) tenantPolicy() TenantPolicy {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tenant
}

// Codes for certificates that have been accepted before.
const (
	codeRevoked = 7000214

	// CodeAttestation is what Entra answers when a claim of the attestation token behind a
	// certificate is no longer accepted.
	CodeAttestation = 1000612
)

// Revoke makes both faces refuse the certificate with this thumbprint (x5t#S256) from now on.
func (s *Server) Revoke(thumbprint string) { s.Reject(thumbprint, codeRevoked) }

// Reject makes both faces answer this AADSTS code to the client with this certificate (x5t#S256); 0
// takes it back.
func (s *Server) Reject(thumbprint string, code int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if code == 0 {
		delete(s.refused, thumbprint)
		return
	}
	s.refused[thumbprint] = code
}

// Rejected returns the AADSTS codes that are answered, by thumbprint (x5t#S256).
func (s *Server) Rejected() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.refused)
}

func (s *Server) rejection(thumbprint string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.refused[thumbprint]
}
