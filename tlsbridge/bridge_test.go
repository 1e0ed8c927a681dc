package tlsbridge_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyagent/keyagent/tlsbridge"
)

// rsaKey is one for all tests: making it takes longer than they do.
var rsaKey = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) })

// newPair makes a self-signed client certificate over a software key: what is
// tested here is the connection, not the key.
func newPair(t *testing.T, name string) (tlsbridge.Pair, *rsa.PrivateKey) {
	t.Helper()
	key, err := rsaKey()
	if err != nil {
		t.Fatal(err)
	}
	return pairOf(t, name, key), key
}

func pairOf(t *testing.T, name string, key crypto.Signer) tlsbridge.Pair {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tlsbridge.Pair{
		Chain:  [][]byte{der},
		Signer: func(context.Context) crypto.Signer { return key },
	}
}

// serve starts a TLS server that asks for a client certificate, names a CA that
// did not issue it, and answers with the certificate's subject.
func serve(t *testing.T, configure func(*tls.Config)) (url string, roots *x509.CertPool, connections *atomic.Int64) {
	t.Helper()
	connections = new(atomic.Int64)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(r.TLS.PeerCertificates) == 0 {
			http.Error(w, "no certificate", http.StatusForbidden)
			return
		}
		if r.TLS.DidResume {
			t.Error("a session was resumed")
		}
		_, _ = io.WriteString(w, r.TLS.PeerCertificates[0].Subject.CommonName)
	}))
	foreign := x509.NewCertPool()
	_, otherKey := newPair(t, "foreign")
	foreignCA := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "foreign CA"}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, foreignCA, foreignCA, &otherKey.PublicKey, otherKey)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	foreign.AddCert(parsed)
	server.TLS = &tls.Config{ClientAuth: tls.RequestClientCert, ClientCAs: foreign, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		connections.Add(1)
		return nil, nil
	}}
	if configure != nil {
		configure(server.TLS)
	}
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	roots = x509.NewCertPool()
	roots.AddCert(server.Certificate())
	return server.URL, roots, connections
}

func get(t *testing.T, b *tlsbridge.Bridge, url string) (string, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := b.Client().Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}

func TestCertificateIsAlwaysOfferedAndTheSignatureReported(t *testing.T) {
	for _, tc := range []struct {
		name      string
		version   uint16
		schemes   []tls.SignatureScheme
		wantName  string
		wantShown string
	}{
		{"TLS 1.3", tls.VersionTLS13, nil, "TLS 1.3", "rsa_pss_rsae_sha256"},
		{"TLS 1.2 with PSS", tls.VersionTLS12, []tls.SignatureScheme{tls.PSSWithSHA256}, "TLS 1.2", "rsa_pss_rsae_sha256"},
		{"TLS 1.2 with PKCS #1", tls.VersionTLS12, []tls.SignatureScheme{tls.PKCS1WithSHA256}, "TLS 1.2", "rsa_pkcs1_sha256"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			url, roots, connections := serve(t, func(c *tls.Config) { c.MaxVersion = tc.version })
			pair, _ := newPair(t, "bound")
			pair.SignatureSchemes = tc.schemes
			b, err := tlsbridge.New(tlsbridge.Config{RootCAs: roots}, pair)
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			if h := b.Handshake(); h.Count != 0 || h.VersionName() != "" {
				t.Errorf("before any connection: %+v", h)
			}
			for range 3 {
				if got, err := get(t, b, url); err != nil || got != "bound" {
					t.Fatalf("got %q, %v; want the certificate's subject", got, err)
				}
			}
			h := b.Handshake()
			if h.VersionName() != tc.wantName || h.SignatureName() != tc.wantShown || h.Count != 1 || connections.Load() != 1 {
				t.Errorf("got %s, %s, %d handshakes on %d connections; want %s, %s, one of each", h.VersionName(), h.SignatureName(), h.Count, connections.Load(), tc.wantName, tc.wantShown)
			}
		})
	}
}

func TestECDSASignaturesHaveTheirNames(t *testing.T) {
	for _, tc := range []struct {
		curve elliptic.Curve
		want  string
	}{
		{elliptic.P256(), "ecdsa_secp256r1_sha256"},
		{elliptic.P384(), "ecdsa_secp384r1_sha384"},
		{elliptic.P521(), "ecdsa_secp521r1_sha512"},
	} {
		key, err := ecdsa.GenerateKey(tc.curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		url, roots, _ := serve(t, nil)
		b, err := tlsbridge.New(tlsbridge.Config{RootCAs: roots}, pairOf(t, "bound", key))
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		if got, err := get(t, b, url); err != nil || got != "bound" || b.Handshake().SignatureName() != tc.want {
			t.Errorf("got %q, %v, signed by %s; want %s", got, err, b.Handshake().SignatureName(), tc.want)
		}
	}
}

func TestImpossibleSignatureIsALocalError(t *testing.T) {
	url, roots, _ := serve(t, func(c *tls.Config) { c.MinVersion = tls.VersionTLS13 })
	pair, _ := newPair(t, "bound")
	pair.SignatureSchemes = []tls.SignatureScheme{tls.PKCS1WithSHA256} // TLS 1.3 has none of those
	b, err := tlsbridge.New(tlsbridge.Config{RootCAs: roots}, pair)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := get(t, b, url); err == nil {
		t.Errorf("got answer %q: the certificate was silently left out", got)
	}
}

// choosingKey finds out that it can sign what the server takes.
type choosingKey struct {
	deadlineSigner
	asked *atomic.Int64
}

func (k choosingKey) SchemesFor(server []tls.SignatureScheme) []tls.SignatureScheme {
	k.asked.Add(1)
	if _, ok := k.ctx.Deadline(); !ok || len(server) == 0 {
		k.t.Errorf("asked without a deadline, or for the server's %v", server)
	}
	return []tls.SignatureScheme{tls.PSSWithSHA256}
}

func TestAKeyThatFindsOutWhatItCanDoIsAskedForTheServer(t *testing.T) {
	url, roots, _ := serve(t, nil)
	pair, key := newPair(t, "bound")
	var asked atomic.Int64
	pair.SignatureSchemes = []tls.SignatureScheme{tls.PKCS1WithSHA256} // TLS 1.3 has none of those
	pair.Signer = func(ctx context.Context) crypto.Signer { return choosingKey{deadlineSigner{key, ctx, t}, &asked} }
	b, err := tlsbridge.New(tlsbridge.Config{RootCAs: roots}, pair)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if _, err := get(t, b, url); err != nil || asked.Load() != 1 {
		t.Errorf("asked %d times, %v", asked.Load(), err)
	}
}

func TestSignatureHasADeadline(t *testing.T) {
	url, roots, _ := serve(t, nil)
	pair, key := newPair(t, "bound")
	pair.Signer = func(ctx context.Context) crypto.Signer { return deadlineSigner{key, ctx, t} }
	b, err := tlsbridge.New(tlsbridge.Config{RootCAs: roots}, pair)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := get(t, b, url); err != nil {
		t.Error(err)
	}
}

// deadlineSigner fails unless its context has a deadline.
type deadlineSigner struct {
	*rsa.PrivateKey
	ctx context.Context
	t   *testing.T
}

func (s deadlineSigner) Sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if _, ok := s.ctx.Deadline(); !ok {
		s.t.Error("the key signs without a deadline; hung hardware would hang the caller")
	}
	return s.PrivateKey.Sign(rand, digest, opts)
}

func TestServerIsVerified(t *testing.T) {
	url, _, _ := serve(t, nil)
	pair, _ := newPair(t, "bound")
	b, err := tlsbridge.New(tlsbridge.Config{RootCAs: x509.NewCertPool()}, pair)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := get(t, b, url); err == nil || !strings.Contains(err.Error(), "certificate signed by unknown authority") {
		t.Errorf("got %v, want a refusal of the unknown server", err)
	}
	if b.Handshake().Count != 0 {
		t.Error("the key signed for a server that was not verified")
	}
}

func TestOldTLSAndRedirectsAreRefused(t *testing.T) {
	url, roots, _ := serve(t, func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 })
	pair, _ := newPair(t, "bound")
	b, err := tlsbridge.New(tlsbridge.Config{RootCAs: roots}, pair)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := get(t, b, url); err == nil {
		t.Error("TLS 1.1 was accepted")
	}

	server := httptest.NewTLSServer(http.RedirectHandler("https://example.com/", http.StatusTemporaryRedirect))
	defer server.Close()
	roots = x509.NewCertPool()
	roots.AddCert(server.Certificate())
	if b, err = tlsbridge.New(tlsbridge.Config{RootCAs: roots}, pair); err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL, strings.NewReader("client_assertion=x"))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := b.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusTemporaryRedirect {
		t.Errorf("got status %d: the redirect was followed", resp.StatusCode)
	}
}

func TestCloseEndsPooledConnections(t *testing.T) {
	url, roots, connections := serve(t, nil)
	pair, _ := newPair(t, "bound")
	b, err := tlsbridge.New(tlsbridge.Config{RootCAs: roots}, pair)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := get(t, b, url); err != nil {
		t.Fatal(err)
	}
	b.Close()
	b.Close()
	if _, err := get(t, b, url); err != nil || connections.Load() != 2 {
		t.Errorf("got %v on %d connections, want a second connection: the first was closed", err, connections.Load())
	}
}

func TestNewNeedsBothHalves(t *testing.T) {
	pair, _ := newPair(t, "bound")
	for name, p := range map[string]tlsbridge.Pair{
		"no certificate": {Signer: pair.Signer},
		"no key":         {Chain: pair.Chain},
		"an empty leaf":  {Chain: [][]byte{nil}, Signer: pair.Signer},
	} {
		if _, err := tlsbridge.New(tlsbridge.Config{}, p); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
