package appsecret

import (
	"crypto/sha256"
	"sync"

	"github.com/keyagent/keyagent/internal/secret"
)

// maxKept bounds how many secrets are kept between connections. Each holds a descriptor.
const maxKept = 64

// opened is an authentic secret, with the process that it ends with.
type opened struct {
	text    secret.String
	holder  Holder
	process Watched // nil: it has ended, or the secret does not end with a process
}

func (o *opened) close() error {
	if o.process == nil {
		return nil
	}
	return o.process.Close()
}

// kept are secrets that no connection shows now, for the next connection that does. Programs that
// make a connection for each request are usual, and to find a secret's process anew takes as long
// as the rest of the answer. A process is watched meanwhile, so that another one with its number is
// not taken for it. It is safe for concurrent use.
type kept struct {
	mu     sync.Mutex
	closed bool
	of     map[[sha256.Size]byte]*opened // by digests of their texts
}

// take returns the secret with a text, which is not kept any more; nil: it was not.
func (k *kept) take(text string) *opened {
	digest := sha256.Sum256([]byte(text))
	k.mu.Lock()
	defer k.mu.Unlock()
	o := k.of[digest]
	delete(k.of, digest)
	return o
}

// put keeps a secret, or lets go of its process: that has ended, the secret is kept already, or
// nothing is kept any more. If there are too many, some other one is let go.
func (k *kept) put(o *opened) error {
	if o.process == nil || !o.process.Running() {
		return o.close()
	}
	digest := sha256.Sum256([]byte(o.text.Reveal()))
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.of[digest] != nil || k.closed {
		return o.close()
	}
	for other := range k.of {
		if len(k.of) < maxKept {
			break
		}
		_ = k.of[other].close() // it was only watched
		delete(k.of, other)
	}
	if k.of == nil {
		k.of = map[[sha256.Size]byte]*opened{}
	}
	k.of[digest] = o
	return nil
}

// close lets go of all.
func (k *kept) close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.closed = true
	for _, o := range k.of {
		_ = o.close()
	}
	k.of = nil
}
