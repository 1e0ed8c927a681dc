package client_test

import (
	"bytes"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/client"
	"github.com/keyagent/keyagent/internal/secret"
)

// api is a resource by TLS that keeps what it was sent.
type api struct {
	*httptest.Server
	mu     sync.Mutex
	seen   []string // the Authorization headers
	bodies []string
}

func newAPI(t *testing.T, answer http.HandlerFunc) *api {
	t.Helper()
	a := &api{}
	a.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		a.mu.Lock()
		a.seen, a.bodies = append(a.seen, r.Header.Get("Authorization")), append(a.bodies, string(body))
		a.mu.Unlock()
		answer(w, r)
	}))
	t.Cleanup(a.Close)
	return a
}

func (a *api) authorizations() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.seen)
}

func (a *api) host(t *testing.T) string {
	t.Helper()
	u, err := url.Parse(a.URL)
	if err != nil {
		t.Fatal(err)
	}
	return u.Host
}

func ok(http.ResponseWriter, *http.Request) {}

// trusting is a client whose requests to these hosts get a token. It takes any certificate: whose
// they are is not what is tested.
func trusting(t *testing.T, source *client.TokenSource, hosts ...string) *http.Client {
	t.Helper()
	base := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	t.Cleanup(base.CloseIdleConnections)
	transport, err := client.NewTransport(client.TransportConfig{Source: source, Hosts: hosts, Base: base})
	if err != nil {
		t.Fatal(err)
	}
	return &http.Client{Transport: transport}
}

func vaultSource(t *testing.T, source tokens) *client.TokenSource {
	t.Helper()
	return newClient(t, startAgent(t, source, false)).TokenSource(client.TokenRequest{Resource: vault, Capabilities: []string{wire.CapabilityCP1}})
}

func do(t *testing.T, c *http.Client, method, target string, body io.Reader) (status int, err error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, target, body)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(req)
	if err != nil {
		return 0, err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, errors.Join(err, resp.Body.Close())
}

func TestATransportSendsTheTokenToListedHostsOnly(t *testing.T) {
	source := vaultSource(t, working)
	other := newAPI(t, ok)
	listed := newAPI(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/elsewhere" {
			http.Redirect(w, r, other.URL, http.StatusTemporaryRedirect)
		}
	})
	plain := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("a request by http arrived, with %q", r.Header.Get("Authorization"))
	}))
	defer plain.Close()
	c := trusting(t, source, listed.host(t), strings.TrimPrefix(plain.URL, "http://"))

	if _, err := do(t, c, http.MethodGet, listed.URL+"/secrets", nil); err != nil {
		t.Fatal(err)
	}
	if got := listed.authorizations(); !slices.Equal(got, []string{"Bearer " + tokenText}) {
		t.Errorf("the listed host saw %q", got)
	}
	for _, target := range []string{other.URL, listed.URL + "/elsewhere"} {
		if _, err := do(t, c, http.MethodGet, target, nil); err != nil {
			t.Fatal(err)
		}
	}
	if got := other.authorizations(); !slices.Equal(got, []string{"", ""}) {
		t.Errorf("another host saw %q", got)
	}
	if _, err := do(t, c, http.MethodPost, plain.URL, strings.NewReader("x")); err == nil || !strings.Contains(err.Error(), "not sent") {
		t.Errorf("by http: %v", err)
	}
}

func TestWhichHostsAreListed(t *testing.T) {
	for name, c := range map[string]struct {
		host, target string
		gets         bool
	}{
		"the host":                          {"example.vault.azure.net", "https://example.vault.azure.net/secrets", true},
		"the host with its port":            {"example.vault.azure.net", "https://example.vault.azure.net:443/", true},
		"in capital letters":                {"Example.vault.azure.net", "https://EXAMPLE.vault.azure.net/", true},
		"another port":                      {"example.vault.azure.net", "https://example.vault.azure.net:8443/", false},
		"the port that is listed":           {"localhost:8443", "https://localhost:8443/", true},
		"not that one":                      {"localhost:8443", "https://localhost/", false},
		"a name below":                      {".vault.azure.net", "https://example.vault.azure.net/", true},
		"two names below":                   {".vault.azure.net", "https://a.b.vault.azure.net/", true},
		"the name itself is not below":      {".vault.azure.net", "https://vault.azure.net/", false},
		"a name that only ends so":          {"vault.azure.net", "https://evilvault.azure.net/", false},
		"a name that goes on":               {"vault.azure.net", "https://vault.azure.net.evil.example/", false},
		"a name below one that is exact":    {"vault.azure.net", "https://example.vault.azure.net/", false},
		"a dot behind":                      {"example.vault.azure.net", "https://example.vault.azure.net./", false},
		"the host as a user name":           {"example.vault.azure.net", "https://example.vault.azure.net@evil.example/", false},
		"a letter whose lower case is a k":  {"keyagent.example", "https://\u212aeyagent.example/", false},
		"the host as a path":                {"example.vault.azure.net", "https://evil.example/example.vault.azure.net", false},
		"nothing before the dot":            {".vault.azure.net", "https://.vault.azure.net/", false},
		"an address of IPv6 and its port":   {"[::1]:8443", "https://[::1]:8443/", true},
		"an address of IPv6 without a port": {"[::1]:8443", "https://[::1]/", false},
	} {
		t.Run(name, func(t *testing.T) {
			var got string
			base := roundTripper(func(req *http.Request) (*http.Response, error) {
				got = req.Header.Get("Authorization")
				return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody}, nil
			})
			source := client.NewTokenSource((&agentDouble{lives: time.Hour}).Token, client.TokenRequest{Resource: vault})
			transport, err := client.NewTransport(client.TransportConfig{Source: source, Hosts: []string{c.host}, Base: base})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := do(t, &http.Client{Transport: transport}, http.MethodGet, c.target, nil); err != nil || strings.HasPrefix(got, "Bearer ") != c.gets {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

func TestATransportNeedsHosts(t *testing.T) {
	source := client.NewTokenSource((&agentDouble{}).Token, client.TokenRequest{})
	for _, hosts := range [][]string{
		nil, {""}, {"."}, {"*"}, {"*.vault.azure.net"}, {"https://vault.azure.net"}, {"vault.azure.net/x"}, {"a@vault.azure.net"},
		{"..vault.azure.net"}, {"vault.azure.net", ""}, {"vault.azure.net?x"}, {"vault azure"}, {"vault.azure.net:x"},
	} {
		if _, err := client.NewTransport(client.TransportConfig{Source: source, Hosts: hosts}); err == nil {
			t.Errorf("%q was taken", hosts)
		}
	}
	if _, err := client.NewTransport(client.TransportConfig{Hosts: []string{"vault.azure.net"}}); err == nil {
		t.Error("there are no tokens without a source")
	}
}

const challengeClaims = `{"access_token":{"nbf":{"essential":true,"value":"1790000000"}}}`

func challenging(w http.ResponseWriter, claims string) {
	w.Header().Set("WWW-Authenticate", `Bearer realm="", authorization_uri="https://login.microsoftonline.com/common/oauth2/authorize", error="insufficient_claims", claims="`+
		base64.StdEncoding.EncodeToString([]byte(claims))+`"`)
	w.WriteHeader(http.StatusUnauthorized)
}

// renewing is an agent whose tokens a resource rejects until it is asked with claims.
func renewing(r acquire.Request) (acquire.Token, error) {
	token, err := working(r)
	if r.Claims == challengeClaims {
		token.AccessToken = secret.New("renewed")
	}
	return token, err
}

func TestAClaimsChallengeIsMetOnce(t *testing.T) {
	for name, c := range map[string]struct {
		renewed bool // the resource is content with the renewed token
		body    io.Reader
		want    int // status
		saw     []string
	}{
		"a request without a body":               {true, nil, 200, []string{"Bearer " + tokenText, "Bearer renewed"}},
		"a body in memory is sent again":         {true, strings.NewReader("text"), 200, []string{"Bearer " + tokenText, "Bearer renewed"}},
		"a body that is gone cannot be repeated": {true, io.MultiReader(strings.NewReader("text")), 401, []string{"Bearer " + tokenText}},
		"a resource that is never content":       {false, nil, 401, []string{"Bearer " + tokenText, "Bearer renewed"}},
	} {
		t.Run(name, func(t *testing.T) {
			resource := newAPI(t, func(w http.ResponseWriter, r *http.Request) {
				if !c.renewed || r.Header.Get("Authorization") != "Bearer renewed" {
					challenging(w, challengeClaims)
				}
			})
			httpClient := trusting(t, vaultSource(t, renewing), resource.host(t))
			status, err := do(t, httpClient, http.MethodPut, resource.URL, c.body)
			if err != nil {
				t.Fatal(err)
			}
			if got := resource.authorizations(); status != c.want || !slices.Equal(got, c.saw) {
				t.Errorf("status %d, the resource saw %q", status, got)
			}
			for _, body := range resource.bodies {
				if c.body != nil && body != "text" {
					t.Errorf("a body was %q", body)
				}
			}
			if c.want != http.StatusOK {
				return
			}
			if _, err := do(t, httpClient, http.MethodGet, resource.URL, nil); err != nil || resource.seen[len(resource.seen)-1] != "Bearer renewed" {
				t.Errorf("the next request: %v, %q", err, resource.seen)
			}
		})
	}
}

func TestAnAgentThatCannotMeetAChallengeIsTheError(t *testing.T) {
	resource := newAPI(t, func(w http.ResponseWriter, _ *http.Request) { challenging(w, challengeClaims) })
	c := trusting(t, vaultSource(t, func(r acquire.Request) (acquire.Token, error) {
		if r.Claims != "" {
			return acquire.Token{}, &acquire.Error{Kind: acquire.KindRefused, Claims: `{"a":1}`, Err: errors.New("interaction_required")}
		}
		return working(r)
	}), resource.host(t))
	_, err := do(t, c, http.MethodGet, resource.URL, nil)
	var said *client.Error
	if !errors.As(err, &said) || said.Problem.Code != wire.CodeClaimsRequired {
		t.Errorf("got %v", err)
	}
}

func TestARefusalOfTheAgentSendsNothing(t *testing.T) {
	resource := newAPI(t, ok)
	source := newClient(t, startAgent(t, working, true)).TokenSource(client.TokenRequest{Resource: vault})
	body := &closing{Reader: bytes.NewReader([]byte("x"))}
	if _, err := do(t, trusting(t, source, resource.host(t)), http.MethodPost, resource.URL, body); !errors.Is(err, client.ErrRefused) {
		t.Errorf("got %v", err)
	}
	if n := len(resource.authorizations()); n > 0 || !body.closed {
		t.Errorf("%d requests arrived; the body is closed: %t", n, body.closed)
	}
}

type closing struct {
	io.Reader
	closed bool
}

func (c *closing) Close() error {
	c.closed = true
	return nil
}

// A program that looks at its request afterwards, or sends it again, finds no token in it.
func TestTheRequestOfTheProgramIsLeftAsItIs(t *testing.T) {
	resource := newAPI(t, ok)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, resource.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := trusting(t, vaultSource(t, working), resource.host(t)).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if len(req.Header) != 0 {
		t.Errorf("the header is %v", req.Header)
	}
}
