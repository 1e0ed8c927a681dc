package acquire

import (
	"context"
	"crypto"
	"crypto/tls"
	"errors"
	"slices"
	"time"
)

// Pair is a certificate that tokens of type mtls_pop are bound to, with its key: what a program
// shows to use such a token. It is immutable.
type Pair struct {
	// Chain is the certificates in DER, the leaf first, as they are presented: a binding
	// certificate is presented without its issuers.
	Chain      [][]byte
	Thumbprint string    // x5t#S256 of the leaf (RFC 8705, 3.1)
	Expires    time.Time // when it ceases to be of use
	Strength   Strength
	Credential string // name of the entry that presents it
	// SignatureSchemes is what the key can do in TLS, best first.
	SignatureSchemes []tls.SignatureScheme
	// Signer returns a view of the key whose signatures honour ctx.
	Signer func(ctx context.Context) crypto.Signer
}

// PairRequest asks for the pair of an identity.
type PairRequest struct {
	Identity string // name of a configured identity
	// Thumbprint asks for the pair with this certificate; "" for the one that the next token of
	// type mtls_pop will be bound to, if the credential that comes first works.
	Thumbprint string
	// Account is charged if the certificate is not in memory and has to be obtained; nil: it is not
	// counted.
	Account Account
}

// ErrOtherPair means that the identity does not present the certificate that was asked for, or not
// any more.
var ErrOtherPair = errors.New("the identity does not present this certificate now")

// Pair returns a pair of an identity that is in force now; see [Roster.Pair].
func (a *Acquirer) Pair(ctx context.Context, req PairRequest) (*Pair, error) {
	return a.roster.Load().Pair(ctx, req)
}

// Pair returns the pair of an identity whose credentials are bound. It blocks if the certificate
// has to be obtained first. Errors are [*Error], which wraps [ErrOtherPair] for a certificate that
// is not presented, or the error of ctx.
func (r *Roster) Pair(ctx context.Context, req PairRequest) (*Pair, error) {
	id, ok := r.byName[req.Identity]
	if !ok {
		return nil, noSuchIdentity(req.Identity)
	}
	found, err := id.chain.find(ctx, req)
	if err == nil {
		return found, nil
	}
	if failed, ok := errors.AsType[*Error](err); ok {
		return nil, failed
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return nil, verdictOf(err).asError(req.Identity, err)
}

// find looks at the certificates in memory first: to sign for a handshake takes no question to
// IMDS.
func (c *chain) find(ctx context.Context, req PairRequest) (*Pair, error) {
	if len(c.presenting()) == 0 {
		return nil, withVerdict(errNoPoP)
	}
	suits := func(p *Pair) bool { return req.Thumbprint == "" || p.Thumbprint == req.Thumbprint }
	if p, err := c.pair(ctx, inMemory, suits); p != nil || err != nil && ctx.Err() != nil {
		return p, err
	}
	if req.Account != nil {
		if err := req.Account.Charge(); err != nil {
			return nil, err
		}
	}
	p, err := c.pair(ctx, obtained, suits)
	if p == nil && err == nil {
		err = ErrOtherPair
	}
	return p, err
}

// pairing says where a pair may come from.
type pairing int

const (
	inMemory pairing = iota // nothing is asked for; there may be none
	obtained                // IMDS may be asked, and a certificate issued
)

// presenter is a credential that presents a certificate.
type presenter interface {
	// pair returns what the credential presents. It is nil if that is not in memory, and it must
	// not be obtained. A credential that presents one of several returns one that suits.
	pair(ctx context.Context, from pairing, suits func(*Pair) bool) (*Pair, error)
}

// pair returns what the first credential presents that suits; nil if none does. Those that failed
// last come last, since the next token will not be bound to theirs.
func (c *chain) pair(ctx context.Context, from pairing, suits func(*Pair) bool) (*Pair, error) {
	var failed error
	for _, s := range c.presenting() {
		p, err := s.credential.(presenter).pair(ctx, from, suits)
		switch {
		case err != nil:
			failed = errors.Join(failed, err)
		case p == nil || !suits(p):
		case !p.Strength.reaches(c.floor):
			failed = errors.Join(failed, &floorError{have: p.Strength, want: c.floor})
		default:
			named := *p
			named.Credential = s.entry
			return &named, nil
		}
	}
	return nil, failed
}

// presenting are the steps that present a certificate, those that work first.
func (c *chain) presenting() []*step {
	var list []*step
	for _, s := range c.steps {
		if _, ok := s.credential.(presenter); ok && s.bound {
			list = append(list, s)
		}
	}
	slices.SortStableFunc(list, func(a, b *step) int { return a.failing() - b.failing() })
	return list
}

// failing is 1 if the last attempt failed, else 0.
func (s *step) failing() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lastErr != nil {
		return 1
	}
	return 0
}

// pair implements presenter.
func (m *boundIdentity) pair(ctx context.Context, from pairing, _ func(*Pair) bool) (*Pair, error) {
	c := m.cfg.Bindings.Current(m.sel)
	if c == nil && from == inMemory {
		return nil, nil
	}
	if c == nil {
		var err error
		if c, err = m.cfg.Bindings.Certificate(ctx, m.sel); err != nil {
			return nil, notLoaded(err)
		}
	}
	return &Pair{
		Chain: [][]byte{c.Leaf.Raw}, Thumbprint: c.Thumbprint(), Expires: c.EffectiveExpiry(), Strength: strengthOf(m.cfg.Key.Strength, c),
		SignatureSchemes: m.cfg.Key.SignatureSchemes, Signer: m.cfg.Key.Signer,
	}, nil
}

// pair implements presenter. The key is read each time, so that a rotated one is noticed.
func (c *shownCertificate) pair(ctx context.Context, _ pairing, _ func(*Pair) bool) (*Pair, error) {
	key, err := c.load(ctx)
	if err != nil {
		return nil, err
	}
	p := &Pair{
		Thumbprint: Thumbprint(key.Chain[0]), Expires: key.Chain[0].NotAfter, Strength: key.Strength,
		SignatureSchemes: key.SignatureSchemes, Signer: key.Signer,
	}
	for _, certificate := range key.Chain {
		p.Chain = append(p.Chain, certificate.Raw)
	}
	return p, nil
}

// pair implements presenter: the exchange goes over the connection that the assertion came by.
func (f *federated) pair(ctx context.Context, from pairing, suits func(*Pair) bool) (*Pair, error) {
	source, ok := f.source.(presenter)
	if !ok || !f.bound {
		return nil, nil
	}
	return source.pair(ctx, from, suits)
}

// pair implements presenter.
func (s *granted) pair(ctx context.Context, from pairing, suits func(*Pair) bool) (*Pair, error) {
	return s.presents.pair(ctx, from, suits)
}
