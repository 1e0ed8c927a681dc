package client_test

import (
	"context"
	"crypto"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/keyagent/keyagent/agentapi/policy"
	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/client"
)

func hostOf(t *testing.T, address string) string {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	return u.Host
}

func TestBoundCalls(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			w := newBoundWorld(t)
			a := w.startAPI(version)
			c := w.httpClient([]string{hostOf(t, a.URL)}, []string{})
			for range 3 {
				if got, err := fetch(c, a.URL); err != nil || got != "bound-to "+w.thumbprint()+" " {
					t.Fatalf("got %q, %v", got, err)
				}
			}
			if a.connectionCount() != 1 || w.so().signed != 1 || w.so().tokens != 1 || a.protocols["HTTP/2.0"] != 3 {
				t.Errorf("%d connections, %d signatures, %d tokens, %v", a.connectionCount(), w.so().signed, w.so().tokens, a.protocols)
			}
			log := w.audit.String()
			if strings.Count(log, `"decision":"signed"`) != 1 || !strings.Contains(log, `"tls_version":"`+tls.VersionName(version)+`"`) {
				t.Errorf("audit:\n%s", log)
			}
			if strings.Contains(log, `"server":"localhost"`) != (version == tls.VersionTLS12) {
				t.Errorf("only TLS 1.2 says who the server is:\n%s", log)
			}

			w.rotate()
			t.Run("a connection outlives its certificate", func(t *testing.T) {
				if got, err := fetch(c, a.URL); err != nil || strings.Contains(got, w.thumbprint()) || w.so().signed != 1 {
					t.Errorf("got %q, %v, %d signatures", got, err, w.so().signed)
				}
			})
			t.Run("a new connection has the new one", func(t *testing.T) {
				c.CloseIdleConnections()
				if got, err := fetch(c, a.URL); err != nil || got != "bound-to "+w.thumbprint()+" " || w.so().signed != 2 {
					t.Errorf("got %q, %v, %d signatures", got, err, w.so().signed)
				}
			})
		})
	}
}

func TestTheCertificateIsReplacedBetweenTokenAndHandshake(t *testing.T) {
	for name, body := range map[string]string{"without a body": "", "with one": "text"} {
		t.Run(name, func(t *testing.T) {
			w := newBoundWorld(t)
			a := w.startAPI(tls.VersionTLS13)
			c := w.httpClient([]string{"localhost:" + hostOf(t, a.URL)[len("localhost:"):]}, []string{})
			w.mismatch = w.rotate
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, a.URL, strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			resp, err := c.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			got, err := io.ReadAll(resp.Body)
			if err != nil || string(got) != "bound-to "+w.thumbprint()+" "+body || w.so().tokens != 2 {
				t.Errorf("got %q, %v, %d tokens", got, err, w.so().tokens)
			}
		})
	}
	t.Run("with a body that cannot be sent again", func(t *testing.T) {
		w := newBoundWorld(t)
		a := w.startAPI(tls.VersionTLS13)
		c := w.httpClient([]string{hostOf(t, a.URL)}, []string{})
		w.mismatch = w.rotate
		resp, err := c.Post(a.URL, "text/plain", io.MultiReader(strings.NewReader("once")))
		if err == nil {
			resp.Body.Close()
		}
		var said *client.Error
		if !errors.As(err, &said) || said.Problem.Code != wire.CodeBindingChanged {
			t.Errorf("got %v", err)
		}
	})
}

func TestBoundClaims(t *testing.T) {
	const claims = `{"access_token":{"nbf":{"essential":true,"value":"1790000000"}}}`
	w := newBoundWorld(t)
	a := w.startAPI(tls.VersionTLS13)
	a.challenge = base64.StdEncoding.EncodeToString([]byte(claims))
	c := w.httpClient([]string{hostOf(t, a.URL)}, []string{})
	if got, err := fetch(c, a.URL); err != nil || got != "with-claims "+w.thumbprint()+" " || w.claims != claims {
		t.Errorf("got %q, %v; the agent was asked with %q", got, err, w.claims)
	}
}

func TestManyBoundCallsAtOnce(t *testing.T) {
	w := newBoundWorld(t)
	a := w.startAPI(tls.VersionTLS13)
	c := w.httpClient([]string{hostOf(t, a.URL)}, []string{})
	var group sync.WaitGroup
	for i := range 40 {
		group.Go(func() {
			if i == 20 {
				w.rotate()
			}
			if got, err := fetch(c, a.URL); err != nil || !strings.HasPrefix(got, "bound-to ") {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
	group.Wait()
}

func TestBoundCallsThatAreNotMade(t *testing.T) {
	w := newBoundWorld(t)
	a := w.startAPI(tls.VersionTLS13)
	c := w.httpClient([]string{hostOf(t, a.URL), "localhost:1"}, []string{})
	for name, address := range map[string]string{
		"another host": strings.Replace(a.URL, "localhost", "127.0.0.1", 1), "http": strings.Replace(a.URL, "https", "http", 1),
		"another port": "https://localhost",
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := fetch(c, address); err == nil || !strings.Contains(err.Error(), "may be called") {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
	if w.so().tokens != 0 || w.so().signed != 0 || a.connectionCount() != 0 {
		t.Errorf("%d tokens, %d signatures, %d connections", w.so().tokens, w.so().signed, a.connectionCount())
	}
	t.Run("a redirect", func(t *testing.T) {
		resp, err := c.Get(a.URL + "/redirect")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusFound {
			t.Errorf("status %d", resp.StatusCode)
		}
	})
	agent := client.New(client.Config{Socket: w.socket})
	for name, cfg := range map[string]client.BoundConfig{
		"without hosts": {Identity: "vm", Resource: vault}, "without an identity": {Resource: vault, Hosts: []string{"h.example"}},
		"with a host that is none": {Identity: "vm", Hosts: []string{"*"}}, "with a late host that is none": {Identity: "vm", Hosts: []string{"h.example"}, Late: []string{"/"}},
	} {
		if _, err := agent.HTTPClient(cfg); err == nil {
			t.Errorf("a client %s is made", name)
		}
	}
}

// The agent's refusal is the error of the call.
func TestBoundCallsThatTheAgentRefuses(t *testing.T) {
	w := newBoundWorld(t)
	rule := policy.Rule{
		Name: "test", UIDs: []uint32{uint32(os.Geteuid())}, Identities: []string{"vm"}, Resources: []string{vault}, TokenTypes: []string{wire.TypePoP}, Hosts: []string{"localhost"},
	}
	elsewhere := rule
	elsewhere.Sign, elsewhere.Hosts = true, []string{"vault.azure.net"}
	for _, tt := range []struct {
		name    string
		rule    policy.Rule
		version uint16
	}{
		{"a rule that does not let sign, TLS 1.3", rule, tls.VersionTLS13},
		{"a rule that does not let sign, TLS 1.2", rule, tls.VersionTLS12},
		{"a rule for other hosts, TLS 1.2", elsewhere, tls.VersionTLS12},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w.socket = w.startAgent(&policy.Policy{Rules: []policy.Rule{tt.rule}})
			a := w.startAPI(tt.version)
			if got, err := fetch(w.httpClient([]string{hostOf(t, a.URL)}, []string{}), a.URL); !errors.Is(err, client.ErrRefused) {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
	if w.so().signed != 0 {
		t.Errorf("%d signatures", w.so().signed)
	}
}

func TestTLSConfig(t *testing.T) {
	w := newBoundWorld(t)
	a := w.startAPI(tls.VersionTLS13)
	agent := newClient(t, w.socket)
	cfg := agent.TLSConfig("vm")
	cfg.RootCAs = w.roots
	shown := func() string {
		t.Helper()
		transport := &http.Transport{TLSClientConfig: cfg.Clone()}
		defer transport.CloseIdleConnections()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, a.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "mtls_pop bound-to."+w.thumbprint())
		req.Header.Set(client.HeaderTokenBound, "true")
		resp, err := transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		return string(body)
	}
	if got := shown(); got != "bound-to "+w.thumbprint()+" " {
		t.Errorf("got %q", got)
	}
	w.rotate()
	if got := shown(); got != "bound-to "+w.thumbprint()+" " {
		t.Errorf("after a rotation: %q", got)
	}
}

func TestBindingOfAnIdentity(t *testing.T) {
	w := newBoundWorld(t)
	agent := newClient(t, w.socket)
	b, err := agent.Binding(t.Context(), "vm")
	if err != nil {
		t.Fatal(err)
	}
	if b.Identity() != "vm" || b.Thumbprint() != w.thumbprint() || b.Strength() != "tpm" || b.Leaf().Subject.CommonName != "vm" || !b.Expires().Equal(w.pair.Expires) {
		t.Errorf("got %+v", b)
	}
	key := b.Signer(t.Context())
	if !w.key.PublicKey.Equal(key.Public()) {
		t.Error("it is another key")
	}
	if _, err := key.Sign(nil, make([]byte, 32), crypto.SHA256); err == nil {
		t.Error("a digest is signed")
	}
	if _, err := key.SignMessage(nil, []byte("an assertion"), crypto.SHA256); err == nil || !strings.Contains(err.Error(), "not_a_handshake") {
		t.Errorf("an assertion: %v", err)
	}
	if _, err := key.SignMessage(nil, []byte("an assertion"), crypto.SHA1); err == nil || strings.Contains(err.Error(), "not_a_handshake") {
		t.Errorf("a scheme that is none: %v", err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.Signer(gone).SignMessage(nil, []byte("x"), crypto.SHA256); !errors.Is(err, context.Canceled) {
		t.Errorf("after the context: %v", err)
	}
	for _, name := range []string{"", "a/b", "vm?x", "%76m", "vm#"} {
		if _, err := agent.Binding(t.Context(), name); err == nil {
			t.Errorf("identity %q is asked for", name)
		}
	}
	if _, err := agent.Binding(t.Context(), "other"); !errors.Is(err, client.ErrRefused) {
		t.Errorf("an identity of no rule: %v", err)
	}
}

func TestBindingRepliesThatAreNone(t *testing.T) {
	w := newBoundWorld(t)
	der := base64.StdEncoding.EncodeToString(w.pair.Chain[0])
	for name, body := range map[string]string{
		"HTML": "<html>", "no certificate": `{"thumbprint":"x"}`, "no DER": `{"chain":["AAAA"],"thumbprint":"x"}`,
		"another thumbprint": `{"chain":["` + der + `"],"thumbprint":"x"}`,
	} {
		t.Run(name, func(t *testing.T) {
			socket := serve(t, func(rw http.ResponseWriter, _ *http.Request) { _, _ = rw.Write([]byte(body)) })
			if b, err := newClient(t, socket).Binding(t.Context(), "vm"); err == nil {
				t.Errorf("got %+v", b)
			}
		})
	}
}

func TestBoundRefusal(t *testing.T) {
	answer := func(status int, body string) *http.Response {
		return &http.Response{StatusCode: status, Body: io.NopCloser(strings.NewReader(body))}
	}
	for _, tt := range []struct {
		name   string
		status int
		body   string
		code   string
	}{
		{"Key Vault", 401, `{"error":{"code":"Unauthorized","message":"[MissingClientCertificate] Error validating token"}}`, client.CodeMissingClientCertificate},
		{"Graph", 401, `{"error":{"code":"MtlsMissingClientCertificate","message":"no"}}`, client.CodeMtlsMissingClientCertificate},
		{"another certificate", 401, `{"error":{"code":"x","message":"[MtlsCnfClaimRequestDataValidationFailed] no"}}`, client.CodeOtherCertificate},
		{"another refusal", 401, `{"error":{"code":"InvalidAuthenticationToken","message":"no"}}`, ""},
		{"success", 200, `{"error":{"code":"MissingClientCertificate"}}`, ""},
		{"no JSON", 401, `MissingClientCertificate`, ""},
		{"nothing", 401, ``, ""},
		{"another type", 401, `{"error":"MissingClientCertificate"}`, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			resp := answer(tt.status, tt.body)
			defer resp.Body.Close()
			err := client.BoundRefusal(resp)
			var refusal *client.RefusalError
			if errors.As(err, &refusal) != (tt.code != "") || refusal != nil && (refusal.Code != tt.code || refusal.Hint == "" || refusal.Error() == "") {
				t.Errorf("got %v", err)
			}
			if body, err := io.ReadAll(resp.Body); err != nil || string(body) != tt.body {
				t.Errorf("the answer reads %q then, %v", body, err)
			}
		})
	}
	t.Run("a long answer is still whole", func(t *testing.T) {
		long := `{"error":{"code":"x","message":"` + strings.Repeat("y", 200<<10) + `"}}`
		resp := answer(401, long)
		defer resp.Body.Close()
		if err := client.BoundRefusal(resp); err != nil {
			t.Error(err)
		}
		if body, err := io.ReadAll(resp.Body); err != nil || string(body) != long {
			t.Errorf("%d bytes, %v", len(body), err)
		}
	})
}
