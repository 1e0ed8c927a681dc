package engine

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"time"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/internal/advice"
	"github.com/keyagent/keyagent/internal/statedir"
	"github.com/keyagent/keyagent/internal/waiting"
	"github.com/keyagent/keyagent/signer"
	"github.com/keyagent/keyagent/signer/certreq"
	"github.com/keyagent/keyagent/signer/keystore"
	"github.com/keyagent/keyagent/tpm"
)

// applicationKeys opens the named keys whose certificates app registrations trust. It reads the
// directory for each use, so that a rotated or replaced key and an imported certificate are noticed
// without a restart. A key stays open while its directory cannot be read. It is safe for concurrent
// use.
type applicationKeys struct {
	tpm   *tpm.TPM
	store *keystore.Store
	now   func() time.Time
	log   *slog.Logger
	words advice.Words

	lock waiting.Lock                // of what follows
	open map[string]*applicationOpen // by name

	noting waiting.Lock    // of noted and of the files with such notes
	noted  map[string]bool // by x5t#S256: Entra has given a token for it, and that is on disk
}

// applicationOpen is a key in use, and the one before it, which requests under way may still use.
type applicationOpen struct {
	generation int
	key        *signer.Key
	before     *signer.Key
	given      *acquire.ApplicationKey
	unused     bool // since the last look, no request had it and no identity uses it
}

func newApplicationKeys(on *tpm.TPM, store *keystore.Store, opts Options) *applicationKeys {
	return &applicationKeys{
		tpm: on, store: store, now: opts.Now, log: opts.Logger, words: opts.Words,
		lock: waiting.NewLock(), open: map[string]*applicationOpen{},
		noting: waiting.NewLock(), noted: map[string]bool{},
	}
}

// ApplicationKey returns the current generation of a key with its certificate.
func (k *applicationKeys) ApplicationKey(ctx context.Context, name string) (*acquire.ApplicationKey, error) {
	if err := k.lock.Lock(ctx); err != nil {
		return nil, err
	}
	defer k.lock.Unlock()
	given, err := k.current(ctx, name)
	return given, advice.Worded(statedir.Explain(err, name), k.words)
}

func (k *applicationKeys) current(ctx context.Context, name string) (*acquire.ApplicationKey, error) {
	entry, err := k.store.Current(name)
	if errors.Is(err, keystore.ErrNoKey) {
		return nil, MissingKey{err}
	}
	if err != nil {
		return nil, err
	}
	chain, err := k.store.Certificates(entry)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, MissingKey{advice.To(fmt.Errorf("key %q has no certificate yet", name),
			"have an authority issue one (%s), which the application trusts by subject name and issuer, and %s it; with bound: never, one that was made by %s and uploaded will do",
			advice.Run(advice.RequestCertificate, ""), advice.Run(advice.ImportCertificate, ""), advice.Run(advice.SelfSign, ""))}
	}
	if err != nil {
		return nil, err
	}
	open, err := k.opened(ctx, entry)
	if err != nil {
		return nil, err
	}
	open.unused = false
	if err := certreq.CheckCertificate(chain, open.key.Public(), k.now()); err != nil {
		return nil, MissingKey{fmt.Errorf("certificate of key %q: %w", name, err)}
	}
	if open.given == nil || !slices.EqualFunc(open.given.Chain, chain, (*x509.Certificate).Equal) {
		open.given = giveOut(open.key, chain)
		k.log.InfoContext(ctx, "key of an application is in use", "key", name, "generation", entry.Generation,
			"subject", chain[0].Subject.String(), "expires", chain[0].NotAfter)
	}
	return open.given, nil
}

// opened returns the generation, loaded into the TPM. The number of the generation does not
// identify it: a key that was deleted and made again has the same.
func (k *applicationKeys) opened(ctx context.Context, entry keystore.Entry) (*applicationOpen, error) {
	have := k.open[entry.Name]
	if have != nil && have.generation == entry.Generation {
		same, err := k.isOf(have.key, entry)
		if err != nil {
			return nil, err
		}
		if same {
			return have, nil
		}
	}
	key, err := k.store.Open(ctx, entry, signer.Config{TPM: k.tpm, Logger: k.log, Outcome: k.store.Outcome(entry)})
	if err != nil {
		return nil, err
	}
	fresh := &applicationOpen{generation: entry.Generation, key: key}
	if have != nil {
		fresh.before = have.key
		k.retire(have.before)
	}
	k.open[entry.Name] = fresh
	return fresh, nil
}

// isOf reports whether a key is that of the entry's key file.
func (k *applicationKeys) isOf(key *signer.Key, entry keystore.Entry) (bool, error) {
	file, err := k.store.ReadKeyFile(entry)
	if err != nil {
		return false, err
	}
	name, err := file.Name()
	if err != nil {
		return false, fmt.Errorf("key file %s: %w", entry.KeyFile, err)
	}
	return hex.EncodeToString(name) == key.Info().Name, nil
}

// onTPM returns the current generation of a key, loaded, whether or not it has a certificate.
func (k *applicationKeys) onTPM(ctx context.Context, name string) (*tpm.Key, error) {
	if err := k.lock.Lock(ctx); err != nil {
		return nil, err
	}
	defer k.lock.Unlock()
	entry, err := k.store.Current(name)
	if errors.Is(err, keystore.ErrNoKey) {
		err = MissingKey{err}
	}
	if err != nil {
		return nil, advice.Worded(statedir.Explain(err, name), k.words)
	}
	open, err := k.opened(ctx, entry)
	if err != nil {
		return nil, advice.Worded(statedir.Explain(err, name), k.words)
	}
	return open.key.TPMKey(), nil
}

func giveOut(key *signer.Key, chain []*x509.Certificate) *acquire.ApplicationKey {
	schemes := key.ProvenSchemes()
	return &acquire.ApplicationKey{
		Chain:            chain,
		Signer:           key.WithContext,
		SignatureSchemes: schemes,
		PSS:              slices.Contains(schemes, tls.PSSWithSHA256),
		Strength:         acquire.Strength(key.Info().Strength),
	}
}

func (k *applicationKeys) retire(key *signer.Key) {
	if key == nil {
		return
	}
	if err := key.Close(); err != nil {
		k.log.Warn("an application's former key was not unloaded", "cause", err)
	}
}

// unloadUnused unloads the keys that no identity uses any more and that no request had from one
// call to the next. Requests must be shorter than the time between calls.
func (k *applicationKeys) unloadUnused(ctx context.Context, has func(name string) bool) {
	if k.lock.Lock(ctx) != nil {
		return
	}
	defer k.lock.Unlock()
	for name, open := range k.open {
		switch {
		case has(name):
			open.unused = false
		case open.unused:
			k.retire(open.key)
			k.retire(open.before)
			delete(k.open, name)
		default:
			open.unused = true
		}
	}
}

// Close unloads the keys.
func (k *applicationKeys) Close() error {
	k.lock.LockAlways()
	defer k.lock.Unlock()
	for _, open := range k.open {
		k.retire(open.key)
		k.retire(open.before)
	}
	clear(k.open)
	return nil
}

// Replaced reports whether the certificate of a key's current generation is gone or has another
// x5t#S256. It reads files only; one that cannot be read counts as unchanged.
func (k *applicationKeys) Replaced(name, thumbprint string) bool {
	entry, err := k.store.Current(name)
	if err != nil {
		return errors.Is(err, keystore.ErrNoKey)
	}
	chain, err := k.store.Certificates(entry)
	if err != nil {
		return errors.Is(err, fs.ErrNotExist)
	}
	return acquire.Thumbprint(chain[0]) != thumbprint
}

// Accepted notes beside a certificate, once, that Entra has given a token for it, so that a command
// that replaces the certificate can say so. A note that cannot be written now is tried again with
// the next token.
func (k *applicationKeys) Accepted(name string, leaf *x509.Certificate) {
	if !k.noting.TryLock() {
		return // another goroutine does it
	}
	defer k.noting.Unlock()
	thumbprint := acquire.Thumbprint(leaf)
	if k.noted[thumbprint] {
		return
	}
	entry, err := k.store.Current(name)
	if err == nil {
		err = k.store.NoteAccepted(entry, leaf)
	}
	if err != nil {
		k.log.Warn("it could not be noted that Entra accepts a certificate", "key", name, "cause", err)
		return
	}
	k.noted[thumbprint] = true
}

// MissingKey is that a key or its certificate is missing: asking again does not help.
type MissingKey struct{ error }

func (e MissingKey) Unwrap() error { return e.error }

// Refuses reports that the next request would fail in the same way.
func (MissingKey) Refuses() bool { return true }
