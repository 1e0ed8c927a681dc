package latetls_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keyagent/keyagent/internal/tooltest"
	"github.com/keyagent/keyagent/simulator/internal/endpoint"
	"github.com/keyagent/keyagent/simulator/internal/latetls"
)

type site struct {
	t     *testing.T
	roots *x509.CertPool
	root  []byte
	url   string
}

func selfSigned(t *testing.T, name string, public, private any) []byte {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// newSite serves requests: /ask asks for the certificate, and all answers say which one is known.
func newSite(t *testing.T) *site {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, roots: x509.NewCertPool(), root: selfSigned(t, "localhost", key.Public(), key)}
	certificate, err := x509.ParseCertificate(s.root)
	if err != nil {
		t.Fatal(err)
	}
	s.roots.AddCert(certificate)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	s.url = "https://localhost:" + port
	server := &http.Server{
		ConnContext: endpoint.ConnContext, ReadHeaderTimeout: time.Minute, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				return
			}
			who := "nobody"
			if r.URL.Path == "/ask" {
				certificates, err := endpoint.Conn(r.Context()).(*latetls.Conn).RequestCertificate(r.Context())
				if err != nil {
					return
				}
				if len(certificates) > 0 {
					who = certificates[0].Subject.CommonName
				}
			}
			fmt.Fprintf(w, "%s %s", who, body)
		}),
	}
	done := make(chan error, 1)
	go func() {
		done <- server.Serve(latetls.Listen(ln, tls.Certificate{Certificate: [][]byte{s.root}, PrivateKey: key}))
	}()
	t.Cleanup(func() { _ = server.Close(); <-done })
	return s
}

func (s *site) client(change func(*tls.Config)) *http.Client {
	cfg := &tls.Config{RootCAs: s.roots, Renegotiation: tls.RenegotiateOnceAsClient}
	if change != nil {
		change(cfg)
	}
	transport := &http.Transport{TLSClientConfig: cfg}
	s.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func (s *site) get(c *http.Client, path, body string) (string, error) {
	s.t.Helper()
	resp, err := c.Post(s.url+path, "text/plain", strings.NewReader(body))
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	return string(got), err
}

func presents(certificate tls.Certificate) func(*tls.Config) {
	return func(c *tls.Config) { c.Certificates = []tls.Certificate{certificate} }
}

func TestTheCertificateIsAskedForLate(t *testing.T) {
	s := newSite(t)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ecKey, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	byRSA := tls.Certificate{Certificate: [][]byte{selfSigned(t, "rsa", rsaKey.Public(), rsaKey)}, PrivateKey: rsaKey}
	byEC := tls.Certificate{Certificate: [][]byte{selfSigned(t, "ec", ecKey.Public(), ecKey)}, PrivateKey: ecKey}
	pkcs1 := byRSA
	pkcs1.SupportedSignatureAlgorithms = []tls.SignatureScheme{tls.PKCS1WithSHA256}
	stolen := tls.Certificate{Certificate: byRSA.Certificate, PrivateKey: func() *rsa.PrivateKey { k, _ := rsa.GenerateKey(rand.Reader, 2048); return k }()}
	for _, tt := range []struct {
		name   string
		change func(*tls.Config)
		who    string // "": the connection ends
	}{
		{"RSA", presents(byRSA), "rsa"},
		{"RSA with PKCS #1 v1.5", presents(pkcs1), "rsa"},
		{"ECDSA", presents(byEC), "ec"},
		{"none", nil, "nobody"},
		{"another's certificate", presents(stolen), ""},
		{"a client that does not renegotiate", func(c *tls.Config) { c.Renegotiation = tls.RenegotiateNever }, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := s.client(tt.change)
			if got, err := s.get(c, "/", "first"); err != nil || got != "nobody first" {
				t.Fatalf("before: %q, %v", got, err)
			}
			for range 2 {
				got, err := s.get(c, "/ask", "second")
				if (err == nil) != (tt.who != "") || err == nil && got != tt.who+" second" {
					t.Errorf("got %q, %v", got, err)
				}
			}
			if tt.who == "" {
				return
			}
			large := strings.Repeat("0123456789", 20<<10) // more than a record
			if got, err := s.get(c, "/", large); err != nil || got != "nobody "+large {
				t.Errorf("afterwards: %d bytes, %v", len(got), err)
			}
		})
	}
	t.Run("TLS 1.3 is not offered", func(t *testing.T) {
		if got, err := s.get(s.client(func(c *tls.Config) { c.MinVersion = tls.VersionTLS13 }), "/", ""); err == nil {
			t.Errorf("got %q", got)
		}
	})
}

// curl is a client that nobody here wrote.
func TestCurlIsAskedLate(t *testing.T) {
	curl := tooltest.Tool(t, "curl")
	s := newSite(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, block := range map[string]*pem.Block{
		"root.pem": {Type: "CERTIFICATE", Bytes: s.root}, "key.pem": {Type: "PRIVATE KEY", Bytes: der},
		"client.pem": {Type: "CERTIFICATE", Bytes: selfSigned(t, "curl", key.Public(), key)},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), curl, "-sS", "--http1.1", "--cacert", "root.pem", "--cert", "client.pem", "--key", "key.pem", "-d", "x", s.url+"/ask") // #nosec G204 -- it checks our work
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil || string(out) != "curl x" {
		t.Errorf("%v: %s", err, out)
	}
}

// What is not a handshake ends the connection, and the server goes on.
func TestNonsense(t *testing.T) {
	s := newSite(t)
	hello := []byte{22, 3, 1, 0, 4, 1, 0, 0, 0}
	for name, sent := range map[string][]byte{
		"HTTP": []byte("GET / HTTP/1.1\r\n\r\n"), "an empty ClientHello": hello, "data first": {23, 3, 3, 0, 1, 'x'},
		"a record that is too long": {22, 3, 3, 0xff, 0xff}, "an alert": {21, 3, 3, 0, 2, 2, 40}, "half a record": {22, 3, 3, 0, 9, 1},
		"ChangeCipherSpec": {20, 3, 3, 0, 1, 1}, "much": bytes.Repeat([]byte{22, 3, 3, 0, 4, 1, 0xff, 0xff, 0xff}, 100),
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.Dial("tcp", strings.TrimPrefix(strings.Replace(s.url, "localhost", "127.0.0.1", 1), "https://"))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := conn.Write(sent); err != nil {
				t.Fatal(err)
			}
			_ = conn.(*net.TCPConn).CloseWrite()
			if got, _ := io.ReadAll(conn); bytes.Contains(got, []byte("HTTP")) {
				t.Errorf("it answers %q", got)
			}
			if got, err := s.get(s.client(nil), "/", "x"); err != nil || got != "nobody x" {
				t.Errorf("others then get %q, %v", got, err)
			}
		})
	}
}
