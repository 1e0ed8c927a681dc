package signer_test

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
	"errors"
	"io"
	"math/big"
	"testing"
	"time"

	"github.com/keyagent/keyagent/signer"
	"github.com/keyagent/keyagent/signer/internal/signertest"
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

// clientConfig presents the TPM's key as production does: a view of it with the handshake's own
// context. Without a certificate it presents nothing.
func clientConfig(key *signer.Key, client *x509.Certificate, schemes []tls.SignatureScheme, server party) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12, RootCAs: server.pool(), ServerName: "localhost",
		GetClientCertificate: func(info *tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if client == nil {
				return new(tls.Certificate), nil
			}
			c := &tls.Certificate{
				Certificate: [][]byte{client.Raw}, PrivateKey: key.WithContext(info.Context()), SupportedSignatureAlgorithms: schemes,
			}
			return c, info.SupportsCertificate(c)
		},
	}
}

// A handshake is one way to come to terms.
type handshake struct {
	name    string
	version uint16
	schemes []tls.SignatureScheme
	refused bool
}

// handshakes lists what a key must manage, and what TLS forbids it.
func handshakes(ctx context.Context, key *signer.Key) []handshake {
	offered := key.SignatureSchemes(ctx)
	list := []handshake{
		{"TLS 1.3 with what the key offers", tls.VersionTLS13, offered, false},
		{"TLS 1.2 with what the key offers", tls.VersionTLS12, offered, false},
	}
	if _, isRSA := key.Public().(*rsa.PublicKey); !isRSA {
		return list
	}
	onlyPKCS1 := []tls.SignatureScheme{tls.PKCS1WithSHA256, tls.PKCS1WithSHA384, tls.PKCS1WithSHA512}
	onlyPSS := []tls.SignatureScheme{tls.PSSWithSHA256, tls.PSSWithSHA384, tls.PSSWithSHA512}
	return append(list,
		handshake{"TLS 1.3 with PSS", tls.VersionTLS13, onlyPSS, false},
		handshake{"TLS 1.3 with PSS and SHA-512", tls.VersionTLS13, onlyPSS[2:], false},
		handshake{"TLS 1.3 with PKCS #1 v1.5, which it forbids", tls.VersionTLS13, onlyPKCS1, true},
		handshake{"TLS 1.2 with PSS", tls.VersionTLS12, onlyPSS, false},
		handshake{"TLS 1.2 with PKCS #1 v1.5", tls.VersionTLS12, onlyPKCS1, false},
		handshake{"TLS 1.2 with PKCS #1 v1.5 and SHA-384", tls.VersionTLS12, onlyPKCS1[1:2], false},
	)
}

// clientOfGo has crypto/tls check handshakes in which the TPM's key is the client's.
func clientOfGo(t *testing.T, key *signer.Key, _ kind) {
	client := certificate(t, key)
	server := newServer(t)
	for _, tt := range handshakes(t.Context(), key) {
		t.Run(tt.name, func(t *testing.T) {
			address := echo(t, &tls.Config{
				MinVersion: tt.version, MaxVersion: tt.version,
				Certificates: []tls.Certificate{{Certificate: [][]byte{server.certificate.Raw}, PrivateKey: server.key}},
				ClientAuth:   tls.RequireAndVerifyClientCert, ClientCAs: party{client, key}.pool(),
			})
			err := talk(t, address, clientConfig(key, client, tt.schemes, server), tt.version)
			if (err != nil) != tt.refused {
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

// The handshake's context bounds the signature, through GetClientCertificate.
func TestTLSHandshakeEndsWithItsContext(t *testing.T) {
	t.Parallel()
	proxy := tpmtest.NewProxy(t, tpmtest.Simulator(t).Device())
	key := signertest.Open(t, tpmtest.Connect(t, proxy.Device()), signertest.KeyPath(t))
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
