package acquire_test

import (
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/keyagent/keyagent/acquire"
)

// scopes has the scopes noted that Entra is asked for.
func (w *world) scopes() func() []string {
	var mu sync.Mutex
	var asked []string
	issue := w.token(time.Hour)
	w.answerWith(func(rw http.ResponseWriter, r *http.Request) {
		mu.Lock()
		asked = append(asked, r.FormValue("scope"))
		mu.Unlock()
		issue(rw, r)
	})
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(asked)
	}
}

// The tokens of two spellings may differ in their audience, so that neither serves for the other.
func TestEachSpellingOfAResourceHasItsOwnToken(t *testing.T) {
	for _, identity := range []string{"app", "vm"} {
		for _, spellings := range [][]string{
			{"https://database.windows.net", "https://database.windows.net/"},
			{"https://management.azure.com/", "https://management.azure.com"},
			{"api://shop", "api://shop/", "api://Shop"},
		} {
			t.Run(identity+" "+spellings[0], func(t *testing.T) {
				w := newWorldWith(t, acquire.StrengthTPM, managed("vm"), application("app", certificateEntry(acquire.BoundRequire)))
				w.addKey("app")
				w.scopes()
				seen := map[string]bool{}
				for range 2 {
					for _, resource := range spellings {
						token := w.mustGet(acquire.Request{Identity: identity, Resource: resource})
						seen[token.AccessToken.Reveal()] = true
						if token.Resource != resource {
							t.Errorf("asked for %s, got a token for %s", resource, token.Resource)
						}
					}
				}
				if len(seen) != len(spellings) || w.requests.Load() != int64(len(spellings)) {
					t.Errorf("%d tokens by %d requests for %d spellings", len(seen), w.requests.Load(), len(spellings))
				}
			})
		}
	}
}

// A fetch ahead of need uses the first caller's spelling.
func TestARefreshKeepsTheSpelling(t *testing.T) {
	w := newAppWorld(t, certificateEntry(acquire.BoundRequire))
	w.addKey("app")
	scopes := w.scopes()
	const slashed = "https://database.windows.net/"
	w.mustGet(acquire.Request{Identity: "app", Resource: slashed})
	w.advance(40 * time.Minute) // more than half of its life
	w.mustGet(acquire.Request{Identity: "app", Resource: slashed})
	acquire.WaitFlight(w.acquirer, "app", slashed)
	if got, want := scopes(), []string{slashed + "/.default", slashed + "/.default"}; !slices.Equal(got, want) {
		t.Errorf("asked for %q, want %q", got, want)
	}
}
