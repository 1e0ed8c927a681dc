package acquire

import (
	"fmt"
	"testing"
	"time"
)

func TestCacheIsBoundedAndDropsWhatExpiresFirst(t *testing.T) {
	c := newTokenCache(3)
	now := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	store := func(i int) {
		c.store(cacheKey{resource: fmt.Sprint(i)}, Token{ExpiresOn: now.Add(time.Duration(i) * time.Hour), RefreshOn: now.Add(time.Hour)}, now)
	}
	for _, i := range []int{5, 2, 4, 3} {
		store(i)
	}
	for i, want := range map[int]cacheState{2: cacheMiss, 3: cacheFresh, 4: cacheFresh, 5: cacheFresh} {
		if _, got := c.lookup(cacheKey{resource: fmt.Sprint(i)}, now); got != want {
			t.Errorf("token %d: got state %v, want %v", i, got, want)
		}
	}
	now = now.Add(4 * time.Hour) // tokens 3 and 4 have expired
	store(9)
	if len(c.entries) != 2 {
		t.Errorf("got %d entries, want the two that are still valid", len(c.entries))
	}
}

func TestTokenIsOverWhenEitherClockSaysSo(t *testing.T) {
	start := time.Now() // with a monotonic reading
	c := newTokenCache(10)
	key := cacheKey{resource: "r"}
	c.store(key, Token{ExpiresOn: start.Round(0).Add(time.Hour), RefreshOn: start.Add(time.Hour)}, start)
	for name, now := range map[string]time.Time{
		"both have passed":                            start.Add(time.Hour),
		"the machine slept, the wall clock went on":   start.Round(0).Add(time.Hour),
		"the wall clock was set back, time went by":   start.Add(time.Hour),
		"the wall clock was set forward by the owner": start.Round(0).Add(2 * time.Hour),
	} {
		if _, state := c.lookup(key, now); state != cacheMiss {
			t.Errorf("%s: the token is still served", name)
		}
	}
	if _, state := c.lookup(key, start.Add(time.Hour-time.Second)); state != cacheFresh {
		t.Error("the token is gone before its time")
	}
}

func TestFailureMemoryIsBounded(t *testing.T) {
	m := newFailureMemory(10)
	now := time.Now()
	for i := range 1000 {
		m.remember(cacheKey{resource: fmt.Sprint(i)}, &Error{Kind: KindRefused}, now)
	}
	if len(m.entries) > 10 {
		t.Errorf("got %d entries, want at most 10", len(m.entries))
	}
}

func TestCacheKeysDoNotRunIntoEachOther(t *testing.T) {
	a := cacheKey{identity: "a", resource: "b", tokenType: "c"}.String()
	for _, k := range []cacheKey{{"ab", "", "c"}, {"a", "bc", ""}, {"", "ab", "c"}} {
		if k.String() == a {
			t.Errorf("%+v reads like another key", k)
		}
	}
}
