package certreq

import (
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"math/big"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

const (
	// clockSkew is how far the clock of a verifier may be behind this machine's.
	clockSkew = 5 * time.Minute

	// usualSelfSignedYears is the validity in Microsoft's instructions for such certificates.
	usualSelfSignedYears = 1

	// maxSelfSignedYears bounds a validity for which LongLived was not set: a self-signed
	// certificate cannot be revoked, only removed from the app registration.
	maxSelfSignedYears = 2
)

// SelfSignOptions say what a self-signed certificate contains.
type SelfSignOptions struct {
	Names // the subject is needed: it is the issuer as well, which must have a name (RFC 5280, 4.1.2.4)

	// NotBefore and NotAfter are the first and the last moment of the validity, truncated to
	// seconds. Zero NotBefore is five minutes before now, for clocks that are behind; zero NotAfter
	// is one year after NotBefore.
	NotBefore, NotAfter time.Time

	// LongLived permits a validity of more than two years, which is refused otherwise. A tenant may
	// have a stricter policy (Microsoft Graph: asymmetricKeyLifetime).
	LongLived bool

	SignatureAlgorithm x509.SignatureAlgorithm // as in RequestOptions

	Now  func() time.Time // nil: time.Now
	Rand io.Reader        // of the serial number, and passed to the key; nil: crypto/rand
}

// SelfSign returns a certificate (DER) over the key, signed by the key, for an app registration in
// Entra: X.509 v3, a random serial number of 158 bits, not a CA, key usage digitalSignature,
// extended key usage clientAuth, a subject key identifier by method 1 of RFC 7093, 2.
//
// Keys and algorithms are those of [NewCertificateRequest]. By Microsoft's "Create a self-signed
// public certificate to authenticate your application", Entra accepts RSA only, signed with
// SHA-256, SHA-384 or SHA-512; ECDSA is for other servers.
//
// The signature was verified.
func SelfSign(key crypto.Signer, opts SelfSignOptions) ([]byte, error) {
	if opts.Rand == nil {
		opts.Rand = rand.Reader
	}
	template, err := selfSignedTemplate(key.Public(), opts)
	if err != nil {
		return nil, fmt.Errorf("self-signed certificate: %w", err)
	}
	// x509 verifies what the signer returns before it gives it out.
	der, err := x509.CreateCertificate(opts.Rand, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("signing the self-signed certificate: %w", err)
	}
	return der, nil
}

func selfSignedTemplate(public crypto.PublicKey, opts SelfSignOptions) (*x509.Certificate, error) {
	if opts.Subject.Empty() {
		return nil, errors.New("it needs a subject, such as CN=app")
	}
	algorithm, err := signatureAlgorithm(public, opts.SignatureAlgorithm)
	if err != nil {
		return nil, err
	}
	notBefore, notAfter, err := opts.validity()
	if err != nil {
		return nil, err
	}
	extensions, err := opts.extensions()
	if err != nil {
		return nil, err
	}
	serial, err := serialNumber(opts.Rand)
	if err != nil {
		return nil, err
	}
	keyID, err := subjectKeyID(public)
	if err != nil {
		return nil, err
	}
	return &x509.Certificate{
		SerialNumber:          serial,
		RawSubject:            opts.Subject.DER(),
		NotBefore:             notBefore,
		NotAfter:              notAfter,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
		SubjectKeyId:          keyID,
		SignatureAlgorithm:    algorithm,
		ExtraExtensions:       extensions,
	}, nil
}

func (o SelfSignOptions) validity() (notBefore, notAfter time.Time, err error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	now := o.Now()
	notBefore, notAfter = o.NotBefore.UTC().Truncate(time.Second), o.NotAfter.UTC().Truncate(time.Second)
	if o.NotBefore.IsZero() {
		notBefore = now.UTC().Add(-clockSkew).Truncate(time.Second)
	}
	if o.NotAfter.IsZero() {
		notAfter = notBefore.AddDate(usualSelfSignedYears, 0, 0)
	}
	switch {
	case !notAfter.After(notBefore):
		err = fmt.Errorf("its validity would end at %s, before it begins at %s", timeText(notAfter), timeText(notBefore))
	case notAfter.Before(now):
		err = fmt.Errorf("it would have expired at %s already, now is %s", timeText(notAfter), timeText(now))
	case !o.LongLived && notAfter.After(notBefore.AddDate(maxSelfSignedYears, 0, 0)):
		err = fmt.Errorf("its validity from %s to %s is longer than %d years, which must be asked for explicitly",
			timeText(notBefore), timeText(notAfter), maxSelfSignedYears)
	}
	return notBefore, notAfter, err
}

// timeText formats a time of a certificate.
func timeText(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// serialNumber returns 20 bytes, the most that RFC 5280, 4.1.2.2, permits. The first two bits are
// 01, so that the number is positive and its length is fixed.
func serialNumber(random io.Reader) (*big.Int, error) {
	b := make([]byte, 20)
	if _, err := io.ReadFull(random, b); err != nil {
		return nil, fmt.Errorf("reading randomness for the serial number: %w", err)
	}
	b[0] = b[0]&0x3f | 0x40
	return new(big.Int).SetBytes(b), nil
}

// subjectKeyID is the leftmost 160 bits of SHA-256 over the subjectPublicKey without tag, length
// and unused bits.
func subjectKeyID(public crypto.PublicKey) ([]byte, error) {
	spki, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, fmt.Errorf("encoding the public key: %w", err)
	}
	var content cryptobyte.String
	var key asn1.BitString
	in := cryptobyte.String(spki)
	if !in.ReadASN1(&content, cbasn1.SEQUENCE) || !content.SkipASN1(cbasn1.SEQUENCE) || !content.ReadASN1BitString(&key) {
		return nil, errors.New("the public key's encoding is not a SubjectPublicKeyInfo")
	}
	sum := sha256.Sum256(key.Bytes)
	return sum[:20], nil
}
