package certreq

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/keyagent/keyagent/internal/certs"
)

const (
	// MaxFileBytes is the largest file of certificates that is parsed. A chain of three has about 6
	// KB in PEM.
	MaxFileBytes = 64 << 10

	// maxChain bounds the certificates in a file. Chains of more than four are rare.
	maxChain = 10

	// day is the unit of warnings of an expiry.
	day = 24 * time.Hour

	certificateBlock = "CERTIFICATE" // RFC 7468, 5.1
)

// ParseCertificates reads the certificates of a file, in their order there: PEM as package pemfile
// reads it, DER, one or more after each other, or base64 of it. The limits are [MaxFileBytes] and
// 10 certificates. A file that contains anything else, or damaged PEM, is refused as a whole.
// Nothing is verified; see [Arrange] and [CheckCertificate].
func ParseCertificates(data []byte) ([]*x509.Certificate, error) {
	chain, err := certs.Read(data, certs.Rules{MaxBytes: MaxFileBytes, MaxCertificates: maxChain, Bare: true})
	if err != nil {
		return nil, fmt.Errorf("certificate file: %w", err)
	}
	return chain, nil
}

// EncodeCertificates writes a chain as PEM.
func EncodeCertificates(chain []*x509.Certificate) []byte {
	var text []byte
	for _, c := range chain {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: certificateBlock, Bytes: c.Raw})...)
	}
	return text
}

// Arrange puts certificates in the order of TLS, the one over the public key first and its issuers
// after it, and drops duplicates. Certificates that do not belong to that chain go to the end, for
// [CheckCertificate] to refuse. Without a certificate over the key, nothing is changed.
func Arrange(certificates []*x509.Certificate, public crypto.PublicKey) []*x509.Certificate {
	var left []*x509.Certificate
	for _, c := range certificates {
		if !slices.ContainsFunc(left, c.Equal) {
			left = append(left, c)
		}
	}
	leaf := slices.IndexFunc(left, func(c *x509.Certificate) bool {
		own, ok := c.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
		return ok && own.Equal(public)
	})
	if leaf < 0 {
		return certificates
	}
	var chain []*x509.Certificate
	for next := leaf; next >= 0; {
		last := left[next]
		chain, left = append(chain, last), slices.Delete(left, next, next+1)
		next = issuer(last, left)
	}
	return append(chain, left...)
}

// issuer finds the certificate that issued c, or else one with the name of its issuer, so that the
// problem will be reported; -1 if there is none.
func issuer(c *x509.Certificate, among []*x509.Certificate) int {
	named := func(by *x509.Certificate) bool { return certs.Equal(c.RawIssuer, by.RawSubject) }
	made := slices.IndexFunc(among, func(by *x509.Certificate) bool { return named(by) && verifySignature(c, by) == nil })
	if made >= 0 {
		return made
	}
	return slices.IndexFunc(among, named)
}

// warnings are the times before the end of a certificate at which the owner is warned, each more
// urgent than the one before. For a short-lived certificate, the first warning comes when a third
// of its validity is left.
func warnings() []time.Duration { return []time.Duration{30 * day, 14 * day, 7 * day, 3 * day, day} }

// ExpiresSoon reports whether it is time to warn: in the last third of a certificate's validity or
// in its last 30 days, whichever is shorter, and ever after. It does not look at whether the
// validity has begun.
func ExpiresSoon(c *x509.Certificate, now time.Time) bool {
	ahead := max(0, min(c.NotAfter.Sub(c.NotBefore)/3, warnings()[0]))
	return !now.Before(c.NotAfter.Add(-ahead))
}

// Urgency says how urgent it is to replace a certificate: 0 while [ExpiresSoon] is false, then 1 to
// 5 with 30, 14, 7, 3 and 1 days left, and 6 once it has expired.
func Urgency(c *x509.Certificate, now time.Time) int {
	if !ExpiresSoon(c, now) {
		return 0
	}
	if now.After(c.NotAfter) {
		return len(warnings()) + 1
	}
	passed := 0
	for _, ahead := range warnings() {
		if !now.Before(c.NotAfter.Add(-ahead)) {
			passed++
		}
	}
	return max(1, passed)
}

// DaysLeft returns the number of whole days until a time: 0 on the last day, negative after it.
func DaysLeft(until, now time.Time) int { return int(math.Floor(until.Sub(now).Hours() / 24)) }
