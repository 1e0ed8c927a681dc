package clients_test

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"testing"
	"time"

	"github.com/google/uuid"
)

// certificates is what the libraries want of a pair beside its key.
func certificates(p pair) []*x509.Certificate { return []*x509.Certificate{p.certificate} }

// pair is a key in software, as the libraries want it, and a certificate over it.
type pair struct {
	key         *rsa.PrivateKey
	certificate *x509.Certificate
	issuers     []*x509.Certificate // none where it is self-signed
}

func newPair(t *testing.T, life time.Duration) pair {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "app"},
		NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(life),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return pair{key: key, certificate: certificate}
}

// registered is a pair that the application has been told of.
func (w *world) registered(t *testing.T, app string) pair {
	t.Helper()
	p := newPair(t, time.Hour)
	if err := w.RegisterCertificate(app, p.certificate); err != nil {
		t.Fatal(err)
	}
	return p
}

// trusted is a pair that the application trusts by its subject and issuer.
func (w *world) trusted(t *testing.T, app, subject string) pair {
	t.Helper()
	p := newPair(t, time.Hour)
	issued, err := w.IssueTrusted(app, subject, p.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	p.certificate, p.issuers = issued[0], issued[1:]
	return p
}

// signer hides what kind of key it has, as one in a TPM is hidden.
type signer struct{ crypto.Signer }

// assertion signs a client assertion (RFC 7523, 3) as an app does that has a signer and the
// library's callback.
func assertion(key crypto.Signer, certificate *x509.Certificate, clientID, audience string) (string, error) {
	thumbprint := sha256.Sum256(certificate.Raw)
	now := time.Now().Unix()
	header := map[string]any{"alg": "PS256", "typ": "JWT", "x5t#S256": base64.RawURLEncoding.EncodeToString(thumbprint[:])}
	return sign(key, header, map[string]any{
		"iss": clientID, "sub": clientID, "aud": audience, "jti": uuid.NewString(), "nbf": now, "exp": now + 600,
	})
}

// sign makes a JWS in compact serialization (RFC 7515, 7.1) with PS256.
func sign(key crypto.Signer, header, claims map[string]any) (string, error) {
	head, err := json.Marshal(header)
	if err != nil {
		return "", err
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", err
	}
	text := base64.RawURLEncoding.EncodeToString(head) + "." + base64.RawURLEncoding.EncodeToString(payload)
	digest := sha256.Sum256([]byte(text))
	signature, err := key.Sign(rand.Reader, digest[:], &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256})
	if err != nil {
		return "", err
	}
	return text + "." + base64.RawURLEncoding.EncodeToString(signature), nil
}

// thumbprint is the certificate's x5t#S256 (RFC 8705, 3.1).
func (p pair) thumbprint() string {
	sum := sha256.Sum256(p.certificate.Raw)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}
