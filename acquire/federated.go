package acquire

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/keyagent/keyagent/acquire/entra"
	"github.com/keyagent/keyagent/internal/secret"
	"github.com/keyagent/keyagent/internal/waiting"
)

// assertionMargin is how long before it expires an assertion is no longer sent.
const assertionMargin = 5 * time.Minute

// assertion is a client assertion from a trusted issuer, with the mTLS connection it is bound to:
// nil if it is bound to none. The two are obtained together, and the value is immutable.
type assertion struct {
	token    secret.String
	over     *connection
	strength Strength
	passed   bool
	end      time.Time // zero: not known
}

// usable reports whether the assertion can still be exchanged over its connection, with the TLS
// settings of now.
func (s *assertion) usable(cfg *Config) bool {
	return (s.end.IsZero() || cfg.Now().Before(s.end.Add(-assertionMargin))) &&
		(s.over == nil || s.over.current() && s.over.transport == cfg.transport.Load())
}

// assertionSource obtains assertions.
type assertionSource interface {
	assertion(ctx context.Context, a *ask) (*assertion, error)
}

// federated exchanges an assertion from an issuer that the application trusts for a token of the
// application: over mutual TLS with the certificate that the assertion is bound to, or unbound.
type federated struct {
	app    *application
	source assertionSource
	bound  bool

	lock     waiting.Lock // guards held and failed
	held     *assertion   // used until it ends
	attempts atomic.Int64 // to obtain one
	failed   error        // of the last attempt; nil if it succeeded
}

func newFederated(app *application, source assertionSource, bound bool) *federated {
	return &federated{app: app, source: source, bound: bound, lock: waiting.NewLock()}
}

// obtain makes two requests: the assertion request, and the exchange. If Entra rejects assertion or
// certificate in the exchange, both requests are made once more, with both obtained anew: parts of
// two generations are never mixed. Whether the certificate has to be replaced is decided by the
// assertion request alone: what Entra says to one application must not replace the certificate of a
// managed identity that others use.
func (f *federated) obtain(ctx context.Context, a *ask) (*grant, error) {
	if !f.bound {
		if err := a.checkFloor(StrengthNone); err != nil {
			return nil, err
		}
	}
	held, err := f.take(ctx, a, nil)
	if err != nil {
		return nil, noAssertion(err)
	}
	g, err := f.exchange(ctx, a, held)
	if !verdictOf(err).repair {
		return g, err
	}
	if held, err = f.take(ctx, a, held); err != nil {
		return nil, noAssertion(err)
	}
	return f.exchange(ctx, a, held)
}

// take returns an assertion other than the rejected one. Callers that come while one is being
// obtained wait for it, and share a failure, too.
func (f *federated) take(ctx context.Context, a *ask, rejected *assertion) (*assertion, error) {
	before := f.attempts.Load()
	if err := f.lock.Lock(ctx); err != nil {
		return nil, err
	}
	defer f.lock.Unlock()
	if held := f.held; held != nil && held != rejected && held.usable(f.app.cfg) && a.checkFloor(held.strength) == nil {
		return held, nil
	}
	if f.failed != nil && !verdictOf(f.failed).tooWeak && f.attempts.Load() != before {
		return nil, f.failed
	}
	f.held = nil
	f.held, f.failed = f.fetch(ctx, a)
	f.attempts.Add(1)
	return f.held, f.failed
}

func (f *federated) fetch(ctx context.Context, a *ask) (*assertion, error) {
	made, err := f.source.assertion(ctx, a)
	if err != nil {
		return nil, fmt.Errorf("the assertion for the application: %w", err)
	}
	if err := a.checkFloor(made.strength); err != nil {
		return nil, err
	}
	return made, nil
}

// exchange sends the assertion to the token endpoint of the application's tenant.
func (f *federated) exchange(ctx context.Context, a *ask, s *assertion) (*grant, error) {
	g := &grant{clientID: f.app.id, strength: s.strength, over: s.over, passed: s.passed}
	endpoint, kind, client := f.app.authority.TokenEndpoint, entra.AssertionBearer, f.app.cfg.transport.Load().unbound
	thumbprint := ""
	if s.over != nil {
		endpoint, kind, client = f.app.authority.MTLSTokenEndpoint, entra.AssertionPoP, s.over.bridge.Client()
		thumbprint = s.over.thumbprint
	}
	return g, f.app.ask(ctx, endpoint, func(endpoint string) error {
		form := f.app.form(a, endpoint)
		form.Assertion, form.AssertionType, form.Thumbprint = s.token, kind, thumbprint
		var err error
		g.answer, err = f.app.cfg.requestToken(ctx, client, form)
		return err
	})
}

// granted obtains assertions that are tokens of another identity for the exchange audience.
type granted struct {
	cfg      *Config
	audience string
	bound    bool
	// obtain is the method of a credential, or of the whole list of another identity.
	obtain   func(ctx context.Context, a *ask) (*grant, error)
	presents presenter // whose method obtain is, if bound
}

func (s *granted) assertion(ctx context.Context, a *ask) (*assertion, error) {
	first := &ask{resource: s.audience, tokenType: TypeBearer, forceRefresh: a.forceRefresh, floors: a.floors, reissued: a.reissued}
	if s.bound {
		first.tokenType = TypePoP
	}
	asked := s.cfg.Now()
	g, err := s.obtain(ctx, first)
	if err != nil {
		return nil, err
	}
	made := &assertion{token: g.answer.AccessToken, strength: StrengthNone, passed: g.passed, end: asked.Add(g.answer.ExpiresIn)}
	if s.bound {
		made.over, made.strength = g.over, g.strength
	}
	return made, nil
}

// maxAssertionBytes bounds an assertion in a file; real ones have one or two kilobytes.
const maxAssertionBytes = 64 << 10

// assertionFile reads an assertion that another program keeps up to date. It is read for each
// exchange, so that a new one is used at once.
type assertionFile struct {
	app  *application
	path string
}

func (f *assertionFile) obtain(ctx context.Context, a *ask) (*grant, error) {
	if err := a.checkFloor(StrengthNone); err != nil {
		return nil, err
	}
	text, err := readAssertion(f.path)
	if err != nil {
		return nil, notLoaded(err)
	}
	exchange := federated{app: f.app}
	return exchange.exchange(ctx, a, &assertion{token: text, strength: StrengthNone})
}

// readAssertion reads a JWT from a file. No error quotes the file's content.
func readAssertion(path string) (secret.String, error) {
	// Without O_NONBLOCK, a FIFO in the file's place would hold the request.
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // #nosec G304 -- the operator's choice
	if err != nil {
		return secret.String{}, fmt.Errorf("the assertion's file: %w", err)
	}
	defer file.Close()
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		return secret.String{}, fmt.Errorf("the assertion's file %s is not a regular file", path)
	}
	text, err := io.ReadAll(io.LimitReader(file, maxAssertionBytes+1))
	if err != nil {
		return secret.String{}, fmt.Errorf("the assertion's file: %w", err)
	}
	token := strings.TrimSpace(string(text))
	if len(text) > maxAssertionBytes || strings.Count(token, ".") != 2 || strings.ContainsAny(token, " \t\r\n") {
		return secret.String{}, fmt.Errorf("the assertion's file %s does not hold one JWT", path)
	}
	return secret.New(token), nil
}
