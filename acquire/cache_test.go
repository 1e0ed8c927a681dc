package acquire

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyagent/keyagent/internal/waiting"
)

func TestTheCacheIsBoundedAndDropsTheLeastRecentlyUsed(t *testing.T) {
	c := newTokenCache(3)
	now := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	key := func(i int) cacheKey { return cacheKey{resource: fmt.Sprint(i)} }
	store := func(i int) {
		c.store(key(i), cacheEntry{token: Token{ExpiresOn: now.Add(time.Hour), RefreshOn: now.Add(time.Hour)}}, now)
	}
	for i := range 3 {
		store(i)
	}
	c.lookup(key(0), now)
	store(3)
	for i, want := range []cacheState{cacheFresh, cacheMiss, cacheFresh, cacheFresh} {
		if _, got := c.lookup(key(i), now); got != want {
			t.Errorf("token %d: got state %v, want %v", i, got, want)
		}
	}
	store(3)
	if len(c.entries) != 3 || c.order.Len() != 3 {
		t.Errorf("got %d entries in %d places, want 3", len(c.entries), c.order.Len())
	}
	if keys, _ := c.due(now.Add(time.Hour), 10); len(keys) != 0 || len(c.entries) != 0 {
		t.Errorf("got %v due and %d entries, want none: all have expired", keys, len(c.entries))
	}
}

func TestOnlyTokensInUseAreFetchedAhead(t *testing.T) {
	c := newTokenCache(10)
	now := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	for _, name := range []string{"used", "unused", "young"} {
		refresh := now.Add(time.Minute)
		if name == "young" {
			refresh = now.Add(time.Hour)
		}
		c.store(cacheKey{resource: name}, cacheEntry{token: Token{ExpiresOn: now.Add(2 * time.Hour), RefreshOn: refresh}}, now)
	}
	c.lookup(cacheKey{resource: "used"}, now)
	c.lookup(cacheKey{resource: "young"}, now)
	now = now.Add(2 * time.Minute)
	if keys, _ := c.due(now, 10); len(keys) != 1 || keys[0].resource != "used" {
		t.Errorf("got %v due, want the one that is in use and whose time has come", keys)
	}
	c.postpone(cacheKey{resource: "used"}, now, time.Minute)
	if keys, _ := c.due(now.Add(refreshPause), 10); len(keys) != 0 {
		t.Errorf("got %v due although a pause of a minute was asked for", keys)
	}
	if keys, _ := c.due(now.Add(time.Minute), 10); len(keys) != 1 {
		t.Errorf("got %v due after the pause, want one", keys)
	}
}

func TestATokenGoesWithTheCertificateThatItIsBoundTo(t *testing.T) {
	c := newTokenCache(10)
	now := time.Now()
	inUse := true
	c.store(cacheKey{}, cacheEntry{token: Token{ExpiresOn: now.Add(time.Hour), RefreshOn: now.Add(time.Hour)}, bound: func() bool { return inUse }}, now)
	if _, state := c.lookup(cacheKey{}, now); state != cacheFresh {
		t.Errorf("got state %v while the certificate is in use", state)
	}
	inUse = false
	if _, state := c.lookup(cacheKey{}, now); state != cacheMiss {
		t.Errorf("got state %v after the certificate was replaced", state)
	}
}

func TestTokenIsOverWhenEitherClockSaysSo(t *testing.T) {
	start := time.Now() // with a monotonic reading
	c := newTokenCache(10)
	key := cacheKey{resource: "r"}
	token := Token{ExpiresOn: start.Round(0).Add(time.Hour), RefreshOn: start.Add(time.Hour)}
	for name, now := range map[string]time.Time{
		"both have passed":                            start.Add(time.Hour),
		"the machine slept, the wall clock went on":   start.Round(0).Add(time.Hour),
		"the wall clock was set back, time went by":   start.Add(time.Hour),
		"the wall clock was set forward by the owner": start.Round(0).Add(2 * time.Hour),
	} {
		c.store(key, cacheEntry{token: token}, start)
		if _, state := c.lookup(key, now); state != cacheMiss {
			t.Errorf("%s: the token is still served", name)
		}
	}
	c.store(key, cacheEntry{token: token}, start)
	if _, state := c.lookup(key, start.Add(time.Hour-time.Second)); state != cacheFresh {
		t.Error("the token is gone before its time")
	}
}

func TestFailureMemoryIsBounded(t *testing.T) {
	m := newFailureMemory(10)
	now := time.Now()
	for i := range 1000 {
		m.remember(cacheKey{resource: fmt.Sprint(i)}, client{}, &Error{Kind: KindRefused}, now)
	}
	if len(m.entries) > 10 {
		t.Errorf("got %d entries, want at most 10", len(m.entries))
	}
}

func TestCacheKeysDoNotRunIntoEachOther(t *testing.T) {
	a := cacheKey{identity: "a", resource: "b", tokenType: "c"}.String()
	for _, k := range []cacheKey{{"ab", "", "c", "", 0}, {"a", "bc", "", "", 0}, {"", "ab", "c", "", 0}, {"a", "b", "", "c", 0}, {"a", "b", "c", "", 1}} {
		if k.String() == a {
			t.Errorf("%+v reads like another key", k)
		}
	}
}

// An hour in which nobody asks for anything: a token that is in use and due is found within a tick,
// and the machine is woken once a minute otherwise.
func TestAnIdleHourHasFewTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := 0
		a := &Acquirer{cache: newTokenCache(10), cfg: Config{Now: time.Now, Wait: func(ctx context.Context, d time.Duration) error {
			turns++
			return waiting.Sleep(ctx, d)
		}}}
		a.roster.Store(&Roster{acquirer: a}) // without the identity, so that what is due is not fetched
		begun, used := time.Now(), cacheKey{resource: "used"}
		due := begun.Add(30*time.Minute + 25*time.Second)
		a.cache.store(used, cacheEntry{token: Token{ExpiresOn: begun.Add(2 * time.Hour), RefreshOn: due}}, begun)
		a.cache.store(cacheKey{resource: "expires"}, cacheEntry{token: Token{ExpiresOn: begun.Add(50*time.Minute + 5*time.Second), RefreshOn: begun.Add(time.Minute)}}, begun)
		a.cache.lookup(used, begun)
		refreshOn := func() time.Time {
			a.cache.mu.Lock()
			defer a.cache.mu.Unlock()
			return a.cache.entries[used].Value.(*cacheEntry).refreshOn
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- a.Run(ctx) }()
		waitUntil := func(at time.Time) {
			<-time.After(time.Until(at))
			synctest.Wait()
		}
		waitUntil(due.Add(-time.Second))
		if !refreshOn().Equal(due) {
			t.Error("the token was taken for due before its time")
		}
		if waitUntil(due.Add(refreshTick)); !refreshOn().After(due) {
			t.Error("the token was not found within a tick")
		}
		a.cache.postpone(used, time.Now(), 2*time.Hour) // as if the next one had come
		if waitUntil(begun.Add(50*time.Minute + 5*time.Second + refreshTick)); len(a.cache.entries) != 1 {
			t.Error("a token that has expired is still there a tick later")
		}
		waitUntil(begun.Add(time.Hour))
		if most := 65; turns > most {
			t.Errorf("%d turns in an hour, want %d at most", turns, most)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
