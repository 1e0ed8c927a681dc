package binding

import (
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/keyagent/keyagent/acquire/imds"
	"github.com/keyagent/keyagent/internal/certs"
)

// oidTokenNotAfter marks the certificate extension that says until when Entra
// gives tokens for the certificate; TLS accepts it until notAfter.
var oidTokenNotAfter = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 90, 2, 1}

// Certificate is a binding certificate with everything that belongs to it. It is
// immutable.
type Certificate struct {
	Leaf         *x509.Certificate
	ClientID     string // GUID, for the token request
	TenantID     string // GUID, for the token request
	IdentityType string // "SystemAssigned" or "UserAssigned", as IMDS said
	MTLSEndpoint string // base URL of the token endpoint, without trailing slash
	Attested     bool   // issued on an attestation token

	computeUnit string // cuId as it went into the request
	expiry      time.Time
	renewAt     time.Time
}

// Thumbprint returns x5t#S256 (RFC 8705, 3.1).
func (c *Certificate) Thumbprint() string { return thumbprint(c.Leaf.Raw) }

func thumbprint(der []byte) string {
	sum := sha256.Sum256(der)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// EffectiveExpiry is the earlier of notAfter and token_not_after.
func (c *Certificate) EffectiveExpiry() time.Time { return c.expiry }

// RenewAt is when [Manager.Run] renews the certificate: at half of its effective
// life, give or take a tenth of that. It was drawn when the certificate came into
// memory; a restart draws anew.
func (c *Certificate) RenewAt() time.Time { return c.renewAt }

func (c *Certificate) usable(now time.Time) bool {
	return !now.Before(c.Leaf.NotBefore) && now.Before(c.expiry.Add(-hardStop))
}

// belongs reports whether the certificate was issued for the identity as IMDS
// describes it now.
func (c *Certificate) belongs(meta *imds.PlatformMetadata) bool {
	return strings.EqualFold(c.ClientID, meta.ClientID) && strings.EqualFold(c.TenantID, meta.TenantID) && c.computeUnit == meta.ComputeUnitID
}

// parseCertificate reads der and checks that it is a client certificate over key
// for clientID that can be used now.
func parseCertificate(der []byte, key crypto.PublicKey, clientID string, now time.Time) (*Certificate, error) {
	leaf, err := certs.Parse(der)
	if err != nil {
		return nil, err
	}
	own, ok := leaf.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	switch {
	case !ok || !own.Equal(key):
		return nil, errors.New("the certificate is for another key")
	case !strings.EqualFold(leaf.Subject.CommonName, clientID):
		return nil, fmt.Errorf("the certificate's subject is %+q, not client id %+q", leaf.Subject.CommonName, clientID)
	case leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0:
		return nil, errors.New("the certificate's key usage lacks digitalSignature")
	case !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageClientAuth):
		return nil, errors.New("the certificate's extended key usage lacks clientAuth")
	case leaf.IsCA:
		return nil, errors.New("the certificate is that of a certificate authority")
	}
	expiry, err := effectiveExpiry(leaf)
	if err != nil {
		return nil, err
	}
	c := &Certificate{Leaf: leaf, expiry: expiry}
	if !c.usable(now) {
		return nil, &ValidityError{From: leaf.NotBefore, To: expiry.Add(-hardStop), Now: now}
	}
	return c, nil
}

// ValidityError says that, by this machine's clock, a certificate must not be used now.
type ValidityError struct{ From, To, Now time.Time }

func (e *ValidityError) Error() string {
	utc := func(t time.Time) string { return t.UTC().Format(time.RFC3339) }
	return fmt.Sprintf("the certificate is usable from %s to %s, and it is %s; check this machine's clock", utc(e.From), utc(e.To), utc(e.Now))
}

// Hint says what to do next.
func (e *ValidityError) Hint() string { return "check this machine's clock" }

func effectiveExpiry(leaf *x509.Certificate) (time.Time, error) {
	expiry := leaf.NotAfter
	for _, ext := range leaf.Extensions {
		if !ext.Id.Equal(oidTokenNotAfter) {
			continue
		}
		t, err := parseTokenNotAfter(ext.Value)
		if err != nil {
			return time.Time{}, err
		}
		if t.Before(expiry) {
			expiry = t
		}
	}
	return expiry, nil
}

// parseTokenNotAfter reads a GeneralizedTime or a UTCTime, alone or inside a
// SEQUENCE: both have been described, and the issuer's choice is not documented.
func parseTokenNotAfter(der []byte) (time.Time, error) {
	in := cryptobyte.String(der)
	if in.PeekASN1Tag(cbasn1.SEQUENCE) {
		var inner cryptobyte.String
		if !in.ReadASN1(&inner, cbasn1.SEQUENCE) || !in.Empty() {
			return time.Time{}, errTokenNotAfter
		}
		in = inner
	}
	var t time.Time
	ok := false
	switch {
	case in.PeekASN1Tag(cbasn1.GeneralizedTime):
		ok = in.ReadASN1GeneralizedTime(&t)
	case in.PeekASN1Tag(cbasn1.UTCTime):
		ok = in.ReadASN1UTCTime(&t)
	}
	if !ok || !in.Empty() {
		return time.Time{}, errTokenNotAfter
	}
	return t, nil
}

var errTokenNotAfter = errors.New("the certificate's token_not_after extension is not a time")
