package keystore

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/keyagent/keyagent/tpm"
)

// checkPersistent finds out whether a persistent place can be had, before a key is made for it. 0 is none.
func checkPersistent(ctx context.Context, on *tpm.TPM, h tpm.Handle) error {
	if h == 0 {
		return nil
	}
	if err := tpm.CheckPersistentHandle(h); err != nil {
		return err
	}
	name, err := on.NameAt(ctx, h)
	if err == nil && name != nil {
		err = fmt.Errorf("another object is at persistent handle 0x%08x: choose another handle", uint32(h))
	}
	return err
}

// Place is where a generation is to be looked for in the TPM, 0 for nowhere. The place of the generation in use is no other's: it
// is handed over at the end of a rotation.
func (s *Store) Place(e Entry) tpm.Handle {
	if e.Persistent == 0 {
		return 0
	}
	current, err := s.Current(e.Name)
	if err == nil && e.Generation != current.Generation && e.Persistent == current.Persistent {
		return 0
	}
	return e.Persistent
}

// persist puts a new generation into its persistent place. If that cannot be had, the generation is removed: who asked for the place
// shall not find a key without it, and can ask again.
func (s *Store) persist(ctx context.Context, on *tpm.TPM, e Entry, file *tpm.KeyFile, options KeyOptions) error {
	if options.Persistent == 0 {
		return nil
	}
	k, err := on.LoadKey(ctx, file, tpm.LoadOptions{AuthValue: options.AuthValue})
	if err == nil {
		err = errors.Join(k.Persist(ctx, options.Persistent), k.Close())
	}
	if err == nil {
		return nil
	}
	return errors.Join(err, s.removeGeneration(context.WithoutCancel(ctx), opened(on), e))
}

// unpersist removes a key from its persistent place. Another object in that place is left alone, and does not keep anybody from
// removing this key.
func (s *Store) unpersist(ctx context.Context, reach Reach, e Entry) error {
	if err := e.CheckNotes(); err != nil {
		return err
	}
	if e.Persistent == 0 {
		return nil
	}
	file, err := s.ReadKeyFile(e)
	if unread(err) {
		return fmt.Errorf("key %q is at persistent handle 0x%08x, and would be left there: %w", e.Name, uint32(e.Persistent), err)
	}
	if err != nil {
		s.log.Warn("a persistent key may be left in the TPM: its file cannot be read", "handle", fmt.Sprintf("0x%08x", uint32(e.Persistent)), "cause", err)
		return nil
	}
	name, err := file.Name()
	if err != nil {
		return err
	}
	on, err := reach(ctx)
	if err != nil {
		return err
	}
	there, err := on.NameAt(ctx, e.Persistent)
	if err != nil || !bytes.Equal(there, name) {
		return err
	}
	return on.Unpersist(ctx, e.Persistent, name)
}
