package keystore

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/keyagent/keyagent/tpm"
)

// checkPersistent checks that a persistent handle is valid and free, before a key is made for it. 0
// stands for none.
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

// Place returns the persistent handle at which to look for a generation in the TPM, 0 for none. A
// next generation that is to have the handle of the current one gets it at the end of the rotation
// only.
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

// persist puts a new generation at its persistent handle. If that fails, it removes the generation:
// a caller that asked for the handle must not get a key without it, and can try again.
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

// unpersist removes a key from its persistent handle. Another object at that handle is left alone,
// and is no error.
func (s *Store) unpersist(ctx context.Context, open OpenTPM, e Entry) error {
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
	on, err := open(ctx)
	if err != nil {
		return err
	}
	there, err := on.NameAt(ctx, e.Persistent)
	if err != nil || !bytes.Equal(there, name) {
		return err
	}
	return on.Unpersist(ctx, e.Persistent, name)
}
