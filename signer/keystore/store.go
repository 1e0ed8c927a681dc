package keystore

import (
	"cmp"
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/keyagent/keyagent/internal/pemfile"
	"github.com/keyagent/keyagent/internal/statefile"
	"github.com/keyagent/keyagent/signer"
	"github.com/keyagent/keyagent/signer/certreq"
	"github.com/keyagent/keyagent/tpm"
)

// Store keeps named keys with their certificates in a directory:
//
//	NAME/1.key.pem    key file of generation 1: written once, never overwritten
//	NAME/1.json       what the key file does not say (see record); a key works without it
//	NAME/1.cert.pem   certificate chain for that key, the leaf first; replaced in one step
//	NAME/1.cert.pem.replaced-1, -2, …
//	                  what was replaced, the last 16
//	NAME/1.accepted.json
//	                  for which of these certificates Entra has given a token, and since when
//	NAME/1.tested.json
//	                  outcome of the key's self-test, for one TPM and firmware; see Outcome
//	NAME/2.…          the next generation, beside the first
//	NAME/2.certificates/
//	                  certificates obtained with it before it is in use; see Stage
//	NAME/current      number of the generation in use; no file means 1
//	.lock             locked (flock(2)) while something is changed; its content does not matter
//
// A rotation makes a generation beside the current one, gives it a certificate, tries both, and
// then replaces current: at each moment, and after a power cut at each moment, key and certificate
// of one generation are in use together. The old generation stays until the next rotation begins.
//
// A Store is safe for concurrent use, also by several processes. Reading needs no lock: each file
// is whole, and the files of a generation exist before current names it. A change takes the lock,
// and checks under it that its preconditions still hold.
type Store struct {
	dir    string
	now    func() time.Time
	log    *slog.Logger
	before func(ctx context.Context, on *tpm.TPM) error

	waiting func(what string) (over func())
}

// Config configures a [Store].
type Config struct {
	StateDir string           // has the directory keys, made with mode 0700 if missing; a more open one is refused
	Now      func() time.Time // nil means time.Now
	Logger   *slog.Logger     // nil: no log
	// Waiting is called with what the store waits for, and its result when the wait is over. Nil:
	// not called.
	Waiting func(what string) (over func())
	// BeforeKey is called after a key was made, or accepted for adoption, and before its file is
	// written. Its error prevents that. Nil: not called.
	BeforeKey func(ctx context.Context, on *tpm.TPM) error
}

// Dir is the directory of a state directory that has the keys.
const Dir = "keys"

// ErrNoKey means that there is no key of that name.
var ErrNoKey = errors.New("there is no such key")

// ErrGenerationMissing means that a key has generations, but not the one that is in use. It is an
// [ErrNoKey].
var ErrGenerationMissing = fmt.Errorf("%w: the generation in use is missing", ErrNoKey)

// ErrKeyExists means that there is a key of that name.
var ErrKeyExists = errors.New("there is such a key already")

// Open opens the keys of a state directory. If there is none yet, it holds no keys, and is made
// with the first one.
func Open(cfg Config) (*Store, error) {
	s := &Store{dir: filepath.Join(cfg.StateDir, Dir), now: cfg.Now, log: cfg.Logger, before: cfg.BeforeKey, waiting: cfg.Waiting}
	if s.waiting == nil {
		s.waiting = func(string) func() { return func() {} }
	}
	if s.before == nil {
		s.before = func(context.Context, *tpm.TPM) error { return nil }
	}
	if s.now == nil {
		s.now = time.Now
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if _, err := os.Lstat(s.dir); errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	return s, statefile.EnsureDir(s.dir)
}

// KeyOptions say what key to make, and at which persistent handle it is kept besides its file.
type KeyOptions struct {
	tpm.KeyOptions
	Persistent tpm.Handle // 0: at none
}

// nameForm is the form of a key's name, which becomes that of a directory.
var nameForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// CheckName returns an error for a name that no key can have.
func CheckName(name string) error {
	if !nameForm.MatchString(name) {
		return fmt.Errorf("key name %.100q: use lower-case letters, digits and inner hyphens, at most 63", name)
	}
	return nil
}

// Names lists the keys in alphabetical order.
func (s *Store) Names() ([]string, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("listing the keys: %w", err)
	}
	var names []string
	for _, e := range entries {
		if !e.IsDir() || CheckName(e.Name()) != nil {
			continue
		}
		// A directory without a key file was left by a crash while a key was being made.
		if numbers, err := s.numbers(e.Name()); err != nil || len(numbers) > 0 {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// Create makes a key. The error is [ErrKeyExists] if there is one of that name. If the key cannot
// be put at its persistent handle, no key is left.
func (s *Store) Create(ctx context.Context, on *tpm.TPM, name string, options KeyOptions) (Entry, error) {
	if _, err := s.vacant(name); err != nil {
		return Entry{}, err
	}
	if err := checkPersistent(ctx, on, options.Persistent); err != nil {
		return Entry{}, err
	}
	file, err := on.CreateKey(ctx, options.KeyOptions) // without the lock: it can take a minute
	if err != nil {
		return Entry{}, err
	}
	return s.add(ctx, on, name, file, options)
}

// Adopt makes a named key of a key file that another program made. The key is opened and tested
// first: one that could leave the TPM is refused with [tpm.ErrExportable]. Of the options, only the
// authorization value and the persistent handle are used.
func (s *Store) Adopt(ctx context.Context, on *tpm.TPM, name string, file *tpm.KeyFile, options KeyOptions) (Entry, error) {
	if _, err := s.vacant(name); err != nil {
		return Entry{}, err
	}
	if err := checkPersistent(ctx, on, options.Persistent); err != nil {
		return Entry{}, err
	}
	cfg := signer.Config{TPM: on, KeyFile: name, Logger: s.log, AnyAttributes: true, Options: options.KeyOptions}
	key, err := signer.OpenFile(ctx, cfg, file)
	if err != nil {
		return Entry{}, fmt.Errorf("the key cannot be adopted: %w", err)
	}
	defer key.Close()
	known := *file
	known.EmptyAuth = options.AuthValue.IsZero() // it is known now; files of other programs have been seen to say the opposite
	known.ParentName = key.TPMKey().ParentName()
	return s.add(ctx, on, name, &known, options)
}

// vacant returns the generation that a new key of this name becomes: the one that current names. An
// operator may have moved its key file away to get another key.
func (s *Store) vacant(name string) (Entry, error) {
	if err := CheckName(name); err != nil {
		return Entry{}, err
	}
	n, err := s.current(name)
	if err != nil {
		return Entry{}, err
	}
	e := s.entry(name, n)
	if e.exists() {
		return Entry{}, fmt.Errorf("key %q: %w: rotate it, or choose another name", name, ErrKeyExists)
	}
	e.Current = true
	return e, nil
}

// add stores a key file under a name that has no key.
func (s *Store) add(ctx context.Context, on *tpm.TPM, name string, file *tpm.KeyFile, options KeyOptions) (Entry, error) {
	unlock, err := s.lock(ctx)
	if err != nil {
		return Entry{}, err
	}
	defer unlock()
	e, err := s.vacant(name)
	if err != nil {
		return Entry{}, err
	}
	if err := s.before(ctx, on); err != nil {
		return Entry{}, err
	}
	if e, err = s.write(e, file, options.Persistent); err != nil {
		return Entry{}, err
	}
	return e, s.persist(ctx, on, e, file, options)
}

// write writes the files of a generation. The notes come first: a generation exists once it has a
// key file.
func (s *Store) write(e Entry, file *tpm.KeyFile, persistent tpm.Handle) (Entry, error) {
	if err := statefile.EnsureDir(s.path(e.Name)); err != nil {
		return Entry{}, err
	}
	// A certificate that is here already belongs to a key that is gone.
	if err := s.removeCertificates(e); err != nil {
		return Entry{}, err
	}
	if err := newRecord(s.now(), persistent, file).write(e.notesFile()); err != nil {
		return Entry{}, err
	}
	if err := statefile.WriteNew(e.KeyFile, file.Encode()); err != nil {
		return Entry{}, err
	}
	made := s.entry(e.Name, e.Generation)
	made.Current = e.Current
	return made, nil
}

// Open loads a generation. It fills in the fields of cfg that the store knows: key file, persistent
// handle, PCR values and parent. Close the key.
func (s *Store) Open(ctx context.Context, e Entry, cfg signer.Config) (*signer.Key, error) {
	cfg.KeyFile, cfg.MustExist = e.KeyFile, true
	cfg.Persistent, cfg.PCRValues, cfg.ParentName = s.Place(e), e.PCRValues, e.ParentName
	cfg.Logger = cmp.Or(cfg.Logger, s.log)
	return signer.Open(ctx, cfg)
}

// OpenOrCreate opens the current generation of a key. If there is no key, it makes one first.
func (s *Store) OpenOrCreate(ctx context.Context, on *tpm.TPM, name string, options KeyOptions, cfg signer.Config) (*signer.Key, Entry, error) {
	e, err := s.Current(name)
	if errors.Is(err, ErrNoKey) {
		e, err = s.Create(ctx, on, name, options)
		cfg.Created = err == nil
		if errors.Is(err, ErrKeyExists) { // another process made one first
			e, err = s.Current(name)
		}
	}
	if err != nil {
		return nil, Entry{}, err
	}
	cfg.TPM, cfg.Options, cfg.Outcome = on, options.KeyOptions, s.Outcome(e)
	k, err := s.Open(ctx, e, cfg)
	if err != nil {
		return nil, Entry{}, err
	}
	return k, e, nil
}

// ReadKeyFile reads the key file of a generation, without a TPM.
func (s *Store) ReadKeyFile(e Entry) (*tpm.KeyFile, error) { return signer.ReadKeyFile(e.KeyFile) }

// Certificates reads the chain of a generation, the leaf first. A missing file gives an error that
// is fs.ErrNotExist.
func (s *Store) Certificates(e Entry) ([]*x509.Certificate, error) {
	return readCertificates(e.CertFile)
}

func readCertificates(path string) ([]*x509.Certificate, error) {
	text, err := statefile.Read(path, certreq.MaxFileBytes)
	if err != nil {
		return nil, err
	}
	chain, err := certreq.ParseCertificates(text)
	if err != nil {
		return nil, pemfile.Named(path, err)
	}
	return chain, nil
}

// checkSameKey returns an error if a generation has another public key: after a key was deleted or
// a rotation cancelled, a number is used again.
func (s *Store) checkSameKey(e Entry, public crypto.PublicKey) error {
	file, err := s.ReadKeyFile(e)
	if err != nil {
		return err
	}
	d, err := file.Describe()
	if err != nil {
		return err
	}
	if own, ok := d.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !own.Equal(public) {
		return fmt.Errorf("generation %[2]d of key %[1]q has another key by now; nothing was imported", e.Name, e.Generation)
	}
	return nil
}

// exists says whether a generation has a key file, readable or not.
func (e Entry) exists() bool {
	_, err := os.Lstat(e.KeyFile)
	return !errors.Is(err, fs.ErrNotExist)
}
