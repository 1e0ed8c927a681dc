package tlsbridge_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/keyagent/keyagent/tlsbridge"
)

// box stands in a server's place with a certificate of its own, as a box for TLS inspection does.
// Edit changes that certificate; over is whose authority issues it, "" for itself.
func box(t *testing.T, over string, edit func(*x509.Certificate)) (*httptest.Server, *x509.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{Organization: []string{"Contoso"}, CommonName: "Contoso TLS Inspection"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage: x509.KeyUsageDigitalSignature,
	}
	edit(leaf)
	issuer := leaf
	if over != "" {
		issuer = &x509.Certificate{
			SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: over}, IsCA: true, BasicConstraintsValid: true,
			NotBefore: leaf.NotBefore.Add(-48 * time.Hour), NotAfter: leaf.NotAfter.Add(time.Hour),
		}
	}
	der := make([][]byte, 0, 2)
	for _, c := range []*x509.Certificate{leaf, issuer} {
		made, err := x509.CreateCertificate(rand.Reader, c, issuer, &key.PublicKey, key)
		if err != nil {
			t.Fatal(err)
		}
		der = append(der, made)
	}
	authority, err := x509.ParseCertificate(der[1])
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(http.NotFoundHandler())
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: der[:1], PrivateKey: key}}}
	server.StartTLS()
	t.Cleanup(server.Close)
	return server, authority
}

func TestTheErrorNamesTheCertificateThatWasShown(t *testing.T) {
	as := func(*x509.Certificate) {}
	for _, tt := range []struct {
		name    string
		over    string // issuer
		trusted bool   // the issuer
		edit    func(*x509.Certificate)
		says    []string
		hint    string
	}{
		{"self-signed by a box on the way", "", false, as,
			[]string{"unknown authority", `CN=Contoso TLS Inspection,O=Contoso`, "self-signed", "something on the way ends TLS"}, "through it no bound credential works"},
		{"made for the host by the authority of a box", "Zebra Inspection CA", false, func(c *x509.Certificate) { c.Subject = pkix.Name{CommonName: "login.example"} },
			[]string{"unknown authority", `"CN=login.example"`, `issued by "CN=Zebra Inspection CA"`, "something on the way ends TLS"}, "ca_file"},
		{"without a subject", "Zebra Inspection CA", false, func(c *x509.Certificate) { c.Subject, c.DNSNames = pkix.Name{}, []string{"a.example", "b.example"} },
			[]string{`"a.example, b.example"`, `issued by "CN=Zebra Inspection CA"`}, "ca_file"},
		{"of another server", "Trusted CA", true, func(c *x509.Certificate) { c.IPAddresses, c.Subject = nil, pkix.Name{CommonName: "portal.example"} },
			[]string{"portal.example", `issued by "CN=Trusted CA"`, "captive portal"}, "check DNS"},
		{"an expired one", "Trusted CA", true, func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
		},
			[]string{"expired", `issued by "CN=Trusted CA"`}, "clock"},
		{"a name that would steer a terminal", "", false, func(c *x509.Certificate) { c.Subject = pkix.Name{CommonName: "a\x1b[2Jb\n" + strings.Repeat("x", 500)} },
			[]string{`b xxx`, "…"}, "ca_file"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			server, authority := box(t, tt.over, tt.edit)
			cfg := tlsbridge.Config{RootCAs: x509.NewCertPool()}
			if tt.trusted {
				cfg.RootCAs.AddCert(authority)
			}
			pair, _ := newPair(t, "bound")
			b, err := tlsbridge.New(cfg, pair)
			if err != nil {
				t.Fatal(err)
			}
			for name, client := range map[string]*http.Client{"with a certificate": b.Client(), "without": tlsbridge.NewClient(cfg)} {
				req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL, nil)
				if err != nil {
					t.Fatal(err)
				}
				_, err = client.Do(req) //nolint:bodyclose // there is none
				untrusted, ok := errors.AsType[*tlsbridge.UntrustedError](err)
				if !ok {
					t.Fatalf("%s: got %v", name, err)
				}
				for _, part := range append(tt.says, server.Listener.Addr().String()) {
					if !strings.Contains(err.Error(), part) {
						t.Errorf("%s: %v\nlacks %q", name, err, part)
					}
				}
				if strings.ContainsAny(err.Error(), "\x1b\n") || len(err.Error()) > 900 {
					t.Errorf("%s: the text is not fit for a log: %q", name, err)
				}
				if !strings.Contains(untrusted.Hint(), tt.hint) {
					t.Errorf("%s: the hint is %q, want %q", name, untrusted.Hint(), tt.hint)
				}
			}
		})
	}
}

func TestAProxysCertificateIsNotTakenForTheServers(t *testing.T) {
	proxy, _ := box(t, "", func(*x509.Certificate) {})
	via, err := url.Parse(proxy.URL)
	if err != nil {
		t.Fatal(err)
	}
	client := tlsbridge.NewClient(tlsbridge.Config{RootCAs: x509.NewCertPool(), Proxy: http.ProxyURL(via)})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://login.example/", nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = client.Do(req) //nolint:bodyclose // there is none
	untrusted, ok := errors.AsType[*tlsbridge.UntrustedError](err)
	if !ok || untrusted.Host != via.Host || !strings.Contains(err.Error(), "TLS with the proxy") {
		t.Errorf("got %v", err)
	}
}
