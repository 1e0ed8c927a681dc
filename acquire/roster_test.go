package acquire_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/acquire/imds"
)

// use puts other identities in force, and returns those whose tokens were dropped.
func (w *world) use(identities ...acquire.Identity) []string {
	w.t.Helper()
	roster, err := w.acquirer.Prepare(identities)
	if err != nil {
		w.t.Fatal(err)
	}
	return w.acquirer.Use(roster)
}

// TestTokensStayAsLongAsTheirIdentityMeansTheSame changes a configuration and asks for a token that
// was in memory before.
func TestTokensStayAsLongAsTheirIdentityMeansTheSame(t *testing.T) {
	file := func(path string) acquire.Credential {
		return acquire.Credential{Name: "file", Source: acquire.SourceAssertionFile, Bound: acquire.BoundNever, Path: path}
	}
	leaning := acquire.Credential{Name: "oidc", Source: acquire.SourceOIDC, Bound: acquire.BoundNever, Identity: "vm"}
	app := application("app", leaning)
	onApp := application("onapp", acquire.Credential{Name: "oidc", Source: acquire.SourceOIDC, Bound: acquire.BoundNever, Identity: "app"})
	for _, tt := range []struct {
		name    string
		change  func(vm, app, other *acquire.Identity)
		dropped []string
	}{
		{"nothing", func(_, _, _ *acquire.Identity) {}, nil},
		{"the floor of one that others lean on", func(vm, _, _ *acquire.Identity) { vm.MinStrength = acquire.StrengthTPM }, []string{"vm", "app", "onapp"}},
		{"which managed identity it is", func(vm, _, _ *acquire.Identity) {
			vm.ManagedIdentity = &acquire.ManagedIdentity{Selector: imds.Selector{ClientID: "x"}, Bound: acquire.BoundRequire}
		}, []string{"vm", "app", "onapp"}},
		{"its form", func(vm, _, _ *acquire.Identity) {
			vm.ManagedIdentity = &acquire.ManagedIdentity{Bound: acquire.BoundPrefer}
		}, []string{"vm", "app", "onapp"}},
		{"a credential is added in the middle", func(_, app, _ *acquire.Identity) {
			changed := *app.Application
			changed.Credentials = append(slices.Clone(changed.Credentials), file("/none"))
			app.Application = &changed
		}, []string{"app", "onapp"}},
		{"the tenant", func(_, app, _ *acquire.Identity) {
			changed := *app.Application
			changed.Authority.Tenant = "other.example"
			app.Application = &changed
		}, []string{"app", "onapp"}},
		{"one that nobody leans on", func(_, _, other *acquire.Identity) { other.MinStrength = acquire.StrengthTPM }, []string{"other"}},
		{"one becomes an application", func(_, _, other *acquire.Identity) { *other = application("other", leaning) }, []string{"other"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			other := managed("other")
			w := newWorldWith(t, acquire.StrengthTPM, managed("vm"), app, onApp, other)
			names := []string{"vm", "app", "onapp", "other"}
			for _, name := range names {
				w.mustGet(acquire.Request{Identity: name})
			}
			vm, changedApp := managed("vm"), app
			tt.change(&vm, &changedApp, &other)
			if got := w.use(other, onApp, changedApp, vm); !sameSet(got, tt.dropped) { // their order says nothing
				t.Errorf("dropped are %v, want %v", got, tt.dropped)
			}
			for _, name := range names {
				got, err := w.get(acquire.Request{Identity: name})
				if kept := err == nil && got.FromCache; kept == slices.Contains(tt.dropped, name) {
					t.Errorf("%s: kept %v (%v)", name, kept, err)
				}
			}
		})
	}
}

func sameSet(a, b []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}

// A name that is given away, and later is as before, does not bring tokens of before back.
func TestAnIdentityThatComesAgainHasNoTokens(t *testing.T) {
	w := newWorldWith(t, acquire.StrengthTPM, managed("vm"))
	w.mustGet(acquire.Request{})
	w.use()
	if _, err := w.get(acquire.Request{}); !isKind(err, acquire.KindUnknownIdentity) {
		t.Errorf("without the identity: %v", err)
	}
	if got := w.acquirer.Status(); len(got) != 0 {
		t.Errorf("status has %+v", got)
	}
	w.use(managed("vm"))
	if got := w.mustGet(acquire.Request{}); got.FromCache {
		t.Error("a token of before is back")
	}
}

// The result of a flight whose identity is removed meanwhile goes to the callers that wait for it,
// and to none after them.
func TestAFlightOfAnIdentityThatChanges(t *testing.T) {
	w := newWorldWith(t, acquire.StrengthTPM, managed("vm"))
	release := make(chan struct{})
	var answers atomic.Int64
	w.answerWith(func(rw http.ResponseWriter, _ *http.Request) {
		n := answers.Add(1)
		<-release
		answer(rw, int(n), "", "")
	})
	type outcome struct {
		token acquire.Token
		err   error
	}
	waiting := make(chan outcome, 1)
	go func() {
		token, err := w.acquirer.Token(t.Context(), acquire.Request{Identity: "vm", Resource: resource})
		waiting <- outcome{token, err}
	}()
	<-w.arrived
	changed := managed("vm")
	changed.MinStrength = acquire.StrengthTPM
	w.use(changed)
	after := make(chan outcome, 1)
	go func() {
		token, err := w.acquirer.Token(t.Context(), acquire.Request{Identity: "vm", Resource: resource})
		after <- outcome{token, err}
	}()
	<-w.arrived // it has not joined the one before
	close(release)
	one, two := <-waiting, <-after
	if one.err != nil || two.err != nil || one.token.AccessToken.Equal(two.token.AccessToken) {
		t.Errorf("got %v and %v, and the same token: %v", one.err, two.err, one.token.AccessToken.Equal(two.token.AccessToken))
	}
	kept := w.mustGet(acquire.Request{})
	if !kept.FromCache || !kept.AccessToken.Equal(two.token.AccessToken) {
		t.Error("the token of before the change was kept")
	}
}

// useAnew is use where nothing that was obtained before may be used any more.
func (w *world) useAnew(identities ...acquire.Identity) []string {
	w.t.Helper()
	roster, err := w.acquirer.PrepareAnew(identities)
	if err != nil {
		w.t.Fatal(err)
	}
	return w.acquirer.Use(roster)
}

// What the agent has may have come from a host that is not trusted any more. It is not used, and
// neither is what a flight under way obtains; pauses stay.
func TestNothingThatWasObtainedStaysWhereIdentitiesAreMadeAnew(t *testing.T) {
	app := application("app", acquire.Credential{Name: "oidc", Source: acquire.SourceOIDC, Bound: acquire.BoundNever, Identity: "vm"})
	w := newWorldWith(t, acquire.StrengthTPM, managed("vm"), app)
	for _, name := range []string{"vm", "app"} {
		w.mustGet(acquire.Request{Identity: name})
	}
	if got := w.useAnew(app, managed("vm")); !sameSet(got, []string{"vm", "app"}) {
		t.Errorf("dropped are %v", got)
	}
	for _, name := range []string{"vm", "app"} {
		if got := w.mustGet(acquire.Request{Identity: name}); got.FromCache {
			t.Errorf("%s: a token of before is given", name)
		}
	}

	release := make(chan struct{})
	var answers atomic.Int64
	w.answerWith(func(rw http.ResponseWriter, _ *http.Request) {
		n := answers.Add(1)
		<-release
		answer(rw, int(n), "", "")
	})
	const other = "https://other.example"
	under := make(chan error, 2)
	ask := func() {
		_, err := w.acquirer.Token(t.Context(), acquire.Request{Identity: "vm", Resource: other})
		under <- err
	}
	go ask()
	<-w.arrived
	w.useAnew(app, managed("vm"))
	go ask()
	<-w.arrived // it has not joined the one before
	close(release)
	if err := errors.Join(<-under, <-under); err != nil {
		t.Error(err)
	}

	w.answerWith(refuse(429, "{}", "Retry-After", "60"))
	if _, err := w.get(acquire.Request{Resource: "https://third.example"}); !isKind(err, acquire.KindThrottled) {
		t.Errorf("got %v", err)
	}
	asked := w.requests.Load()
	w.useAnew(app, managed("vm"))
	if _, err := w.get(acquire.Request{}); !isKind(err, acquire.KindThrottled) || w.requests.Load() != asked {
		t.Errorf("the pause is forgotten: %v", err)
	}
}

// A caller that was allowed a token of what a name meant before must not get one of what it means
// now, and no flight starts.
func TestARosterThatIsNotInForceBeginsNothing(t *testing.T) {
	w := newWorldWith(t, acquire.StrengthTPM, managed("vm"), managed("other"))
	before, err := w.acquirer.Prepare([]acquire.Identity{managed("vm"), managed("other")})
	if err != nil {
		t.Fatal(err)
	}
	w.acquirer.Use(before)
	w.use(application("vm", managedEntry(acquire.BoundRequire)), managed("other"))
	_, err = before.Token(t.Context(), acquire.Request{Identity: "vm", Resource: resource})
	if !errors.Is(err, acquire.ErrRetired) || !isKind(err, acquire.KindUnavailable) || w.requests.Load() != 0 {
		t.Errorf("got %v after %d requests", err, w.requests.Load())
	}
	if e, ok := errors.AsType[*acquire.Error](err); !ok || e.RetryAfter <= 0 {
		t.Errorf("the caller is not told to come again: %v", err)
	}
	// What means the same is the same through both.
	if _, err := before.Token(t.Context(), acquire.Request{Identity: "other", Resource: resource}); err != nil {
		t.Error(err)
	}
	if got := w.mustGet(acquire.Request{Identity: "other"}); !got.FromCache {
		t.Error("it is kept apart")
	}
}

// TestPausesOutliveTheConfiguration: what Entra asked of a client holds however its identity is
// configured meanwhile.
func TestPausesOutliveTheConfiguration(t *testing.T) {
	stricter, another := managed("vm"), managed("vm")
	stricter.MinStrength = acquire.StrengthTPM
	another.ManagedIdentity = &acquire.ManagedIdentity{Selector: imds.Selector{ClientID: "x"}, Bound: acquire.BoundRequire}
	for _, tt := range []struct {
		name      string
		answer    http.HandlerFunc
		resource  string
		reloads   [][]acquire.Identity
		asksAgain bool
	}{
		{"throttled, the same", refuse(429, "{}", "Retry-After", "60"), "https://other.example", [][]acquire.Identity{{managed("vm")}}, false},
		{"throttled, with a floor", refuse(429, "{}", "Retry-After", "60"), "https://other.example", [][]acquire.Identity{{stricter}}, false},
		{"throttled, gone and back", refuse(429, "{}", "Retry-After", "60"), "https://other.example", [][]acquire.Identity{{}, {managed("vm")}}, false},
		{"throttled, now another client", refuse(429, "{}", "Retry-After", "60"), "https://other.example", [][]acquire.Identity{{another}}, true},
		{"down for a while, with a floor", refuse(503, "{}", "Retry-After", "60"), resource, [][]acquire.Identity{{stricter}}, false},
		{"refused, the same", refuse(400, `{"error":"invalid_request"}`), resource, [][]acquire.Identity{{managed("vm")}}, false},
		{"refused, and perhaps repaired", refuse(400, `{"error":"invalid_request"}`), resource, [][]acquire.Identity{{stricter}}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorldWith(t, acquire.StrengthTPM, managed("vm"))
			w.answerWith(tt.answer)
			if _, err := w.get(acquire.Request{}); err == nil {
				t.Fatal("got a token")
			}
			asked := w.requests.Load()
			for _, identities := range tt.reloads {
				w.use(identities...)
			}
			if _, err := w.get(acquire.Request{Resource: tt.resource}); err == nil {
				t.Fatal("got a token")
			}
			if again := w.requests.Load() > asked; again != tt.asksAgain {
				t.Errorf("Entra is asked again: %v", again)
			}
		})
	}
}

func TestReconsiderForgetsRefusalsWithoutAPause(t *testing.T) {
	for _, tt := range []struct {
		name      string
		answer    http.HandlerFunc
		asksAgain bool
	}{
		{"a refusal", refuse(400, `{"error":"invalid_request"}`), true},
		{"throttling", refuse(429, "{}", "Retry-After", "60"), false},
		{"a refusal with a pause", refuse(400, `{"error":"invalid_request"}`, "Retry-After", "60"), false},
	} {
		w := newWorldWith(t, acquire.StrengthTPM, managed("vm"))
		w.answerWith(tt.answer)
		for range 2 {
			if _, err := w.get(acquire.Request{}); err == nil {
				t.Fatal("got a token")
			}
		}
		asked := w.requests.Load()
		w.acquirer.Reconsider()
		if _, err := w.get(acquire.Request{}); err == nil {
			t.Fatal("got a token")
		}
		if again := w.requests.Load() > asked; again != tt.asksAgain {
			t.Errorf("%s: Entra is asked again: %v", tt.name, again)
		}
	}
}

// A caller that skips the cache in a loop gains nothing by a reload.
func TestTheLimitOfForcedRefreshesOutlivesTheConfiguration(t *testing.T) {
	w := newWorldWith(t, acquire.StrengthTPM, managed("vm"))
	force := func() error {
		_, err := w.get(acquire.Request{ForceRefresh: true})
		return err
	}
	for range 5 {
		if err := force(); err != nil {
			t.Fatal(err)
		}
	}
	stricter := managed("vm")
	stricter.MinStrength = acquire.StrengthTPM
	w.use(stricter)
	if err := force(); !errors.Is(err, acquire.ErrForceRefresh) {
		t.Errorf("got %v", err)
	}
}

// TestConnectionsWithOtherTLSSettingsAreNotUsed changes which certificates the agent accepts for
// Entra.
func TestConnectionsWithOtherTLSSettingsAreNotUsed(t *testing.T) {
	for _, credential := range []acquire.Credential{
		certificateEntry(acquire.BoundRequire), certificateEntry(acquire.BoundNever), managedEntry(acquire.BoundRequire), managedEntry(acquire.BoundNever),
	} {
		t.Run(fmt.Sprint(credential.Source, " ", credential.Bound), func(t *testing.T) {
			w := newAppWorld(t, credential)
			w.addKey("app")
			w.mu.Lock()
			w.unbound = v1Token
			w.mu.Unlock()
			w.plays(always)
			w.mustGet(acquire.Request{Identity: "app"})
			nobody := w.tls
			nobody.RootCAs = x509.NewCertPool()
			w.acquirer.SetTLS(nobody)
			if got := w.mustGet(acquire.Request{Identity: "app"}); !got.FromCache {
				t.Error("the token is gone")
			}
			if _, err := w.get(acquire.Request{Identity: "app", Resource: "https://other.example"}); err == nil || !strings.Contains(err.Error(), "certificate signed by unknown authority") {
				t.Errorf("got %v: a connection to a host that is not trusted any more was used", err)
			}
			w.acquirer.SetTLS(w.tls)
			w.mustGet(acquire.Request{Identity: "app", Resource: "https://other.example"})
		})
	}
}

// TestAnInvalidRosterChangesNothing: a roster is made of good identities or not at all.
func TestAnInvalidRosterChangesNothing(t *testing.T) {
	w := newWorldWith(t, acquire.StrengthTPM, managed("vm"))
	w.mustGet(acquire.Request{})
	circle := func(name, other string) acquire.Identity {
		return application(name, acquire.Credential{Name: "oidc", Source: acquire.SourceOIDC, Bound: acquire.BoundNever, Identity: other})
	}
	for name, identities := range map[string][]acquire.Identity{
		"twice":                  {managed("vm"), managed("vm")},
		"neither one":            {{Name: "vm"}},
		"a circle":               {circle("a", "b"), circle("b", "a")},
		"leans on nobody":        {circle("a", "b")},
		"no credentials":         {application("vm")},
		"an unknown word":        {{Name: "vm", ManagedIdentity: &acquire.ManagedIdentity{Bound: "maybe"}}},
		"two of the same name":   {application("a", certificateEntry(acquire.BoundNever), certificateEntry(acquire.BoundNever))},
		"one good and one wrong": {managed("vm"), {Name: "x"}},
	} {
		if _, err := w.acquirer.Prepare(identities); err == nil {
			t.Errorf("%s: it is taken", name)
		}
		if got := w.mustGet(acquire.Request{}); !got.FromCache {
			t.Errorf("%s: the token is gone", name)
		}
	}
}

// TestRequestsWhileIdentitiesChange is for the race detector, and for the one thing that must hold
// at all times: a token is of what its name means in the roster that was asked.
func TestRequestsWhileIdentitiesChange(t *testing.T) {
	clientOf := func(n int) acquire.Identity {
		id := application("app", certificateEntry(acquire.BoundNever))
		id.Application.ClientID = fmt.Sprint("client-", n)
		return id
	}
	w := newAppWorld(t, certificateEntry(acquire.BoundNever))
	w.addKey("app")
	w.plays(always)
	login := w.acquirer.Status()[0].Application.Authority
	var mu sync.Mutex
	roster, want := (*acquire.Roster)(nil), ""
	change := func(n int) {
		id := clientOf(n % 3)
		id.Application.Authority = login
		made, err := w.acquirer.Prepare([]acquire.Identity{id, managed("vm")})
		if err != nil {
			t.Error(err)
			return
		}
		mu.Lock()
		roster, want = made, id.Application.ClientID
		mu.Unlock()
		w.acquirer.Use(made)
	}
	change(0)
	ctx, cancel := context.WithCancel(t.Context())
	var askers sync.WaitGroup
	for range 4 {
		askers.Go(func() {
			for ctx.Err() == nil {
				mu.Lock()
				asked, want := roster, want
				mu.Unlock()
				got, err := asked.Token(ctx, acquire.Request{Identity: "app", Resource: resource})
				switch {
				case err == nil && got.ClientID != want:
					t.Errorf("got a token of %s, and was allowed one of %s", got.ClientID, want)
				case err != nil && ctx.Err() == nil && !errors.Is(err, acquire.ErrRetired):
					t.Error(err)
				}
				w.acquirer.Status()
			}
		})
	}
	for n := range 60 {
		change(n)
		if n%5 == 0 {
			w.acquirer.SetTLS(w.tls)
		}
	}
	cancel()
	askers.Wait()
}
