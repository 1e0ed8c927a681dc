package tlsbridge_test

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/keyagent/keyagent/tlsbridge"
)

// start starts a server that asks for a client certificate.
func start(t *testing.T, http2 bool, handler http.HandlerFunc, configure func(*httptest.Server)) (*httptest.Server, tlsbridge.Config) {
	t.Helper()
	server := httptest.NewUnstartedServer(handler)
	server.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	server.EnableHTTP2 = http2
	if configure != nil {
		configure(server)
	}
	server.StartTLS()
	t.Cleanup(server.Close)
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	return server, tlsbridge.Config{RootCAs: roots}
}

func newBridge(t *testing.T, cfg tlsbridge.Config) *tlsbridge.Bridge {
	t.Helper()
	pair, _ := newPair(t, "bound")
	b, err := tlsbridge.New(cfg, pair)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

// rendezvous is a handler that answers when so many requests are there at once.
func rendezvous(parties int) http.HandlerFunc {
	var arrived atomic.Int64
	all := make(chan struct{})
	return func(w http.ResponseWriter, _ *http.Request) {
		if arrived.Add(1) == int64(parties) {
			close(all)
		}
		<-all
		_, _ = io.WriteString(w, "hello")
	}
}

func burst(t *testing.T, b *tlsbridge.Bridge, url string) {
	t.Helper()
	var group sync.WaitGroup
	for range 100 {
		group.Go(func() {
			if got, err := get(t, b, url); err != nil || got != "hello" {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
	group.Wait()
}

func TestBurstOverHTTP2CostsOneHandshake(t *testing.T) {
	server, cfg := start(t, true, rendezvous(100), nil) // all hundred share the connection, at once
	b := newBridge(t, cfg)
	burst(t, b, server.URL)
	if got := b.Handshake().Count; got != 1 {
		t.Errorf("got %d handshakes, want one", got)
	}
}

func TestBurstOverHTTP1CostsFourHandshakesAtMost(t *testing.T) {
	server, cfg := start(t, false, rendezvous(4), nil) // four connections there must be
	b := newBridge(t, cfg)
	burst(t, b, server.URL)
	burst(t, b, server.URL)
	if got := b.Handshake().Count; got != 4 {
		t.Errorf("got %d handshakes, want four", got)
	}
}

func TestWaitingForTheFirstConnectionEndsWithTheContext(t *testing.T) {
	server, cfg := start(t, true, rendezvous(1), nil)
	dialling, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	cfg.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		once.Do(func() { close(dialling) })
		<-release
		return new(net.Dialer).DialContext(ctx, network, address)
	}
	b := newBridge(t, cfg)
	var group sync.WaitGroup
	group.Go(func() {
		if got, err := get(t, b, server.URL); err != nil || got != "hello" {
			t.Errorf("the first request: got %q, %v", got, err)
		}
	})
	<-dialling
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	body := &closable{closed: make(chan struct{})}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, server.URL, body)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := b.Client().Do(req)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
	if err == nil {
		resp.Body.Close()
	}
	<-body.closed
	close(release)
	group.Wait()
}

// closable is a body that tells when it is closed.
type closable struct{ closed chan struct{} }

func (*closable) Read([]byte) (int, error) { return 0, io.EOF }
func (c *closable) Close() error           { close(c.closed); return nil }

func TestNextRequestGoesAloneWhenTheFirstFails(t *testing.T) {
	server, cfg := start(t, true, rendezvous(1), nil)
	var dials, together atomic.Int64
	cfg.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		if together.Add(1) > 1 {
			t.Error("two connections are being made")
		}
		defer together.Add(-1)
		if dials.Add(1) <= 3 {
			return nil, errors.New("no route")
		}
		return new(net.Dialer).DialContext(ctx, network, address)
	}
	b := newBridge(t, cfg)
	var group sync.WaitGroup
	var failed atomic.Int64
	for range 20 {
		group.Go(func() {
			if _, err := get(t, b, server.URL); err != nil {
				failed.Add(1)
			}
		})
	}
	group.Wait()
	if failed.Load() != 3 || dials.Load() != 4 || b.Handshake().Count != 1 {
		t.Errorf("got %d failures, %d connections, %d handshakes; want 3, 4, 1", failed.Load(), dials.Load(), b.Handshake().Count)
	}
}

func TestNoConnectionIsKeptAfterClose(t *testing.T) {
	for name, http2 := range map[string]bool{"HTTP/2": true, "HTTP/1.1": false} {
		t.Run(name, func(t *testing.T) {
			arrived, release, closed := make(chan struct{}), make(chan struct{}), make(chan struct{}, 8)
			server, cfg := start(t, http2, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/slow" {
					close(arrived)
					<-release
				}
				_, _ = io.WriteString(w, r.Proto[:6])
			}, func(s *httptest.Server) {
				s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
					if state == http.StateClosed {
						closed <- struct{}{}
					}
				}
			})
			b := newBridge(t, cfg)
			var group sync.WaitGroup
			group.Go(func() {
				if got, err := get(t, b, server.URL+"/slow"); err != nil || got != "HTTP/"+name[5:6] {
					t.Errorf("a request under way: got %q, %v", got, err)
				}
			})
			<-arrived
			b.Close()
			close(release)
			group.Wait()
			<-closed // or the test does not end
			if got, err := get(t, b, server.URL+"/late"); err != nil {
				t.Errorf("a request after Close: got %q, %v", got, err)
			}
			<-closed
		})
	}
}

func TestWholeChainIsSent(t *testing.T) {
	var got atomic.Int64
	server, cfg := start(t, true, func(_ http.ResponseWriter, r *http.Request) { got.Store(int64(len(r.TLS.PeerCertificates))) }, nil)
	pair, _ := newPair(t, "bound")
	issuer, _ := newPair(t, "issuer")
	pair.Chain = append(pair.Chain, issuer.Chain...)
	b, err := tlsbridge.New(cfg, pair)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if _, err := get(t, b, server.URL); err != nil || got.Load() != 2 {
		t.Errorf("got %d certificates, %v; want both", got.Load(), err)
	}
}

// Not what a server offers, but what we accept: each of these servers has one thing only.
func TestAlgorithmsAreThoseThatFIPSHas(t *testing.T) {
	for _, tc := range []struct {
		name      string
		configure func(*tls.Config)
		ok        bool
	}{
		{"TLS 1.3 on P-256", func(c *tls.Config) { c.MinVersion, c.CurvePreferences = tls.VersionTLS13, []tls.CurveID{tls.CurveP256} }, true},
		{"TLS 1.3 on P-384", func(c *tls.Config) { c.MinVersion, c.CurvePreferences = tls.VersionTLS13, []tls.CurveID{tls.CurveP384} }, true},
		{"X25519", func(c *tls.Config) { c.CurvePreferences = []tls.CurveID{tls.X25519} }, false},
		{"a post-quantum hybrid", func(c *tls.Config) { c.CurvePreferences = []tls.CurveID{tls.X25519MLKEM768} }, false},
		{"TLS 1.2 with AES-256-GCM", tls12(tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384), true},
		{"TLS 1.2 with AES-128-GCM", tls12(tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256), true},
		{"TLS 1.2 with ChaCha20", tls12(tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256), false},
		{"TLS 1.2 with CBC", tls12(tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA), false},
		{"TLS 1.2 without forward secrecy", tls12(tls.TLS_RSA_WITH_AES_128_GCM_SHA256), false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			server, cfg := start(t, false, rendezvous(1), func(s *httptest.Server) { tc.configure(s.TLS) })
			if _, err := get(t, newBridge(t, cfg), server.URL); (err == nil) != tc.ok {
				t.Errorf("got %v, want a connection: %v", err, tc.ok)
			}
			resp, err := send(t, tlsbridge.NewClient(cfg), server.URL)
			if (err == nil) != tc.ok {
				t.Errorf("without client certificate: got %v, want a connection: %v", err, tc.ok)
			}
			if err == nil {
				resp.Body.Close()
			}
		})
	}
}

func tls12(suite uint16) func(*tls.Config) {
	return func(c *tls.Config) { c.MaxVersion, c.CipherSuites = tls.VersionTLS12, []uint16{suite} }
}

func send(t *testing.T, client *http.Client, url string) (*http.Response, error) {
	t.Helper()
	t.Cleanup(client.CloseIdleConnections)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	return client.Do(req)
}

func TestClientWithoutCertificateHasTheSameSettings(t *testing.T) {
	redirect, cfg := start(t, true, func(w http.ResponseWriter, r *http.Request) {
		if len(r.TLS.PeerCertificates) != 0 {
			t.Error("a certificate was presented")
		}
		http.Redirect(w, r, "https://example.com/", http.StatusTemporaryRedirect)
	}, nil)
	resp, err := send(t, tlsbridge.NewClient(cfg), redirect.URL)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusTemporaryRedirect || resp.ProtoMajor != 2 {
		t.Errorf("got status %d by %s, want the redirect itself by HTTP/2", resp.StatusCode, resp.Proto)
	}
	if resp, err := send(t, tlsbridge.NewClient(tlsbridge.Config{RootCAs: x509.NewCertPool()}), redirect.URL); err == nil {
		resp.Body.Close()
		t.Error("a server with an untrusted certificate was accepted")
	}
	old, cfg := start(t, false, rendezvous(1), func(s *httptest.Server) { s.TLS.MaxVersion = tls.VersionTLS11 })
	if resp, err := send(t, tlsbridge.NewClient(cfg), old.URL); err == nil {
		resp.Body.Close()
		t.Error("TLS 1.1 was accepted")
	}
}

// failingKey has a public half only.
type failingKey struct{ crypto.Signer }

var errKey = errors.New("the TPM is gone")

func (failingKey) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) { return nil, errKey }

// Four connections to a host are the most: one that has ended must not count.
func TestConnectionsThatEndMakeRoom(t *testing.T) {
	for name, http2 := range map[string]bool{"HTTP/2": true, "HTTP/1.1": false} {
		server, cfg := start(t, http2, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Connection", "close") // by HTTP/2, too, which says GOAWAY
			_, _ = io.WriteString(w, "hello")
		}, nil)
		b := newBridge(t, cfg)
		for range 10 {
			if got, err := get(t, b, server.URL); err != nil || got != "hello" {
				t.Fatalf("%s: got %q, %v", name, got, err)
			}
		}

		pair, _ := newPair(t, "bound")
		config, roots := serverConfig(t)
		config.ClientAuth, config.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
		if http2 {
			config.NextProtos = []string{"h2"}
		}
		address := listen(t, refuse(t, config))
		refused, err := tlsbridge.New(tlsbridge.Config{RootCAs: roots}, pair)
		if err != nil {
			t.Fatal(err)
		}
		for range 10 {
			if _, err := get(t, refused, "https://"+address); !tlsbridge.CertificateRefused(err) {
				t.Fatalf("%s: got %v, want a refusal", name, err)
			}
		}
		refused.Close()
	}
}
