package main

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"sync"
	"time"
)

const (
	nonceLife = 2 * time.Minute
	maxUsed   = 100_000 // nonces that count as used at a time: some ten megabytes
)

// Parts of a nonce, in bytes: when it was made, what nobody can guess, and what shows that it was
// made here. Together they fit the 64 bytes that evidence takes.
const (
	timeSize   = 8
	randomSize = 16
	macSize    = sha256.Size
	nonceSize  = timeSize + randomSize + macSize
)

// errNonce says no more to whoever tries than that another nonce is needed.
var errNonce = errors.New("the nonce was not made here, has expired or was used already: ask for another")

// errBusy says that there is no room to remember another used nonce.
var errBusy = errors.New("too much evidence at a time: try again")

// nonces makes nonces that count once and for a time. To hand one out takes no memory, so that
// nobody can fill it by asking; only nonces used by verified evidence are remembered. It is safe
// for concurrent use.
//
// A verifier of several processes needs one memory for all of them, or evidence could be used once
// with each.
type nonces struct {
	key  []byte
	life time.Duration
	most int
	now  func() time.Time
	// start is what all ages are counted from. With time.Now that is the monotonic clock: a clock
	// that is set back must not make a nonce count again that is no longer remembered as used.
	start time.Time

	mu       sync.Mutex
	used     map[[nonceSize]byte]bool // since turned
	before   map[[nonceSize]byte]bool // in the life before
	turnedAt time.Duration            // since start
}

func newNonces(life time.Duration, most int, now func() time.Time) (*nonces, error) {
	n := &nonces{key: make([]byte, sha256.Size), life: life, most: most, now: now, start: now(), used: map[[nonceSize]byte]bool{}}
	_, err := rand.Read(n.key)
	return n, err
}

// elapsed is the time since start.
func (n *nonces) elapsed() time.Duration { return n.now().Sub(n.start) }

// issue makes a nonce.
func (n *nonces) issue() ([]byte, error) {
	nonce := binary.BigEndian.AppendUint64(nil, uint64(n.elapsed().Milliseconds())) //nolint:gosec // not negative
	nonce = append(nonce, make([]byte, randomSize)...)
	if _, err := rand.Read(nonce[timeSize:]); err != nil {
		return nil, err
	}
	return append(nonce, n.mac(nonce)...), nil
}

func (n *nonces) mac(b []byte) []byte {
	h := hmac.New(sha256.New, n.key)
	h.Write(b)
	return h.Sum(nil)
}

// issued returns when a nonce was made, if it was made here and still counts.
func (n *nonces) issued(nonce []byte) (time.Time, error) {
	if len(nonce) != nonceSize || !hmac.Equal(n.mac(nonce[:nonceSize-macSize]), nonce[nonceSize-macSize:]) {
		return time.Time{}, errNonce
	}
	at := time.Duration(binary.BigEndian.Uint64(nonce)) * time.Millisecond //nolint:gosec // made by issue
	age := n.elapsed() - at
	if age < 0 || age > n.life {
		return time.Time{}, errNonce
	}
	return n.now().Add(-age), nil
}

// use makes a nonce count no more. Of two who use it at once, one gets the error.
func (n *nonces) use(nonce []byte) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, err := n.issued(nonce); err != nil {
		return err
	}
	if now := n.elapsed(); now-n.turnedAt > n.life { // none of those before can count any more
		n.used, n.before, n.turnedAt = map[[nonceSize]byte]bool{}, n.used, now
	}
	id := [nonceSize]byte(nonce)
	switch {
	case n.used[id] || n.before[id]:
		return errNonce
	case len(n.used)+len(n.before) >= n.most:
		return errBusy
	}
	n.used[id] = true
	return nil
}
