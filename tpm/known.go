package tpm

import (
	"time"
)

// known has the facts found about storage keys. It belongs to the turn.
type known struct {
	root      []byte // Name of the storage root, once it is known
	rootNoted bool   // it was known before this process began

	parents map[string]place  // by Name: where storage keys were found last
	locked  map[objectAt]bool // storage keys that have passwords of their own
	counted map[objectAt]bool // those that were tried where a wrong password counts: true, it has none; false, it has
	misses  misses
	now     func() time.Time
}

func newKnown(root []byte) known {
	return known{
		root: root, rootNoted: root != nil,
		parents: make(map[string]place),
		locked:  make(map[objectAt]bool),
		counted: make(map[objectAt]bool),
		misses:  make(misses),
		now:     time.Now,
	}
}
