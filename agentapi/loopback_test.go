package agentapi_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/agentapi"
	"github.com/keyagent/keyagent/agentapi/appsecret"
	"github.com/keyagent/keyagent/agentapi/peer"
	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/internal/secret"
	"github.com/keyagent/keyagent/internal/tooltest"
)

// appUser is who has the programs.
var appUser = tooltest.User()

// programs is an agent with its endpoints on loopback, at which callers are known by the kernel. It
// is asked by a user who is not root.
type programs struct {
	*agent
	keeper           *appsecret.Keeper
	appService, imds string // base URLs
}

// watchProcesses finds processes as the agent does.
func watchProcesses(t testing.TB) appsecret.Watch {
	t.Helper()
	boot, err := peer.ThisBoot()
	if err != nil {
		t.Fatal(err)
	}
	return func(process string) (appsecret.Watched, bool) {
		if watched, found := boot.Watch(process); found {
			return watched, true
		}
		return nil, false
	}
}

// startPrograms runs a server on a Unix socket and on two sockets on loopback.
func startPrograms(t testing.TB, cfg agentapi.Config) *programs {
	t.Helper()
	owners, err := peer.OpenTCP()
	if err != nil {
		t.Skipf("owners of sockets cannot be found here: %v", err)
	}
	t.Cleanup(func() { _ = owners.Close() })
	return startProgramsOf(t, cfg, owners.Of, watchProcesses(t))
}

func startProgramsOf(t testing.TB, cfg agentapi.Config, identify agentapi.Identify, watch appsecret.Watch) *programs {
	t.Helper()
	keeper, err := appsecret.New(secret.New(strings.Repeat("k", 32)), "this boot", watch)
	if err != nil {
		t.Fatal(err)
	}
	listen := func() net.Listener {
		ln, err := agentapi.ListenLoopback(t.Context(), "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return ln
	}
	appService, imds := listen(), listen()
	p := &programs{keeper: keeper, appService: "http://" + appService.Addr().String(), imds: "http://" + imds.Addr().String()}
	cfg.Programs = agentapi.Programs{Secrets: keeper, AppService: p.appService + wire.PathAppServiceToken, IMDS: p.imds}
	p.agent = start(t, cfg, agentapi.AppService(appService, identify), agentapi.IMDS(imds, identify))
	dial := tooltest.DialAs(appUser)
	p.http = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return dial(ctx, "unix", p.socket)
	}}}
	return p
}

// secret asks for one for the user.
func (p *programs) secret(t testing.TB, query string) wire.Endpoint {
	t.Helper()
	got := p.do(t, http.MethodPost, wire.PathEndpoint+query)
	if got.status != 200 {
		t.Fatalf("%d %s", got.status, got.body)
	}
	return decode[wire.Endpoint](t, got.body)
}

// askLoopback makes a request on a connection of its own, and checks that the answer is documented.
func askLoopback(t testing.TB, method, target string, headers ...string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, target, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == "Host" {
			req.Host = headers[i+1]
			continue
		}
		req.Header[headers[i]] = append(req.Header[headers[i]], headers[i+1]) // in the letters that were given
	}
	resp, err := (&http.Transport{DisableKeepAlives: true, DialContext: tooltest.DialAs(appUser)}).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	got := answer{resp.StatusCode, resp.Header, body}
	got.checkHeaders(t)
	if path := strings.TrimSuffix(req.URL.Path, "/"); path == wire.PathAppServiceToken || path == wire.PathIMDSToken {
		checkDocumented(t, method, path, got)
	}
	return got
}

// onlyShop gives the user one identity.
func onlyShop() agentapi.Config {
	rules := rulesFor(appUser)
	rules.Rules[0].Identities = []string{"shop"}
	return config(working, rules)
}

func TestASecretIsGivenToUsersThatTheRulesName(t *testing.T) {
	a := startPrograms(t, config(working, rulesFor(appUser)))
	got := a.secret(t, "?identity=vm")
	if got.Identity != "vm" || !strings.HasPrefix(got.Secret.Reveal(), appsecret.Prefix) || got.AppService != a.appService+"/msi/token" || got.IMDS != a.imds || got.Lifetime != "process" {
		t.Errorf("got %+v", got)
	}
	if record := a.audit.lastRecord(t); record["decision"] != "answered" || record["route"] != wire.PathEndpoint || record["identity"] != "vm" {
		t.Errorf("audit %v", record)
	}
	tests := []struct {
		name, query string
		code        wire.Code
		detail      string
	}{
		{"no identity, and several are given", "", wire.CodeAmbiguousIdentity, "vm, shop"},
		{"an identity that no rule gives", "?identity=backup", wire.CodeNotAllowed, "no rule"},
		{"an identity that does not exist", "?identity=nobody", wire.CodeNotAllowed, "no rule"},
		{"another lifetime", "?identity=vm&lifetime=forever", wire.CodeInvalidParameter, "lifetime"},
		{"a parameter that does not exist", "?identity=vm&resource=" + vault, wire.CodeInvalidParameter, "resource"},
		{"two identities", "?identity=vm&identity=shop", wire.CodeInvalidParameter, "more than once"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := a.do(t, http.MethodPost, wire.PathEndpoint+tt.query).problem(t)
			if p.Code != tt.code || !strings.Contains(p.Detail, tt.detail) {
				t.Errorf("got %+v", p)
			}
		})
	}
	t.Run("GET is not a way to get one", func(t *testing.T) {
		if got := a.do(t, http.MethodGet, wire.PathEndpoint+"?identity=vm"); got.status != 405 || got.header.Get("Allow") != http.MethodPost {
			t.Errorf("%d, Allow %q", got.status, got.header.Get("Allow"))
		}
	})
	t.Run("without endpoints there is none", func(t *testing.T) {
		p := start(t, config(working, rulesFor(os.Geteuid()))).do(t, http.MethodPost, wire.PathEndpoint+"?identity=vm").problem(t)
		if p.Code != wire.CodeNotConfigured || !strings.Contains(p.Hint, "endpoints.app_service") {
			t.Errorf("got %+v", p)
		}
	})
}

// The requests that programs were seen to send, parameter by parameter.
func TestAppServiceRequestsOfPrograms(t *testing.T) {
	a := startPrograms(t, onlyShop())
	text := a.secret(t, "").Secret.Reveal()
	encoded := url.QueryEscape(vault)
	tests := []struct {
		name, target, header, resource string
	}{
		{"azidentity: encoded", "/msi/token?api-version=2019-08-01&resource=" + encoded, "X-IDENTITY-HEADER", vault},
		{"MSAL Go: another order, client id", "/msi/token?resource=" + encoded + "&api-version=2019-08-01&client_id=" + shopClient, "X-Identity-Header", vault},
		{"@azure/identity: lower case", "/msi/token?api-version=2019-08-01&resource=" + encoded, "x-identity-header", vault},
		{"azure-identity for Python: not encoded, object id", "/msi/token?api-version=2019-08-01&resource=" + vault + "&object_id=" + shopObject, "X-IDENTITY-HEADER", vault},
		{"principal id", "/msi/token?api-version=2019-08-01&resource=" + vault + "&principal_id=" + shopObject, "X-IDENTITY-HEADER", vault},
		{"resource id", "/msi/token?api-version=2019-08-01&resource=" + encoded + "&mi_res_id=" + url.QueryEscape(shopARM), "X-IDENTITY-HEADER", vault},
		{"resource id under the name of IMDS", "/msi/token?api-version=2019-08-01&resource=" + encoded + "&msi_res_id=" + url.QueryEscape(shopARM), "X-IDENTITY-HEADER", vault},
		{"az: a slash after the path and the resource", "/msi/token/?resource=" + url.QueryEscape(vault+"/") + "&api-version=2019-08-01", "X-IDENTITY-HEADER", vault + "/"},
		{"adal: 2017-09-01", "/msi/token?api-version=2017-09-01&resource=" + encoded, "Secret", vault},
		{"adal: client id", "/msi/token?api-version=2017-09-01&resource=" + encoded + "&clientid=" + shopClient, "secret", vault},
		{"adal: resource id", "/msi/token?api-version=2017-09-01&resource=" + encoded + "&mi_res_id=" + url.QueryEscape(shopARM), "secret", vault},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := askLoopback(t, http.MethodGet, a.appService+tt.target, tt.header, text)
			if got.status != 200 {
				t.Fatalf("%d %s", got.status, got.body)
			}
			token := decode[wire.IMDSToken](t, got.body)
			if token.AccessToken.Reveal() != tokenText || token.Resource != tt.resource || token.TokenType != "Bearer" ||
				token.ExpiresIn != "3600" || token.ExpiresOn != "1795438800" || token.NotBefore != "1795434900" || token.ClientID != vmClient {
				t.Errorf("got %s", got.body)
			}
			if record := a.audit.lastRecord(t); record["decision"] != "issued" || record["endpoint"] != "app-service" || record["identity"] != "shop" {
				t.Errorf("audit %v", record)
			}
		})
	}
}

// A caller without both, the secret and a socket of its user, gets no token.
func TestAppServiceRefusals(t *testing.T) {
	a := startPrograms(t, onlyShop())
	text := a.secret(t, "").Secret.Reveal()
	token := a.appService + "/msi/token"
	const version = "?api-version=2019-08-01"
	good := token + version + "&resource=" + vault
	others := func(change func(*appsecret.Holder)) string {
		h := appsecret.Holder{Lifetime: appsecret.Process, UID: uint32(appUser), Identity: "shop", Process: "this boot/1/s1"}
		change(&h)
		made, err := a.keeper.Mint(h)
		if err != nil {
			t.Fatal(err)
		}
		return made.Reveal()
	}
	tests := []struct {
		name, method, target string
		headers              []string
		status               int
		error, description   string
	}{
		{"no secret", "GET", good, nil, 403, "access_denied", "X-Identity-Header"},
		{"an empty secret", "GET", good, []string{"X-IDENTITY-HEADER", ""}, 403, "access_denied", "X-Identity-Header"},
		{"two secrets", "GET", good, []string{"X-IDENTITY-HEADER", text, "Secret", text}, 403, "access_denied", "X-Identity-Header"},
		{"another secret", "GET", good, []string{"X-IDENTITY-HEADER", text[:len(text)-4] + "AAAA"}, 403, "access_denied", "not valid"},
		{"a secret of another user", "GET", good, []string{"X-IDENTITY-HEADER", others(func(h *appsecret.Holder) { h.UID = 4711 })}, 403, "access_denied", "not valid"},
		{"a secret of another unit", "GET", good, []string{"X-IDENTITY-HEADER", others(func(h *appsecret.Holder) { h.Lifetime, h.CgroupID = appsecret.Unit, 1<<40 })}, 403, "access_denied", "not valid"},
		{"a secret whose process has ended", "GET", good, []string{"X-IDENTITY-HEADER", others(func(*appsecret.Holder) {})}, 403, "access_denied", "not valid"},
		{"a secret as a bearer token", "GET", good, []string{"Authorization", "Bearer " + text}, 403, "access_denied", "X-Identity-Header"},

		{"no api-version", "GET", token + "?resource=" + vault, []string{"X-IDENTITY-HEADER", text}, 400, "invalid_request", "api-version"},
		{"the api-version of IMDS", "GET", token + "?api-version=2018-02-01&resource=" + vault, []string{"X-IDENTITY-HEADER", text}, 400, "invalid_request", "api-version"},
		{"no resource", "GET", token + version, []string{"X-IDENTITY-HEADER", text}, 400, "invalid_request", "resource"},
		{"two resources", "GET", good + "&resource=" + storage, []string{"X-IDENTITY-HEADER", text}, 400, "invalid_request", "resource"},
		{"a resource that no rule gives", "GET", token + version + "&resource=" + storage, []string{"X-IDENTITY-HEADER", text}, 403, "access_denied", "no rule"},
		{"the resource in other letters", "GET", token + version + "&resource=" + strings.ToUpper(vault), []string{"X-IDENTITY-HEADER", text}, 403, "access_denied", "no rule"},
		{"the resource with a port", "GET", token + version + "&resource=" + vault + ":443", []string{"X-IDENTITY-HEADER", text}, 403, "access_denied", "no rule"},
		{"the resource with two slashes", "GET", token + version + "&resource=" + vault + "//", []string{"X-IDENTITY-HEADER", text}, 400, "invalid_request", "slash"},
		{"an identity that no rule gives", "GET", good + "&client_id=8b0c3d0e-0000-4000-8000-00000000c1d9", []string{"X-IDENTITY-HEADER", text}, 403, "identity_not_found", "Identity not found"},
		{"an identity that does not exist", "GET", good + "&clientid=00000000-0000-4000-8000-000000000000", []string{"X-IDENTITY-HEADER", text}, 403, "identity_not_found", "Identity not found"},
		{"two selectors", "GET", good + "&client_id=" + shopClient + "&principal_id=" + shopObject, []string{"X-IDENTITY-HEADER", text}, 400, "invalid_request", "more than one"},

		{"another path", "GET", a.appService + "/metadata/identity/oauth2/token" + version + "&resource=" + vault, []string{"X-IDENTITY-HEADER", text, "Metadata", "true"}, 400, "invalid_request", "/msi/token"},
		{"the native path", "GET", a.appService + "/v1/token?resource=" + vault, []string{"X-IDENTITY-HEADER", text}, 400, "invalid_request", "/msi/token"},
		{"the path of secrets", "POST", a.appService + "/v1/endpoint", nil, 400, "invalid_request", "/msi/token"},
		{"the root", "GET", a.appService + "/", []string{"X-IDENTITY-HEADER", text}, 400, "invalid_request", "/msi/token"},
		{"an encoded letter in the path", "GET", a.appService + "/msi/%74oken" + version, []string{"X-IDENTITY-HEADER", text}, 400, "invalid_request", "/msi/token"},
		{"POST", "POST", good, []string{"X-IDENTITY-HEADER", text}, 400, "invalid_request", "GET"},
		{"OPTIONS", "OPTIONS", good, []string{"X-IDENTITY-HEADER", text}, 400, "invalid_request", "GET"},

		{"a name that leads here", "GET", good, []string{"X-IDENTITY-HEADER", text, "Host", "evil.example"}, 400, "invalid_request", "Host"},
		{"localhost", "GET", good, []string{"X-IDENTITY-HEADER", text, "Host", strings.Replace(strings.TrimPrefix(a.appService, "http://"), "127.0.0.1", "localhost", 1)}, 400, "invalid_request", "Host"},
		{"another port", "GET", good, []string{"X-IDENTITY-HEADER", text, "Host", "127.0.0.1:1"}, 400, "invalid_request", "Host"},
		{"no port", "GET", good, []string{"X-IDENTITY-HEADER", text, "Host", "127.0.0.1"}, 400, "invalid_request", "Host"},
		{"a page of a browser", "GET", good, []string{"X-IDENTITY-HEADER", text, "Origin", "http://evil.example"}, 400, "invalid_request", "Origin"},
		{"a link in a browser", "GET", good, []string{"X-IDENTITY-HEADER", text, "Referer", ""}, 400, "invalid_request", "Referer"},
		{"a proxy", "GET", good, []string{"X-IDENTITY-HEADER", text, "X-Forwarded-For", "10.0.0.1"}, 400, "invalid_request", "X-Forwarded-For"},
		{"a proxy of RFC 7239", "GET", good, []string{"X-IDENTITY-HEADER", text, "Forwarded", "for=10.0.0.1"}, 400, "invalid_request", "Forwarded"},

		{"the secret in the query", "GET", good + "&secret=" + text, nil, 400, "invalid_request", "URL"},
		{"the secret in the query, too", "GET", good + "&x=" + text, []string{"X-IDENTITY-HEADER", text}, 400, "invalid_request", "URL"},
		{"the secret in the query, encoded", "GET", good + "&x=%6beyagent1%5f" + strings.TrimPrefix(text, appsecret.Prefix), nil, 400, "invalid_request", "URL"},
		{"the secret in the query, encoded twice", "GET", good + "&x=%256beyagent1%255f" + strings.TrimPrefix(text, appsecret.Prefix), nil, 400, "invalid_request", "URL"},
		{"the secret in the resource", "GET", token + version + "&resource=" + text, []string{"X-IDENTITY-HEADER", text}, 400, "invalid_request", "URL"},
		{"the secret in the path", "GET", token + "/" + text, nil, 400, "invalid_request", "URL"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before := len(a.audit.records(t))
			got := askLoopback(t, tt.method, tt.target, tt.headers...)
			said := decode[wire.IMDSError](t, got.body)
			if got.status != tt.status || said.Error != tt.error || !strings.Contains(said.Description, tt.description) {
				t.Errorf("got %d %+v, want %d %s …%s…", got.status, said, tt.status, tt.error, tt.description)
			}
			if strings.Contains(string(got.body), "backup") || strings.Contains(string(got.body), text) {
				t.Errorf("it tells too much: %s", got.body)
			}
			records := a.audit.records(t)
			if len(records) != before+1 || records[before]["decision"] != "refused" || records[before]["endpoint"] != "app-service" {
				t.Errorf("audit %v", records[before:])
			}
		})
	}
	t.Run("what was refused is nowhere on record with a secret", func(t *testing.T) {
		for name, written := range map[string]string{"audit": a.audit.String(), "log": a.log.String()} {
			if strings.Contains(written, strings.TrimPrefix(text, appsecret.Prefix)[:40]) || strings.Contains(written, appsecret.Prefix) {
				t.Errorf("the %s has it:\n%s", name, written)
			}
		}
	})
	t.Run("the reasons are on record", func(t *testing.T) {
		for _, reason := range []string{"has no secret", "not one that this agent has made", "given to another user", "given in another systemd unit", "has ended"} {
			if !strings.Contains(a.audit.String(), reason) {
				t.Errorf("%q is not", reason)
			}
		}
	})
}

func TestIMDSOnLoopback(t *testing.T) {
	a := startPrograms(t, onlyShop())
	token := a.imds + wire.PathIMDSToken
	const version = "?api-version=2018-02-01"
	metadata := []string{"Metadata", "true"}
	t.Run("tokens", func(t *testing.T) {
		for _, target := range []string{
			token + version + "&resource=" + vault, token + "/" + version + "&resource=" + vault, token + "?api-version=2021-05-01&resource=" + vault,
			token + version + "&resource=" + vault + "&msi_res_id=" + url.QueryEscape(shopARM), token + version + "&resource=" + vault + "&mi_res_id=" + url.QueryEscape(shopARM),
		} {
			got := askLoopback(t, http.MethodGet, target, metadata...)
			if got.status != 200 || decode[wire.IMDSToken](t, got.body).AccessToken.Reveal() != tokenText {
				t.Errorf("%s: %d %s", target, got.status, got.body)
			}
		}
		if record := a.audit.lastRecord(t); record["decision"] != "issued" || record["endpoint"] != "imds" {
			t.Errorf("audit %v", record)
		}
	})
	tests := []struct {
		name, method, target string
		headers              []string
		status               int
		error, description   string
	}{
		{"the probe of Go and JavaScript", "GET", token, nil, 400, "invalid_request", "Required metadata header not specified"},
		{"the probe of Python", "GET", token + version + "&resource=" + vault, nil, 400, "invalid_request", "Required metadata header not specified"},
		{"the probe of telegraf", "GET", token + version, nil, 400, "invalid_request", "Required metadata header not specified"},
		{"an identity that is not the caller's", "GET", token + version + "&resource=" + vault + "&client_id=" + vmClient, metadata, 403, "identity_not_found", "Identity not found"},
		{"a resource that is not the caller's", "GET", token + version + "&resource=" + storage, metadata, 403, "access_denied", "no rule"},
		{"another service of IMDS", "GET", a.imds + "/metadata/instance?api-version=2021-02-01", metadata, 400, "invalid_request", wire.PathIMDSToken},
		{"a backslash", "GET", a.imds + `/metadata/identity%5Coauth2%5Ctoken` + version, metadata, 400, "invalid_request", wire.PathIMDSToken},
		{"the path of App Service", "GET", a.imds + "/msi/token" + version + "&resource=" + vault, metadata, 400, "invalid_request", wire.PathIMDSToken},
		{"POST", "POST", token + version + "&resource=" + vault, metadata, 400, "invalid_request", "GET"},
		{"the host of IMDS", "GET", token + version + "&resource=" + vault, append([]string{"Host", "169.254.169.254"}, metadata...), 400, "invalid_request", "Host"},
		{"a page of a browser", "GET", token + version + "&resource=" + vault, append([]string{"Origin", "null"}, metadata...), 400, "invalid_request", "Origin"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := askLoopback(t, tt.method, tt.target, tt.headers...)
			if said := decode[wire.IMDSError](t, got.body); got.status != tt.status || said.Error != tt.error || !strings.Contains(said.Description, tt.description) {
				t.Errorf("got %d %+v, want %d %s …%s…", got.status, said, tt.status, tt.error, tt.description)
			}
			if record := a.audit.lastRecord(t); record["decision"] != "refused" || record["endpoint"] != "imds" {
				t.Errorf("audit %v", record)
			}
		})
	}
}

// A connection remembers its last request. A secret is looked at with each one.
func TestASecretCountsForItsOwnRequestOnly(t *testing.T) {
	a := startPrograms(t, config(working, rulesFor(appUser)))
	vm, shop := a.secret(t, "?identity=vm").Secret.Reveal(), a.secret(t, "?identity=shop").Secret.Reveal()
	transport := &http.Transport{DialContext: tooltest.DialAs(appUser)}
	t.Cleanup(transport.CloseIdleConnections)
	for _, tt := range []struct {
		text, identity string
		status         int
	}{{vm, "vm", 200}, {shop, "shop", 200}, {vm, "vm", 200}, {vm, "vm", 200}, {"", "", 403}, {vm + "A", "", 403}, {shop, "shop", 200}} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, a.appService+"/msi/token?api-version=2019-08-01&resource="+vault, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Identity-Header", tt.text)
		resp, err := transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		record := a.audit.lastRecord(t)
		if resp.StatusCode != tt.status || tt.identity != "" && record["identity"] != tt.identity || tt.identity == "" && record["rule"] != nil {
			t.Errorf("with a secret for %q: status %d, audit %v", tt.identity, resp.StatusCode, record)
		}
	}
}

func TestEndpointsAreOnLoopbackOnly(t *testing.T) {
	for _, address := range []string{"", "127.0.0.1", "localhost:840", "0.0.0.0:0", "10.0.0.1:840", "[::]:840", ":840", "127.0.0.1:http", "169.254.169.254:80"} {
		if ln, err := agentapi.ListenLoopback(t.Context(), address); err == nil {
			_ = ln.Close()
			t.Errorf("%q is listened at", address)
		}
	}
	server, _, _ := newServer(t, onlyShop())
	identify := func(net.Conn) (peer.Caller, error) { return peer.Caller{}, nil }
	listen := func(address string) net.Listener {
		ln, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = ln.Close() })
		return ln
	}
	for name, way := range map[string]agentapi.Way{
		"all addresses":                agentapi.AppService(listen("0.0.0.0:0"), identify),
		"callers that cannot be known": agentapi.IMDS(listen("127.0.0.1:0"), nil),
	} {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := server.Serve(ctx, way); err == nil || !strings.Contains(err.Error(), "serving programs") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
