package keystore

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/keyagent/keyagent/internal/statefile"
	"github.com/keyagent/keyagent/signer/certreq"
)

// maxReplaced is how many replaced certificates of a generation are kept.
const maxReplaced = 16

// ErrNoneReplaced means that no replaced certificate of a generation is kept.
var ErrNoneReplaced = errors.New("no replaced certificate is kept")

// InUseError means that a certificate was not imported, because the key is in use with another one
// that works.
type InUseError struct {
	Key   string
	Chain []*x509.Certificate // the one in use, leaf first
}

func (e *InUseError) Error() string {
	return fmt.Sprintf("key %q is in use with a certificate that is valid until %s", e.Key, e.Chain[0].NotAfter.UTC().Format(time.RFC3339))
}

// Replacement is a certificate that was replaced.
type Replacement struct {
	Chain []*x509.Certificate // leaf first
	File  string              // where it is kept now
}

// Import puts a chain beside a key, after [certreq.CheckCertificate] has found nothing wrong with
// it. Only the public half of the key is used.
//
// If the same certificate is there with more issuers, it stays as it is. A different one is kept
// under another name and returned. A file that holds no certificate is put aside. To replace a
// certificate that works, of the generation in use, replace must be true; else the error is an
// *[InUseError].
func (s *Store) Import(ctx context.Context, e Entry, key interface{ Public() crypto.PublicKey }, chain []*x509.Certificate, replace bool) (*Replacement, error) {
	if err := certreq.CheckCertificate(chain, key.Public(), s.now()); err != nil {
		return nil, err
	}
	unlock, err := s.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if !e.exists() {
		return nil, fmt.Errorf("key %q, generation %d: %w", e.Name, e.Generation, ErrNoKey)
	}
	if err := s.checkSameKey(e, key.Public()); err != nil {
		return nil, err
	}
	there, err := s.inPlace(e)
	if err != nil {
		return nil, fmt.Errorf("nothing was imported, since the file in the place of the certificate cannot be read: %w", err)
	}
	switch {
	case there != nil && begins(there, chain): // with more issuers, which the new file lacks
		return nil, nil
	case there == nil || begins(chain, there): // the new file has all that is there
		return nil, statefile.Write(e.CertFile, certreq.EncodeCertificates(chain))
	case there[0].Equal(chain[0]): // with other issuers
		return s.exchange(e, there, chain)
	}
	if err := s.checkReplace(e, key.Public(), there); err != nil && !replace {
		return nil, err
	}
	return s.exchange(e, there, chain)
}

// begins reports whether whole begins with chain.
func begins(whole, chain []*x509.Certificate) bool {
	return len(chain) <= len(whole) && slices.EqualFunc(whole[:len(chain)], chain, (*x509.Certificate).Equal)
}

// CheckReplace returns the *[InUseError] that Import without replace would return; nil if none.
func (s *Store) CheckReplace(e Entry, key interface{ Public() crypto.PublicKey }) error {
	there, err := s.Certificates(e)
	if err != nil {
		return nil //nolint:nilerr // Import reports it
	}
	return s.checkReplace(e, key.Public(), there)
}

func (s *Store) checkReplace(e Entry, public crypto.PublicKey, there []*x509.Certificate) error {
	current, err := s.Current(e.Name)
	if err != nil {
		return err
	}
	works := certreq.CheckCertificate(there, public, s.now()) == nil
	if works && current.Generation == e.Generation {
		return &InUseError{Key: e.Name, Chain: there}
	}
	return nil
}

// inPlace reads the certificates of a generation, nil if there are none. A file that cannot be
// decoded is put aside.
func (s *Store) inPlace(e Entry) (chain []*x509.Certificate, err error) {
	err = statefile.Load(e.CertFile, certreq.MaxFileBytes, func(text []byte) (err error) {
		chain, err = certreq.ParseCertificates(text)
		return err
	})
	torn, isTorn := errors.AsType[*statefile.TornError](err)
	switch {
	case isTorn:
		s.log.Warn("the file in the place of a key's certificate holds none and was put aside", "key", e.Name, "file", torn.Aside, "cause", torn.Err)
		return nil, nil
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	}
	return chain, err
}

// exchange replaces a chain by another. A crash in between leaves the old one in its place, and
// under the name of a replaced one as well.
func (s *Store) exchange(e Entry, old, chain []*x509.Certificate) (*Replacement, error) {
	kept, err := s.replacedFiles(e)
	if err != nil {
		return nil, err
	}
	number := 1
	if len(kept) > 0 {
		number = kept[len(kept)-1] + 1
	}
	r := &Replacement{Chain: old, File: replacedFile(e, number)}
	if err := statefile.Link(e.CertFile, r.File); err != nil {
		return nil, fmt.Errorf("nothing was imported, since the certificate that is there could not be kept: %w", err)
	}
	if err := statefile.Write(e.CertFile, certreq.EncodeCertificates(chain)); err != nil {
		// The new one may be in place already, if only the sync of its directory failed.
		if there, readErr := readCertificates(e.CertFile); readErr == nil && sameChain(there, old) {
			err = errors.Join(err, statefile.Remove(r.File))
		}
		return nil, err
	}
	s.tidy(e, kept, old, chain)
	return r, nil
}

func sameChain(a, b []*x509.Certificate) bool {
	return slices.EqualFunc(a, b, (*x509.Certificate).Equal)
}

// tidy removes kept files whose certificates are also elsewhere now, and the oldest of those over
// the limit.
func (s *Store) tidy(e Entry, kept []int, elsewhere ...[]*x509.Certificate) {
	for i, number := range kept {
		path := replacedFile(e, number)
		chain, err := readCertificates(path)
		isElsewhere := err == nil && slices.ContainsFunc(elsewhere, func(other []*x509.Certificate) bool { return sameChain(chain, other) })
		if !isElsewhere && len(kept)-i < maxReplaced {
			continue
		}
		if err := statefile.Remove(path); err != nil {
			s.log.Warn("a replaced certificate could not be removed", "file", path, "cause", err)
		}
	}
}

// Replaced returns the certificate that was replaced last, of those that are not in place again.
// The error is [ErrNoneReplaced] if there is none.
func (s *Store) Replaced(e Entry) ([]*x509.Certificate, error) {
	numbers, err := s.replacedFiles(e)
	if err != nil {
		return nil, err
	}
	there, err := s.chainOrNone(e)
	if err != nil {
		s.log.Warn("the certificate of a key cannot be read", "key", e.Name, "cause", err)
	}
	for _, number := range slices.Backward(numbers) {
		chain, err := readCertificates(replacedFile(e, number))
		if err != nil {
			s.log.Warn("a replaced certificate cannot be read and is not considered", "key", e.Name, "file", replacedFile(e, number), "cause", err)
			continue
		}
		if !sameChain(there, chain) {
			return chain, nil
		}
	}
	return nil, fmt.Errorf("key %q: %w", e.Name, ErrNoneReplaced)
}

const replacedSuffix = ".replaced-"

func replacedFile(e Entry, number int) string {
	return e.CertFile + replacedSuffix + strconv.Itoa(number)
}

// replacedFiles lists the numbers of the files with replaced certificates, the oldest first.
func (s *Store) replacedFiles(e Entry) ([]int, error) {
	files, err := os.ReadDir(s.path(e.Name))
	if err != nil {
		return nil, fmt.Errorf("looking for replaced certificates of key %q: %w", e.Name, err)
	}
	var numbers []int
	for _, f := range files {
		text, ok := strings.CutPrefix(f.Name(), filepath.Base(e.CertFile)+replacedSuffix)
		if n, isNumber := generationNumber(text); ok && isNumber {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}

// removeCertificates removes all certificates of a generation, those that are staged too, and the
// notes on them.
func (s *Store) removeCertificates(e Entry) error {
	numbers, err := s.replacedFiles(e)
	if err != nil {
		return err
	}
	paths := []string{e.CertFile, e.acceptedFile()}
	for _, number := range numbers {
		paths = append(paths, replacedFile(e, number))
	}
	for _, path := range paths {
		if err := statefile.Remove(path); err != nil {
			return err
		}
	}
	return os.RemoveAll(s.stagedDir(e))
}

// maxAccepted is how many certificates of a generation are noted as accepted: more than are kept.
const maxAccepted = 2 * maxReplaced

const maxAcceptedBytes = 8 << 10

// accepted has the time of the first token that Entra gave for a certificate, by its x5t#S256.
type accepted map[string]time.Time

// NoteAccepted notes that Entra has given a token for a certificate of a generation. The time of
// the first note stays. Only one process at a time, the agent, may call it, and one goroutine of
// it.
func (s *Store) NoteAccepted(e Entry, leaf *x509.Certificate) error {
	notes, err := readAccepted(e)
	if torn, ok := errors.AsType[*statefile.TornError](err); ok {
		s.log.Warn("the note of certificates that Entra has accepted is damaged and was put aside", "file", torn.Aside, "cause", torn.Err)
	} else if err != nil {
		return err
	}
	name := thumbprint(leaf)
	if _, known := notes[name]; known {
		return nil
	}
	if notes == nil {
		notes = accepted{}
	}
	for len(notes) >= maxAccepted {
		delete(notes, slices.MinFunc(slices.Collect(maps.Keys(notes)), func(a, b string) int { return notes[a].Compare(notes[b]) }))
	}
	notes[name] = s.now().UTC().Truncate(time.Second)
	text, err := json.MarshalIndent(notes, "", "  ")
	if err != nil {
		return err
	}
	return statefile.Write(e.acceptedFile(), append(text, '\n'))
}

// Accepted returns when it was first noted that Entra accepts a certificate of a generation; the
// zero time if it was not.
func (s *Store) Accepted(e Entry, leaf *x509.Certificate) (time.Time, error) {
	text, err := statefile.Read(e.acceptedFile(), maxAcceptedBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, err
	}
	notes, err := decodeAccepted(text)
	return notes[thumbprint(leaf)], err
}

// readAccepted reads the notes, nil if there are none. A damaged file is put aside.
func readAccepted(e Entry) (notes accepted, err error) {
	err = statefile.Load(e.acceptedFile(), maxAcceptedBytes, func(text []byte) (err error) {
		notes, err = decodeAccepted(text)
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return notes, err
}

func decodeAccepted(text []byte) (notes accepted, err error) {
	if err := json.Unmarshal(text, &notes); err != nil {
		return nil, fmt.Errorf("not the JSON expected: %w", err)
	}
	return notes, nil
}

// thumbprint is the x5t#S256 of a certificate (RFC 7515, 4.1.8).
func thumbprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}
