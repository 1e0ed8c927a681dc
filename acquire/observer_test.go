package acquire_test

import (
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/keyagent/keyagent/acquire"
)

// TokenFetched implements [acquire.Observer].
func (w *world) TokenFetched(identity string, took time.Duration, failure acquire.Kind) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if took < 0 {
		failure += " before it began"
	}
	w.fetched = append(w.fetched, identity+" "+string(failure))
}

func TestAnObserverIsToldOfEachFlight(t *testing.T) {
	w := newWorld(t)
	first := acquire.Request{Identity: "vm", Resource: resource}
	w.mustGet(first)
	w.mustGet(first)
	fresh := first
	fresh.ForceRefresh = true
	w.mustGet(fresh)
	w.answerWith(func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Retry-After", "7")
		rw.WriteHeader(http.StatusTooManyRequests)
	})
	for range 2 { // the second is answered by what is remembered
		if _, err := w.get(acquire.Request{Identity: "other", Resource: resource}); err == nil {
			t.Error("a token, though the endpoint asks for a pause")
		}
	}
	if _, err := w.get(acquire.Request{Identity: "nobody", Resource: resource}); err == nil {
		t.Error("a token of an identity that is not configured")
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if want := []string{"vm ", "vm ", "other throttled"}; !slices.Equal(w.fetched, want) {
		t.Errorf("told of %q, want %q", w.fetched, want)
	}
	if got, want := w.acquirer.Stats(), (acquire.Stats{CachedTokens: 1, CacheHits: 1, CacheMisses: 3}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}
