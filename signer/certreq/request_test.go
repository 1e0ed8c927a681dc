package certreq_test

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/signer/certreq"
	"github.com/keyagent/keyagent/signer/internal/signertest"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

func rsaKey(t testing.TB, bits int) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// names parses a subject, which may be empty, and subject alternative names.
func names(t testing.TB, subject string, altNames ...string) certreq.Names {
	t.Helper()
	var n certreq.Names
	if subject != "" {
		n.Subject = parseSubject(t, subject)
	}
	for _, text := range altNames {
		name, err := certreq.ParseSubjectAltName(text)
		if err != nil {
			t.Fatal(err)
		}
		n.AltNames = append(n.AltNames, name)
	}
	return n
}

// wantLines checks that openssl's text has these pieces, each behind the one before.
func wantLines(t testing.TB, text string, pieces ...string) {
	t.Helper()
	rest := text
	for _, piece := range pieces {
		_, after, ok := strings.Cut(rest, piece)
		if !ok {
			t.Fatalf("no %q, or not where it belongs, in\n%s", piece, text)
		}
		rest = after
	}
}

// signingCase is a kind of key with an algorithm, and how openssl names the algorithm.
type signingCase struct {
	name      string
	key       crypto.Signer
	algorithm x509.SignatureAlgorithm
	is        x509.SignatureAlgorithm
	openssl   string
}

func signingCases(t *testing.T) []signingCase {
	t.Helper()
	rsa2048 := rsaKey(t, 2048)
	onTPM := signertest.Open(t, tpmtest.Open(t), signertest.KeyPath(t))
	return []signingCase{
		{"TPM key", onTPM, 0, x509.SHA256WithRSA, "sha256WithRSAEncryption"},
		{"TPM key with PSS", onTPM, x509.SHA256WithRSAPSS, x509.SHA256WithRSAPSS, "rsassaPss"},
		{"view of a TPM key", onTPM.WithContext(t.Context()), x509.SHA384WithRSA, x509.SHA384WithRSA, "sha384WithRSAEncryption"},
		{"RSA-2048", rsa2048, 0, x509.SHA256WithRSA, "sha256WithRSAEncryption"},
		{"RSA-2048 with PSS", rsa2048, x509.SHA256WithRSAPSS, x509.SHA256WithRSAPSS, "rsassaPss"},
		{"RSA-3072", rsaKey(t, 3072), 0, x509.SHA256WithRSA, "sha256WithRSAEncryption"},
		{"P-256", signertest.ECKey(t, elliptic.P256()), 0, x509.ECDSAWithSHA256, "ecdsa-with-SHA256"},
		{"P-384", signertest.ECKey(t, elliptic.P384()), 0, x509.ECDSAWithSHA384, "ecdsa-with-SHA384"},
		{"P-384, named", signertest.ECKey(t, elliptic.P384()), x509.ECDSAWithSHA384, x509.ECDSAWithSHA384, "ecdsa-with-SHA384"},
	}
}

func TestCertificateRequest(t *testing.T) {
	t.Parallel()
	who := names(t, "CN=app,O=Contoso,C=DE", "DNS:app.example", "URI:api://app", "IP:10.0.0.1", "email:app@mail.example")
	for _, tt := range signingCases(t) {
		t.Run(tt.name, func(t *testing.T) {
			der, err := certreq.NewCertificateRequest(tt.key, certreq.RequestOptions{Names: who, SignatureAlgorithm: tt.algorithm})
			if err != nil {
				t.Fatal(err)
			}
			file := signertest.WriteFile(t, "request.der", der)
			text := string(runOpenSSL(t, "req", "-inform", "DER", "-in", file, "-verify", "-noout", "-text"))
			wantLines(t, text, "Version: 1 (0x0)", "Subject: C = DE, O = Contoso, CN = app", "Requested Extensions:",
				"Subject Alternative Name: \n", "DNS:app.example, URI:api://app, IP Address:10.0.0.1, email:app@mail.example",
				"Key Usage: critical", "Digital Signature\n", "Extended Key Usage: \n", "TLS Web Client Authentication\n", "Signature Algorithm: "+tt.openssl)

			request, err := x509.ParseCertificateRequest(der)
			if err != nil {
				t.Fatal(err)
			}
			if err := request.CheckSignature(); err != nil || request.SignatureAlgorithm != tt.is {
				t.Errorf("%v, signed with %v", err, request.SignatureAlgorithm)
			}
			if !bytes.Equal(request.RawSubject, who.Subject.DER()) || !request.PublicKey.(interface{ Equal(crypto.PublicKey) bool }).Equal(tt.key.Public()) {
				t.Errorf("subject %v, key %T", request.Subject, request.PublicKey)
			}
		})
	}
}

func TestARequestWithoutSubjectHasCriticalAltNames(t *testing.T) {
	t.Parallel()
	der, err := certreq.NewCertificateRequest(signertest.ECKey(t, elliptic.P256()), certreq.RequestOptions{Names: names(t, "", "URI:api://app")})
	if err != nil {
		t.Fatal(err)
	}
	text := string(runOpenSSL(t, "req", "-inform", "DER", "-in", signertest.WriteFile(t, "request.der", der), "-verify", "-noout", "-text"))
	wantLines(t, text, "Subject: \n", "Subject Alternative Name: critical")
	if got := requestedAltNames(t, der); !slices.Equal(got, []string{"URI:api://app"}) {
		t.Errorf("%q", got)
	}
}

// A small issuer that copies what is requested makes of our request a certificate that we import.
func TestOpenSSLIssuesWhatARequestAsksFor(t *testing.T) {
	t.Parallel()
	key := signertest.Open(t, tpmtest.Open(t), signertest.KeyPath(t))
	der, err := certreq.NewCertificateRequest(key, certreq.RequestOptions{Names: names(t, "CN=app", "DNS:app.example")})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	caKey, caCert := filepath.Join(dir, "ca.key"), filepath.Join(dir, "ca.pem")
	runOpenSSL(t, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=issuer", "-days", "30",
		"-keyout", caKey, "-out", caCert)
	issued := runOpenSSL(t, "x509", "-req", "-inform", "DER", "-in", signertest.WriteFile(t, "request.der", der), "-CA", caCert, "-CAkey", caKey,
		"-copy_extensions", "copyall", "-days", "10")
	issuer, err := os.ReadFile(caCert)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := certreq.ParseCertificates(append(issued, issuer...))
	if err != nil {
		t.Fatal(err)
	}
	if err := certreq.CheckCertificate(chain, key.Public(), chain[0].NotBefore); err != nil {
		t.Error(err)
	}
	if leaf := chain[0]; len(chain) != 2 || leaf.KeyUsage != x509.KeyUsageDigitalSignature || !slices.Equal(leaf.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}) {
		t.Errorf("%d certificates, key usage %v, purposes %v", len(chain), leaf.KeyUsage, leaf.ExtKeyUsage)
	}
}

func TestCertificateRequestRefuses(t *testing.T) {
	t.Parallel()
	who := names(t, "CN=app")
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	small := &rsa.PrivateKey{PublicKey: rsa.PublicKey{N: rsaKey(t, 2048).N, E: 65537}}
	small.N.Rsh(small.N, 1)
	for _, tt := range []struct {
		name        string
		key         crypto.Signer
		opts        certreq.RequestOptions
		unsupported bool
	}{
		{"nobody", signertest.ECKey(t, elliptic.P256()), certreq.RequestOptions{}, false},
		{"an empty alternative name", signertest.ECKey(t, elliptic.P256()), certreq.RequestOptions{Names: certreq.Names{Subject: who.Subject, AltNames: make([]certreq.SubjectAltName, 1)}}, false},
		{"Ed25519", edKey, certreq.RequestOptions{Names: who}, true},
		{"P-521", signertest.ECKey(t, elliptic.P521()), certreq.RequestOptions{Names: who}, true},
		{"RSA-2047", small, certreq.RequestOptions{Names: who}, true},
		{"an algorithm of another kind of key", signertest.ECKey(t, elliptic.P256()), certreq.RequestOptions{Names: who, SignatureAlgorithm: x509.SHA256WithRSA}, true},
		{"another curve's hash", signertest.ECKey(t, elliptic.P384()), certreq.RequestOptions{Names: who, SignatureAlgorithm: x509.ECDSAWithSHA256}, true},
		{"SHA-1", rsaKey(t, 2048), certreq.RequestOptions{Names: who, SignatureAlgorithm: x509.SHA1WithRSA}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := certreq.NewCertificateRequest(tt.key, tt.opts); err == nil || errors.Is(err, certreq.ErrUnsupported) != tt.unsupported {
				t.Errorf("%v", err)
			}
		})
	}
}

// wrongSigner signs something else than it is asked to.
type wrongSigner struct{ crypto.Signer }

func (s wrongSigner) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	other := bytes.Clone(digest)
	other[0] ^= 1
	return s.Signer.Sign(random, other, opts)
}

func TestAWrongSignatureMakesNoRequestAndNoCertificate(t *testing.T) {
	t.Parallel()
	for _, key := range []crypto.Signer{rsaKey(t, 2048), signertest.ECKey(t, elliptic.P256())} {
		if _, err := certreq.NewCertificateRequest(wrongSigner{key}, certreq.RequestOptions{Names: names(t, "CN=app")}); err == nil {
			t.Errorf("%T: a request", key)
		}
		if _, err := certreq.SelfSign(wrongSigner{key}, certreq.SelfSignOptions{Names: names(t, "CN=app")}); err == nil {
			t.Errorf("%T: a certificate", key)
		}
	}
}
