package agentapi_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/agentapi"
	"github.com/keyagent/keyagent/agentapi/peer"
	"github.com/keyagent/keyagent/agentapi/policy"
	"github.com/keyagent/keyagent/agentapi/wire"
)

// boundTokens gives bound tokens, and connections to a resource whatever it is called.
type boundTokens struct {
	tokenFunc
	over http.RoundTripper
	err  error // of Presenting
}

func (b boundTokens) Presenting(token acquire.Token) (http.RoundTripper, error) {
	if token.Binding.Thumbprint == "" || token.TokenType != wire.TypePoP {
		return nil, errors.New("the token is not bound")
	}
	return b.over, b.err
}

func bound(_ context.Context, r acquire.Request) (acquire.Token, error) {
	token := goodToken(r)
	token.TokenType = string(r.Type)
	return token, nil
}

// toServer sends every request to one server, and notes for which host it was.
type toServer struct {
	*http.Transport
	asked *atomic.Pointer[string]
}

func (s toServer) RoundTrip(r *http.Request) (*http.Response, error) {
	s.asked.Store(&r.URL.Host)
	return s.Transport.RoundTrip(r)
}

// bridge is an agent and a resource behind it.
type bridge struct {
	*agent
	resource *httptest.Server
	asked    atomic.Pointer[string] // the host of the last request to the resource; nil: there was none
}

// bridgeRules gives the test's user a resource at some hosts, and another one at one of them.
func bridgeRules(uid int) *policy.Policy {
	rule := func(name, resource string, hosts ...string) policy.Rule {
		return policy.Rule{
			Name: name, UIDs: []uint32{uint32(uid)}, Identities: []string{"vm"}, Resources: []string{resource},
			TokenTypes: []string{"mtls_pop"}, Hosts: hosts,
		}
	}
	return &policy.Policy{Rules: []policy.Rule{
		rule("vault", vault, "vault.example", ".vault.example", "both.example", "vault.example:8443"),
		rule("storage", storage, "both.example"),
		rule("any", "*", "any.example"),
	}}
}

// newBridge runs an agent whose connections all lead to the handler.
func newBridge(t testing.TB, handler http.HandlerFunc, change func(*agentapi.Config)) *bridge {
	t.Helper()
	b := new(bridge)
	b.resource = httptest.NewTLSServer(handler)
	t.Cleanup(b.resource.Close)
	transport := b.resource.Client().Transport.(*http.Transport)
	transport.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, b.resource.Listener.Addr().String())
	}
	transport.TLSClientConfig.ServerName = "example.com"
	cfg := config(nil, bridgeRules(os.Geteuid()))
	cfg.Tokens = boundTokens{bound, toServer{transport, &b.asked}, nil}
	if change != nil {
		change(&cfg)
	}
	b.agent = start(t, cfg)
	return b
}

// ask makes a request through the agent.
func (b *bridge) ask(t testing.TB, method, path string, body io.Reader, headers ...string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://agent"+path, body)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	resp, err := b.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, got}
}

// The record that a call is allowed is there before the resource is asked, that of its end after
// it; neither has a path, a query or a header.
func TestACallThroughTheBridge(t *testing.T) {
	var b *bridge
	counts := new(counted)
	b = newBridge(t, func(w http.ResponseWriter, r *http.Request) {
		want := http.Header{
			"Authorization": {"mtls_pop " + tokenText}, "X-Ms-Tokenboundauth": {"true"}, "Content-Length": {"4"},
			"X-Mine": {"secret-header"}, "User-Agent": {"me"},
		}
		got := r.Header.Clone()
		got.Del("Accept-Encoding")
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("headers (-want +got):\n%s", diff)
		}
		if r.RequestURI != "/secrets%2F/secret-path?secret-query" || r.Host != "my.vault.example" {
			t.Errorf("the resource is asked for %s at %s", r.RequestURI, r.Host)
		}
		if last := b.audit.lastRecord(t); last["decision"] != "used" {
			t.Errorf("before there is a record: %v", last)
		}
		w.Header().Set("Keyagent-Error", "forged")
		w.Header().Set("ETag", "secret-tag")
		w.WriteHeader(http.StatusCreated)
		_, _ = io.WriteString(w, "hello")
	}, func(cfg *agentapi.Config) { cfg.Metrics = counts })
	got := b.ask(t, http.MethodPost, wire.PathBridge+"vm/my.vault.example/secrets%2F/secret-path?secret-query", strings.NewReader("body"),
		"Authorization", "Bearer secret-bearer", "X-Ms-Tokenboundauth", "false", "X-Mine", "secret-header", "User-Agent", "me")
	if got.status != http.StatusCreated || string(got.body) != "hello" || got.header.Get(wire.HeaderError) != "" || got.header.Get("ETag") == "" {
		t.Errorf("%+v", got)
	}
	b.stop(t)
	records := b.audit.records(t)
	if len(records) != 2 {
		t.Fatalf("records %v", records)
	}
	if diff := cmp.Diff([]agentapi.Call{{Identity: "vm", End: "complete", Status: "2xx"}}, counts.calls); diff != "" {
		t.Errorf("counted (-want +got):\n%s", diff)
	}
	call := records[0]["request_id"]
	for _, r := range records {
		delete(r, "time")
		delete(r, "duration_ms")
		delete(r, "pid")
		delete(r, "gid")
	}
	uid := float64(os.Geteuid())
	want := []map[string]any{{
		"level": "INFO", "msg": "answer", "transport": "unix", "decision": "used", "status": 200.0, "uid": uid, "method": "POST", "route": "/bridge/",
		"identity": "vm", "resource": vault, "host": "my.vault.example", "request_id": call, "type": "mtls_pop", "force_refresh": false, "claims": false,
		"rule": "vault", "credential": "managed_identity", "bound": true, "strength": "attested", "fallback": false, "thumbprint": "dGh1bWI", "from_cache": true,
	}, {
		"level": "INFO", "msg": "call ended", "request_id": call, "uid": uid, "identity": "vm", "method": "POST", "host": "my.vault.example",
		"status": 201.0, "sent_bytes": 4.0, "received_bytes": 5.0, "end": "complete",
	}}
	if diff := cmp.Diff(want, records); diff != "" || call == "" || call == nil {
		t.Errorf("records (-want +got):\n%s", diff)
	}
	for _, text := range []string{b.audit.String(), b.log.String()} {
		if strings.Contains(text, "secret-") || strings.Contains(text, tokenText) {
			t.Errorf("a secret is written: %s", text)
		}
	}
}

// A call goes only where one rule allows all of it; the agent tells a refused caller why.
func TestWhereTheBridgeLeads(t *testing.T) {
	b := newBridge(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.RequestURI) }, nil)
	const at = wire.PathBridge + "vm/"
	resource := func(of string) []string { return []string{wire.HeaderResource, of} }
	tests := []struct {
		name, path string
		headers    []string
		host       string // that is asked; "": none
		uri        string // what it is asked for; else the agent's code
	}{
		{"a host", at + "vault.example/a/b?c=d", nil, "vault.example", "/a/b?c=d"},
		{"a host with the usual port", at + "vault.example:443/a", nil, "vault.example", "/a"},
		{"a host with another port", at + "vault.example:8443/a", nil, "vault.example:8443", "/a"},
		{"a host below a domain", at + "a.b.vault.example/", nil, "a.b.vault.example", "/"},
		{"a host alone", at + "vault.example", nil, "vault.example", "/"},
		{"a host and a query", at + "vault.example?a", nil, "vault.example", "/?a"},
		{"an empty query", at + "vault.example/?", nil, "vault.example", "/?"},
		{"a path that begins with two slashes", at + "vault.example//evil.example/x", nil, "vault.example", "//evil.example/x"},
		{"a path that looks like a URL", at + "vault.example/https://evil.example/", nil, "vault.example", "/https://evil.example/"},
		{"percent signs stay", at + "vault.example/a%2Fb%2f%41?%2e%2e", nil, "vault.example", "/a%2Fb%2f%41?%2e%2e"},
		{"dots in names", at + "vault.example/..a/b..", nil, "vault.example", "/..a/b.."},
		{"a resource of the rule", at + "vault.example/", resource(vault), "vault.example", "/"},
		{"with a slash", at + "vault.example/", resource(vault + "/"), "vault.example", "/"},
		{"one of two resources", at + "both.example/", resource(storage), "both.example", "/"},
		{"any resource", at + "any.example/", resource(storage), "any.example", "/"},

		{"one of two resources, and none is named", at + "both.example/", nil, "", "missing_parameter"},
		{"any resource, and none is named", at + "any.example/", nil, "", "missing_parameter"},
		{"a host that no rule gives", at + "evil.example/", nil, "", "missing_parameter"},
		{"a host that no rule gives, with a resource", at + "evil.example/", resource(vault), "", "not_allowed"},
		{"a resource that another rule gives", at + "vault.example/", resource(storage), "", "not_allowed"},
		{"a resource that no rule gives", at + "vault.example/", resource("https://graph.microsoft.com"), "", "not_allowed"},
		{"a resource that any does not cover", at + "any.example/", resource("api://AzureADTokenExchange"), "", "not_allowed"},
		{"two resources", at + "both.example/", []string{wire.HeaderResource, vault, wire.HeaderResource, storage}, "", "invalid_parameter"},
		{"a resource that is none", at + "vault.example/", resource("a b"), "", "invalid_parameter"},
		{"another port", at + "my.vault.example:8443/", resource(vault), "", "not_allowed"},
		{"an identity that no rule gives", wire.PathBridge + "shop/vault.example/", resource(vault), "", "not_allowed"},
		{"an identity that does not exist", wire.PathBridge + "none/vault.example/", resource(vault), "", "not_allowed"},
		{"an identity in another spelling", wire.PathBridge + "%76m/vault.example/", resource(vault), "", "not_allowed"},
		{"no identity", wire.PathBridge + "/vault.example/", nil, "", "invalid_parameter"},
		{"no host", at, nil, "", "invalid_parameter"},
		{"nothing", wire.PathBridge, nil, "", "invalid_parameter"},
		{"a query in the place of a path", wire.PathBridge + "?x", nil, "", "invalid_parameter"},

		{"upper case", at + "Vault.example/", nil, "", "invalid_parameter"},
		{"a trailing dot", at + "vault.example./", nil, "", "invalid_parameter"},
		{"an encoded dot", at + "vault%2Eexample/", nil, "", "invalid_parameter"},
		{"an encoded slash", at + "evil.example%2Fvault.example/", nil, "", "invalid_parameter"},
		{"a user", at + "vault.example@evil.example/", nil, "", "invalid_parameter"},
		{"a user and a password", at + "vault.example:443@evil.example/", nil, "", "invalid_parameter"},
		{"a scheme", at + "https://vault.example/", nil, "", "invalid_parameter"},
		{"a fragment", at + "vault.example#evil.example/", nil, "", "invalid_parameter"},
		{"a backslash", at + `vault.example\evil.example/`, nil, "", "invalid_parameter"},
		{"an address in short", at + "127.1/", nil, "", "invalid_parameter"},
		{"an address as a number", at + "2130706433/", nil, "", "invalid_parameter"},
		{"an address that no rule gives", at + "127.0.0.1/", resource(vault), "", "not_allowed"},
		{"the metadata service", at + "169.254.169.254/metadata/identity", resource(vault), "", "not_allowed"},
		{"an IPv6 address that no rule gives", at + "[::1]/", resource(vault), "", "not_allowed"},

		{"a part that is two dots", at + "vault.example/a/../b", nil, "", "invalid_parameter"},
		{"encoded", at + "vault.example/a/%2e%2E/b", nil, "", "invalid_parameter"},
		{"a part that is a dot", at + "vault.example/./b", nil, "", "invalid_parameter"},
		{"dots behind an encoded slash", at + "vault.example/a%2F..%2Fb", nil, "", "invalid_parameter"},
		{"dots behind a backslash", at + "vault.example/a%5C..%5Cb", nil, "", "invalid_parameter"},
		{"out of the bridge", at + "vault.example/../../v1/token", nil, "", "invalid_parameter"},
		{"a backslash in the path", at + `vault.example/a\b`, nil, "", "invalid_parameter"},
		{"a character that is not ASCII", at + "vault.example/\xc3\xa4", nil, "", "invalid_parameter"},
		{"the same in the query", at + "vault.example/?\xc3\xa4", nil, "", "invalid_parameter"},
		{"a fragment in the query", at + "vault.example/?a#b", nil, "", "invalid_parameter"},

		{"another case of the path", "/Bridge/vm/vault.example/", nil, "", "not_found"},
		{"slashes before", "//bridge/vm/vault.example/", nil, "", "not_found"},
		{"an absolute URL", "http://vault.example/bridge/vm/vault.example/", nil, "", "not_found"},
		{"an absolute URL of the resource", "https://vault.example/", nil, "", "not_found"},

		{"a browser", at + "vault.example/", []string{"Origin", "https://evil.example"}, "", "refused_header"},
		{"a page", at + "vault.example/", []string{"Referer", "https://evil.example"}, "", "refused_header"},
		{"a proxy", at + "vault.example/", []string{"X-Forwarded-For", "10.0.0.1"}, "", "refused_header"},
		{"another proxy", at + "vault.example/", []string{"Forwarded", "for=10.0.0.1"}, "", "refused_header"},
		{"another protocol", at + "vault.example/", []string{"Connection", "Upgrade", "Upgrade", "websocket"}, "", "upgrade_refused"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b.asked.Store(nil)
			request := "GET " + tt.path + " HTTP/1.1\r\nHost: agent\r\n"
			for i := 0; i < len(tt.headers); i += 2 {
				request += tt.headers[i] + ": " + tt.headers[i+1] + "\r\n"
			}
			got := b.write(t, request+"\r\n")
			asked := ""
			if host := b.asked.Load(); host != nil {
				asked = *host
			}
			if asked != tt.host {
				t.Fatalf("%q is asked, want %q", asked, tt.host)
			}
			if tt.host != "" {
				if got.status != 200 || string(got.body) != tt.uri || got.header.Get(wire.HeaderError) != "" {
					t.Errorf("%d %s", got.status, got.body)
				}
				return
			}
			p := got.problem(t)
			if string(p.Code) != tt.uri || got.header.Get(wire.HeaderError) != tt.uri {
				t.Errorf("%s %q, want %q: %s", p.Code, got.header.Get(wire.HeaderError), tt.uri, p.Detail)
			}
		})
	}
}

// What two programs could read in two ways does not come through: net/http refuses it, or reads it
// in the one way that is passed on.
func TestSmuggledRequests(t *testing.T) {
	b := newBridge(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		_, _ = io.WriteString(w, r.Method+" "+r.RequestURI+" "+string(body))
	}, func(cfg *agentapi.Config) { cfg.StreamIdle = 5 * time.Second })
	const target = wire.PathBridge + "vm/vault.example/x HTTP/1.1\r\n"
	for name, request := range map[string]string{
		"two lengths":                    "POST " + target + "Host: a\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nbodyx",
		"a list of lengths":              "POST " + target + "Host: a\r\nContent-Length: 4, 5\r\n\r\nbodyx",
		"a signed length":                "POST " + target + "Host: a\r\nContent-Length: +4\r\n\r\nbody",
		"a hexadecimal length":           "POST " + target + "Host: a\r\nContent-Length: 0x4\r\n\r\nbody",
		"a space before a colon":         "POST " + target + "Host: a\r\nContent-Length : 4\r\n\r\nbody",
		"an unknown coding":              "POST " + target + "Host: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
		"a coding before chunked":        "POST " + target + "Host: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
		"chunked twice":                  "POST " + target + "Host: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"a chunk's length that is none":  "POST " + target + "Host: a\r\nTransfer-Encoding: chunked\r\n\r\n0x4\r\nbody\r\n0\r\n\r\n",
		"a chunk that is too long":       "POST " + target + "Host: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nbody\r\n0\r\n\r\n",
		"a bare return in a header":      "POST " + target + "Host: a\r\nX: y\rContent-Length: 4\r\n\r\nbody",
		"a null byte in a header":        "POST " + target + "Host: a\r\nX: \x00\r\n\r\n",
		"two hosts":                      "POST " + target + "Host: a\r\nHost: b\r\n\r\n",
		"no host":                        "POST " + target + "\r\n",
		"a space in the target":          "POST " + wire.PathBridge + "vm/vault.example/a b HTTP/1.1\r\nHost: a\r\n\r\n",
		"a tab in the target":            "POST " + wire.PathBridge + "vm/vault.example/a\tb HTTP/1.1\r\nHost: a\r\n\r\n",
		"a header without a name":        "POST " + target + "Host: a\r\n: x\r\n\r\n",
		"a method that is none":          "PO(ST " + target + "Host: a\r\n\r\n",
		"another version":                "POST " + wire.PathBridge + "vm/vault.example/ HTTP/3.0\r\nHost: a\r\n\r\n",
		"the preface of HTTP/2":          "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"a method that shows the header": "TRACE " + target + "Host: a\r\n\r\n",
		"the same under another name":    "TRACK " + target + "Host: a\r\n\r\n",
		"a tunnel":                       "CONNECT vault.example:443 HTTP/1.1\r\nHost: vault.example:443\r\n\r\n",
		"a tunnel by the path":           "CONNECT " + target + "Host: a\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			b.asked.Store(nil)
			got := b.write(t, request)
			whole := name == "a chunk's length that is none" || name == "a chunk that is too long" // their head is one
			if got.status < 400 || b.asked.Load() != nil && !whole {
				t.Errorf("%d %s", got.status, got.body)
			}
		})
	}
	for name, request := range map[string]string{
		// A length beside chunks is left out (RFC 9112, 6.3), and the connection closed.
		"chunks and a length": "POST " + target + "Host: a\r\nContent-Length: 100\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
		// What continues a line belongs to its value (RFC 9112, 5.2).
		"a folded line": "POST " + target + "Host: a\r\nX: y\r\n Content-Length: 100\r\nContent-Length: 4\r\n\r\nbody",
	} {
		if got := b.write(t, request); string(got.body) != "POST /x body" && got.status < 400 {
			t.Errorf("%s: %d %s", name, got.status, got.body)
		}
	}
}

// write sends a request as it is written and returns the answer.
func (b *bridge) write(t testing.TB, request string) answer {
	t.Helper()
	conn, err := b.dial(t.Context(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, body}
}

func TestTheBridgeIsForCallersOfRules(t *testing.T) {
	server, audit, _ := newServer(t, func() agentapi.Config {
		cfg := config(nil, bridgeRules(1000))
		cfg.Tokens = boundTokens{bound, nil, nil} // a request to the resource would panic
		return cfg
	}())
	for name, caller := range map[string]peer.Caller{"a stranger": stranger, "root": {}, "an administrator": {UID: uint32(os.Geteuid())}} {
		w := httptest.NewRecorder()
		server.HandlerFor(caller).ServeHTTP(w, httptest.NewRequest(http.MethodGet, wire.PathBridge+"vm/vault.example/", nil))
		if p := decode[wire.Problem](t, w.Body.Bytes()); p.Code != wire.CodeCallerNotAllowed {
			t.Errorf("%s: %+v", name, p)
		}
	}
	if strings.Contains(audit.String(), `"used"`) {
		t.Error(audit)
	}
}

// A token leaves for the resource only when its use is on record, where that is required.
func TestNoCallWithoutItsRecord(t *testing.T) {
	trail := new(trouble)
	trail.fail(errors.New("the disk is full"))
	b := newBridge(t, func(http.ResponseWriter, *http.Request) {}, func(cfg *agentapi.Config) {
		cfg.Audit, cfg.AuditRequired = trail.logger(), true
	})
	got := b.ask(t, http.MethodGet, wire.PathBridge+"vm/vault.example/", nil)
	if p := got.problem(t); p.Code != wire.CodeAuditUnavailable || b.asked.Load() != nil {
		t.Errorf("%+v", p)
	}
}

func TestCallsThatCannotBeMade(t *testing.T) {
	failing := func(err error) func(*agentapi.Config) {
		return func(cfg *agentapi.Config) {
			cfg.Tokens = boundTokens{bound, roundTripper(func(*http.Request) (*http.Response, error) { return nil, err }), nil}
		}
	}
	tests := []struct {
		name   string
		change func(*agentapi.Config)
		code   wire.Code
		end    string // in the audit
	}{
		{"the resource is down", failing(errors.New("connection refused")), wire.CodeResourceUnreachable, "unreachable"},
		{"the resource is silent", func(cfg *agentapi.Config) {
			cfg.StreamIdle = 10 * time.Millisecond
			cfg.Tokens = boundTokens{bound, roundTripper(func(r *http.Request) (*http.Response, error) {
				<-r.Context().Done()
				return nil, r.Context().Err()
			}), nil}
		}, wire.CodeResourceTimeout, "idle"},
		{"the certificate was replaced", func(cfg *agentapi.Config) { cfg.Tokens = boundTokens{bound, nil, errors.New("replaced")} }, wire.CodeUnavailable, ""},
		{"nobody presents certificates", func(cfg *agentapi.Config) { cfg.Tokens = tokenFunc(bound) }, wire.CodeInternal, ""},
		{"the token is not bound", func(cfg *agentapi.Config) { cfg.Tokens = boundTokens{working, nil, nil} }, wire.CodeInternal, ""},
		{"there is no token", func(cfg *agentapi.Config) {
			cfg.Tokens = boundTokens{tokenFunc(func(context.Context, acquire.Request) (acquire.Token, error) {
				return acquire.Token{}, &acquire.Error{Kind: acquire.KindRefused, Err: errors.New("no")}
			}), nil, nil}
		}, wire.CodeCredentialRefused, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			counts := new(counted)
			b := newBridge(t, func(http.ResponseWriter, *http.Request) {}, func(cfg *agentapi.Config) {
				cfg.Metrics = counts
				tt.change(cfg)
			})
			got := b.ask(t, http.MethodPut, wire.PathBridge+"vm/vault.example/", strings.NewReader("body"))
			if p := got.problem(t); p.Code != tt.code || got.header.Get(wire.HeaderError) != string(tt.code) {
				t.Errorf("%+v", p)
			}
			b.stop(t)
			last := b.audit.lastRecord(t)
			if end, _ := last["end"].(string); end != tt.end {
				t.Errorf("record %v", last)
			}
			var calls []agentapi.Call
			if tt.end != "" {
				calls = []agentapi.Call{{Identity: "vm", End: tt.end}}
			}
			if diff := cmp.Diff(calls, counts.calls); diff != "" {
				t.Errorf("counted (-want +got):\n%s", diff)
			}
		})
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// An agent that stops does not wait for a stream for ever, and the caller sees that it broke off.
func TestStoppingEndsStreams(t *testing.T) {
	b := newBridge(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "half")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}, func(cfg *agentapi.Config) { cfg.ShutdownGrace = time.Millisecond })
	resp, err := b.http.Get("http://agent" + wire.PathBridge + "vm/vault.example/")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.ReadFull(resp.Body, make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	b.stop(t)
	if rest, err := io.ReadAll(resp.Body); err == nil {
		t.Errorf("%q is taken for the whole", rest)
	}
	if last := b.audit.lastRecord(t); last["end"] != "stopping" || last["received_bytes"] != 4.0 {
		t.Errorf("record %v", last)
	}
}

// Whatever the path is, the resource that is asked is one that a rule gives, and is asked for what
// stood behind its name.
func FuzzBridgePath(f *testing.F) {
	for _, path := range []string{
		"vm/vault.example/a?b", "vm/my.vault.example:443//x", "vm/vault.example@evil/", "vm/evil%2Fvault.example/", "vm/vault.example/%2e%2e/", "vm/[::1]/",
		"vm/vault.example/a%2fb?c=d#e", "vm//vault.example/", "vm/vault.example:8443", "vm/any.example/",
	} {
		f.Add(path)
	}
	allowed := []string{"vault.example", "vault.example:8443", "both.example", "any.example"}
	var asked *http.Request
	cfg := config(nil, bridgeRules(1000))
	cfg.Audit = slog.New(slog.NewJSONHandler(io.Discard, nil))
	cfg.Tokens = boundTokens{bound, roundTripper(func(r *http.Request) (*http.Response, error) {
		asked = r
		return &http.Response{StatusCode: 204, Body: http.NoBody, Header: http.Header{}}, nil
	}), nil}
	server, err := agentapi.New(cfg)
	if err != nil {
		f.Fatal(err)
	}
	handler := server.HandlerFor(peer.Caller{UID: 1000, GID: 1000})
	f.Fuzz(func(t *testing.T, path string) {
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader("GET " + wire.PathBridge + path + " HTTP/1.1\r\nHost: agent\r\nKeyagent-Resource: " + vault + "\r\n\r\n")))
		if err != nil {
			return
		}
		asked = nil
		handler.ServeHTTP(httptest.NewRecorder(), r)
		if asked == nil {
			return
		}
		host := asked.URL.Host
		if !strings.HasSuffix(host, ".vault.example") && !slices.Contains(allowed, host) || asked.Host != host || asked.URL.Scheme != "https" || asked.URL.User != nil {
			t.Fatalf("%q leads to %q", path, host)
		}
		if behind := asked.URL.RequestURI(); !strings.HasSuffix(path, strings.TrimPrefix(behind, "/")) {
			t.Errorf("%q asks for %q", path, behind)
		}
	})
}

// A connection to a resource costs a signature, also if its caller is gone before it is there.
// Requests on connections that are open cost none.
func TestConnectionsToResourcesAreBounded(t *testing.T) {
	var keeps atomic.Bool
	keeps.Store(true)
	b := newBridge(t, func(w http.ResponseWriter, _ *http.Request) {
		if !keeps.Load() {
			w.Header().Set("Connection", "close")
		}
	}, nil)
	ask := func() int {
		return b.ask(t, http.MethodGet, wire.PathBridge+"vm/vault.example/", nil).status
	}
	for range agentapi.SignBurst + 10 {
		if status := ask(); status != http.StatusOK {
			t.Fatalf("on an open connection: %d", status)
		}
	}
	keeps.Store(false)
	var opened int
	for ask() == http.StatusOK {
		if opened++; opened > agentapi.SignBurst+1 {
			t.Fatal("there is no end to new connections")
		}
	}
	if status := ask(); status != http.StatusTooManyRequests || opened < agentapi.SignBurst/2 {
		t.Errorf("status %d after %d connections", status, opened)
	}
	if record := b.audit.lastRecord(t); record["decision"] != "refused" || record["reason"] != "too many signatures for TLS handshakes" {
		t.Errorf("audit %v", record)
	}
}
