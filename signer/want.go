package signer

import (
	"context"
	"slices"
)

// offered returns what is known now of what the key can sign with.
func (k *Key) offered() offer { return *k.offer.Load() }

// want tries out a form with a hash, if nobody did before, and keeps the outcome. What the key
// cannot sign with is no error: the offer says so then.
func (k *Key) want(ctx context.Context, t trial) error {
	if _, known := k.offered()[t]; known || !slices.Contains(trialsOf(k.public), t) {
		return nil
	}
	if err := k.trying.Lock(ctx); err != nil {
		return err
	}
	defer k.trying.Unlock()
	if _, known := k.offered()[t]; known {
		return nil
	}
	found, err := k.try(ctx, t)
	if err != nil {
		return err
	}
	o := k.offered().with(t, found)
	k.offer.Store(&o)
	k.kept.save(o)
	return nil
}
