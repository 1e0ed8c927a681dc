package tpm

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"slices"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyagent/keyagent/tpm/internal/device"
)

// missPause is for how long a search is not repeated that found nothing, unless something changes:
// it makes all primaries that are known, many seconds' work for some TPMs, while nobody else can
// use it.
const missPause = 30 * time.Second

// maxVainSearches bounds how many searches are remembered.
const maxVainSearches = 256

// miss is a search that found nothing.
type miss struct {
	err     error // what it ended with
	until   time.Time
	epoch   device.Epoch
	handles []tpm2.TPMHandle // the persistent handles that were in use
}

// misses are searches that found nothing, by soughtRoot or soughtParent.
type misses map[[sha256.Size]byte]miss

// soughtRoot identifies a search for a storage root by its Name.
func soughtRoot(name []byte) [sha256.Size]byte { return sha256.Sum256(append([]byte("root"), name...)) }

// soughtParent identifies a search for the parent of a key file, whose Name may be nil.
func (f *KeyFile) soughtParent(parent []byte) [sha256.Size]byte {
	h := sha256.New()
	for _, part := range [][]byte{[]byte("parent"), binary.BigEndian.AppendUint32(nil, uint32(f.Parent)), f.Public, f.Private, parent} {
		h.Write(tpm2.Marshal(tpm2.TPM2BData{Buffer: part}))
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// missed returns how a search ended a short while ago, if it would end like that again; else nil.
func (t *turn) missed(sought [sha256.Size]byte) error {
	known := &t.tpm.known
	m, ok := known.misses[sought]
	if !ok {
		return nil
	}
	if known.now().Before(m.until) && m.epoch == t.Epoch() {
		handles, err := storageHandles(t)
		if err == nil && m.epoch == t.Epoch() && slices.Equal(handles, m.handles) {
			return m.err
		}
	}
	delete(known.misses, sought)
	return nil
}

// miss remembers how a search ended, if all places were looked into, or will not be at the next
// call either.
func (t *turn) miss(sought [sha256.Size]byte, s *search, err error) {
	parent, ok := errors.AsType[*ParentError](err)
	if ok && parent.Found || !ok && !errors.Is(err, ErrForeignTPM) || s.blind {
		return
	}
	if len(t.tpm.known.misses) >= maxVainSearches {
		clear(t.tpm.known.misses)
	}
	t.tpm.known.misses[sought] = miss{
		err: err, until: t.tpm.known.now().Add(missPause), epoch: t.Epoch(), handles: slices.Clone(s.listed),
	}
}
