package tlsbridge_test

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/keyagent/keyagent/internal/upstream"
	"github.com/keyagent/keyagent/tlsbridge"
)

// connectProxy connects every client to one server, whatever its name.
type connectProxy struct {
	target string
	refuse int // status; 0: connect

	mu   sync.Mutex
	seen []string // authority and credentials of each CONNECT
}

func (p *connectProxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.seen = append(p.seen, r.Method+" "+r.Host+" "+r.Header.Get("Proxy-Authorization"))
	p.mu.Unlock()
	if p.refuse != 0 {
		http.Error(w, "go away", p.refuse)
		return
	}
	server, err := new(net.Dialer).DialContext(r.Context(), "tcp", p.target)
	if err != nil {
		http.Error(w, "unreachable", http.StatusBadGateway)
		return
	}
	defer server.Close()
	client, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer client.Close()
	_, _ = io.WriteString(client, "HTTP/1.1 200 OK\r\n\r\n") // only now the client goes on
	go func() {
		_, _ = io.Copy(server, client)
		server.Close()
	}()
	_, _ = io.Copy(client, server)
}

func (p *connectProxy) requests() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen
}

// behind returns a URL of proxy with the password swordfish, and its server.
func behind(t *testing.T, proxy *connectProxy, secure bool) (string, *httptest.Server) {
	t.Helper()
	server := httptest.NewUnstartedServer(proxy)
	server.TLS = &tls.Config{ClientAuth: tls.RequestClientCert, VerifyConnection: func(state tls.ConnectionState) error {
		if len(state.PeerCertificates) != 0 {
			t.Error("the client certificate was presented to the proxy")
		}
		return nil
	}}
	if secure {
		server.StartTLS()
	} else {
		server.Start()
	}
	t.Cleanup(server.Close)
	return strings.Replace(server.URL, "://", "://user:swordfish@", 1), server
}

// basicAuth is user:swordfish.
const basicAuth = "Basic dXNlcjpzd29yZGZpc2g="

func TestTLSIsEndToEndThroughAProxy(t *testing.T) {
	for name, secure := range map[string]bool{"over http": false, "over https": true} {
		t.Run(name, func(t *testing.T) {
			server, roots, _ := serve(t, nil)
			proxy := &connectProxy{target: strings.TrimPrefix(server, "https://")}
			address, _ := behind(t, proxy, secure)
			choose, err := upstream.Proxy(address, nil)
			if err != nil {
				t.Fatal(err)
			}
			b := newBridge(t, tlsbridge.Config{RootCAs: roots, Proxy: choose})
			for range 2 {
				if got, err := get(t, b, "https://example.com/"); err != nil || got != "bound" {
					t.Fatalf("got %q, %v; want the certificate's subject", got, err)
				}
			}
			if seen := proxy.requests(); len(seen) != 1 || seen[0] != "CONNECT example.com:443 "+basicAuth || b.Handshake().Count != 1 {
				t.Errorf("got %q and %d handshakes, want one of each", seen, b.Handshake().Count)
			}
			// The name is verified, not the proxy's word for it.
			if _, err := get(t, b, "https://login.example.net/"); err == nil || !strings.Contains(err.Error(), "login.example.net") {
				t.Errorf("another name: got %v, want a refusal", err)
			}
			if got := b.Handshake().Count; got != 1 {
				t.Errorf("the key signed for a server that was not verified: %d handshakes", got)
			}
		})
	}
}

func TestBypassedHostsAreReachedDirectly(t *testing.T) {
	server, roots, _ := serve(t, nil)
	proxy := &connectProxy{refuse: http.StatusBadGateway}
	address, _ := behind(t, proxy, false)
	choose, err := upstream.Proxy(address, []string{"example.com"})
	if err != nil {
		t.Fatal(err)
	}
	b := newBridge(t, tlsbridge.Config{RootCAs: roots, Proxy: choose, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		if address == "example.com:443" {
			address = strings.TrimPrefix(server, "https://")
		}
		return new(net.Dialer).DialContext(ctx, network, address)
	}})
	if got, err := get(t, b, "https://example.com/"); err != nil || got != "bound" || len(proxy.requests()) != 0 {
		t.Errorf("got %q, %v; the proxy saw %q", got, err, proxy.requests())
	}
}

func TestProxyThatRefuses(t *testing.T) {
	for status, want := range map[int]string{
		http.StatusProxyAuthRequired: "check the proxy's user name and password",
		http.StatusBadGateway:        "does not connect to example.com:443 (status 502)",
		http.StatusForbidden:         "check that it allows this host",
	} {
		address, server := behind(t, &connectProxy{refuse: status}, false)
		choose, err := upstream.Proxy(address, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, err = get(t, newBridge(t, tlsbridge.Config{Proxy: choose}), "https://example.com/")
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), server.Listener.Addr().String()) {
			t.Errorf("status %d: got %v, want %q and the proxy's host", status, err, want)
		}
		if err != nil && (strings.Contains(err.Error(), "swordfish") || strings.Contains(err.Error(), basicAuth)) {
			t.Errorf("status %d: the error shows the password: %v", status, err)
		}
	}
}

func TestProxyOverHTTPSIsVerified(t *testing.T) {
	_, roots, _ := serve(t, nil)
	address, _ := behind(t, &connectProxy{}, true)
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	u.Host = "proxy.example.net:" + u.Port() // not in its certificate
	choose, err := upstream.Proxy(u.String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	b := newBridge(t, tlsbridge.Config{RootCAs: roots, Proxy: choose, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, "127.0.0.1:"+u.Port())
	}})
	if _, err := get(t, b, "https://example.com/"); err == nil || !strings.Contains(err.Error(), "TLS with the proxy proxy.example.net") || strings.Contains(err.Error(), "swordfish") {
		t.Errorf("got %v, want a refusal of the proxy", err)
	}
}

func TestProxyThatWantsACertificateDoesNotSpeakForTheServer(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		config, roots := serverConfig(t)
		config.MinVersion, config.MaxVersion, config.ClientAuth = version, version, tls.RequireAnyClientCert
		choose, err := upstream.Proxy("https://"+listen(t, refuse(t, config)), nil)
		if err != nil {
			t.Fatal(err)
		}
		b := newBridge(t, tlsbridge.Config{RootCAs: roots, Proxy: choose})
		_, err = get(t, b, "https://example.com/")
		if err == nil || !strings.Contains(err.Error(), "proxy") || tlsbridge.CertificateRefused(err) || b.Handshake().Count != 0 {
			t.Errorf("%s: got %v, classified as the server's refusal: %v", tls.VersionName(version), err, tlsbridge.CertificateRefused(err))
		}
	}
}

// A wait names the proxy, if there is one, without its password.
func TestAClientSaysWhichProxyItUses(t *testing.T) {
	choose, err := upstream.Proxy("http://user:swordfish@proxy.example:3128", []string{"direct.example"})
	if err != nil {
		t.Fatal(err)
	}
	cfg := tlsbridge.Config{Proxy: choose}
	for name, client := range map[string]*http.Client{"with a certificate": newBridge(t, cfg).Client(), "without": tlsbridge.NewClient(cfg)} {
		for target, want := range map[string]string{
			"https://login.example/token": ", through proxy proxy.example:3128", "https://direct.example/": "", "::": "",
		} {
			if got := upstream.Via(client, target); got != want {
				t.Errorf("%s: %s: got %q, want %q", name, target, got, want)
			}
		}
	}
	for _, client := range []*http.Client{tlsbridge.NewClient(tlsbridge.Config{}), {}} {
		if got := upstream.Via(client, "https://login.example/"); got != "" {
			t.Errorf("without a proxy: %q", got)
		}
	}
}
