package entra

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"slices"
	"strings"

	"github.com/keyagent/keyagent/simulator/internal/endpoint"
	"github.com/keyagent/keyagent/simulator/journal"
)

// face is one listener of the service.
type face struct {
	*Server
	base  string   // URL, without trailing slash
	names []string // DNS names beside that of base; a leading "*." stands for one label
	mtls  bool
}

// preferredLogin is the name that the public cloud uses for itself.
const preferredLogin = "login.microsoftonline.com"

// MTLSNames are the DNS names of the mutual-TLS face in the public cloud. A leading "*." stands for
// a region.
func MTLSNames() []string { return []string{"mtlsauth.microsoft.com", "*.mtlsauth.microsoft.com"} }

// LoginNames are the DNS names of the login face in the public cloud: the preferred one, its
// aliases (instance discovery lists them), and those of regions.
func LoginNames() []string {
	return []string{preferredLogin, "login.windows.net", "login.microsoft.com", "sts.windows.net", "*.login.microsoft.com"}
}

// MTLS is the face for clients that authenticate with their TLS certificate.
func (s *Server) MTLS() http.Handler {
	return &face{Server: s, base: s.cfg.MTLSURL, names: MTLSNames(), mtls: true}
}

// Login is the face for clients that authenticate with an assertion alone. It ignores TLS
// certificates.
func (s *Server) Login() http.Handler {
	return &face{Server: s, base: s.cfg.LoginURL, names: LoginNames()}
}

// TLSConfig returns the configuration to serve MTLS with, certificate being the server's.
func TLSConfig(certificate tls.Certificate) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS12,
		Certificates:           []tls.Certificate{certificate},
		ClientAuth:             tls.RequestClientCert, // the token endpoint checks it
		SessionTicketsDisabled: true,                  // a resumed session would prove nothing
	}
}

// LoginTLSConfig returns the configuration to serve Login with.
func LoginTLSConfig(certificate tls.Certificate) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{certificate}}
}

// ServeHTTP implements http.Handler.
func (f *face) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name, h := f.route(r.URL.Path)
	f.cfg.Recorder.Handler(name, h).ServeHTTP(w, r)
}

func (f *face) route(path string) (string, endpoint.Handler) {
	tenant, rest, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	switch {
	case isTokenPath(rest) && f.mtls:
		return OpToken, f.serveToken
	case isTokenPath(rest):
		return OpLogin, f.serveToken
	case rest == "discovery/v2.0/keys" && tenant == f.cfg.TenantID:
		return OpKeys, f.serveKeys
	case rest == "v2.0/.well-known/openid-configuration" && !f.mtls:
		return OpDiscovery, f.serveConfiguration
	case path == "/common/discovery/instance" && !f.mtls:
		return OpDiscovery, f.serveInstance
	}
	return OpUnknown, serveUnknown
}

// isTokenPath also takes a slash at the end, which MSAL for JavaScript writes to regional
// endpoints.
func isTokenPath(rest string) bool { return strings.TrimSuffix(rest, "/") == "oauth2/v2.0/token" }

// baseOf is the base URL as the client of r wrote it: by address, or by one of the names of the
// public cloud.
func (f *face) baseOf(r *http.Request) string {
	if isOneOf(r.Host, f.names) {
		return "https://" + r.Host
	}
	return f.base
}

// isOneOf says whether the host, with or without port, has one of the DNS names.
func isOneOf(host string, names []string) bool {
	name, _, _ := strings.Cut(host, ":")
	return slices.ContainsFunc(names, func(pattern string) bool { return matchesName(name, pattern) })
}

func matchesName(name, pattern string) bool {
	parent, wildcard := strings.CutPrefix(pattern, "*.")
	if !wildcard {
		return strings.EqualFold(name, pattern)
	}
	label, rest, _ := strings.Cut(name, ".")
	return label != "" && strings.EqualFold(rest, parent)
}

// clientCertificate is the certificate whose key the client has proved to have. Nil means none.
func (f *face) clientCertificate(r *http.Request) *x509.Certificate {
	if !f.mtls || r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return nil
	}
	return r.TLS.PeerCertificates[0]
}

func (f *face) serveKeys(w http.ResponseWriter, _ *http.Request, _ *journal.Entry) {
	endpoint.WriteJSON(w, http.StatusOK, f.keys)
}

func serveUnknown(w http.ResponseWriter, _ *http.Request, _ *journal.Entry) {
	endpoint.WriteJSON(w, http.StatusNotFound, map[string]string{"error": "not_found"})
}
