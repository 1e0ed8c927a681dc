package signer

import (
	"context"
	"slices"
	"time"
)

// refusalPause is how long the TPM's refusal to sign with a form and a hash holds. It bounds what
// signatures that the TPM does not know cost it: a command a minute each, six in all at most.
const refusalPause = time.Minute

// offered returns the schemes that the key can sign with, as far as is known now.
func (k *Key) offered() offer { return *k.offer.Load() }

// want tries out a form with a hash, if nobody did before, and keeps the outcome. What the key
// cannot sign with is no error: the offer does not have it then. What the TPM refused is tried
// again when it is wanted after a pause.
func (k *Key) want(ctx context.Context, t trial) error {
	if _, known := k.offered()[t]; known || !slices.Contains(trialsOf(k.public), t) {
		return nil
	}
	if err := k.trying.Lock(ctx); err != nil {
		return err
	}
	defer k.trying.Unlock()
	if _, known := k.offered()[t]; known || k.refusedLately(t) {
		return nil
	}
	o, err := k.find(ctx, k.offered(), t)
	if err != nil {
		return err
	}
	if _, shown := o[t]; shown {
		k.offer.Store(&o)
		k.kept.save(o)
	}
	return nil
}

func (k *Key) refusedLately(t trial) bool {
	at, was := k.refused[t]
	return was && k.now().Sub(at) < refusalPause
}
