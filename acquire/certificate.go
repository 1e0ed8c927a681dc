package acquire

import (
	"context"
	"crypto"
	"crypto/sha1" // #nosec G505 -- a name that Entra's portal shows, not a protection
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"

	"github.com/keyagent/keyagent/acquire/entra"
	"github.com/keyagent/keyagent/internal/secret"
	"github.com/keyagent/keyagent/tlsbridge"
)

// KeySource gives the keys and certificates of applications as they are now, so that a rotated key
// or a new certificate is used at once.
type KeySource interface {
	ApplicationKey(ctx context.Context, name string) (*ApplicationKey, error)
	// Replaced reports whether the certificate with this x5t#S256 is no longer the one in use;
	// false if that cannot be found out. It does not use the TPM.
	Replaced(name, thumbprint string) bool
	// Accepted is called for each token that Entra gives for a key's certificate. It must not
	// block.
	Accepted(name string, leaf *x509.Certificate)
}

// ApplicationKey is a key, and the certificate that is registered with an application. It is
// immutable.
type ApplicationKey struct {
	Chain            []*x509.Certificate // leaf first
	Signer           func(ctx context.Context) crypto.Signer
	SignatureSchemes []tls.SignatureScheme // for TLS, best first
	PSS              bool                  // the key signs RSASSA-PSS with a salt as long as the hash
	Strength         Strength              // StrengthTPM or StrengthSoftware
}

// Thumbprint is the x5t#S256 of a certificate (RFC 8705, 3.1).
func Thumbprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// PortalThumbprint is the name by which Entra's portal shows a certificate: upper-case hexadecimal
// of the SHA-1 of its DER.
func PortalThumbprint(c *x509.Certificate) string {
	sum := sha1.Sum(c.Raw) // #nosec G401 -- see the import
	return strings.ToUpper(hex.EncodeToString(sum[:]))
}

// application has the parts that all credentials of an application share.
type application struct {
	cfg *Config
	id  string // client id
	*endpoints
}

// form is the part of a token request that is the same for all credentials.
func (app *application) form(a *ask, endpoint string) entra.Request {
	return entra.Request{Endpoint: endpoint, ClientID: app.id, Scope: entra.Scope(a.resource), TokenType: a.wireType(), Claims: a.claims}
}

// registered is a key whose certificate is registered with an application.
type registered struct {
	app  *application
	name string // of the key
	holder
}

// load returns the key and its certificate.
func (r *registered) load(ctx context.Context) (*ApplicationKey, error) {
	key, err := r.app.cfg.Keys.ApplicationKey(ctx, r.name)
	if err == nil && len(key.Chain) == 0 {
		err = errors.New("the key has no certificate")
	}
	if err != nil {
		return nil, notLoaded(err)
	}
	return key, nil
}

// asked notes how a request with the key's certificate ended, and adds the certificate's name to an
// error that is about it.
func (r *registered) asked(key *ApplicationKey, err error) error {
	if err == nil {
		r.app.cfg.Keys.Accepted(r.name, key.Chain[0])
	}
	if verdictOf(err).certificate {
		return fmt.Errorf("%w; the certificate is that of key %q, thumbprint %s as the portal shows it", err, r.name, PortalThumbprint(key.Chain[0]))
	}
	return err
}

// signed adds a client assertion to a request. It proves possession of the key to this endpoint for
// ten minutes.
func (r *registered) signed(ctx context.Context, form entra.Request, key *ApplicationKey) entra.Request {
	form.AssertionType = entra.AssertionBearer
	form.Sign = func() (secret.String, error) {
		return entra.NewClientAssertion(key.Signer(ctx), entra.AssertionSpec{
			ClientID: r.app.id, Audience: form.Endpoint, Chain: key.Chain, PSS: key.PSS, Now: r.app.cfg.Now(),
		})
	}
	return form
}

// assertedCertificate sends an assertion that the key has signed, without a client certificate
// (variant A). An assertion that is intercepted can be used for ten minutes, so this form is not
// bound, wherever the key is.
type assertedCertificate struct{ *registered }

func (c *assertedCertificate) obtain(ctx context.Context, a *ask) (*grant, error) {
	key, err := c.load(ctx)
	if err != nil {
		return nil, err
	}
	if err := a.checkFloor(strengthOfAssertion(key.Strength)); err != nil {
		return nil, err
	}
	g, err := c.request(ctx, a, key)
	if verdictOf(err).reaction == entra.ReactionRebuildAssertion {
		return c.request(ctx, a, key)
	}
	return g, err
}

func (c *assertedCertificate) request(ctx context.Context, a *ask, key *ApplicationKey) (*grant, error) {
	g := &grant{clientID: c.app.id, strength: strengthOfAssertion(key.Strength)}
	err := c.app.ask(ctx, c.app.authority.TokenEndpoint, func(endpoint string) error {
		form := c.signed(ctx, c.app.form(a, endpoint), key)
		var err error
		g.answer, err = c.app.cfg.requestToken(ctx, c.app.cfg.transport.Load().unbound, form)
		return err
	})
	return g, c.asked(key, err)
}

// strengthOfAssertion is the strength of an assertion that a key signed. One of a key in software
// has none: the key can be copied.
func strengthOfAssertion(key Strength) Strength {
	if key == StrengthTPM {
		return StrengthTPMSigned
	}
	return StrengthNone
}

// shownCertificate presents the certificate over mutual TLS, and sends an assertion with it as long
// as Entra requires one (variants B, B′ and C).
type shownCertificate struct {
	*registered
	send  SendAssertion
	wants atomic.Bool // Entra has asked for an assertion
}

func (c *shownCertificate) obtain(ctx context.Context, a *ask) (*grant, error) {
	key, err := c.load(ctx)
	if err != nil {
		return nil, err
	}
	over, err := c.connection(a, key)
	if err != nil {
		return nil, err
	}
	sent := c.sendsAssertion(a)
	g, err := c.request(ctx, a, key, over)
	switch verdictOf(err).reaction {
	case entra.ReactionRebuildAssertion:
		return c.request(ctx, a, key, over)
	case entra.ReactionNeedsAssertion:
		if c.send == AssertionAuto && !sent {
			c.wants.Store(true)
			return c.request(ctx, a, key, over)
		}
	}
	return g, err
}

func (c *shownCertificate) connection(a *ask, key *ApplicationKey) (*connection, error) {
	if err := a.checkFloor(key.Strength); err != nil {
		return nil, err
	}
	name := Thumbprint(key.Chain[0])
	pair := tlsbridge.Pair{Signer: key.Signer, SignatureSchemes: key.SignatureSchemes}
	for _, certificate := range key.Chain {
		pair.Chain = append(pair.Chain, certificate.Raw)
	}
	transport := c.app.cfg.transport.Load()
	bridge, err := c.bridge(transport, key, pair)
	if err != nil {
		return nil, notLoaded(err)
	}
	return &connection{bridge: bridge, transport: transport, thumbprint: name, strength: key.Strength, current: func() bool { return !c.app.cfg.Keys.Replaced(c.name, name) }}, nil
}

func (c *shownCertificate) request(ctx context.Context, a *ask, key *ApplicationKey, over *connection) (*grant, error) {
	g := &grant{clientID: c.app.id, strength: over.strength, over: over}
	err := c.app.ask(ctx, c.app.authority.MTLSTokenEndpoint, func(endpoint string) error {
		form := c.app.form(a, endpoint)
		form.Thumbprint = over.thumbprint
		if c.sendsAssertion(a) {
			form = c.signed(ctx, form, key)
		}
		var err error
		g.answer, err = c.app.cfg.requestToken(ctx, over.bridge.Client(), form)
		return err
	})
	return g, c.asked(key, err)
}

// sendsAssertion chooses between the variants. A token that is bound to the certificate needs no
// assertion.
func (c *shownCertificate) sendsAssertion(a *ask) bool {
	return a.tokenType != TypePoP && (c.send == AssertionAlways || c.send == AssertionAuto && c.wants.Load())
}
