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

func TestCacheKeysDoNotRunIntoEachOther(t *testing.T) {
	a := cacheKey{identity: "a", resource: "b", tokenType: "c"}.String()
	for _, k := range []cacheKey{{"ab", "", "c"}, {"a", "bc", ""}, {"", "ab", "c"}} {
		if k.String() == a {
			t.Errorf("%+v reads like another key", k)
		}
	}
}
