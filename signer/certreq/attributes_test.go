package certreq_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/internal/tooltest"
	"github.com/keyagent/keyagent/signer/certreq"
)

// attestation is an attribute whose value is no name: SEQUENCE { OCTET STRING }.
func attestation(t testing.TB, text string) []byte {
	t.Helper()
	der, err := asn1.Marshal(struct {
		Type   asn1.ObjectIdentifier
		Values []struct{ Value []byte } `asn1:"set"`
	}{asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 2, 59}, []struct{ Value []byte }{{[]byte(text)}}})
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestFurtherAttributesAreSignedAlong(t *testing.T) {
	t.Parallel()
	openssl := tooltest.Tool(t, "openssl")
	rsa2048 := rsaKey(t, 2048)
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		algorithm x509.SignatureAlgorithm
		key       crypto.Signer
	}{
		{x509.SHA256WithRSA, rsa2048}, {x509.SHA384WithRSA, rsa2048}, {x509.SHA512WithRSA, rsa2048},
		{x509.SHA256WithRSAPSS, rsa2048}, {x509.SHA384WithRSAPSS, rsa2048}, {x509.SHA512WithRSAPSS, rsa2048},
		{x509.ECDSAWithSHA256, p256}, {x509.ECDSAWithSHA384, p384},
	} {
		t.Run(tt.algorithm.String(), func(t *testing.T) {
			t.Parallel()
			der, err := certreq.NewCertificateRequest(tt.key, certreq.RequestOptions{
				Names: names(t, "CN=app", "DNS:app.example"), SignatureAlgorithm: tt.algorithm,
				Attributes: [][]byte{attestation(t, "evidence")},
			})
			if err != nil {
				t.Fatal(err)
			}
			request, err := x509.ParseCertificateRequest(der)
			if err != nil || request.SignatureAlgorithm != tt.algorithm || request.Subject.CommonName != "app" || !slices.Equal(request.DNSNames, []string{"app.example"}) {
				t.Fatalf("%+v, %v", request, err)
			}
			file := filepath.Join(t.TempDir(), "request.pem")
			if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), 0o600); err != nil {
				t.Fatal(err)
			}
			out := run(t, openssl, "req", "-in", file, "-verify", "-noout", "-text")
			for _, want := range []string{"Subject: CN = app", "Requested Extensions", "DNS:app.example", "TLS Web Client Authentication"} {
				if !strings.Contains(out, want) {
					t.Errorf("openssl does not see %q:\n%s", want, out)
				}
			}
			if parsed := run(t, openssl, "asn1parse", "-in", file); !strings.Contains(parsed, "smime-aa") && !strings.Contains(parsed, "1.2.840.113549.1.9.16.2.59") {
				t.Errorf("openssl does not see the attribute:\n%s", parsed)
			}
		})
	}
}

func TestAttributesThatAreNoDERAreRefused(t *testing.T) {
	t.Parallel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range [][]byte{nil, []byte("x"), append(attestation(t, "x"), 0)} {
		if _, err := certreq.NewCertificateRequest(key, certreq.RequestOptions{Names: names(t, "CN=app"), Attributes: [][]byte{bad}}); err == nil {
			t.Errorf("%x is taken", bad)
		}
	}
}

func run(t *testing.T, program string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), program, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", program, strings.Join(args, " "), err, out)
	}
	return string(out)
}
