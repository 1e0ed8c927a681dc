package entra

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // x5t (RFC 7515, 4.1.7) is defined over SHA-1; it names a certificate and protects nothing
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/cryptosigner"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/google/uuid"

	"github.com/keyagent/keyagent/internal/secret"
)

// assertionLife is the longest life that Entra recommends.
const assertionLife = 10 * time.Minute

// AssertionSpec says what a client assertion states.
type AssertionSpec struct {
	ClientID string              // GUID of the app registration: iss and sub
	Audience string              // URL of the token endpoint that will get it, exactly as it is called
	Chain    []*x509.Certificate // leaf first; the leaf is over the signing key
	PSS      bool                // PS256 with x5t#S256; false: RS256 with x5t, for keys without PSS
	Now      time.Time           // start of its ten minutes
}

// NewClientAssertion signs a private_key_jwt (RFC 7523; OpenID Connect Core, 9) with key, which
// must be RSA: Entra accepts no other. It makes one signature; each request needs an assertion of
// its own. A deadline has to be part of key.
func NewClientAssertion(key crypto.Signer, spec AssertionSpec) (secret.String, error) {
	if err := spec.check(key); err != nil {
		return secret.String{}, fmt.Errorf("client assertion: %w", err)
	}
	signer, err := jose.NewSigner(spec.signingKey(key), spec.header())
	if err != nil {
		return secret.String{}, fmt.Errorf("client assertion: %w", err)
	}
	signed, err := jwt.Signed(signer).Claims(jwt.Claims{
		Issuer:    spec.ClientID,
		Subject:   spec.ClientID,
		Audience:  jwt.Audience{spec.Audience},
		ID:        uuid.NewString(),
		NotBefore: jwt.NewNumericDate(spec.Now),
		Expiry:    jwt.NewNumericDate(spec.Now.Add(assertionLife)),
	}).Serialize()
	if err != nil {
		return secret.String{}, fmt.Errorf("signing client assertion: %w", err)
	}
	return secret.New(signed), nil
}

func (s AssertionSpec) check(key crypto.Signer) error {
	public, ok := key.Public().(*rsa.PublicKey)
	switch {
	case !ok:
		return errors.New("the key has the wrong kind: Entra takes assertions of RSA keys only; make one with keyagent key rotate NAME --algorithm rsa-2048")
	case s.ClientID == "" || s.Audience == "":
		return errors.New("client id or audience is missing")
	case len(s.Chain) == 0:
		return errors.New("the key has no certificate")
	case !public.Equal(s.Chain[0].PublicKey):
		return errors.New("the certificate is for another key")
	}
	return nil
}

func (s AssertionSpec) signingKey(key crypto.Signer) jose.SigningKey {
	algorithm := jose.RS256
	if s.PSS {
		algorithm = jose.PS256
	}
	return jose.SigningKey{Algorithm: algorithm, Key: cryptosigner.Opaque(hashLongSalt{key})}
}

// header always has x5c: applications that trust certificates by subject and issuer need it, and
// others ignore it.
func (s AssertionSpec) header() *jose.SignerOptions {
	chain := make([]string, 0, len(s.Chain))
	for _, c := range s.Chain {
		chain = append(chain, base64.StdEncoding.EncodeToString(c.Raw))
	}
	options := new(jose.SignerOptions).WithType("JWT").WithHeader("x5c", chain)
	if s.PSS {
		sum := sha256.Sum256(s.Chain[0].Raw)
		return options.WithHeader("x5t#S256", base64.RawURLEncoding.EncodeToString(sum[:]))
	}
	sum := sha1.Sum(s.Chain[0].Raw) //nolint:gosec // see the import
	return options.WithHeader("x5t", base64.RawURLEncoding.EncodeToString(sum[:]))
}

// hashLongSalt is a key whose PSS salt is as long as the hash, as PS256 demands (RFC 7518, 3.5).
// go-jose leaves the length to the key, and crypto/rsa then takes the longest that fits.
type hashLongSalt struct{ crypto.Signer }

// Sign signs the digest.
func (k hashLongSalt) Sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if _, ok := opts.(*rsa.PSSOptions); ok {
		opts = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: opts.HashFunc()}
	}
	return k.Signer.Sign(rand, digest, opts)
}
