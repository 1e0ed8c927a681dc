package imds

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/uuid"

	"github.com/keyagent/keyagent/simulator/internal/leg"
	"github.com/keyagent/keyagent/simulator/journal"
	"github.com/keyagent/keyagent/simulator/pki"
)

// Names of the legs in journal and faults.
const (
	LegMetadata   = "imds.getplatformmetadata"
	LegCredential = "imds.issuecredential"
	LegTHIM       = "imds.thim"
	LegUnknown    = "imds.unknown" // every other path
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

// Config says which VM this is and whom its IMDS works with.
type Config struct {
	TenantID   string // GUID
	VMID       string // GUID, in cuId and in attestation tokens
	Identities []Identity

	AttestationEndpoint string             // base URL of the attestation service, which is also its tokens' issuer
	AttestationKeys     jose.JSONWebKeySet // with which it signs
	MTLSEndpoint        string             // base URL of the token endpoint

	Issuer      *pki.IdentityIssuer
	BindingLife time.Duration // 0 means pki.DefaultBindingLife
	TokenLife   time.Duration // 0 means pki.DefaultTokenLife

	Processor *pki.Processor // whose certificates THIM serves

	Now      func() time.Time // nil means time.Now
	Recorder leg.Recorder
}

// Server is the service. It is safe for concurrent use.
type Server struct {
	cfg    Config
	routes map[string]http.Handler
}

// New returns the service; serve it with net/http.
func New(cfg Config) *Server {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	s := &Server{cfg: cfg}
	s.routes = map[string]http.Handler{
		"/metadata/identity/getplatformmetadata": s.leg(LegMetadata, http.MethodGet, s.platformMetadata),
		"/metadata/identity/issuecredential":     s.leg(LegCredential, http.MethodPost, s.issueCredential),
		"/metadata/THIM/amd/certification":       s.leg(LegTHIM, http.MethodGet, s.certification),
		"":                                       s.leg(LegUnknown, "", notFound),
	}
	return s
}

// ServeHTTP implements http.Handler. Paths are compared byte for byte: nothing is cleaned up or redirected.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Server", serverName)
	h, ok := s.routes[r.URL.Path]
	if !ok {
		h = s.routes[""]
	}
	h.ServeHTTP(w, r)
}

// operation answers a request whose envelope is in order.
type operation func(r *http.Request, e *journal.Entry) (any, error)

func (s *Server) leg(name, method string, do operation) http.Handler {
	return s.cfg.Recorder.Handler(name, func(w http.ResponseWriter, r *http.Request, e *journal.Entry) {
		err := checkEnvelope(r, method)
		var reply any
		if err == nil {
			reply, err = do(r, e)
		}
		if err == nil {
			leg.WriteJSON(w, http.StatusOK, reply)
			return
		}
		refused := asRefusal(err)
		e.Error = refused.description
		leg.WriteJSON(w, refused.status, map[string]string{"error": refused.code, "error_description": refused.description})
	})
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
		return &refusal{http.StatusMethodNotAllowed, "invalid_request", "method " + r.Method + " is not allowed here"}
	}
	return nil
}

func notFound(*http.Request, *journal.Entry) (any, error) {
	return nil, &refusal{http.StatusNotFound, "not_found", "no such endpoint in this version of IMDS"}
}

// refusal is an error answer.
type refusal struct {
	status      int
	code        string
	description string
}

func (r *refusal) Error() string { return r.code + ": " + r.description }

// refuse is the usual refusal: 400, invalid_request.
func refuse(format string, args ...any) error {
	return &refusal{http.StatusBadRequest, "invalid_request", fmt.Sprintf(format, args...)}
}

func asRefusal(err error) *refusal {
	if r, ok := errors.AsType[*refusal](err); ok {
		return r
	}
	return &refusal{http.StatusInternalServerError, "unknown", err.Error()}
}

// identity checks the query and the request id of a managed identity v2 request, and returns the identity that it selects.
func (s *Server) identity(r *http.Request) (*Identity, error) {
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
	for _, wrong := range []string{"msi_res_id", "principal_id", "uaid", "cid"} {
		if query.Has(wrong) {
			return nil, refuse("query parameter %s does not select an identity here", wrong)
		}
	}
	return s.selected(query)
}

// selectors are the query parameters that name an identity, and what they are compared with.
func selectors() map[string]func(*Identity) string {
	return map[string]func(*Identity) string{
		"client_id": func(i *Identity) string { return i.ClientID },
		"object_id": func(i *Identity) string { return i.ObjectID },
		"mi_res_id": func(i *Identity) string { return i.ResourceID },
	}
}

func (s *Server) selected(query url.Values) (*Identity, error) {
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
	if at < 0 {
		return nil, &refusal{http.StatusBadRequest, "identity_not_found", "Identity not found"}
	}
	return &s.cfg.Identities[at], nil
}
