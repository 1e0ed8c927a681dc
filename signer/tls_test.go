package signer_test

import (
	"bufio"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keyagent/keyagent/internal/judge"
	"github.com/keyagent/keyagent/signer"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

// certificate makes a self-signed certificate for a key.
func certificate(t *testing.T, key crypto.Signer) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// party is one side of a handshake: a certificate, a key, and what trusts it.
type party struct {
	certificate *x509.Certificate
	key         crypto.Signer
}

func newServer(t *testing.T) party {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return party{certificate(t, key), key}
}

func (p party) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(p.certificate)
	return pool
}

// clientConfig presents the TPM's key as production does: a view of it with the handshake's own context.
func clientConfig(key *signer.Key, client *x509.Certificate, schemes []tls.SignatureScheme, server party) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12, RootCAs: server.pool(), ServerName: "localhost",
		GetClientCertificate: func(info *tls.CertificateRequestInfo) (*tls.Certificate, error) {
			c := &tls.Certificate{
				Certificate: [][]byte{client.Raw}, PrivateKey: key.WithContext(info.Context()), SupportedSignatureAlgorithms: schemes,
			}
			return c, info.SupportsCertificate(c)
		},
	}
}

func TestTLSClient(t *testing.T) {
	t.Parallel()
	key := open(t, tpmtest.Open(t), keyPath(t))
	client := certificate(t, key)
	server := newServer(t)
	onlyPKCS1 := []tls.SignatureScheme{tls.PKCS1WithSHA256, tls.PKCS1WithSHA384, tls.PKCS1WithSHA512}
	onlyPSS := []tls.SignatureScheme{tls.PSSWithSHA256, tls.PSSWithSHA384, tls.PSSWithSHA512}
	for _, tt := range []struct {
		name    string
		version uint16
		schemes []tls.SignatureScheme
		works   bool
	}{
		{"TLS 1.3 with what the key offers", tls.VersionTLS13, key.SignatureSchemes(), true},
		{"TLS 1.3 with PSS", tls.VersionTLS13, onlyPSS, true},
		{"TLS 1.3 with PSS and SHA-512", tls.VersionTLS13, onlyPSS[2:], true},
		{"TLS 1.3 with PKCS #1 v1.5, which it forbids", tls.VersionTLS13, onlyPKCS1, false},
		{"TLS 1.2 with what the key offers", tls.VersionTLS12, key.SignatureSchemes(), true},
		{"TLS 1.2 with PSS", tls.VersionTLS12, onlyPSS, true},
		{"TLS 1.2 with PKCS #1 v1.5", tls.VersionTLS12, onlyPKCS1, true},
		{"TLS 1.2 with PKCS #1 v1.5 and SHA-384", tls.VersionTLS12, onlyPKCS1[1:2], true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			address := echo(t, &tls.Config{
				MinVersion: tt.version, MaxVersion: tt.version,
				Certificates: []tls.Certificate{{Certificate: [][]byte{server.certificate.Raw}, PrivateKey: server.key}},
				ClientAuth:   tls.RequireAndVerifyClientCert, ClientCAs: party{client, key}.pool(),
			})
			err := talk(t, address, clientConfig(key, client, tt.schemes, server), tt.version)
			if (err == nil) != tt.works {
				t.Errorf("handshake: %v", err)
			}
		})
	}
}

// echo serves one connection and sends back what comes.
func echo(t *testing.T, cfg *tls.Config) string {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", cfg)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		_, _ = io.Copy(conn, conn)
		_ = conn.Close()
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return l.Addr().String()
}

// talk says something over TLS and expects it back.
func talk(t *testing.T, address string, cfg *tls.Config, version uint16) error {
	t.Helper()
	dialer := tls.Dialer{Config: cfg}
	conn, err := dialer.DialContext(t.Context(), "tcp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	if got := conn.(*tls.Conn).ConnectionState().Version; got != version {
		t.Errorf("negotiated %s", tls.VersionName(got))
	}
	if _, err := conn.Write([]byte("hello")); err != nil {
		return err
	}
	back := make([]byte, 5)
	if _, err := io.ReadFull(conn, back); err != nil {
		return err
	}
	if string(back) != "hello" {
		return errors.New("another answer")
	}
	return nil
}

// openssl s_server is the judge.
func TestTLSClientOfOpenSSL(t *testing.T) {
	t.Parallel()
	openssl := judge.Tool(t, "openssl")
	key := open(t, tpmtest.Open(t), keyPath(t))
	client := certificate(t, key)
	server := newServer(t)
	for _, tt := range []struct {
		flag    string
		version uint16
		schemes []tls.SignatureScheme
	}{
		{"-tls1_3", tls.VersionTLS13, key.SignatureSchemes()},
		{"-tls1_2", tls.VersionTLS12, key.SignatureSchemes()},
		{"-tls1_2", tls.VersionTLS12, []tls.SignatureScheme{tls.PKCS1WithSHA256}},
	} {
		t.Run(tt.flag+" "+tt.schemes[0].String(), func(t *testing.T) {
			address := serveOpenSSL(t, openssl, server, client, tt.flag)
			// With -rev it answers each line reversed.
			dialer := tls.Dialer{Config: clientConfig(key, client, tt.schemes, server)}
			conn, err := dialer.DialContext(t.Context(), "tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := conn.Write([]byte("olleh\n")); err != nil {
				t.Fatal(err)
			}
			line, err := bufio.NewReader(conn).ReadString('\n')
			if err != nil || line != "hello\n" {
				t.Errorf("answered %q, %v", line, err)
			}
		})
	}
}

// serveOpenSSL starts a server that demands the client's certificate, and returns its address.
func serveOpenSSL(t *testing.T, openssl string, server party, client *x509.Certificate, version string) string {
	t.Helper()
	dir := t.TempDir()
	der, err := x509.MarshalPKCS8PrivateKey(server.key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{
		"server.pem": {Type: "CERTIFICATE", Bytes: server.certificate.Raw},
		"server.key": {Type: "PRIVATE KEY", Bytes: der},
		"client.pem": {Type: "CERTIFICATE", Bytes: client.Raw},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cmd := exec.CommandContext(ctx, openssl, "s_server", "-accept", "127.0.0.1:0", "-cert", "server.pem", "-key", "server.key", // #nosec G204 -- the judge
		"-Verify", "1", "-verify_return_error", "-CAfile", "client.pem", "-partial_chain", version, "-rev", "-naccept", "1")
	cmd.Dir = dir
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	var address string
	for address == "" && lines.Scan() {
		if after, ok := strings.CutPrefix(lines.Text(), "ACCEPT "); ok {
			address = after
		}
	}
	drained := make(chan struct{})
	go func() { defer close(drained); _, _ = io.Copy(io.Discard, out) }()
	t.Cleanup(func() { cancel(); <-drained; _ = cmd.Wait() })
	if _, _, err := net.SplitHostPort(address); err != nil {
		t.Fatalf("openssl s_server did not say where it listens: %v", lines.Err())
	}
	return address
}

// The handshake's context bounds the signature, through GetClientCertificate.
func TestTLSHandshakeEndsWithItsContext(t *testing.T) {
	t.Parallel()
	proxy := tpmtest.NewProxy(t, tpmtest.Simulator(t).Device())
	key := open(t, tpmtest.Connect(t, proxy.Device()), keyPath(t))
	client := certificate(t, key)
	server := newServer(t)
	address := echo(t, &tls.Config{
		MinVersion: tls.VersionTLS13, ClientAuth: tls.RequireAnyClientCert,
		Certificates: []tls.Certificate{{Certificate: [][]byte{server.certificate.Raw}, PrivateKey: server.key}},
	})
	ctx, cancel := context.WithCancel(t.Context())
	release := make(chan struct{})
	proxy.Handle(func(command []byte, forward tpmtest.Forward) ([]byte, error) {
		cancel()
		<-release
		return forward(command)
	})
	dialer := tls.Dialer{Config: clientConfig(key, client, nil, server)}
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err == nil {
		_ = conn.Close()
		t.Error("the handshake ended without the TPM")
	}
	close(release)
	if _, err := key.Sign(nil, make([]byte, 32), crypto.SHA256); err != nil {
		t.Error(err)
	}
}

func TestSchemesAreInOrderOfPreference(t *testing.T) {
	t.Parallel()
	got := open(t, tpmtest.Open(t), keyPath(t)).SignatureSchemes()
	if i, j := slices.Index(got, tls.PSSWithSHA256), slices.Index(got, tls.PKCS1WithSHA256); i != 0 || j < i {
		t.Errorf("%v", got)
	}
}
