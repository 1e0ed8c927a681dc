package entra

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/keyagent/keyagent/simulator/internal/endpoint"
	"github.com/keyagent/keyagent/simulator/journal"
)

// configurationPath is the tenant's OpenID configuration (OpenID Connect Discovery 1.0, 4).
const configurationPath = "/v2.0/.well-known/openid-configuration"

// configuration is the part of the OpenID configuration that clients look at.
type configuration struct {
	Issuer                string   `json:"issuer"`
	AuthorizationEndpoint string   `json:"authorization_endpoint"`
	TokenEndpoint         string   `json:"token_endpoint"`
	KeysURI               string   `json:"jwks_uri"`
	AuthMethods           []string `json:"token_endpoint_auth_methods_supported"`
	ResponseTypes         []string `json:"response_types_supported"`
	SubjectTypes          []string `json:"subject_types_supported"`
	Algorithms            []string `json:"id_token_signing_alg_values_supported"`
}

func (f *face) serveConfiguration(w http.ResponseWriter, r *http.Request, e *journal.Entry) {
	tenant, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	if err := f.checkDiscovery(r, tenant); err != nil {
		f.writeRefusal(w, r, e, err)
		return
	}
	base := f.baseOf(r) + "/" + f.cfg.TenantID
	endpoint.WriteJSON(w, http.StatusOK, configuration{
		Issuer:                f.issuerOf(r),
		AuthorizationEndpoint: base + "/oauth2/v2.0/authorize",
		TokenEndpoint:         base + "/oauth2/v2.0/token",
		KeysURI:               base + "/discovery/v2.0/keys",
		AuthMethods:           []string{"private_key_jwt"},
		ResponseTypes:         []string{"token"},
		SubjectTypes:          []string{"pairwise"},
		Algorithms:            []string{"RS256"},
	})
}

// issuerOf is the issuer that the OpenID configuration names. A tenant has one, whichever of the
// cloud's names is asked, regional ones included: MSAL Go 1.9 and azidentity 1.14 refuse a regional
// issuer.
func (f *face) issuerOf(r *http.Request) string {
	if base := f.baseOf(r); base == f.base {
		return f.FederationIssuer()
	}
	return "https://" + preferredLogin + "/" + f.cfg.TenantID + "/v2.0"
}

func (f *face) checkDiscovery(r *http.Request, tenant string) error {
	if r.Method != http.MethodGet {
		return refuse(http.StatusMethodNotAllowed, "invalid_request", 900561, "The endpoint only accepts GET requests. Received a %s request.", r.Method)
	}
	if tenant != f.cfg.TenantID {
		return refuse(http.StatusBadRequest, "invalid_tenant", 90002, "Tenant '%.40s' not found.", tenant)
	}
	return nil
}

// instance is the answer to instance discovery.
type instance struct {
	ConfigurationEndpoint string          `json:"tenant_discovery_endpoint"`
	Version               string          `json:"api-version"`
	Metadata              []instanceCloud `json:"metadata"`
}

type instanceCloud struct {
	Network string   `json:"preferred_network"`
	Cache   string   `json:"preferred_cache"`
	Aliases []string `json:"aliases"`
}

// serveInstance tells whether an authority is one of Entra's: here, whether this listener answers
// for it.
func (f *face) serveInstance(w http.ResponseWriter, r *http.Request, e *journal.Entry) {
	authority, err := f.authority(r)
	if err == nil {
		tenant, _, _ := strings.Cut(strings.TrimPrefix(authority.Path, "/"), "/")
		err = f.checkDiscovery(r, tenant)
	}
	if err != nil {
		f.writeRefusal(w, r, e, err)
		return
	}
	endpoint.WriteJSON(w, http.StatusOK, instance{
		ConfigurationEndpoint: "https://" + authority.Host + "/" + f.cfg.TenantID + configurationPath,
		Version:               "1.1",
		Metadata:              []instanceCloud{cloudOf(authority.Host)},
	})
}

// cloudOf is the cloud that a host belongs to: the public one, or one that has no other name than
// the host.
func cloudOf(host string) instanceCloud {
	names := LoginNames()
	aliases := slices.DeleteFunc(names, func(name string) bool { return strings.HasPrefix(name, "*.") })
	if slices.Contains(aliases, host) {
		return instanceCloud{Network: preferredLogin, Cache: "login.windows.net", Aliases: aliases}
	}
	return instanceCloud{Network: host, Cache: host, Aliases: []string{host}}
}

// authority is what instance discovery is asked about.
func (f *face) authority(r *http.Request) (*url.URL, error) {
	query := r.URL.Query()
	if v := query.Get("api-version"); v != "1.1" && v != "1.0" {
		return nil, refuse(http.StatusBadRequest, "invalid_request", 50059, "The api-version '%.20s' is not supported.", v)
	}
	authority, err := url.Parse(query.Get("authorization_endpoint"))
	if err != nil || authority.Scheme != "https" || authority.User != nil || !f.answersFor(authority.Host) {
		return nil, refuse(http.StatusBadRequest, "invalid_instance", 50049, "Unknown or invalid instance.")
	}
	return authority, nil
}

func (f *face) answersFor(host string) bool {
	return f.baseOf(&http.Request{Host: host}) == "https://"+host
}
