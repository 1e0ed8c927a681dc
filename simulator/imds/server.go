package imds

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/uuid"

	"github.com/keyagent/keyagent/simulator/internal/endpoint"
	"github.com/keyagent/keyagent/simulator/journal"
	"github.com/keyagent/keyagent/simulator/pki"
)

// Names of the operations in journal and faults.
const (
	OpMetadata   = "imds.getplatformmetadata"
	OpCredential = "imds.issuecredential"
	OpToken      = "imds.token"   // managed identity v1
	OpCompute    = "imds.compute" // instance metadata
	OpTHIM       = "imds.thim"
	OpTDQuote    = "imds.tdquote" // a quote for a TDREPORT
	OpUnknown    = "imds.unknown" // every other path
)

// serverName is the Server header of every answer. Clients tell IMDS by it.
const serverName = "IMDS/150.870.65.1854"

// maxBodyBytes is far above any request that makes sense.
const maxBodyBytes = 64 << 10

// Identity is a managed identity that the VM has.
type Identity struct {
	ClientID       string // GUID
	ObjectID       string // GUID of the service principal
	ResourceID     string // ARM resource id of a user-assigned identity, or of the VM
	SystemAssigned bool   // at most one; the one that is meant without selector
}

// Config describes the VM, and the services that its IMDS works with.
type Config struct {
	TenantID   string // GUID
	VMID       string // GUID, in cuId and in attestation tokens
	Location   string // region, as in "westeurope"
	Identities []Identity

	// Token gets a Bearer token from Entra for the identity with this client id, and its life. An
	// error means that there is no such resource.
	Token func(clientID, resource string) (token string, life time.Duration, err error)
	// Reject tells Entra to refuse the certificate with this thumbprint (x5t#S256), as the
	// attestation token that it was issued on is a bad one.
	Reject func(thumbprint string)

	AttestationEndpoint string             // base URL of the attestation service, which is also its tokens' issuer
	AttestationKeys     jose.JSONWebKeySet // with which it signs
	MTLSEndpoint        string             // base URL of the token endpoint

	Issuer      *pki.IdentityIssuer
	BindingLife time.Duration // 0 means pki.DefaultBindingLife
	TokenLife   time.Duration // 0 means pki.DefaultTokenLife

	Processor *pki.Processor   // whose certificates THIM serves
	TDX       *pki.TDXPlatform // which makes quotes; nil on a host with SEV-SNP
	Behaviour Behaviour        // at the start

	Now      func() time.Time // nil means time.Now
	Recorder endpoint.Recorder
}

// Server is the service. It is safe for concurrent use.
type Server struct {
	cfg    Config
	routes map[string]route

	mu         sync.Mutex // guards what follows
	behaviour  Behaviour
	tokens     map[string]cachedToken     // by client id and resource
	issued     []issuance                 // since the last Distrust
	known      map[string]bool            // thumbprints of all that was ever issued
	distrusted map[[sha256.Size]byte]bool // digests of attestation tokens
	second     int64                      // Unix time of the last request, for the limit
	asked      int                        // requests in that second
	inside     int                        // requests being answered
}

// route is an operation and where it stands in journal and faults.
type route struct {
	name   string
	method string // "" means any
	v2     bool   // part of managed identity v2
	do     operation
}

// tokenPath is the path of managed identity v1. Clients that join it to a base URL of their own
// write it with doubled slashes and with one at the end.
const tokenPath = "/metadata/identity/oauth2/token"

// New returns the service; serve it with net/http.
func New(cfg Config) (*Server, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	s := &Server{cfg: cfg, tokens: map[string]cachedToken{}, known: map[string]bool{}, distrusted: map[[sha256.Size]byte]bool{}}
	s.routes = map[string]route{
		"/metadata/identity/getplatformmetadata": {OpMetadata, http.MethodGet, true, s.platformMetadata},
		"/metadata/identity/issuecredential":     {OpCredential, http.MethodPost, true, s.issueCredential},
		tokenPath:                                {OpToken, http.MethodGet, false, s.accessToken},
		"/metadata/instance/compute":             {OpCompute, http.MethodGet, false, s.computeMetadata},
		"/metadata/THIM/amd/certification":       {OpTHIM, http.MethodGet, false, s.certification},
		"/acc/tdquote":                           {OpTDQuote, http.MethodPost, false, s.tdQuote},
	}
	return s, s.Set(cfg.Behaviour)
}

// ServeHTTP implements http.Handler. But for that of managed identity v1, paths are compared byte
// for byte: nothing is cleaned up or redirected.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Server", serverName)
	path := canonical(r.URL.Path)
	to, ok := s.routes[path]
	if !ok {
		to = route{name: OpUnknown, do: notFound}
	}
	leave, ok := s.enter(path)
	defer leave()
	if !ok {
		to.do = tooMany
	}
	s.handler(to).ServeHTTP(w, r)
}

// canonical is the path as routes know it.
func canonical(path string) string {
	fields := strings.FieldsFunc(path, func(c rune) bool { return c == '/' })
	if clean := "/" + strings.Join(fields, "/"); clean == tokenPath {
		return clean
	}
	return path
}

// operation answers a request whose envelope is in order.
type operation func(r *http.Request, e *journal.Entry) (any, error)

func (s *Server) handler(to route) http.Handler {
	return s.cfg.Recorder.Handler(to.name, func(w http.ResponseWriter, r *http.Request, e *journal.Entry) {
		reply, err := s.answer(to, r, e)
		if err == nil {
			endpoint.WriteJSON(w, http.StatusOK, reply)
			return
		}
		refused := asRefusal(err)
		e.Error = refused.description
		endpoint.WriteJSON(w, refused.status, refused.body())
	})
}

// answer checks the envelope, but on a host without managed identity v2 even a probe learns that
// there is none.
func (s *Server) answer(to route, r *http.Request, e *journal.Entry) (any, error) {
	if to.v2 && s.current().NoV2 {
		return notFound(r, e)
	}
	if err := checkEnvelope(r, to.method); err != nil {
		return nil, err
	}
	return to.do(r, e)
}

// checkEnvelope is what IMDS wants of every request: not forwarded by a proxy, and made on purpose.
func checkEnvelope(r *http.Request, method string) error {
	if _, ok := r.Header["X-Forwarded-For"]; ok {
		return refuse("the request was forwarded: IMDS answers local callers only")
	}
	if m := r.Header.Values("Metadata"); len(m) != 1 || m[0] != "true" {
		return refuse("required metadata header not specified")
	}
	if method != "" && r.Method != method {
		return &refusal{status: http.StatusMethodNotAllowed, code: "invalid_request", description: "method " + r.Method + " is not allowed here"}
	}
	return nil
}

func notFound(*http.Request, *journal.Entry) (any, error) {
	return nil, &refusal{status: http.StatusNotFound, code: "not_found", description: "no such endpoint in this version of IMDS"}
}

// refusal is an error answer.
type refusal struct {
	status      int
	code        string
	description string
	versions    []string // that would do, newest first
}

func (r *refusal) body() map[string]any {
	if r.versions != nil {
		return map[string]any{"error": r.code, "newest-versions": r.versions}
	}
	return map[string]any{"error": r.code, "error_description": r.description}
}

func (r *refusal) Error() string { return r.code + ": " + r.description }

// refuse is the usual refusal: 400, invalid_request.
func refuse(format string, args ...any) error {
	return &refusal{status: http.StatusBadRequest, code: "invalid_request", description: fmt.Sprintf(format, args...)}
}

func asRefusal(err error) *refusal {
	if r, ok := errors.AsType[*refusal](err); ok {
		return r
	}
	return &refusal{status: http.StatusInternalServerError, code: "unknown", description: err.Error()}
}

// identity checks the query and the request id of a managed identity v2 request, and returns the
// identity that it selects. The service refuses requests without the id (MSAL Go, pull request
// 662). more are query variables beside version and selectors.
func (s *Server) identity(r *http.Request, more ...string) (*Identity, error) {
	known := append([]string{"cred-api-version", "client_id", "object_id", "mi_res_id"}, more...)
	if len(r.Header.Values("x-ms-client-request-id")) != 1 || uuid.Validate(r.Header.Get("x-ms-client-request-id")) != nil {
		return nil, refuse("header x-ms-client-request-id is missing or not a GUID")
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, refuse("query cannot be read")
	}
	if v := query["cred-api-version"]; len(v) != 1 || v[0] != "2.0" {
		return nil, refuse("cred-api-version must be 2.0")
	}
	if err := onlyKnown(query, known); err != nil {
		return nil, err
	}
	return s.selected(query, "mi_res_id")
}

// onlyKnown refuses query variables that a request of managed identity v2 does not know, as the
// service does: msi_res_id, which is version 1's, was answered with 400 "Unsupported query
// variables" (review of MSAL.NET's pull request 5501, 2025-10).
func onlyKnown(query url.Values, known []string) error {
	for _, name := range slices.Sorted(maps.Keys(query)) {
		if !slices.Contains(known, name) {
			return refuse("Unsupported query variables: %.40s", name)
		}
	}
	return nil
}

// selectors are the query parameters that name an identity, and what they are compared with.
// Managed identity v1 documents msi_res_id, and takes mi_res_id, which go-autorest and rclone send
// it; v2 refuses the former before it comes to this.
func selectors() map[string]func(*Identity) string {
	resourceID := func(i *Identity) string { return i.ResourceID }
	return map[string]func(*Identity) string{
		"client_id":  func(i *Identity) string { return i.ClientID },
		"object_id":  func(i *Identity) string { return i.ObjectID },
		"mi_res_id":  resourceID,
		"msi_res_id": resourceID,
	}
}

func (s *Server) selected(query url.Values, resourceID string) (*Identity, error) {
	matches := func(i *Identity) bool { return i.SystemAssigned }
	count := 0
	for name, field := range selectors() {
		values := query[name]
		count += len(values)
		if len(values) == 1 {
			matches = func(i *Identity) bool { return strings.EqualFold(field(i), values[0]) }
		}
	}
	if count > 1 {
		return nil, refuse("more than one identity selected")
	}
	at := slices.IndexFunc(s.cfg.Identities, func(i Identity) bool { return matches(&i) })
	if at < 0 && count == 0 && resourceID == "msi_res_id" {
		return s.only()
	}
	if at < 0 {
		return nil, errNotFound()
	}
	return &s.cfg.Identities[at], nil
}

// only is the identity that managed identity v1 gives without a selector on a VM without an
// identity of its own.
func (s *Server) only() (*Identity, error) {
	switch len(s.cfg.Identities) {
	case 0:
		return nil, errNotFound()
	case 1:
		return &s.cfg.Identities[0], nil
	}
	return nil, refuse("Multiple user assigned identities exist, please specify the clientId / resourceId of the identity in the token request")
}

func errNotFound() error {
	return &refusal{status: http.StatusBadRequest, code: "identity_not_found", description: "Identity not found"}
}
