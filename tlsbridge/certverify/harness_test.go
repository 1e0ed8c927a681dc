package certverify_test

import (
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
	"net"
	"sync"
	"testing"
	"time"

	"github.com/keyagent/keyagent/tlsbridge/certverify"
)

const serverName = "vault.example"

// world is an authority, a server of it, and a client.
type world struct {
	roots  *x509.CertPool
	issuer *x509.Certificate
	key    crypto.Signer // of issuer
	server tls.Certificate
	client tls.Certificate
}

// clientKey is made once: to make an RSA key takes long.
var clientKey = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) })

func ecKey(t testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newWorld(t testing.TB) *world {
	t.Helper()
	own, err := clientKey()
	if err != nil {
		t.Fatal(err)
	}
	w := &world{key: ecKey(t, elliptic.P256()), roots: x509.NewCertPool()}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	w.issuer = w.sign(t, template, template, w.key.Public())
	w.roots.AddCert(w.issuer)
	w.server = w.issue(t, serverName, x509.ExtKeyUsageServerAuth, ecKey(t, elliptic.P256()))
	w.client = w.issue(t, "client", x509.ExtKeyUsageClientAuth, own)
	return w
}

func (w *world) sign(t testing.TB, template, parent *x509.Certificate, key crypto.PublicKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key, w.key)
	if err != nil {
		t.Fatal(err)
	}
	made, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func (w *world) issue(t testing.TB, name string, usage x509.ExtKeyUsage, key crypto.Signer) tls.Certificate {
	t.Helper()
	leaf := w.sign(t, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{usage},
	}, w.issuer, key.Public())
	return tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}
}

// recorder is a client's key that signs what the package gives it to sign, and keeps the messages.
type recorder struct {
	crypto.Signer
	messages [][]byte
}

var _ crypto.MessageSigner = (*recorder)(nil)

func (r *recorder) SignMessage(random io.Reader, message []byte, opts crypto.SignerOpts) ([]byte, error) {
	r.messages = append(r.messages, append([]byte(nil), message...))
	parsed, err := certverify.Parse(message)
	if err != nil {
		return nil, err
	}
	digest, opts, err := parsed.Digest(schemeOf(r.Public(), opts), r.Public())
	if err != nil {
		return nil, err
	}
	return r.Sign(random, digest, opts)
}

// schemeOf is the scheme that crypto/tls wants.
func schemeOf(key crypto.PublicKey, opts crypto.SignerOpts) tls.SignatureScheme {
	pss := map[crypto.Hash]tls.SignatureScheme{crypto.SHA256: tls.PSSWithSHA256, crypto.SHA384: tls.PSSWithSHA384, crypto.SHA512: tls.PSSWithSHA512}
	pkcs1 := map[crypto.Hash]tls.SignatureScheme{crypto.SHA256: tls.PKCS1WithSHA256, crypto.SHA384: tls.PKCS1WithSHA384, crypto.SHA512: tls.PKCS1WithSHA512}
	ec := map[crypto.Hash]tls.SignatureScheme{crypto.SHA256: tls.ECDSAWithP256AndSHA256, crypto.SHA384: tls.ECDSAWithP384AndSHA384, crypto.SHA512: tls.ECDSAWithP521AndSHA512}
	if _, ok := key.(*ecdsa.PublicKey); ok {
		return ec[opts.HashFunc()]
	}
	if _, ok := opts.(*rsa.PSSOptions); ok {
		return pss[opts.HashFunc()]
	}
	return pkcs1[opts.HashFunc()]
}

// clientConfig is a client of the world, whose key records what it signs.
func (w *world) clientConfig(version uint16) (*tls.Config, *recorder) {
	key := &recorder{Signer: w.client.PrivateKey.(crypto.Signer)}
	return &tls.Config{
		RootCAs: w.roots, ServerName: serverName, MinVersion: version, MaxVersion: version,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &tls.Certificate{Certificate: w.client.Certificate, PrivateKey: key}, nil
		},
	}, key
}

// handshake has a client and a server of Go's meet, and returns what the client's key signed. The
// server must have accepted it.
func (w *world) handshake(t testing.TB, version uint16, change func(client, server *tls.Config)) []byte {
	t.Helper()
	client, key := w.clientConfig(version)
	server := &tls.Config{
		MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{w.server},
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: w.roots,
	}
	if change != nil {
		change(client, server)
	}
	near, far := net.Pipe()
	defer near.Close()
	served := make(chan error, 1)
	go func() {
		conn := tls.Server(far, server)
		err := conn.Handshake()
		if err == nil {
			_, err = conn.Write([]byte("x"))
		}
		served <- err
	}()
	conn := tls.Client(near, client)
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		t.Fatalf("%v; the server: %v", err, <-served)
	}
	if err := <-served; err != nil || len(key.messages) != 1 {
		t.Fatalf("the server: %v; %d signatures", err, len(key.messages))
	}
	return key.messages[0]
}
