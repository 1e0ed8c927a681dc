package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"sync"
	"testing"
	"time"
)

// clock is a time that the test sets.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

func testNonces(t *testing.T, most int) (*nonces, *clock) {
	t.Helper()
	c := &clock{at: time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)}
	n, err := newNonces(time.Minute, most, c.now)
	if err != nil {
		t.Fatal(err)
	}
	return n, c
}

func issue(t *testing.T, n *nonces) []byte {
	t.Helper()
	nonce, err := n.issue()
	if err != nil {
		t.Fatal(err)
	}
	return nonce
}

func TestANonceCountsOnce(t *testing.T) {
	t.Parallel()
	n, c := testNonces(t, 10)
	nonce := issue(t, n)
	if at, err := n.issued(nonce); err != nil || !at.Equal(c.now()) {
		t.Errorf("made at %v, %v", at, err)
	}
	if err := n.use(nonce); err != nil {
		t.Fatal(err)
	}
	for range 3 { // whichever memory it is in
		if err := n.use(nonce); !errors.Is(err, errNonce) {
			t.Errorf("used again: %v", err)
		}
		c.pass(25 * time.Second)
	}
}

func TestOnlyOneOfManyConcurrentUsesOfANonceSucceeds(t *testing.T) {
	t.Parallel()
	n, _ := testNonces(t, 10)
	nonce := issue(t, n)
	var wg sync.WaitGroup
	used := make(chan bool, 20)
	for range cap(used) {
		wg.Go(func() { used <- n.use(nonce) == nil })
	}
	wg.Wait()
	close(used)
	count := 0
	for ok := range used {
		if ok {
			count++
		}
	}
	if count != 1 {
		t.Errorf("used %d times", count)
	}
}

func TestANonceCountsForATime(t *testing.T) {
	t.Parallel()
	n, c := testNonces(t, 10)
	nonce := issue(t, n)
	c.pass(time.Minute)
	if _, err := n.issued(nonce); err != nil {
		t.Error(err)
	}
	c.pass(time.Millisecond)
	if _, err := n.issued(nonce); !errors.Is(err, errNonce) {
		t.Errorf("expired: %v", err)
	}
	c.pass(-time.Hour)
	if err := n.use(nonce); !errors.Is(err, errNonce) {
		t.Errorf("of the future: %v", err)
	}
}

func TestOnlyOurOwnNoncesCount(t *testing.T) {
	t.Parallel()
	n, _ := testNonces(t, 10)
	other, _ := testNonces(t, 10)
	nonce := issue(t, n)
	for name, bad := range map[string][]byte{
		"none": nil, "zeros": make([]byte, nonceSize), "short": nonce[:nonceSize-1], "long": append(bytes.Clone(nonce), 0),
		"another verifier's": issue(t, other),
	} {
		if _, err := n.issued(bad); !errors.Is(err, errNonce) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for i := range nonce {
		changed := bytes.Clone(nonce)
		changed[i] ^= 1
		if _, err := n.issued(changed); !errors.Is(err, errNonce) {
			t.Errorf("byte %d changed: %v", i, err)
		}
	}
}

func TestTheMemoryOfNoncesIsBounded(t *testing.T) {
	t.Parallel()
	n, c := testNonces(t, 3)
	for range 3 {
		if err := n.use(issue(t, n)); err != nil {
			t.Fatal(err)
		}
	}
	nonce := issue(t, n)
	if err := n.use(nonce); !errors.Is(err, errBusy) {
		t.Errorf("a fourth: %v", err)
	}
	c.pass(61 * time.Second)
	_ = n.use(issue(t, n)) // those of before stay for one life more
	c.pass(61 * time.Second)
	if err := n.use(issue(t, n)); err != nil {
		t.Errorf("when the others have expired: %v", err)
	}
	if kept := len(n.used) + len(n.before); kept > 3 {
		t.Errorf("%d are remembered", kept)
	}
}

// TestAgesAreCountedFromTheStart: a wall-clock time in a nonce would have its age follow a clock
// that is set back, while used nonces are forgotten by the monotonic clock.
func TestAgesAreCountedFromTheStart(t *testing.T) {
	t.Parallel()
	n, c := testNonces(t, 10)
	c.pass(1500 * time.Millisecond)
	if at := binary.BigEndian.Uint64(issue(t, n)); at != 1500 {
		t.Errorf("made at %d ms", at)
	}
}
