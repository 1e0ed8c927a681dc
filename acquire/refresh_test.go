package acquire_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/acquire/imds"
	"github.com/keyagent/keyagent/internal/secret"
)

func TestTokensInUseAreFetchedAheadWithoutARequest(t *testing.T) {
	w := newWorld(t)
	ended := make(chan error, 1)
	go func() { ended <- w.acquirer.Run(t.Context()) }()
	w.mustGet(acquire.Request{})
	w.mustGet(acquire.Request{Resource: "https://asked-once"})
	w.mustGet(acquire.Request{})
	<-w.arrived
	<-w.arrived

	w.advance(31 * time.Minute)
	w.ticks <- struct{}{} // at the latest now, the tick before has been taken
	w.ticks <- struct{}{}
	<-w.arrived // nobody has asked
	acquire.WaitFlight(w.acquirer, "vm", resource)
	if got := w.mustGet(acquire.Request{}); got.AccessToken.Reveal() != "secret-token-3" || !got.FromCache {
		t.Errorf("got %+v, want the token that was fetched ahead", got)
	}
	w.ticks <- struct{}{}
	if n := w.requests.Load(); n != 3 {
		t.Errorf("got %d requests, want 3: a token that nobody asked for again is not fetched", n)
	}
	select {
	case err := <-ended:
		t.Errorf("Run ended with %v", err)
	default:
	}
}

func TestTheTokenOfIMDSIsNotAskedForTooEarly(t *testing.T) {
	for _, tt := range []struct{ life, due time.Duration }{
		{24 * time.Hour, 12 * time.Hour},
		{time.Hour, 55 * time.Minute}, // IMDS would give the same one again
		{6 * time.Minute, 3 * time.Minute},
	} {
		w := newWorldWith(t, acquire.StrengthTPM, acquire.Identity{Name: "vm", ManagedIdentity: &acquire.ManagedIdentity{Bound: acquire.BoundNever}})
		w.unbound = func(imds.TokenRequest) (*imds.Token, error) {
			return &imds.Token{AccessToken: secret.New("v1"), ExpiresIn: tt.life}, nil
		}
		got := w.mustGet(acquire.Request{})
		if due := got.RefreshOn.Sub(got.NotBefore); due != tt.due {
			t.Errorf("life %v: fetched ahead after %v, want %v", tt.life, due, tt.due)
		}
	}
}

func TestClaimsAndCapabilitiesReachEntra(t *testing.T) {
	const challenge = `{"access_token":{"nbf":{"essential":true,"value":"1604106651"}}}`
	w := newWorld(t)
	seen := w.plays(always)
	plain := w.mustGet(acquire.Request{})
	capable := w.mustGet(acquire.Request{Capabilities: []string{"cp1"}})
	if (*seen)[0].claims != "" || (*seen)[1].claims != `{"access_token":{"xms_cc":{"values":["cp1"]}}}` {
		t.Errorf("Entra saw claims %q and %q", (*seen)[0].claims, (*seen)[1].claims)
	}
	if plain.AccessToken.Reveal() == capable.AccessToken.Reveal() {
		t.Error("a program that cannot handle challenges got the token of one that can")
	}
	challenged := w.mustGet(acquire.Request{Capabilities: []string{"cp1"}, Claims: challenge})
	want := `{"access_token":{"nbf":{"essential":true,"value":"1604106651"},"xms_cc":{"values":["cp1"]}}}`
	if (*seen)[2].claims != want || challenged.FromCache {
		t.Errorf("Entra saw %q, want %q", (*seen)[2].claims, want)
	}
	if again := w.mustGet(acquire.Request{Capabilities: []string{"cp1"}}); again.AccessToken.Reveal() != challenged.AccessToken.Reveal() || !again.FromCache {
		t.Error("the answer to a challenge did not replace the cached token")
	}
	if _, err := w.get(acquire.Request{Claims: "no JSON"}); !isKind(err, acquire.KindRefused) || len(*seen) != 3 {
		t.Errorf("got %v after %d requests for claims that are none", err, len(*seen))
	}
}

func TestAChallengeOfEntraIsPassedOn(t *testing.T) {
	const challenge = `{"access_token":{"polids":{"essential":true}}}`
	w := newWorld(t)
	w.answerWith(refuse(http.StatusBadRequest, fmt.Sprintf(`{"error":"interaction_required","error_codes":[53003],"claims":%q}`, challenge)))
	_, err := w.get(acquire.Request{})
	if e, ok := err.(*acquire.Error); !ok || e.Claims != challenge { //nolint:errorlint // it is the error itself
		t.Errorf("got %+v, want the challenge in it", err)
	}
}

func TestTheCacheIsNotSkippedWithoutEnd(t *testing.T) {
	w := newWorld(t)
	refused := 0
	for range 20 {
		if _, err := w.get(acquire.Request{ForceRefresh: true}); isKind(err, acquire.KindThrottled) {
			refused++
		}
	}
	if n := w.requests.Load(); n != 5 || refused != 15 {
		t.Errorf("got %d requests and %d refusals, want 5 and 15", n, refused)
	}
	if _, err := w.get(acquire.Request{}); err != nil {
		t.Errorf("a caller that does not skip the cache is refused, too: %v", err)
	}
	if _, err := w.get(acquire.Request{Identity: "other", ForceRefresh: true}); err != nil {
		t.Errorf("another identity pays for it: %v", err)
	}
	if _, err := w.get(acquire.Request{Resource: "https://other", ForceRefresh: true}); err != nil {
		t.Errorf("another resource pays for it: %v", err)
	}
	w.advance(10 * time.Second)
	if _, err := w.get(acquire.Request{ForceRefresh: true}); err != nil {
		t.Errorf("after ten seconds: %v", err)
	}
}

func TestBoundTokensGoWithTheirCertificate(t *testing.T) {
	w := newWorld(t)
	w.plays(always)
	first := w.mustGet(acquire.Request{Type: acquire.TypePoP})
	bearer := w.mustGet(acquire.Request{})
	if again := w.mustGet(acquire.Request{Type: acquire.TypePoP}); !again.FromCache || again.TokenType != "mtls_pop" {
		t.Errorf("got %+v, want the token from the cache", again)
	}
	w.rotate("", "second", true)
	second := w.mustGet(acquire.Request{Type: acquire.TypePoP})
	if second.FromCache || second.Binding.Thumbprint == first.Binding.Thumbprint {
		t.Error("a token of type mtls_pop outlived its certificate")
	}
	if again := w.mustGet(acquire.Request{}); again.AccessToken.Reveal() != bearer.AccessToken.Reveal() {
		t.Error("a Bearer token that is bound to nothing went with the certificate")
	}
}

// What one caller asks for must not become what the others get, or do not get.
func TestTheClaimsOfOneCallerAreNothingToTheOthers(t *testing.T) {
	const challenge = `{"access_token":{"acrs":{"value":"c1"}}}`
	w := newWorld(t)
	for _, claims := range []string{"{}", `{"access_token":{}}`, `{"a":1,"a":2}`, "no JSON", `{"access_token":{"xms_cc":{"values":["cp1"]}}}`} {
		if _, err := w.get(acquire.Request{Claims: claims}); !isKind(err, acquire.KindRefused) || acquire.CheckClaims(claims) == nil {
			t.Errorf("%s: got %v, want a refusal", claims, err)
		}
	}
	if n := w.requests.Load(); n != 0 {
		t.Errorf("Entra was asked %d times", n)
	}
	w.answerWith(refuse(http.StatusBadRequest, `{"error":"invalid_request","error_codes":[50000153]}`))
	if _, err := w.get(acquire.Request{Claims: challenge}); !isKind(err, acquire.KindRefused) {
		t.Errorf("got %v", err)
	}
	w.answerWith(w.token(time.Hour))
	w.mustGet(acquire.Request{})
	if err := w.acquirer.Status()[0].LastError; err != nil {
		t.Errorf("the identity's status is what became of somebody's claims: %v", err)
	}

	w.advance(31 * time.Minute)
	w.answerWith(refuse(http.StatusBadRequest, `{"error":"invalid_request","error_codes":[50000153]}`))
	if _, err := w.get(acquire.Request{Claims: challenge}); err == nil {
		t.Error("got a token")
	}
	before := w.requests.Load()
	w.mustGet(acquire.Request{}) // due
	acquire.WaitFlight(w.acquirer, "vm", resource)
	if n := w.requests.Load() - before; n != 1 {
		t.Errorf("the refresh that was due made %d requests, want 1: somebody's claims do not put it off", n)
	}
}

func TestAThrottledIdentityIsNotAskedForTheTokensThatAreDue(t *testing.T) {
	w := newWorld(t)
	for i := range 3 {
		w.mustGet(acquire.Request{Resource: fmt.Sprintf("https://r%d", i)})
	}
	w.advance(31 * time.Minute)
	w.answerWith(refuse(http.StatusTooManyRequests, "", "Retry-After", "600"))
	for i := range 3 {
		name := fmt.Sprintf("https://r%d", i)
		w.mustGet(acquire.Request{Resource: name})
		acquire.WaitFlight(w.acquirer, "vm", name)
	}
	if n := w.requests.Load(); n != 4 {
		t.Errorf("got %d requests, want 4: three tokens, and one that was told to wait", n)
	}
}

func TestCallersThatGoAwayLeaveABoundedNumberOfRequests(t *testing.T) {
	w := newWorld(t)
	release := make(chan struct{})
	w.answerWith(func(http.ResponseWriter, *http.Request) { <-release })
	defer close(release)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	var crowded error
	for i := range 1000 {
		ctx := gone
		if i == 999 {
			ctx = t.Context()
		}
		_, crowded = w.acquirer.Token(ctx, acquire.Request{Identity: "vm", Resource: fmt.Sprintf("https://r%d", i), Type: acquire.TypeBearer})
	}
	if e, ok := errors.AsType[*acquire.Error](crowded); !ok || e.Kind != acquire.KindUnavailable || e.RetryAfter <= 0 {
		t.Errorf("got %v, want KindUnavailable with a pause", crowded)
	}
}

func TestTheTokenOfARotatedKeyIsNotServed(t *testing.T) {
	w := newAppWorld(t, certificateEntry(acquire.BoundRequire))
	w.addKey("app")
	w.plays(always)
	first := w.mustGet(acquire.Request{Identity: "app", Type: acquire.TypePoP})
	old := w.appKeys["app"]
	w.addKey("app") // the operator has imported another certificate
	second := w.mustGet(acquire.Request{Identity: "app", Type: acquire.TypePoP})
	if second.FromCache || second.Binding.Thumbprint == first.Binding.Thumbprint {
		t.Error("the token of the old certificate was served")
	}
	w.appKeys["app"] = old // and goes back
	w.mustGet(acquire.Request{Identity: "app", Type: acquire.TypePoP})
	if back := w.mustGet(acquire.Request{Identity: "app", Type: acquire.TypePoP}); !back.FromCache || back.Binding.Thumbprint != first.Binding.Thumbprint {
		t.Errorf("got %+v, want the token of the certificate that is in use again, from the cache", back)
	}
}
