package keystore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/keyagent/keyagent/internal/statefile"
	"github.com/keyagent/keyagent/tpm"
)

// Entry is one generation of a named key, as its files describe it. It does not change when they
// do.
type Entry struct {
	Name       string
	Generation int
	Current    bool // in use; else it is the next one, or an old one
	KeyFile    string
	CertFile   string // path; the file may be missing
	Created    time.Time
	Persistent tpm.Handle
	PCRValues  tpm.PCRValues
	ParentName []byte // TPM's Name of the storage key that wraps the key; nil: not noted

	unread error // why the notes could not be read; nil if they could, or are damaged
}

// CheckNotes returns an error if the notes could not be read although they may be in order. Then
// Persistent is not known: the key can be used, but not be removed or get a successor, which would
// leave an object at its handle.
func (e Entry) CheckNotes() error {
	if e.unread == nil {
		return nil
	}
	return fmt.Errorf("notes on key %q cannot be read, and may say where it is in the TPM: %w", e.Name, e.unread)
}

// unread reports whether err, of reading a file, came from the system, so that the file may be in
// order and can be tried again.
func unread(err error) bool {
	errno, ok := errors.AsType[syscall.Errno](err)
	return ok && errno != syscall.ENOENT && errno != syscall.ELOOP // a symbolic link
}

const (
	keySuffix      = ".key.pem"
	certSuffix     = ".cert.pem"
	notesSuffix    = ".json"
	acceptedSuffix = ".accepted.json"
	testedSuffix   = ".tested.json"
	currentFile    = "current"
)

func (e Entry) notesFile() string { return strings.TrimSuffix(e.KeyFile, keySuffix) + notesSuffix }

func (e Entry) acceptedFile() string {
	return strings.TrimSuffix(e.KeyFile, keySuffix) + acceptedSuffix
}

func (e Entry) testedFile() string { return strings.TrimSuffix(e.KeyFile, keySuffix) + testedSuffix }

// Current returns the generation in use. The error is [ErrNoKey] if there is no such key.
func (s *Store) Current(name string) (Entry, error) {
	if err := CheckName(name); err != nil {
		return Entry{}, err
	}
	n, err := s.current(name)
	if err != nil {
		return Entry{}, err
	}
	e := s.entry(name, n)
	e.Current = true
	if !e.exists() {
		return Entry{}, s.missing(e)
	}
	return e, nil
}

// missing returns the error for a current generation without a key file: there is no such key, or
// only other generations of it.
func (s *Store) missing(e Entry) error {
	numbers, err := s.numbers(e.Name)
	if err != nil {
		return err
	}
	if len(numbers) == 0 {
		return fmt.Errorf("key %q: %w", e.Name, ErrNoKey)
	}
	return fmt.Errorf("key %q: %w: %s names generation %d, and there are the files of %v",
		e.Name, ErrGenerationMissing, filepath.Join(s.path(e.Name), currentFile), e.Generation, numbers)
}

// Next returns the generation that a rotation has begun. The error is [ErrNoKey] if none was begun.
func (s *Store) Next(name string) (Entry, error) {
	e, err := s.Current(name)
	if err != nil {
		return Entry{}, err
	}
	next := s.entry(name, e.Generation+1)
	if !next.exists() {
		return Entry{}, fmt.Errorf("next generation of key %q: %w: keyagent key rotate %s begins one", name, ErrNoKey, name)
	}
	return next, nil
}

// Previous returns the generation that was in use before the current one. The error is [ErrNoKey]
// if it is not kept any more, or there was none.
func (s *Store) Previous(name string) (Entry, error) {
	e, err := s.Current(name)
	if err != nil {
		return Entry{}, err
	}
	previous := s.entry(name, e.Generation-1)
	if !previous.exists() {
		return Entry{}, fmt.Errorf("previous generation of key %q: %w: it is kept until the next rotation begins", name, ErrNoKey)
	}
	return previous, nil
}

// Generations lists all generations that have a key file, the oldest first.
func (s *Store) Generations(name string) ([]Entry, error) {
	current, err := s.Current(name)
	if err != nil {
		return nil, err
	}
	numbers, err := s.numbers(name)
	if err != nil {
		return nil, err
	}
	entries := make([]Entry, 0, len(numbers))
	for _, n := range numbers {
		e := s.entry(name, n)
		e.Current = n == current.Generation
		entries = append(entries, e)
	}
	return entries, nil
}

// maxGeneration bounds the numbers of generations: a key that is rotated every minute has that many
// after nineteen years.
const maxGeneration = 10_000_000

// current reads the number of the generation in use. A damaged or lost file is an error: the key
// and certificate of another generation must not be used by accident.
func (s *Store) current(name string) (int, error) {
	path := filepath.Join(s.path(name), currentFile)
	text, err := statefile.Read(path, 32)
	if errors.Is(err, fs.ErrNotExist) {
		return s.first(name, path)
	}
	if err != nil {
		return 0, err
	}
	n, ok := generationNumber(strings.TrimSuffix(string(text), "\n"))
	if !ok {
		return 0, fmt.Errorf("%s does not hold the number of a generation: write the number of the *%s file that is to be used into it", path, keySuffix)
	}
	return n, nil
}

// first returns 1, the generation in use where no file says so. If there are later generations and
// not that one, a rotation was finished, and the file is lost.
func (s *Store) first(name, path string) (int, error) {
	numbers, err := s.numbers(name)
	if err != nil {
		return 0, err
	}
	if len(numbers) > 0 && numbers[0] != 1 {
		return 0, fmt.Errorf("%s is missing, and there are generations %v: write the number of the *%s file that is to be used into it", path, numbers, keySuffix)
	}
	return 1, nil
}

// numbers lists the generations that have a key file, the oldest first. A missing directory has
// none.
func (s *Store) numbers(name string) ([]int, error) {
	files, err := os.ReadDir(s.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("looking for key %q: %w", name, err)
	}
	var numbers []int
	for _, f := range files {
		text, ok := strings.CutSuffix(f.Name(), keySuffix)
		if n, isNumber := generationNumber(text); ok && isNumber {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}

// generationNumber reads a number in the form that the store writes: no sign, no leading zero.
func generationNumber(text string) (int, bool) {
	n, err := strconv.Atoi(text)
	return n, err == nil && n >= 1 && n <= maxGeneration && strconv.Itoa(n) == text
}

// entry describes a generation, which need not exist.
func (s *Store) entry(name string, generation int) Entry {
	base := filepath.Join(s.path(name), strconv.Itoa(generation))
	e := Entry{Name: name, Generation: generation, KeyFile: base + keySuffix, CertFile: base + certSuffix}
	r, err := readRecord(e.notesFile())
	if unread(err) {
		e.unread = err
	}
	if err != nil {
		s.log.Warn("notes on a key cannot be used; the key works without them", "file", e.notesFile(), "cause", err)
		return e
	}
	e.Created, e.Persistent, e.PCRValues, e.ParentName = r.Created, r.persistent(), r.pcrValues(), r.parentName()
	return e
}

func (s *Store) path(name string) string { return filepath.Join(s.dir, name) }
