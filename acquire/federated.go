package acquire

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
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

// assertion is what somebody whom an application trusts says for it, and the connection over which that may be shown: nil if
// it is bound to none. The two are one value, obtained together; it is immutable.
type assertion struct {
	token    secret.String
	over     *connection
	strength Strength
	passed   bool
	end      time.Time // zero: not known
}

// usable reports whether the assertion can still be exchanged, and Entra be reached over its connection as it is to be reached now.
func (s *assertion) usable(cfg *Config) bool {
	return (s.end.IsZero() || cfg.Now().Before(s.end.Add(-assertionMargin))) &&
		(s.over == nil || s.over.current() && s.over.way == cfg.way.Load())
}

// assertionSource obtains assertions.
type assertionSource interface {
	assertion(ctx context.Context, a *ask) (*assertion, error)
}

// federated exchanges an assertion of somebody whom the application trusts for its token: bound to the certificate that the
// assertion was obtained with, or not.
type federated struct {
	app    *application
	source assertionSource
	bound  bool

	lock     waiting.Lock // guards the rest
	held     *assertion   // is used until it ends
	attempts atomic.Int64 // at obtaining one
	failed   error        // of the last attempt; nil if it brought one
}

func newFederated(app *application, source assertionSource, bound bool) *federated {
	return &federated{app: app, source: source, bound: bound, lock: waiting.NewLock()}
}

// obtain makes both legs. A pair that Entra rejects is obtained once more, and then both legs are made again: parts of two generations
// are never mixed. Whether it is the certificate that has to be replaced is found out in the first leg: what an application's exchange
// says must not take the managed identity's certificate away from everybody.
func (f *federated) obtain(ctx context.Context, a *ask) (*grant, error) {
	if !f.bound {
		if err := a.checkFloor(StrengthNone); err != nil {
			return nil, err
		}
	}
	held, err := f.take(ctx, a, nil)
	if err != nil {
		return nil, legFailed(err)
	}
	g, err := f.exchange(ctx, a, held)
	if !pairRejected(err) {
		return g, err
	}
	if held, err = f.take(ctx, a, held); err != nil {
		return nil, legFailed(err)
	}
	return f.exchange(ctx, a, held)
}

// take returns an assertion other than the rejected one. Whoever comes while one is being obtained waits for it, and shares the
// failure, too.
func (f *federated) take(ctx context.Context, a *ask, rejected *assertion) (*assertion, error) {
	before := f.attempts.Load()
	if err := f.lock.Lock(ctx); err != nil {
		return nil, err
	}
	defer f.lock.Unlock()
	if held := f.held; held != nil && held != rejected && held.usable(f.app.cfg) && a.checkFloor(held.strength) == nil {
		return held, nil
	}
	if _, weak := errors.AsType[*floorError](f.failed); f.failed != nil && !weak && f.attempts.Load() != before {
		return nil, f.failed
	}
	f.held = nil
	f.held, f.failed = f.fetch(ctx, a)
	f.attempts.Add(1)
	return f.held, f.failed
}

func (f *federated) fetch(ctx context.Context, a *ask) (*assertion, error) {
	fresh, err := f.source.assertion(ctx, a)
	if err != nil {
		return nil, fmt.Errorf("the assertion for the application: %w", err)
	}
	if err := a.checkFloor(fresh.strength); err != nil {
		return nil, err
	}
	return fresh, nil
}

// exchange makes leg 2.
func (f *federated) exchange(ctx context.Context, a *ask, s *assertion) (*grant, error) {
	g := &grant{clientID: f.app.id, strength: s.strength, over: s.over, passed: s.passed}
	endpoint, kind, client := f.app.authority.TokenEndpoint, entra.AssertionBearer, f.app.cfg.way.Load().unbound
	thumbprint := ""
	if s.over != nil {
		endpoint, kind, client = f.app.authority.MTLSTokenEndpoint, entra.AssertionPoP, s.over.bridge.Client()
		thumbprint = s.over.thumbprint
	}
	return g, f.app.ask(ctx, endpoint, func(endpoint string) error {
		form := f.app.form(a, endpoint)
		form.Assertion, form.AssertionType, form.Thumbprint = s.token, kind, thumbprint
		var err error
		g.answer, err = f.request(ctx, client, form)
		return err
	})
}

func (f *federated) request(ctx context.Context, client *http.Client, form entra.Request) (*entra.TokenResponse, error) {
	return f.app.cfg.Entra.Token(ctx, client, form)
}

// granted makes assertions of the tokens that a credential of somebody else obtains for the exchange.
type granted struct {
	cfg      *Config
	audience string
	bound    bool
	// obtain is that of a credential, or of another identity's whole list.
	obtain func(ctx context.Context, a *ask) (*grant, error)
}

func (s *granted) assertion(ctx context.Context, a *ask) (*assertion, error) {
	leg := &ask{resource: s.audience, tokenType: TypeBearer, fresh: a.fresh, floors: a.floors, reissued: a.reissued}
	if s.bound {
		leg.tokenType = TypePoP
	}
	asked := s.cfg.Now()
	g, err := s.obtain(ctx, leg)
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

// assertionFile reads an assertion that another program keeps fresh. It is read for each exchange, so that a new one is seen.
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

// readAssertion reads a JWT from a file. What is in it is not told by any error.
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
