package daemon_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/client"
	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/daemon"
	"github.com/keyagent/keyagent/simulator"
)

const exchangeAudience = "api://AzureADTokenExchange"

// partnerAudience is one that an application of the configuration has made for itself.
const partnerAudience = "api://partner-exchange"

// anyStage is an agent whose one rule gives vm-user for any resource to whoever runs the test. Two
// applications, which the rule does not give, take assertions of vm-user: app-fic and app-partner.
func anyStage(t *testing.T) *stage {
	t.Helper()
	s := newStageOn(t, simulator.Config{Dir: t.TempDir(), Resources: []string{resource, partnerAudience}})
	partner := config.Identity{Name: "app-partner", Application: &config.Application{
		Tenant: s.platform.Info().TenantID, ClientID: application(t, s, "app-fic").ClientID, Cloud: config.CloudPublic,
		LoginEndpoint: s.platform.Info().Login, MTLSEndpoint: s.platform.Info().MTLSAuth,
		Credentials: []config.Credential{{
			Name: "oidc", Source: config.SourceOIDC, Bound: config.BoundRequire, Identity: "vm-user", Audience: partnerAudience,
		}},
	}}
	s.cfg.Identities = append(s.cfg.Identities, partner)
	s.cfg.Rules = []config.Rule{{
		Name: "any", Principals: config.Principals{Users: []string{strconv.Itoa(os.Geteuid())}}, Identities: []string{"vm-user"},
		Resources: []string{"*"}, Types: []string{config.TypeBearer, config.TypePoP}, Fresh: true,
	}}
	return s
}

func application(t *testing.T, s *stage, name string) simulator.Application {
	t.Helper()
	apps := s.platform.Info().Applications
	i := slices.IndexFunc(apps, func(a simulator.Application) bool { return a.Name == name })
	if i < 0 {
		t.Fatalf("the tenant has no %s", name)
	}
	return apps[i]
}

// ask sends a GET over the agent's socket.
func (s *stage) ask(path string, query url.Values) (status int, body string) {
	s.t.Helper()
	hc := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", s.cfg.Socket)
	}}}
	defer hc.CloseIdleConnections()
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, "http://agent"+path+"?"+query.Encode(), nil)
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set(wire.HeaderMetadata, "true")
	return readReply(s.t, hc, req)
}

func readReply(t testing.TB, hc *http.Client, req *http.Request) (status int, body string) {
	t.Helper()
	resp, err := hc.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// A caller that may have one identity's tokens for any resource does not get the assertions with
// which it would be every application that trusts this identity, whichever way it asks.
func TestAnyResourceGivesNoOtherIdentity(t *testing.T) {
	s := anyStage(t)
	s.start()
	if _, err := s.client.Token(t.Context(), client.TokenRequest{Identity: "vm-user", Resource: resource}); err != nil {
		t.Fatal(err)
	}
	before := len(s.platform.Journal().Operation("entra.mtls.token"))
	native := func(name string, values ...string) url.Values {
		query := url.Values{wire.ParamIdentity: {"vm-user"}, name: {values[0]}}
		if len(values) > 1 {
			query.Set(values[1], values[2])
		}
		return query
	}
	platform := func(resource string) url.Values {
		return url.Values{wire.ParamAPIVersion: {wire.IMDSAPIVersion}, wire.ParamResource: {resource}}
	}
	for _, tt := range []struct {
		name, path string
		query      url.Values
	}{
		{"the native API", wire.PathToken, native(wire.ParamResource, exchangeAudience)},
		{"a scope", wire.PathToken, native(wire.ParamScope, exchangeAudience+"/.default")},
		{"a scope of the form with a slash", wire.PathToken, native(wire.ParamScope, exchangeAudience+"//.default")},
		{"another case", wire.PathToken, native(wire.ParamResource, strings.ToLower(exchangeAudience))},
		{"the application id", wire.PathToken, native(wire.ParamResource, "fb60f99c-7a34-4190-8149-302f77469936")},
		{"another cloud", wire.PathToken, native(wire.ParamResource, exchangeAudience+"USGov")},
		{"a bound token", wire.PathToken, native(wire.ParamResource, exchangeAudience, wire.ParamType, wire.TypePoP)},
		{"past the cache", wire.PathToken, native(wire.ParamResource, exchangeAudience, wire.ParamForceRefresh, "true")},
		{"the platform's protocol", wire.PathIMDSToken, platform(exchangeAudience)},
		{"the platform's protocol with a slash", wire.PathIMDSToken, platform(exchangeAudience + "/")},
		{"the audience of a configured credential", wire.PathToken, native(wire.ParamResource, partnerAudience)},
		{"the same by the platform's protocol", wire.PathIMDSToken, platform(partnerAudience + "/")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			status, body := s.ask(tt.path, tt.query)
			if status != http.StatusForbidden || strings.Contains(body, "access_token") {
				t.Errorf("status %d", status)
				s.takeOver(t, body)
			}
			if records := strings.Split(strings.TrimSpace(s.audit.String()), "\n"); !strings.Contains(records[len(records)-1], `"decision":"refused"`) {
				t.Errorf("the audit has %s", records[len(records)-1])
			}
		})
	}
	if after := len(s.platform.Journal().Operation("entra.mtls.token")); after != before {
		t.Errorf("Entra was asked %d times for what is refused", after-before)
	}
}

// takeOver reports whether what a caller was given makes it app-fic, on a machine without any key.
func (s *stage) takeOver(t *testing.T, reply string) {
	t.Helper()
	_, rest, _ := strings.Cut(reply, `"access_token":"`)
	assertion, _, _ := strings.Cut(rest, `"`)
	info := s.platform.Info()
	pem, err := os.ReadFile(info.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	hc := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	defer hc.CloseIdleConnections()
	form := url.Values{
		"grant_type": {"client_credentials"}, "client_id": {application(t, s, "app-fic").ClientID}, "scope": {resource + "/.default"},
		"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"}, "client_assertion": {assertion},
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, info.Login+"/"+info.TenantID+"/oauth2/v2.0/token", strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if status, _ := readReply(t, hc, req); status == http.StatusOK {
		t.Error("with this, the caller has a token of app-fic, which no rule gives it")
	}
}

// What the agent does itself with such audiences is no caller's request, and what a rule names is
// given.
func TestAssertionsAreGivenByNameAndUsedInside(t *testing.T) {
	s := anyStage(t)
	s.cfg.Rules[0].Identities = []string{"vm-user", "app-fic"}
	named := s.cfg.Rules[0]
	named.Name, named.Identities, named.Resources = "named", []string{"vm"}, []string{exchangeAudience}
	s.cfg.Rules = append(s.cfg.Rules, named)
	s.start()
	for _, req := range []client.TokenRequest{
		{Identity: "app-fic", Resource: resource},
		{Identity: "vm", Resource: exchangeAudience},
		{Identity: "vm", Resource: exchangeAudience + "/"},
	} {
		if _, err := s.client.Token(t.Context(), req); err != nil {
			t.Errorf("%s of %s: %v", req.Resource, req.Identity, err)
		}
	}
	if _, err := s.client.Token(t.Context(), client.TokenRequest{Identity: "vm-user", Resource: exchangeAudience}); err == nil {
		t.Error("the rule that names the audience is of another identity, and gives this one's assertion")
	}
}

func TestNoticesSayWhatRulesGive(t *testing.T) {
	s := anyStage(t)
	named := s.cfg.Rules[0]
	named.Name, named.Resources = "named", []string{resource, partnerAudience + "/"}
	plain := s.cfg.Rules[0]
	plain.Name, plain.Resources = "plain", []string{resource}
	s.cfg.Rules = append(s.cfg.Rules, named, plain)
	notices := daemon.Notices(s.cfg)
	if len(notices) != 2 {
		t.Fatalf("got %q", notices)
	}
	for i, parts := range [][]string{
		{`rule "any": "*" does not cover`, exchangeAudience + ",", exchangeAudience + "USGov", exchangeAudience + "China", partnerAudience, "only by name"},
		{`rule "named" gives ` + partnerAudience + "/:", "every application that trusts vm-user"},
	} {
		for _, part := range parts {
			if !strings.Contains(notices[i], part) {
				t.Errorf("%q does not have %q", notices[i], part)
			}
		}
	}
	s.cfg.Rules = nil
	if got := daemon.Notices(s.cfg); !slices.Equal(got, []string{"no rules: nobody gets a token"}) {
		t.Errorf("without rules: %q", got)
	}
}
