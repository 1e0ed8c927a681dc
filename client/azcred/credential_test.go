package azcred_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"

	"github.com/keyagent/keyagent/client"
	"github.com/keyagent/keyagent/client/azcred"
)

const (
	vaultScope = "https://vault.azure.net/.default"
	tenant     = "72f988bf-86f1-41af-91ab-2d7cd011db47"
	another    = "00000000-0000-0000-0000-000000000001"
	claims     = `{"access_token":{"nbf":{"essential":true,"value":"1790000000"}}}`
)

// agent answers at a Unix socket as the agent does, with numbered tokens, and keeps what it was
// asked. The agent itself, azcred and a simulated Azure are put together in test/clients.
type agent struct {
	*client.Client
	mu    sync.Mutex
	asked []url.Values
	text  func(int) string // a token by its number
	fail  string           // a problem to answer with
}

func newAgent(t *testing.T) *agent {
	t.Helper()
	dir, err := os.MkdirTemp("", "azcred") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	a := &agent{text: func(n int) string { return jwt(fmt.Sprintf(`{"tid":%q,"n":%d}`, tenant, n)) }}
	socket := filepath.Join(dir, "agent.sock")
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &httptest.Server{Listener: ln, Config: &http.Server{Handler: a, ReadHeaderTimeout: time.Minute}}
	server.Start()
	t.Cleanup(server.Close)
	a.Client = client.New(client.Config{Socket: socket})
	t.Cleanup(func() { _ = a.Close() })
	return a
}

func jwt(payload string) string {
	return "eyJhbGciOiJub25lIn0." + base64.RawURLEncoding.EncodeToString([]byte(payload)) + ".c2ln"
}

func (a *agent) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked = append(a.asked, r.URL.Query())
	if a.fail != "" {
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(http.StatusForbidden)
		_, _ = w.Write([]byte(a.fail))
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]any{
		"access_token": a.text(len(a.asked)), "token_type": "Bearer", "expires_on": time.Now().Add(time.Hour).Unix(),
	})
}

func newCredential(t *testing.T, a *agent, options *azcred.Options) *azcred.Credential {
	t.Helper()
	credential, err := azcred.New(a.Client, options)
	if err != nil {
		t.Fatal(err)
	}
	return credential
}

func TestATokenIsKeptForEachScope(t *testing.T) {
	a := newAgent(t)
	credential := newCredential(t, a, &azcred.Options{Identity: "vm"})
	get := func(o policy.TokenRequestOptions) azcore.AccessToken {
		t.Helper()
		token, err := credential.GetToken(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	vault := policy.TokenRequestOptions{Scopes: []string{vaultScope}}
	first := get(vault)
	if first.Token != a.text(1) || time.Until(first.ExpiresOn) < 58*time.Minute || time.Until(first.RefreshOn) < 28*time.Minute || time.Until(first.RefreshOn) > 31*time.Minute {
		t.Errorf("got %+v", first)
	}
	if again := get(vault); again != first {
		t.Errorf("got %+v, want %+v", again, first)
	}
	revocable := policy.TokenRequestOptions{Scopes: []string{vaultScope}, EnableCAE: true}
	if get(revocable) == first {
		t.Error("a token that can be revoked is another one")
	}
	get(policy.TokenRequestOptions{Scopes: []string{"https://graph.microsoft.com/.default"}})
	challenged := revocable
	challenged.Claims = claims
	renewed := get(challenged)
	if renewed.Token != a.text(4) || get(revocable) != renewed || get(vault) != first {
		t.Errorf("the renewed token is not the one that is kept")
	}
	want := []string{
		"identity=vm&scope=https%3A%2F%2Fvault.azure.net%2F.default",
		"capabilities=cp1&identity=vm&scope=https%3A%2F%2Fvault.azure.net%2F.default",
		"identity=vm&scope=https%3A%2F%2Fgraph.microsoft.com%2F.default",
		"capabilities=cp1&claims=" + url.QueryEscape(claims) + "&identity=vm&scope=https%3A%2F%2Fvault.azure.net%2F.default",
	}
	var asked []string
	for _, values := range a.asked {
		asked = append(asked, values.Encode())
	}
	if !slices.Equal(asked, want) {
		t.Errorf("the agent was asked\n%s\nwant\n%s", strings.Join(asked, "\n"), strings.Join(want, "\n"))
	}
}

func TestWhatIsRefused(t *testing.T) {
	vault := []string{vaultScope}
	for name, c := range map[string]struct {
		options azcred.Options
		request policy.TokenRequestOptions
		token   string // of the agent; empty: one of the tenant
		fail    string
		asks    bool
		want    string
	}{
		"no scope":                            {want: "0 scopes"},
		"two scopes":                          {request: policy.TokenRequestOptions{Scopes: []string{vaultScope, "https://graph.microsoft.com/.default"}}, want: "2 scopes"},
		"a single permission":                 {request: policy.TokenRequestOptions{Scopes: []string{"https://graph.microsoft.com/User.Read"}}, want: "/.default"},
		"a scope of nothing":                  {request: policy.TokenRequestOptions{Scopes: []string{"/.default"}}, want: "/.default"},
		"another tenant than the configured":  {options: azcred.Options{TenantID: tenant}, request: policy.TokenRequestOptions{Scopes: vault, TenantID: another}, want: tenant},
		"another tenant than the token's":     {request: policy.TokenRequestOptions{Scopes: vault, TenantID: another}, asks: true, want: tenant},
		"a token of another tenant":           {options: azcred.Options{TenantID: another}, request: policy.TokenRequestOptions{Scopes: vault}, asks: true, want: tenant},
		"a token that does not say a tenant":  {request: policy.TokenRequestOptions{Scopes: vault, TenantID: tenant}, token: jwt(`{"aud":"x"}`), asks: true, want: "does not say its tenant"},
		"a token that is no JSON Web Token":   {request: policy.TokenRequestOptions{Scopes: vault, TenantID: tenant}, token: "opaque", asks: true, want: "does not say its tenant"},
		"a tenant that is no text":            {request: policy.TokenRequestOptions{Scopes: vault, TenantID: tenant}, token: jwt(`{"tid":["` + tenant + `"]}`), asks: true, want: "does not say its tenant"},
		"what the agent's rules do not allow": {request: policy.TokenRequestOptions{Scopes: vault}, fail: `{"code":"not_allowed","title":"No rule allows this","hint":"ask for a rule"}`, asks: true, want: "ask for a rule"},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAgent(t)
			a.fail = c.fail
			if c.token != "" {
				a.text = func(int) string { return c.token }
			}
			token, err := newCredential(t, a, &c.options).GetToken(t.Context(), c.request)
			if err == nil || token != (azcore.AccessToken{}) || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, %v", token, err)
			}
			if (len(a.asked) > 0) != c.asks {
				t.Errorf("the agent was asked %d times", len(a.asked))
			}
			if strings.Contains(err.Error(), "eyJ") {
				t.Errorf("the error has the token: %v", err)
			}
			final, ok := errors.AsType[interface {
				error
				NonRetriable()
			}](err)
			if !ok || final == nil {
				t.Errorf("azcore would try again after %v", err)
			}
			if errors.Is(err, client.ErrRefused) != (c.fail != "") {
				t.Errorf("a refusal by the rules: %v", err)
			}
		})
	}
}

func TestTheTenantIsNamedByItsID(t *testing.T) {
	a := newAgent(t)
	if _, err := azcred.New(a.Client, &azcred.Options{TenantID: "contoso.onmicrosoft.com"}); err == nil {
		t.Error("a domain was taken")
	}
	if _, err := azcred.New(nil, nil); err == nil {
		t.Error("there are no tokens without an agent")
	}
	credential := newCredential(t, a, &azcred.Options{TenantID: strings.ToUpper(tenant)})
	if _, err := credential.GetToken(t.Context(), policy.TokenRequestOptions{Scopes: []string{vaultScope}, TenantID: tenant}); err != nil {
		t.Errorf("in other letters: %v", err)
	}
}

// A pipeline as every client of the Azure SDK has it: one request asks again after a challenge, and
// a refusal is not retried.
func TestAPipelineOfTheAzureSDK(t *testing.T) {
	a := newAgent(t)
	var seen []string
	resource := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = append(seen, r.Header.Get("Authorization"))
		if len(seen) == 2 {
			w.Header().Set("WWW-Authenticate", `Bearer realm="", error="insufficient_claims", claims="`+base64.StdEncoding.EncodeToString([]byte(claims))+`"`)
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	defer resource.Close()
	send := func(credential azcore.TokenCredential) (int, error) {
		t.Helper()
		pipeline := runtime.NewPipeline("test", "v1", runtime.PipelineOptions{
			PerRetry: []policy.Policy{runtime.NewBearerTokenPolicy(credential, []string{vaultScope}, nil)},
		}, &policy.ClientOptions{Transport: resource.Client()})
		req, err := runtime.NewRequest(t.Context(), http.MethodGet, resource.URL)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := pipeline.Do(req)
		if err != nil {
			return 0, err
		}
		return resp.StatusCode, resp.Body.Close()
	}
	credential := newCredential(t, a, nil)
	for range 3 {
		if status, err := send(credential); err != nil || status != http.StatusOK {
			t.Fatalf("status %d, %v", status, err)
		}
	}
	first, renewed := "Bearer "+a.text(1), "Bearer "+a.text(2)
	if want := []string{first, first, renewed, renewed}; !slices.Equal(seen, want) {
		t.Errorf("the resource saw %d tokens, want %d", len(seen), len(want))
	}
	a.fail = `{"code":"caller_not_allowed","title":"The caller is not named by any rule"}`
	before := len(a.asked)
	if _, err := send(newCredential(t, a, nil)); !errors.Is(err, client.ErrRefused) || len(a.asked) != before+1 {
		t.Errorf("got %v after %d requests", err, len(a.asked)-before)
	}
}

func TestManyScopesDoNotFillTheMemory(t *testing.T) {
	a := newAgent(t)
	credential := newCredential(t, a, nil)
	for range 2 {
		for i := range 100 {
			scope := fmt.Sprintf("https://host%d.example/.default", i)
			if _, err := credential.GetToken(t.Context(), policy.TokenRequestOptions{Scopes: []string{scope}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if len(a.asked) != 100+36 { // 64 of them are kept
		t.Errorf("the agent was asked %d times", len(a.asked))
	}
}

func FuzzTenantOf(f *testing.F) {
	for _, token := range []string{jwt(`{"tid":"` + tenant + `"}`), jwt(`{}`), jwt(`[]`), jwt(`{"tid":1}`), "a.b.c", "..", "", "a.!.c"} {
		f.Add(token)
	}
	f.Fuzz(func(t *testing.T, token string) {
		if tenant, ok := azcred.TenantOf(token); ok != (tenant != "") || len(tenant) > len(token) {
			t.Errorf("%q: %q, %t", token, tenant, ok)
		}
	})
}
