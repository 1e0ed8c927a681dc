package acquire_test

import (
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyagent/keyagent/acquire"
)

// purse is an account with room for a number of fetches.
type purse struct {
	left    atomic.Int64
	charged atomic.Int64
}

func newPurse(left int64) *purse {
	p := &purse{}
	p.left.Store(left)
	return p
}

var errSpent = errors.New("spent")

func (p *purse) Charge() error {
	p.charged.Add(1)
	if p.left.Add(-1) < 0 {
		return &acquire.Error{Kind: acquire.KindThrottled, RetryAfter: 7 * time.Second, Err: errSpent}
	}
	return nil
}

// Sixty programs of one user that start at once and want the same token are one fetch, and so is
// what was asked for before.
func TestManyCallersOfOneTokenAreChargedOnce(t *testing.T) {
	w := newWorld(t)
	release := make(chan struct{})
	issue := w.token(time.Hour)
	w.answerWith(func(rw http.ResponseWriter, r *http.Request) {
		<-release
		issue(rw, r)
	})
	account := newPurse(1)
	var wg sync.WaitGroup
	for range 60 {
		wg.Go(func() {
			if _, err := w.get(acquire.Request{Account: account}); err != nil {
				t.Error(err)
			}
		})
	}
	<-w.arrived
	close(release)
	wg.Wait()
	if _, err := w.get(acquire.Request{Account: account}); err != nil {
		t.Errorf("from memory: %v", err)
	}
	if n := account.charged.Load(); n != 1 || w.requests.Load() != 1 {
		t.Errorf("charged %d times for %d requests, want 1 of each", n, w.requests.Load())
	}
}

// An account over its limit is refused, no request is made, and other accounts do not notice.
func TestARefusedChargeAsksNobodyAndIsNothingToOthers(t *testing.T) {
	w := newWorld(t)
	spent, other := newPurse(1), newPurse(100)
	w.mustGet(acquire.Request{Account: spent})
	for n := range 50 {
		_, err := w.get(acquire.Request{Resource: fmt.Sprintf("https://new-%d", n), Account: spent})
		e, ok := errors.AsType[*acquire.Error](err)
		if !ok || e.Kind != acquire.KindThrottled || e.Identity != "vm" || e.RetryAfter != 7*time.Second || !errors.Is(err, errSpent) {
			t.Fatalf("got %v", err)
		}
	}
	if n := w.requests.Load(); n != 1 {
		t.Fatalf("Entra was asked %d times", n)
	}
	for _, req := range []acquire.Request{
		{Account: spent}, // in memory
		{Resource: "https://new-0", Account: other},     // what was refused to somebody else
		{Resource: "https://new-0", Account: spent},     // in memory, because of somebody else
		{Resource: "https://new-1"},                     // not counted
		{ForceRefresh: true, Account: other},            // past the cache
		{Identity: "other", Account: other},             // another identity
		{Capabilities: []string{"cp1"}, Account: other}, // another token
	} {
		if _, err := w.get(req); err != nil {
			t.Errorf("%+v: %v", req, err)
		}
	}
}

// Each way past the cache is a fetch: a refresh, each challenge, and a resource that does not
// exist, once it is asked about anew.
func TestEachFetchIsCharged(t *testing.T) {
	w := newWorld(t)
	account := newPurse(100)
	charged := func(what string, want int64, req acquire.Request) {
		t.Helper()
		before := account.charged.Load()
		req.Account = account
		_, _ = w.get(req)
		if got := account.charged.Load() - before; got != want {
			t.Errorf("%s: charged %d times, want %d", what, got, want)
		}
	}
	charged("a first token", 1, acquire.Request{})
	charged("the same", 0, acquire.Request{})
	charged("a refresh", 1, acquire.Request{ForceRefresh: true})
	charged("a challenge", 1, acquire.Request{Claims: `{"access_token":{"acrs":{"value":"c1"}}}`})
	charged("another challenge", 1, acquire.Request{Claims: `{"access_token":{"acrs":{"value":"c2"}}}`})
	charged("claims that are none", 0, acquire.Request{Claims: "no JSON"})
	charged("an identity that there is not", 0, acquire.Request{Identity: "none"})
	w.answerWith(refuse(http.StatusBadRequest, `{"error":"invalid_resource","error_codes":[500011]}`))
	charged("a resource that does not exist", 1, acquire.Request{Resource: "https://none"})
	charged("the same at once", 0, acquire.Request{Resource: "https://none"})
	w.advance(time.Minute)
	charged("the same after its rest", 1, acquire.Request{Resource: "https://none"})
}

// A caller cannot have ever more tokens refreshed without a charge, nor keep a token that others
// use from being refreshed.
func TestFetchesAheadOfNeedAreCharged(t *testing.T) {
	w := newWorld(t)
	spent, other := newPurse(1), newPurse(1)
	w.mustGet(acquire.Request{Account: spent})
	<-w.arrived
	w.advance(31 * time.Minute) // past half of the life
	for range 3 {
		if got := w.mustGet(acquire.Request{Account: spent}); !got.FromCache {
			t.Error("the good token is not given")
		}
	}
	if n := w.requests.Load(); n != 1 {
		t.Errorf("got %d requests, want 1: the account has no room", n)
	}
	w.mustGet(acquire.Request{Account: other})
	acquire.WaitFlight(w.acquirer, "vm", resource)
	if n := w.requests.Load(); n != 2 || other.charged.Load() != 1 {
		t.Errorf("got %d requests, and %d charged to the next caller; want 2 and 1", n, other.charged.Load())
	}
}

// Without a request, the account pays that had the token fetched before.
func TestFetchesWithoutARequestAreCharged(t *testing.T) {
	w := newWorld(t)
	go func() { _ = w.acquirer.Run(t.Context()) }()
	rich, spent := newPurse(100), newPurse(1)
	for resource, account := range map[string]*purse{"https://rich": rich, "https://spent": spent} {
		w.mustGet(acquire.Request{Resource: resource, Account: account})
		w.mustGet(acquire.Request{Resource: resource, Account: account})
		<-w.arrived
	}
	w.advance(31 * time.Minute)
	w.ticks <- struct{}{}
	w.ticks <- struct{}{} // the tick before has been taken
	w.ticks <- struct{}{} // and is over
	acquire.WaitFlight(w.acquirer, "vm", "https://rich")
	if r, s := rich.charged.Load(), spent.charged.Load(); r != 2 || s < 2 || w.requests.Load() != 3 {
		t.Errorf("charged %d and %d times for %d requests", r, s, w.requests.Load())
	}
}

// A caller that skips the cache too often for a token does not hold up others that have to, as
// after a challenge of the resource.
func TestSkippingTheCacheIsBoundedByAccount(t *testing.T) {
	w := newWorld(t)
	busy, other := newPurse(1000), newPurse(1000)
	refused := 0
	for range 20 {
		if _, err := w.get(acquire.Request{ForceRefresh: true, Account: busy}); isKind(err, acquire.KindThrottled) {
			refused++
		}
	}
	if refused != 15 {
		t.Errorf("%d of 20 were refused, want 15", refused)
	}
	if _, err := w.get(acquire.Request{ForceRefresh: true, Account: other}); err != nil {
		t.Errorf("another caller is refused, too: %v", err)
	}
}
