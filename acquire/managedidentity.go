package acquire

import (
	"context"
	"crypto"
	"crypto/tls"
	"errors"
	"fmt"

	"github.com/keyagent/keyagent/acquire/binding"
	"github.com/keyagent/keyagent/acquire/entra"
	"github.com/keyagent/keyagent/acquire/imds"
	"github.com/keyagent/keyagent/tlsbridge"
)

// BindingSource gives the binding certificates of managed identities.
type BindingSource interface {
	// Certificate returns a usable certificate.
	Certificate(ctx context.Context, sel imds.Selector) (*binding.Certificate, error)
	// Replace returns another certificate than the one that Entra rejected.
	Replace(ctx context.Context, sel imds.Selector, rejected *binding.Certificate, why binding.Reason) (*binding.Certificate, error)
	// Current returns the certificate in use, or nil. It does no I/O.
	Current(sel imds.Selector) *binding.Certificate
}

// BindingKey is the key that binding certificates certify.
type BindingKey struct {
	// Signer returns a view of the key whose signatures honour ctx.
	Signer func(ctx context.Context) crypto.Signer
	// SignatureSchemes is what the key can do in TLS, best first.
	SignatureSchemes []tls.SignatureScheme
	// Strength is where the key is: StrengthTPM or StrengthSoftware. Anything else counts as
	// StrengthNone.
	Strength Strength
}

// boundIdentity is a managed identity that authenticates with a binding certificate (MSI v2). All
// identities of the configuration with the same managed identity share one.
type boundIdentity struct {
	cfg *Config
	sel imds.Selector
	holder
}

// obtain asks Entra for a token. A certificate that Entra rejects is replaced, once in a flight.
func (m *boundIdentity) obtain(ctx context.Context, a *ask) (*grant, error) {
	certificate, err := m.cfg.Bindings.Certificate(ctx, m.sel)
	if err != nil {
		return nil, notLoaded(err)
	}
	g, err := m.request(ctx, a, certificate)
	why := verdictOf(err).replace
	if why == "" || !a.mayReissue(m.sel) {
		return g, err
	}
	m.cfg.Logger.WarnContext(ctx, "Entra rejects the binding certificate; another one is obtained",
		"client_id", certificate.ClientID, "thumbprint", certificate.Thumbprint(), "cause", err)
	certificate, replaceErr := m.cfg.Bindings.Replace(ctx, m.sel, certificate, why)
	if replaceErr != nil {
		return nil, notLoaded(&notReplaced{rejection: err, err: replaceErr})
	}
	return m.request(ctx, a, certificate)
}

// notReplaced says that Entra rejected a certificate, and why no other one was obtained.
type notReplaced struct{ rejection, err error }

func (e *notReplaced) Error() string {
	return fmt.Sprintf("%v (and another certificate was not obtained: %v)", e.rejection, e.err)
}

// Unwrap returns both.
func (e *notReplaced) Unwrap() []error { return []error{e.rejection, e.err} }

// rejectsAll reports whether no certificate will be accepted: Entra itself has rejected one, and
// that was a replacement already, or the issuer refuses to issue another one.
func (e *notReplaced) rejectsAll() bool {
	if !CannotBeBound(e.rejection) {
		return false
	}
	if paused, ok := errors.AsType[*binding.PausedError](e.err); ok {
		return paused.Replacement
	}
	return CannotBeBound(e.err)
}

// request makes the token request with the binding certificate.
func (m *boundIdentity) request(ctx context.Context, a *ask, c *binding.Certificate) (*grant, error) {
	over, err := m.connection(a, c)
	if err != nil {
		return nil, err
	}
	answer, err := m.cfg.requestToken(ctx, over.bridge.Client(), entra.Request{
		Endpoint:   entra.ManagedIdentityEndpoint(c.MTLSEndpoint, c.TenantID),
		ClientID:   c.ClientID,
		Scope:      entra.ManagedIdentityScope(a.resource),
		TokenType:  string(a.tokenType),
		Claims:     a.claims,
		Thumbprint: over.thumbprint,
	})
	if err != nil {
		return nil, err
	}
	return &grant{answer: answer, clientID: c.ClientID, strength: over.strength, over: over}, nil
}

// connection returns the TLS connections that present c, if it is strong enough.
func (m *boundIdentity) connection(a *ask, c *binding.Certificate) (*connection, error) {
	strength := strengthOf(m.cfg.Key.Strength, c)
	if err := a.checkFloor(strength); err != nil {
		return nil, err
	}
	name := c.Thumbprint()
	transport := m.cfg.transport.Load()
	bridge, err := m.bridge(transport, name, tlsbridge.Pair{
		Chain:            [][]byte{c.Leaf.Raw},
		Signer:           m.cfg.Key.Signer,
		SignatureSchemes: m.cfg.Key.SignatureSchemes,
	})
	if err != nil {
		return nil, err
	}
	return &connection{
		bridge: bridge, transport: transport, thumbprint: name, strength: strength,
		current: func() bool { now := m.cfg.Bindings.Current(m.sel); return now != nil && now.Leaf.Equal(c.Leaf) },
	}, nil
}

// strengthOf reports what is known of the key, and what the certificate's issuance proved. Only a
// key in a TPM can have been attested, whatever a certificate says.
func strengthOf(key Strength, c *binding.Certificate) Strength {
	switch {
	case key == StrengthTPM && c.Attested:
		return StrengthAttested
	case key == StrengthTPM, key == StrengthSoftware:
		return key
	}
	return StrengthNone
}

// IdentityTokens gives unbound tokens of managed identities (MSI v1).
type IdentityTokens interface {
	Token(ctx context.Context, sel imds.Selector, req imds.TokenRequest) (*imds.Token, error)
}

// unboundIdentity is a managed identity whose tokens IMDS obtains (MSI v1). Any process on the VM
// can get them.
type unboundIdentity struct {
	cfg *Config
	sel imds.Selector
}

func (m *unboundIdentity) obtain(ctx context.Context, a *ask) (*grant, error) {
	if err := a.checkFloor(StrengthNone); err != nil {
		return nil, err
	}
	answer, err := m.cfg.IMDS.Token(ctx, m.sel, imds.TokenRequest{Resource: a.resource, BypassCache: a.forceRefresh})
	if err != nil {
		return nil, notLoaded(err)
	}
	return &grant{
		answer: &entra.TokenResponse{
			AccessToken: answer.AccessToken, TokenType: "Bearer", ExpiresIn: answer.ExpiresIn, RefreshIn: answer.RefreshIn,
		},
		clientID: answer.ClientID,
		strength: StrengthNone,
		half:     true,
	}, nil
}
