package keystore

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/keyagent/keyagent/internal/statefile"
	"github.com/keyagent/keyagent/signer"
	"github.com/keyagent/keyagent/tpm"
)

// Prove shows that a key and its certificate work together, for instance by a handshake with the
// server that they are for; else it returns an error. Chain is empty if the key has no certificate.
type Prove func(ctx context.Context, key *signer.Key, chain []*x509.Certificate) error

// Then returns a proof that takes both, p first.
func (p Prove) Then(next Prove) Prove {
	return func(ctx context.Context, key *signer.Key, chain []*x509.Certificate) error {
		if err := p(ctx, key, chain); err != nil {
			return err
		}
		return next(ctx, key, chain)
	}
}

// BeginRotation makes the next generation of a key beside the current one, which stays in use. If
// one was begun already, it is returned as it is. Generations older than the current one are
// removed.
//
// The options may name the persistent handle of the current generation: the next one gets it when
// it comes into use.
func (s *Store) BeginRotation(ctx context.Context, on *tpm.TPM, name string, options KeyOptions) (Entry, error) {
	current, err := s.Current(name)
	if err == nil {
		err = current.CheckNotes()
	}
	if err != nil {
		return Entry{}, err
	}
	if next, err := s.Next(name); !errors.Is(err, ErrNoKey) {
		return next, err
	}
	if options.Persistent != current.Persistent {
		if err := checkPersistent(ctx, on, options.Persistent); err != nil {
			return Entry{}, err
		}
	}
	file, err := on.CreateKey(ctx, options.KeyOptions) // without the lock: it can take a minute
	if err != nil {
		return Entry{}, err
	}
	return s.addNext(ctx, on, name, file, options)
}

func (s *Store) addNext(ctx context.Context, on *tpm.TPM, name string, file *tpm.KeyFile, options KeyOptions) (Entry, error) {
	unlock, err := s.lock(ctx)
	if err != nil {
		return Entry{}, err
	}
	defer unlock()
	current, err := s.Current(name)
	if err != nil {
		return Entry{}, err
	}
	if next, err := s.Next(name); !errors.Is(err, ErrNoKey) { // another process began one first
		return next, err
	}
	numbers, err := s.numbers(name)
	if err != nil {
		return Entry{}, err
	}
	for _, n := range numbers {
		if n >= current.Generation {
			break
		}
		if err := s.removeGeneration(ctx, opened(on), s.entry(name, n)); err != nil {
			return Entry{}, err
		}
	}
	if err := s.before(ctx, on); err != nil {
		return Entry{}, err
	}
	next, err := s.write(s.entry(name, current.Generation+1), file, options.Persistent)
	if err != nil || options.Persistent == current.Persistent {
		return next, err
	}
	return next, s.persist(ctx, on, next, file, options)
}

// FinishRotation switches to the next generation, whose key is key, after prove has shown that it
// works. If prove fails, or the generation or its certificate is another one afterwards, the
// current generation stays in use.
func (s *Store) FinishRotation(ctx context.Context, next Entry, key *signer.Key, prove Prove) error {
	return s.switchTo(ctx, next, 1, key, prove)
}

// GoBack switches to the generation before the current one, whose key is key, after prove has shown
// that it works. The one that was in use becomes the next one: a rotation that is finished, or
// cancelled, as any other. If prove fails, the current generation stays in use.
func (s *Store) GoBack(ctx context.Context, previous Entry, key *signer.Key, prove Prove) error {
	return s.switchTo(ctx, previous, -1, key, prove)
}

// switchTo makes a generation the current one, from which it is that many steps away.
func (s *Store) switchTo(ctx context.Context, to Entry, steps int, key *signer.Key, prove Prove) error {
	chain, err := s.chainOrNone(to)
	if err != nil {
		return err
	}
	if err := prove(ctx, key, chain); err != nil { // without the lock: it may talk to a server
		return fmt.Errorf("key %q stays as it is, because its %s generation was not proven to work: %w", to.Name, neighbour(steps), err)
	}
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	from, err := s.Current(to.Name)
	if err == nil {
		err = errors.Join(from.CheckNotes(), to.CheckNotes())
	}
	if err != nil {
		return err
	}
	if err := s.checkStill(from, to, steps, key, chain); err != nil {
		return fmt.Errorf("key %q stays as it is: %w", to.Name, err)
	}
	err = statefile.Write(filepath.Join(s.path(to.Name), currentFile), []byte(strconv.Itoa(to.Generation)+"\n"))
	if err != nil {
		return err
	}
	s.takeOver(ctx, key, from, to)
	return nil
}

// neighbour names the generation that is that many steps away.
func neighbour(steps int) string {
	if steps < 0 {
		return "previous"
	}
	return "next"
}

// chainOrNone reads the certificates of a generation, nil if there are none.
func (s *Store) chainOrNone(e Entry) ([]*x509.Certificate, error) {
	chain, err := s.Certificates(e)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return chain, err
}

// checkStill returns an error if the key or certificate to switch to is not the proven one.
func (s *Store) checkStill(from, to Entry, steps int, key *signer.Key, proven []*x509.Certificate) error {
	if from.Generation+steps != to.Generation || !to.exists() {
		return errors.New("another process has finished or cancelled a rotation meanwhile")
	}
	file, err := s.ReadKeyFile(to)
	if err != nil {
		return err
	}
	name, err := file.Name()
	if err != nil {
		return err
	}
	if !bytes.Equal(name, key.TPMKey().Name()) {
		return fmt.Errorf("the key that was tried is not that of the %s generation", neighbour(steps))
	}
	chain, err := s.chainOrNone(to)
	if err != nil {
		return err
	}
	if !slices.EqualFunc(chain, proven, (*x509.Certificate).Equal) {
		return errors.New("its certificate was replaced while the old one was tried: try again")
	}
	return nil
}

// takeOver gives the persistent handle of the generation that was in use to the one that is. The
// handle is for speed only: if this fails, the key is loaded from its file.
func (s *Store) takeOver(ctx context.Context, key *signer.Key, old, next Entry) {
	if next.Persistent == 0 || next.Persistent != old.Persistent {
		return
	}
	err := s.unpersist(ctx, opened(key.TPM()), old)
	if err == nil {
		err = key.TPMKey().Persist(ctx, next.Persistent)
	}
	if err != nil {
		s.log.Warn("the generation now in use did not get the persistent handle of the one before; it is loaded from its file", "key", next.Name, "cause", err)
	}
}

// OpenTPM returns the open TPM. It is called only if a key may be at a persistent handle.
type OpenTPM func(ctx context.Context) (*tpm.TPM, error)

// CancelRotation removes the next generation.
func (s *Store) CancelRotation(ctx context.Context, open OpenTPM, name string) error {
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	next, err := s.Next(name)
	if err != nil {
		return err
	}
	return s.removeGeneration(ctx, open, next)
}

func opened(on *tpm.TPM) OpenTPM { return func(context.Context) (*tpm.TPM, error) { return on, nil } }

// removeGeneration removes a generation that is not in use. Its key file goes last: until then, the
// removal can be repeated.
func (s *Store) removeGeneration(ctx context.Context, open OpenTPM, e Entry) error {
	if err := s.unpersist(ctx, open, e); err != nil {
		return err
	}
	if err := s.removeCertificates(e); err != nil {
		return err
	}
	for _, path := range []string{e.notesFile(), e.testedFile(), e.KeyFile} {
		if err := statefile.Remove(path); err != nil {
			return err
		}
	}
	return nil
}

// trashPrefix begins the names of directories of deleted keys. No key can have such a name.
const trashPrefix = ".deleted-"

// Delete removes all generations of a key, even if its files are damaged. A crash in between leaves
// all of them, or nothing under that name.
func (s *Store) Delete(ctx context.Context, open OpenTPM, name string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	numbers, err := s.numbers(name)
	if err != nil {
		return err
	}
	if len(numbers) == 0 {
		return fmt.Errorf("key %q: %w", name, ErrNoKey)
	}
	for _, n := range numbers {
		if err := s.unpersist(ctx, open, s.entry(name, n)); err != nil {
			return err
		}
	}
	trash := filepath.Join(s.dir, trashPrefix+name+"-"+strconv.FormatInt(s.now().UnixNano(), 36))
	if err := statefile.Rename(s.path(name), trash); err != nil {
		return fmt.Errorf("deleting key %q: %w", name, err)
	}
	return s.emptyTrash()
}

// emptyTrash removes the directories of deleted keys, also those that an earlier crash left.
func (s *Store) emptyTrash() error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return fmt.Errorf("removing deleted keys: %w", err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), trashPrefix) {
			continue
		}
		if err := os.RemoveAll(filepath.Join(s.dir, e.Name())); err != nil {
			return fmt.Errorf("removing deleted keys: %w", err)
		}
	}
	return nil
}
