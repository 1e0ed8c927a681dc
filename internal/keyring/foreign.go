package keyring

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/keyagent/keyagent/internal/advice"
	"github.com/keyagent/keyagent/internal/secret"
	"github.com/keyagent/keyagent/internal/statedir"
	"github.com/keyagent/keyagent/signer/keystore"
	"github.com/keyagent/keyagent/tpm"
)

// ForeignFile is a key file that another program wrote, with what its owner corrects in it.
type ForeignFile struct {
	Path   string
	Parent uint32 // persistent handle of the key's parent, in place of the one in the file; 0: the file is right
	NoAuth bool   // the key has no authorization value, whatever the file says
}

// read reads the file, and corrects it.
func (f ForeignFile) read(auth AuthSource) (*tpm.KeyFile, error) {
	if f.NoAuth && auth.given() {
		return nil, errAuthTwice
	}
	if f.Parent != 0 && f.Parent>>24 != 0x81 {
		return nil, requestf("the parent 0x%08x is not at a persistent handle, as in %s", f.Parent, statedir.ExampleParent)
	}
	file, err := readForeignKeyFile(f.Path)
	if err != nil {
		return nil, err
	}
	if f.Parent != 0 {
		file.Parent = tpm.Handle(f.Parent)
	}
	file.EmptyAuth = file.EmptyAuth || f.NoAuth
	return file, nil
}

// checkForeign loads a key, which needs no authorization value, and then decides whether it may be
// tried.
func (k *Keyring) checkForeign(ctx context.Context, f ForeignFile, auth AuthSource, file *tpm.KeyFile) error {
	key, err := k.tpm.LoadKey(ctx, file, tpm.LoadOptions{})
	if err != nil {
		return err
	}
	return errors.Join(k.mayTry(ctx, f, auth, file), key.Close())
}

// mayTry says why a key should not be used without its authorization value: only a try shows
// whether it has one, and a TPM counts failed ones and after a few locks the keys of all programs.
// One try is spent, because the file cannot be relied on: tpm2_encodeobject up to 5.7 writes the
// opposite. A second one is not, unless the operator says that there is no value.
func (k *Keyring) mayTry(ctx context.Context, f ForeignFile, auth AuthSource, file *tpm.KeyFile) error {
	d, err := file.Describe()
	if err != nil || f.NoAuth || auth.given() || !d.CountsGuesses {
		return err
	}
	state, err := k.tpm.State(ctx)
	if err != nil || state.Lockout.Spare() {
		return err
	}
	return fmt.Errorf("%w: none was given, and the key was not tried without, because the TPM has counted %d of the %d failed tries after which it locks, and another one would count",
		tpm.ErrAuthValue, state.Lockout.Tries, state.Lockout.Most)
}

// checkGiven refuses to use a key of the store without the authorization value that it is known to
// have, where the TPM would count that.
func (k *Keyring) checkGiven(e keystore.Entry, auth secret.String) error {
	file, err := k.store.ReadKeyFile(e)
	if err != nil || !auth.IsZero() {
		return nil //nolint:nilerr // what opens the file will say so, with more to say
	}
	d, err := file.Describe()
	if err != nil || !d.AuthValue || !d.CountsGuesses {
		return nil //nolint:nilerr // as above
	}
	return fmt.Errorf("key %q: %w: none was given, and the key was not tried without, because the TPM counts failed tries and locks after a few", e.Name, tpm.ErrAuthValue)
}

// explain adds what to do about a foreign key file, which is never to delete it. Use is the command
// that was given this file, and name what the key is to be called.
func (f ForeignFile) explain(err error, name string, use advice.Command) error {
	foreign := errors.Is(err, tpm.ErrForeignTPM)
	if parent, ok := errors.AsType[*tpm.ParentError](err); ok && parent.Gone {
		foreign = true // what to do is the same: to name, or to make, the parent
	}
	use.Flags = append(slices.Clone(use.Flags), advice.Parent.Is(statedir.ExampleParent))
	switch {
	case errors.Is(err, tpm.ErrExportable):
		return advice.To(err, "make a key that cannot leave the TPM: %s", advice.Run(advice.CreateKey, name))
	case errors.Is(err, tpm.ErrAuthValue):
		return advice.To(err, "give the value that the key was made with: %s or %s; or say that it has none: %s", advice.AuthFile, advice.AuthCredential, advice.NoAuth)
	case foreign && f.Parent != 0:
		return advice.To(err, "keep the file, and name the parent that the key was created under: %s", advice.Parent)
	case foreign:
		return advice.To(err, "keep the file; if the key was made on this TPM, make its parent again, with the options that the parent was made with, persistent this time, and name it, as in: "+
			"tpm2_createprimary -C o -G ecc -c parent.ctx && tpm2_evictcontrol -C o -c parent.ctx %[1]s && %[2]s "+
			"(without -G, tpm2_createprimary makes an RSA key; if it was the wrong one, tpm2_evictcontrol -C o -c %[1]s takes it away again); "+
			"a key of another TPM cannot be loaded here", statedir.ExampleParent, use)
	}
	return statedir.Explain(err, name)
}
