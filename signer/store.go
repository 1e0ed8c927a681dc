package signer

import (
	"cmp"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyagent/keyagent/internal/statefile"
	"github.com/keyagent/keyagent/tpm"
)

// Store keeps named keys with their certificates in a directory:
//
//	NAME/1.key.pem    key file of generation 1: written once, never overwritten
//	NAME/1.json       what the key file does not say (see record); a key works without it
//	NAME/1.cert.pem   certificate chain for that key, the leaf first; replaced in one step
//	NAME/2.…          the next generation, beside the first
//	NAME/current      number of the generation in use; no file means 1
//
// A rotation makes a generation beside the current one, gives it a certificate, tries both, and then replaces current: at
// each moment, and after a power cut at each moment, key and certificate of one generation are in use together. The old generation
// stays until the next rotation begins.
//
// A Store is safe for concurrent use, also by several processes.
type Store struct {
	dir string
	now func() time.Time
	log *slog.Logger
}

// StoreConfig says where the keys are.
type StoreConfig struct {
	Dir    string           // made with mode 0700 if missing; anything more open is refused
	Now    func() time.Time // nil means time.Now
	Logger *slog.Logger     // nil: nobody hears
}

// ErrNoKey is in the error for a name that has no key.
var ErrNoKey = errors.New("there is no such key")

// ErrKeyExists is in the error for a name that has one.
var ErrKeyExists = errors.New("there is such a key already")

// OpenStore opens the directory.
func OpenStore(cfg StoreConfig) (*Store, error) {
	s := &Store{dir: cfg.Dir, now: cfg.Now, log: cfg.Logger}
	if s.now == nil {
		s.now = time.Now
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if err := statefile.EnsureDir(cfg.Dir); err != nil {
		return nil, err
	}
	return s, nil
}

// KeyOptions say what key to make, and where else it shall be.
type KeyOptions struct {
	tpm.KeyOptions
	Persistent tpm2.TPMHandle // 0: in no persistent place
}

// Entry is one generation of a named key, as the directory has it.
type Entry struct {
	Name       string
	Generation int
	Current    bool // it is in use; else it is the next one, or an old one
	KeyFile    string
	CertFile   string // path; the file may be missing
	Created    time.Time
	Persistent tpm2.TPMHandle
	PCRValues  tpm.PCRValues
}

// nameForm is what a key may be called: it becomes a directory.
var nameForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

func checkName(name string) error {
	if !nameForm.MatchString(name) {
		return fmt.Errorf("key name %q: use lower-case letters, digits and hyphens, at most 63", name)
	}
	return nil
}

// Names lists the keys in the order of the alphabet.
func (s *Store) Names() ([]string, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("listing the keys: %w", err)
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() && checkName(e.Name()) == nil {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// Current returns the generation in use. The error is ErrNoKey if there is none.
func (s *Store) Current(name string) (Entry, error) {
	if err := checkName(name); err != nil {
		return Entry{}, err
	}
	n, err := s.current(name)
	if err != nil {
		return Entry{}, err
	}
	e := s.entry(name, n)
	e.Current = true
	if _, err := os.Lstat(e.KeyFile); errors.Is(err, fs.ErrNotExist) {
		return Entry{}, fmt.Errorf("key %q: %w", name, ErrNoKey)
	}
	return e, nil
}

// Next returns the generation that a rotation has begun. The error is ErrNoKey if none has.
func (s *Store) Next(name string) (Entry, error) {
	e, err := s.Current(name)
	if err != nil {
		return Entry{}, err
	}
	next := s.entry(name, e.Generation+1)
	if _, err := os.Lstat(next.KeyFile); errors.Is(err, fs.ErrNotExist) {
		return Entry{}, fmt.Errorf("next generation of key %q: %w: keyagent key rotate begins one", name, ErrNoKey)
	}
	return next, nil
}

// maxGeneration bounds what current may say; a key that is rotated every minute gets there after nineteen years.
const maxGeneration = 10_000_000

// current reads the number of the generation in use. A file that is torn is an error: another generation's certificate may not
// be taken by chance.
func (s *Store) current(name string) (int, error) {
	path := filepath.Join(s.dir, name, "current")
	text, err := statefile.Read(path, 32)
	if errors.Is(err, fs.ErrNotExist) {
		return 1, nil
	}
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(strings.TrimSuffix(string(text), "\n"))
	if err != nil || n < 1 || n > maxGeneration {
		return 0, fmt.Errorf("%s does not hold the number of a generation: write the number of the *.key.pem file that is to be used into it", path)
	}
	return n, nil
}

// entry describes a generation, whether it is there or not.
func (s *Store) entry(name string, generation int) Entry {
	base := filepath.Join(s.dir, name, strconv.Itoa(generation))
	e := Entry{Name: name, Generation: generation, KeyFile: base + ".key.pem", CertFile: base + ".cert.pem"}
	r, err := readRecord(base + ".json")
	if err != nil {
		s.log.Warn("notes on a key cannot be used; the key works without them", "file", base+".json", "cause", err)
		return e
	}
	e.Created, e.Persistent, e.PCRValues = r.Created, r.persistent(), r.pcrValues()
	return e
}

// Create makes a key. The error is ErrKeyExists if there is one of that name.
func (s *Store) Create(ctx context.Context, on *tpm.TPM, name string, options KeyOptions) (Entry, error) {
	_, err := s.Current(name)
	if err == nil {
		return Entry{}, fmt.Errorf("key %q: %w: rotate it, or choose another name", name, ErrKeyExists)
	}
	if !errors.Is(err, ErrNoKey) {
		return Entry{}, err
	}
	return s.make(ctx, on, s.entry(name, 1), options)
}

// Adopt makes a key out of a file that another program made. The file is copied.
func (s *Store) Adopt(name string, file *tpm.KeyFile) (Entry, error) {
	_, err := s.Current(name)
	if err == nil {
		return Entry{}, fmt.Errorf("key %q: %w", name, ErrKeyExists)
	}
	if !errors.Is(err, ErrNoKey) {
		return Entry{}, err
	}
	return s.write(s.entry(name, 1), file, 0)
}

// make creates a generation: notes first, since the key file is what makes it exist, then the persistent place.
func (s *Store) make(ctx context.Context, on *tpm.TPM, e Entry, options KeyOptions) (Entry, error) {
	file, err := on.CreateKey(ctx, options.KeyOptions)
	if err != nil {
		return Entry{}, err
	}
	if e, err = s.write(e, file, options.Persistent); err != nil || options.Persistent == 0 {
		return e, err
	}
	k, err := on.LoadKey(ctx, file, tpm.LoadOptions{AuthValue: options.AuthValue})
	if err != nil {
		return e, err
	}
	defer k.Close()
	return e, k.Persist(ctx, options.Persistent)
}

func (s *Store) write(e Entry, file *tpm.KeyFile, persistent tpm2.TPMHandle) (Entry, error) {
	if err := statefile.EnsureDir(filepath.Dir(e.KeyFile)); err != nil {
		return Entry{}, err
	}
	r := newRecord(s.now(), persistent, file.PCRValues)
	err := r.write(filepath.Join(s.dir, e.Name, strconv.Itoa(e.Generation)+".json"))
	if err == nil {
		err = statefile.WriteNew(e.KeyFile, file.Encode())
	}
	if errors.Is(err, fs.ErrExist) {
		return Entry{}, fmt.Errorf("key %q: %w: another process made it at this moment", e.Name, ErrKeyExists)
	}
	if err != nil {
		return Entry{}, err
	}
	current := e.Current
	e = s.entry(e.Name, e.Generation)
	e.Current = current || e.Generation == 1
	return e, nil
}

// Open loads a generation. Config's paths and notes are filled in.
func (s *Store) Open(ctx context.Context, e Entry, cfg Config) (*Key, error) {
	cfg.KeyFile, cfg.MustExist = e.KeyFile, true
	cfg.Persistent, cfg.PCRValues = e.Persistent, e.PCRValues
	cfg.Logger = cmp.Or(cfg.Logger, s.log)
	return Open(ctx, cfg)
}

// Certificates reads the chain of a generation, the leaf first. A missing file gives an error that is fs.ErrNotExist.
func (s *Store) Certificates(e Entry) ([]*x509.Certificate, error) {
	text, err := statefile.Read(e.CertFile, maxCertificateFileBytes)
	if err != nil {
		return nil, err
	}
	chain, err := ParseCertificates(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", e.CertFile, err)
	}
	return chain, nil
}

// Import puts a chain beside a key, after [CheckCertificate] has found nothing wrong with it. An older chain is replaced.
func (s *Store) Import(e Entry, key *Key, chain []*x509.Certificate) error {
	if err := CheckCertificate(chain, key.Public(), s.now()); err != nil {
		return err
	}
	var text []byte
	for _, c := range chain {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return statefile.Write(e.CertFile, text)
}

// Prove shows that a key and its certificate work together, for instance by a handshake with the server that they are for.
type Prove func(ctx context.Context, key *Key, chain []*x509.Certificate) error

// BeginRotation makes the next generation of a key beside the current one, which stays in use. One that was begun already is
// returned as it is. Generations older than the current one are removed.
func (s *Store) BeginRotation(ctx context.Context, on *tpm.TPM, name string, options KeyOptions) (Entry, error) {
	next, err := s.Next(name)
	if err == nil {
		return next, nil
	}
	current, currentErr := s.Current(name)
	if currentErr != nil {
		return Entry{}, currentErr
	}
	if !errors.Is(err, ErrNoKey) {
		return Entry{}, err
	}
	for n := current.Generation - 1; n > 0; n-- {
		gone, err := s.removeGeneration(ctx, on, s.entry(name, n))
		if err != nil {
			return Entry{}, err
		}
		if !gone {
			break
		}
	}
	return s.make(ctx, on, s.entry(name, current.Generation+1), options)
}

// FinishRotation switches to the next generation, after prove has shown that it works. Key is that generation's. What is not
// proven is not switched to.
func (s *Store) FinishRotation(ctx context.Context, next Entry, key *Key, prove Prove) error {
	chain, err := s.Certificates(next)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := prove(ctx, key, chain); err != nil {
		return fmt.Errorf("key %q stays as it is, its next generation did not prove to work: %w", next.Name, err)
	}
	return statefile.Write(filepath.Join(s.dir, next.Name, "current"), []byte(strconv.Itoa(next.Generation)+"\n"))
}

// CancelRotation removes the next generation.
func (s *Store) CancelRotation(ctx context.Context, on *tpm.TPM, name string) error {
	next, err := s.Next(name)
	if err != nil {
		return err
	}
	_, err = s.removeGeneration(ctx, on, next)
	return err
}

// removeGeneration removes a generation that is not in use, the key file last. It reports false if there is none.
func (s *Store) removeGeneration(ctx context.Context, on *tpm.TPM, e Entry) (bool, error) {
	if _, err := os.Lstat(e.KeyFile); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err := s.unpersist(ctx, on, e); err != nil {
		return false, err
	}
	for _, path := range []string{e.CertFile, strings.TrimSuffix(e.KeyFile, ".key.pem") + ".json", e.KeyFile} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false, err
		}
	}
	return true, nil
}

// unpersist removes a key from its persistent place. A file that is damaged had none that could be told.
func (s *Store) unpersist(ctx context.Context, on *tpm.TPM, e Entry) error {
	if e.Persistent == 0 {
		return nil
	}
	text, err := statefile.Read(e.KeyFile, maxKeyFileBytes)
	if err != nil {
		return err
	}
	file, err := tpm.DecodeKeyFile(text)
	if err != nil {
		s.log.Warn("persistent key is left in the TPM, its file is damaged", "file", e.KeyFile, "handle", fmt.Sprintf("0x%08x", uint32(e.Persistent)))
		return nil
	}
	name, err := file.Name()
	if err != nil {
		return err
	}
	return on.Unpersist(ctx, e.Persistent, name)
}

// Delete removes all of a key. A crash in between leaves all of it, or nothing that has its name.
func (s *Store) Delete(ctx context.Context, on *tpm.TPM, name string) error {
	e, err := s.Current(name)
	if err != nil {
		return err
	}
	for n := e.Generation + 1; n > 0; n-- {
		if err := s.unpersist(ctx, on, s.entry(name, n)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	trash := filepath.Join(s.dir, ".deleted-"+name+"-"+strconv.FormatInt(s.now().UnixNano(), 36))
	if err := os.Rename(filepath.Join(s.dir, name), trash); err != nil {
		return fmt.Errorf("deleting key %q: %w", name, err)
	}
	if err := os.RemoveAll(trash); err != nil {
		return fmt.Errorf("deleting key %q: %w", name, err)
	}
	return nil
}

// OpenOrCreate opens the current generation of a key, and makes the key first if there is none.
func (s *Store) OpenOrCreate(ctx context.Context, on *tpm.TPM, name string, options KeyOptions, cfg Config) (*Key, Entry, error) {
	e, err := s.Current(name)
	created := false
	if errors.Is(err, ErrNoKey) {
		e, err = s.Create(ctx, on, name, options)
		created = err == nil
		if errors.Is(err, ErrKeyExists) { // another process was faster
			e, err = s.Current(name)
		}
	}
	if err != nil {
		return nil, Entry{}, err
	}
	cfg.TPM, cfg.Options = on, options.KeyOptions
	k, err := s.Open(ctx, e, cfg)
	if err != nil {
		return nil, Entry{}, err
	}
	k.info.Created = created
	return k, e, nil
}
