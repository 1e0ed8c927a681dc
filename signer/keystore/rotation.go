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

// Prove shows that a key and its certificate work together, for instance by a handshake with the server that they are for. Chain is
// empty if the key has no certificate.
type Prove func(ctx context.Context, key *signer.Key, chain []*x509.Certificate) error

// Then returns a proof that shows what both show, p first.
func (p Prove) Then(next Prove) Prove {
	return func(ctx context.Context, key *signer.Key, chain []*x509.Certificate) error {
		if err := p(ctx, key, chain); err != nil {
			return err
		}
		return next(ctx, key, chain)
	}
}

// BeginRotation makes the next generation of a key beside the current one, which stays in use. One that was begun already is
// returned as it is. Generations older than the current one are removed.
//
// The persistent place of the current generation may be asked for: the next one gets it when it comes into use.
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
	if next, err := s.Next(name); !errors.Is(err, ErrNoKey) { // another process was faster
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

// FinishRotation switches to the next generation, after prove has shown that it works. Key is that generation's. What is not
// proven is not switched to.
func (s *Store) FinishRotation(ctx context.Context, next Entry, key *signer.Key, prove Prove) error {
	chain, err := s.chainOrNone(next)
	if err != nil {
		return err
	}
	if err := prove(ctx, key, chain); err != nil { // without the lock: it may talk to a server
		return fmt.Errorf("key %q stays as it is, its next generation did not prove to work: %w", next.Name, err)
	}
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	old, err := s.Current(next.Name)
	if err == nil {
		err = errors.Join(old.CheckNotes(), next.CheckNotes())
	}
	if err != nil {
		return err
	}
	if err := s.stillNext(old, next, key, chain); err != nil {
		return fmt.Errorf("key %q stays as it is: %w", next.Name, err)
	}
	err = statefile.Write(filepath.Join(s.path(next.Name), currentFile), []byte(strconv.Itoa(next.Generation)+"\n"))
	if err != nil {
		return err
	}
	s.takeOver(ctx, key, old, next)
	return nil
}

// chainOrNone reads the certificates of a generation; without any, it returns none.
func (s *Store) chainOrNone(e Entry) ([]*x509.Certificate, error) {
	chain, err := s.Certificates(e)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return chain, err
}

// stillNext makes sure that what was proven is what is switched to.
func (s *Store) stillNext(current, next Entry, key *signer.Key, proven []*x509.Certificate) error {
	if current.Generation+1 != next.Generation || !next.exists() {
		return errors.New("another process has finished or cancelled this rotation meanwhile")
	}
	file, err := s.ReadKeyFile(next)
	if err != nil {
		return err
	}
	name, err := file.Name()
	if err != nil {
		return err
	}
	if !bytes.Equal(name, key.TPMKey().Name()) {
		return errors.New("the key that was tried is not that of the next generation")
	}
	chain, err := s.chainOrNone(next)
	if err != nil {
		return err
	}
	if !slices.EqualFunc(chain, proven, (*x509.Certificate).Equal) {
		return errors.New("its certificate was replaced while the old one was tried: try again")
	}
	return nil
}

// takeOver gives the persistent place of the old generation to the new one. That is for speed only: where it fails, the key is
// loaded from its file.
func (s *Store) takeOver(ctx context.Context, key *signer.Key, old, next Entry) {
	if next.Persistent == 0 || next.Persistent != old.Persistent {
		return
	}
	err := s.unpersist(ctx, opened(key.TPM()), old)
	if err == nil {
		err = key.TPMKey().Persist(ctx, next.Persistent)
	}
	if err != nil {
		s.log.Warn("the new generation did not get the persistent handle of the old one; it is loaded from its file", "key", next.Name, "cause", err)
	}
}

// Reach opens the TPM. It is called where a key may be in a persistent place, and for no other.
type Reach func(ctx context.Context) (*tpm.TPM, error)

// CancelRotation removes the next generation.
func (s *Store) CancelRotation(ctx context.Context, on Reach, name string) error {
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	next, err := s.Next(name)
	if err != nil {
		return err
	}
	return s.removeGeneration(ctx, on, next)
}

func opened(on *tpm.TPM) Reach { return func(context.Context) (*tpm.TPM, error) { return on, nil } }

// removeGeneration removes a generation that is not in use, the key file last: until then it can be removed again.
func (s *Store) removeGeneration(ctx context.Context, on Reach, e Entry) error {
	if err := s.unpersist(ctx, on, e); err != nil {
		return err
	}
	if err := s.removeCertificates(e); err != nil {
		return err
	}
	for _, path := range []string{e.notesFile(), e.KeyFile} {
		if err := statefile.Remove(path); err != nil {
			return err
		}
	}
	return nil
}

// trashPrefix marks directories of keys that were deleted. No key can be called so.
const trashPrefix = ".deleted-"

// Delete removes all of a key, also one of which the files are damaged. A crash in between leaves all of it, or nothing that has
// its name.
func (s *Store) Delete(ctx context.Context, on Reach, name string) error {
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
		if err := s.unpersist(ctx, on, s.entry(name, n)); err != nil {
			return err
		}
	}
	trash := filepath.Join(s.dir, trashPrefix+name+"-"+strconv.FormatInt(s.now().UnixNano(), 36))
	if err := statefile.Rename(s.path(name), trash); err != nil {
		return fmt.Errorf("deleting key %q: %w", name, err)
	}
	return s.emptyTrash()
}

// emptyTrash removes what was deleted, also what a crash left of earlier times.
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
