package acquire_test

import (
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
		t.Errorf("who does not skip the cache is refused, too: %v", err)
	}
	if _, err := w.get(acquire.Request{Identity: "other", ForceRefresh: true}); err != nil {
		t.Errorf("another identity pays for it: %v", err)
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
