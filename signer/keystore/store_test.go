package keystore_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyagent/keyagent/internal/secret"
	"github.com/keyagent/keyagent/internal/statefile"
	"github.com/keyagent/keyagent/signer"
	"github.com/keyagent/keyagent/signer/certreq"
	"github.com/keyagent/keyagent/signer/internal/signertest"
	"github.com/keyagent/keyagent/signer/keystore"
	"github.com/keyagent/keyagent/tpm"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

// ecOptions are those of a key that is quickly made.
func ecOptions() keystore.KeyOptions {
	return keystore.KeyOptions{KeyOptions: tpm.KeyOptions{Algorithm: tpm.ECDSAP256}}
}

// shelf is a store with its TPM and its log.
type shelf struct {
	*keystore.Store
	t   testing.TB
	on  *tpm.TPM
	dir string
	log *bytes.Buffer
}

func newShelf(t testing.TB, on *tpm.TPM) *shelf {
	t.Helper()
	return openShelf(t, on, filepath.Join(t.TempDir(), "keys"))
}

func openShelf(t testing.TB, on *tpm.TPM, dir string) *shelf {
	t.Helper()
	log := new(bytes.Buffer)
	if err := statefile.EnsureDir(dir); err != nil {
		t.Fatal(err)
	}
	store, err := keystore.Open(keystore.Config{StateDir: filepath.Dir(dir), Logger: slog.New(slog.NewTextHandler(log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	return &shelf{store, t, on, dir, log}
}

func (s *shelf) file(elements ...string) string {
	return filepath.Join(append([]string{s.dir}, elements...)...)
}

func (s *shelf) reach(context.Context) (*tpm.TPM, error) { return s.on, nil }

func (s *shelf) create(name string, options keystore.KeyOptions) keystore.Entry {
	s.t.Helper()
	e, err := s.Create(s.t.Context(), s.on, name, options)
	if err != nil {
		s.t.Fatal(err)
	}
	return e
}

func (s *shelf) begin(name string, options keystore.KeyOptions) keystore.Entry {
	s.t.Helper()
	e, err := s.BeginRotation(s.t.Context(), s.on, name, options)
	if err != nil {
		s.t.Fatal(err)
	}
	return e
}

func (s *shelf) finish(e keystore.Entry, prove keystore.Prove) error {
	s.t.Helper()
	k := s.open(e)
	defer k.Close() // a TPM has three places
	return s.FinishRotation(s.t.Context(), e, k, prove)
}

func (s *shelf) current(name string) keystore.Entry {
	s.t.Helper()
	e, err := s.Current(name)
	if err != nil {
		s.t.Fatal(err)
	}
	return e
}

func (s *shelf) open(e keystore.Entry) *signer.Key {
	s.t.Helper()
	k, err := s.Open(s.t.Context(), e, signer.Config{TPM: s.on})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = k.Close() })
	return k
}

// certify gives a generation a self-signed certificate.
func (s *shelf) certify(e keystore.Entry) []*x509.Certificate {
	s.t.Helper()
	k := s.open(e)
	defer k.Close()
	chain := []*x509.Certificate{selfSigned(s.t, k)}
	if err := s.put(s.t.Context(), e, k, chain); err != nil {
		s.t.Fatal(err)
	}
	return chain
}

// put imports a chain where it replaces nothing that is in use.
func (s *shelf) put(ctx context.Context, e keystore.Entry, k *signer.Key, chain []*x509.Certificate) error {
	_, err := s.Import(ctx, e, k, chain, false)
	return err
}

func selfSigned(t testing.TB, key crypto.Signer) *x509.Certificate {
	t.Helper()
	subject, err := certreq.ParseSubject("CN=app")
	if err != nil {
		t.Fatal(err)
	}
	der, err := certreq.SelfSign(key, certreq.SelfSignOptions{Names: certreq.Names{Subject: subject}})
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// works checks that a generation's key signs, and that its certificate, if it has one, is that key's.
func (s *shelf) works(e keystore.Entry) (certified bool) {
	s.t.Helper()
	k := s.open(e)
	defer k.Close()
	if _, err := k.Sign(rand.Reader, signertest.Digest(crypto.SHA256, "m"), crypto.SHA256); err != nil {
		s.t.Errorf("generation %d does not sign: %v", e.Generation, err)
	}
	chain, err := s.Certificates(e)
	if errors.Is(err, fs.ErrNotExist) {
		return false
	}
	if err == nil {
		err = s.put(s.t.Context(), e, k, chain) // it checks
	}
	if err != nil {
		s.t.Errorf("generation %d: %v", e.Generation, err)
	}
	return true
}

func (s *shelf) files(name string) []string {
	s.t.Helper()
	entries, err := os.ReadDir(s.file(name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func believe(context.Context, *signer.Key, []*x509.Certificate) error { return nil }

func TestAKeyGoesThroughItsLife(t *testing.T) {
	t.Parallel()
	s := newShelf(t, tpmtest.Open(t))
	if _, err := s.Current("app"); !errors.Is(err, keystore.ErrNoKey) {
		t.Errorf("before it is made: %v", err)
	}
	first := s.create("app", ecOptions())
	if first.Generation != 1 || !first.Current || first.Created.IsZero() {
		t.Errorf("made: %+v", first)
	}
	if _, err := s.Create(t.Context(), s.on, "app", ecOptions()); !errors.Is(err, keystore.ErrKeyExists) {
		t.Errorf("made twice: %v", err)
	}
	s.certify(first)
	for generation := 2; generation <= 4; generation++ {
		if _, err := s.Next("app"); !errors.Is(err, keystore.ErrNoKey) || !strings.Contains(err.Error(), "keyagent key rotate app") {
			t.Errorf("before rotation %d: %v", generation, err)
		}
		next := s.begin("app", ecOptions())
		if again := s.begin("app", ecOptions()); again.Generation != next.Generation {
			t.Errorf("begun twice: %d, then %d", next.Generation, again.Generation)
		}
		if next.Generation != generation || next.Current || s.current("app").Generation != generation-1 {
			t.Fatalf("begun: %+v", next)
		}
		s.certify(next)
		if err := s.finish(next, believe); err != nil {
			t.Fatal(err)
		}
		if now := s.current("app"); now.Generation != generation || !s.works(now) {
			t.Errorf("after rotation %d: %+v", generation, now)
		}
	}
	want := []string{"3.cert.pem", "3.json", "3.key.pem", "4.cert.pem", "4.json", "4.key.pem", "current"}
	if got := s.files("app"); !slices.Equal(got, want) {
		t.Errorf("files %v, want %v", got, want)
	}
	if err := s.Delete(t.Context(), s.reach, "app"); err != nil {
		t.Fatal(err)
	}
	if got := s.files(""); !slices.Equal(got, []string{".lock"}) {
		t.Errorf("left behind: %v", got)
	}
	if err := s.Delete(t.Context(), s.reach, "app"); !errors.Is(err, keystore.ErrNoKey) {
		t.Errorf("deleted twice: %v", err)
	}
	if again := s.create("app", ecOptions()); again.Generation != 1 || s.works(again) {
		t.Errorf("made anew: %+v", again)
	}
}

func TestWhatIsNotProvenIsNotSwitchedTo(t *testing.T) {
	t.Parallel()
	s := newShelf(t, tpmtest.Open(t))
	s.certify(s.create("app", ecOptions()))
	next := s.begin("app", ecOptions())
	other := s.create("other", ecOptions())
	no := errors.New("no")
	for _, tt := range []struct {
		name  string
		key   keystore.Entry
		prove keystore.Prove
		want  string
	}{
		{"the proof fails", next, func(context.Context, *signer.Key, []*x509.Certificate) error { return no }, "no"},
		{"another key was tried", other, believe, "not that of the next generation"},
		{"the certificate came meanwhile", next, func(_ context.Context, _ *signer.Key, chain []*x509.Certificate) error {
			if len(chain) != 0 {
				t.Error("a certificate out of nothing")
			}
			s.certify(next)
			return nil
		}, "was replaced"},
		{"it was cancelled meanwhile", next, func(ctx context.Context, _ *signer.Key, _ []*x509.Certificate) error {
			return s.CancelRotation(ctx, s.reach, "app")
		}, "finished or cancelled"},
	} {
		err := s.FinishRotation(t.Context(), next, s.open(tt.key), tt.prove)
		if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "stays as it is") {
			t.Errorf("%s: %v", tt.name, err)
		}
		if now := s.current("app"); now.Generation != 1 || !s.works(now) {
			t.Errorf("%s: %+v is in use", tt.name, now)
		}
	}
	if got := s.files("app"); !slices.Equal(got, []string{"1.cert.pem", "1.json", "1.key.pem"}) {
		t.Errorf("after it was cancelled: %v", got)
	}
	if err := s.CancelRotation(t.Context(), s.reach, "app"); !errors.Is(err, keystore.ErrNoKey) {
		t.Errorf("cancelled twice: %v", err)
	}
}

func TestACertificateOfAnotherKeyIsNotImported(t *testing.T) {
	t.Parallel()
	s := newShelf(t, tpmtest.Open(t))
	app, other := s.create("app", ecOptions()), s.create("other", ecOptions())
	foreign := []*x509.Certificate{selfSigned(t, s.open(other))}
	_, isProblem := errors.AsType[*certreq.CertificateError](s.put(t.Context(), app, s.open(app), foreign))
	if !isProblem {
		t.Error("it was imported")
	}
	if got := s.files("app"); len(got) != 2 {
		t.Errorf("files %v", got)
	}
	gone := app
	gone.KeyFile, gone.CertFile = s.file("app", "7.key.pem"), s.file("app", "7.cert.pem")
	if err := s.put(t.Context(), gone, s.open(other), foreign); !errors.Is(err, keystore.ErrNoKey) {
		t.Errorf("for a generation that is not there: %v", err)
	}
}

// A generation's number does not say which key it is: while a certificate was made for one, another may have got the number.
func TestACertificateIsNotPutBesideAKeyThatCameMeanwhile(t *testing.T) {
	t.Parallel()
	s := newShelf(t, tpmtest.Open(t))
	for _, tt := range []struct {
		name  string
		first func() keystore.Entry
		again func() error
	}{
		{"the key was deleted and made again", func() keystore.Entry { return s.create("app", ecOptions()) }, func() error {
			return errors.Join(s.Delete(t.Context(), s.reach, "app"), func() error { s.create("app", ecOptions()); return nil }())
		}},
		{"the rotation was cancelled and begun again", func() keystore.Entry { return s.begin("app", ecOptions()) }, func() error {
			return errors.Join(s.CancelRotation(t.Context(), s.reach, "app"), func() error { s.begin("app", ecOptions()); return nil }())
		}},
	} {
		e := tt.first()
		k := s.open(e)
		chain := []*x509.Certificate{selfSigned(t, k)}
		if err := tt.again(); err != nil {
			t.Fatal(err)
		}
		if err := s.put(t.Context(), e, k, chain); err == nil {
			t.Errorf("%s: it was imported", tt.name)
		}
		if _, err := s.Certificates(e); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: there is a certificate: %v", tt.name, err)
		}
		_ = k.Close() // a TPM has three places
	}
}

// What changes keys waits for who is changing them; an import is such a change.
func TestAnImportWaitsForTheLock(t *testing.T) {
	t.Parallel()
	s := newShelf(t, tpmtest.Open(t))
	e := s.create("app", ecOptions())
	k := s.open(e)
	chain := []*x509.Certificate{selfSigned(t, k)}
	f, err := os.OpenFile(s.file(".lock"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := s.put(ctx, e, k, chain); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestNamesThatNoKeyCanHave(t *testing.T) {
	t.Parallel()
	s := newShelf(t, tpmtest.Open(t))
	for _, name := range []string{
		"", ".", "..", "../x", "a/b", "/etc", ".lock", ".deleted-a", "-a", "a-", "App", "a_b", "a b", "a\x00b", "ä", strings.Repeat("a", 64),
	} {
		_, current := s.Current(name)
		_, create := s.Create(t.Context(), s.on, name, ecOptions())
		_, adopt := s.Adopt(t.Context(), s.on, name, nil, keystore.KeyOptions{})
		_, begin := s.BeginRotation(t.Context(), s.on, name, ecOptions())
		for what, err := range map[string]error{
			"current": current, "create": create, "adopt": adopt, "begin": begin,
			"cancel": s.CancelRotation(t.Context(), s.reach, name), "delete": s.Delete(t.Context(), s.reach, name),
		} {
			if err == nil || errors.Is(err, keystore.ErrNoKey) || !strings.Contains(err.Error(), "lower-case") {
				t.Errorf("%s %q: %v", what, name, err)
			}
		}
	}
	for _, name := range []string{"a", "0", "a-b", "current", strings.Repeat("a", 63)} {
		if err := keystore.CheckName(name); err != nil {
			t.Error(err)
		}
	}
}

// What is damaged is told, and never leads to another key or certificate in silence.
func TestDamagedFiles(t *testing.T) {
	t.Parallel()
	on := tpmtest.Open(t)
	for _, tt := range []struct {
		name    string
		file    string
		content string
		mode    fs.FileMode
		want    string // in Current's error; empty: it works on
	}{
		{"current is empty", "current", "", 0o600, "write the number"},
		{"current is half written", "current", "2", 0o600, ""},
		{"current has words", "current", "two\n", 0o600, "write the number"},
		{"current is negative", "current", "-1\n", 0o600, "write the number"},
		{"current is zero", "current", "0\n", 0o600, "write the number"},
		{"current has a leading zero", "current", "02\n", 0o600, "write the number"},
		{"current is huge", "current", strings.Repeat("9", 30), 0o600, "write the number"},
		{"current is far too long", "current", strings.Repeat("1", 100), 0o600, "larger than"},
		{"current is open to others", "current", "2\n", 0o644, "chmod 0600"},
		{"notes are empty", "2.json", "", 0o600, ""},
		{"notes are torn", "2.json", `{"created": "20`, 0o600, ""},
		{"notes are open to others", "2.json", `{}`, 0o666, ""},
		{"notes name a handle that is none", "2.json", `{"persistent_handle": "elsewhere"}`, 0o600, ""},
		{"notes name the storage root's handle", "2.json", `{"persistent_handle": "0x81000001"}`, 0o600, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newShelf(t, on)
			s.certify(s.create("app", ecOptions()))
			next := s.begin("app", ecOptions())
			s.certify(next)
			if err := s.finish(next, believe); err != nil {
				t.Fatal(err)
			}
			path := s.file("app", tt.file)
			if err := errors.Join(os.WriteFile(path, []byte(tt.content), 0o600), os.Chmod(path, tt.mode)); err != nil {
				t.Fatal(err)
			}
			e, err := s.Current("app")
			switch {
			case tt.want == "" && err != nil:
				t.Fatal(err)
			case tt.want == "" && (e.Generation != 2 || !s.works(e)):
				t.Errorf("%+v is in use", e)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), path)):
				t.Errorf("got %v", err)
			}
			if err != nil {
				if _, err := s.Create(t.Context(), s.on, "app", ecOptions()); err == nil {
					t.Error("another key was made in its place")
				}
			}
			if err := s.Delete(t.Context(), s.reach, "app"); err != nil {
				t.Errorf("it cannot be deleted: %v", err)
			}
		})
	}
}

func TestAKeyFileThatIsTornOrOpenIsAnErrorAndCanBeDeleted(t *testing.T) {
	t.Parallel()
	on := tpmtest.Open(t)
	for name, damage := range map[string]func(string) error{
		"torn":             func(p string) error { return os.WriteFile(p, []byte("-----BEGIN TSS2 PRIV"), 0o600) },
		"open to others":   func(p string) error { return os.Chmod(p, 0o644) },
		"of another owner": func(p string) error { return os.Chown(p, 12345, -1) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newShelf(t, on)
			e := s.create("app", ecOptions())
			if err := damage(e.KeyFile); err != nil {
				t.Skipf("it takes root to give files away: %v", err)
			}
			if _, err := s.Open(t.Context(), e, signer.Config{TPM: on}); err == nil || !strings.Contains(err.Error(), e.KeyFile) {
				t.Errorf("opened: %v", err)
			}
			if _, err := s.Create(t.Context(), on, "app", ecOptions()); !errors.Is(err, keystore.ErrKeyExists) {
				t.Errorf("made anew: %v", err)
			}
			// Keys in no persistent place go without their TPM.
			out := func(context.Context) (*tpm.TPM, error) { return nil, errors.New("the TPM was asked") }
			if err := s.Delete(t.Context(), out, "app"); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestATornCertificateIsAnErrorAndCanBeReplaced(t *testing.T) {
	t.Parallel()
	s := newShelf(t, tpmtest.Open(t))
	e := s.create("app", ecOptions())
	chain := s.certify(e)
	for _, content := range []string{"", "-----BEGIN CERTIFICATE-----\nMIIB", strings.Repeat("x", 100<<10)} {
		if err := os.WriteFile(e.CertFile, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Certificates(e); err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%.20q: %v", content, err)
		}
		if err := s.put(t.Context(), e, s.open(e), chain); err != nil {
			t.Error(err)
		}
		if !s.works(e) {
			t.Error("it has no certificate")
		}
	}
}

// An operator who moves a key file away, as the errors advise, gets another key: without the old one's certificate, and also after a
// rotation, when current does not say 1.
func TestAKeyFileThatWasMovedAwayIsReplaced(t *testing.T) {
	t.Parallel()
	s := newShelf(t, tpmtest.Open(t))
	s.certify(s.create("app", ecOptions()))
	for generation := 1; generation <= 2; generation++ {
		e := s.current("app")
		if err := os.Rename(e.KeyFile, filepath.Join(t.TempDir(), "moved")); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			k, opened, err := s.OpenOrCreate(t.Context(), s.on, "app", ecOptions(), signer.Config{})
			if err != nil {
				t.Fatal(err)
			}
			defer k.Close()
			if opened.Generation != generation || !opened.Current || s.works(opened) {
				t.Errorf("generation %d: %+v", generation, opened)
			}
		}
		s.certify(s.current("app"))
		next := s.begin("app", ecOptions())
		s.certify(next)
		if err := s.finish(next, believe); err != nil {
			t.Fatal(err)
		}
	}
}

func TestALostNoteOfTheCurrentGenerationIsNotGuessed(t *testing.T) {
	t.Parallel()
	s := newShelf(t, tpmtest.Open(t))
	s.create("app", ecOptions())
	for range 2 { // so that generation 1 is gone
		if err := s.finish(s.begin("app", ecOptions()), believe); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(s.file("app", "current")); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		func() error { _, err := s.Current("app"); return err }(),
		func() error { _, err := s.Create(t.Context(), s.on, "app", ecOptions()); return err }(),
	} {
		if err == nil || errors.Is(err, keystore.ErrNoKey) || !strings.Contains(err.Error(), "[2 3]") {
			t.Errorf("got %v", err)
		}
	}
	if names, err := s.Names(); err != nil || !slices.Equal(names, []string{"app"}) {
		t.Errorf("listed: %v, %v", names, err)
	}
}

func TestAGenerationInUseThatIsMissing(t *testing.T) {
	t.Parallel()
	s := newShelf(t, tpmtest.Open(t))
	s.create("app", ecOptions())
	if err := os.WriteFile(s.file("app", "current"), []byte("7\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := s.Current("app")
	if !errors.Is(err, keystore.ErrGenerationMissing) || !errors.Is(err, keystore.ErrNoKey) ||
		!strings.Contains(err.Error(), s.file("app", "current")+" names generation 7, and there are the files of [1]") {
		t.Errorf("got %v", err)
	}
	if e := s.create("app", ecOptions()); e.Generation != 7 {
		t.Errorf("made in its place: %+v", e)
	}
}

func TestLeftoversAreNotKeys(t *testing.T) {
	t.Parallel()
	s := newShelf(t, tpmtest.Open(t))
	for _, dir := range []string{"begun", ".deleted-old-1", "NotAName"} {
		if err := os.Mkdir(s.file(dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{"begun/.1.key.pem.tmp-123", "begun/1.json", "begun/1.cert.pem", "begun/01.key.pem", "file"} {
		if err := os.WriteFile(s.file(file), []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if names, err := s.Names(); err != nil || len(names) != 0 {
		t.Errorf("listed: %v, %v", names, err)
	}
	if e := s.create("begun", ecOptions()); s.works(e) {
		t.Error("the new key has a certificate")
	}
	s.create("app", ecOptions())
	if err := s.Delete(t.Context(), s.reach, "app"); err != nil {
		t.Fatal(err)
	}
	if got := s.files(""); slices.Contains(got, ".deleted-old-1") {
		t.Errorf("still there: %v", got)
	}
}

// The notes of a key are those of the process that made it, not of the one that was late.
func TestTwoProcessesAtOnce(t *testing.T) {
	t.Parallel()
	on := tpmtest.Open(t) // one for all, since a TPM without a resource manager has few sessions
	dir := filepath.Join(t.TempDir(), "keys")
	var stores []*shelf
	for range 4 {
		stores = append(stores, openShelf(t, on, dir))
	}
	var wg sync.WaitGroup
	won := make([]bool, len(stores))
	for i, s := range stores {
		wg.Go(func() {
			options := ecOptions()
			options.PCRs.PCRs = []int{i}
			_, err := s.Create(t.Context(), s.on, "app", options)
			won[i] = err == nil
			if err != nil && !errors.Is(err, keystore.ErrKeyExists) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	s := stores[0]
	e := s.current("app")
	for i := range stores {
		if _, noted := e.PCRValues.Values[i]; noted != won[i] {
			t.Errorf("store %d made the key: %v; notes: %v", i, won[i], e.PCRValues.Values)
		}
	}
	if pcrs := s.open(e).TPMKey().PCRs().PCRs; !won[pcrs[0]] {
		t.Errorf("the key is bound to %v", pcrs)
	}
	rotateAtOnce(t, stores)
}

// rotateAtOnce lets everybody begin, finish, cancel and delete; whatever comes of it, the key in use works.
func rotateAtOnce(t *testing.T, stores []*shelf) {
	t.Helper()
	var wg sync.WaitGroup
	for i, s := range stores {
		wg.Go(func() {
			for range 3 {
				next, err := s.BeginRotation(t.Context(), s.on, "app", ecOptions())
				if err != nil {
					t.Error(err)
					return
				}
				if i == 0 {
					err = s.CancelRotation(t.Context(), s.reach, "app")
				} else if k, openErr := s.Open(t.Context(), next, signer.Config{TPM: s.on}); openErr == nil {
					err = errors.Join(s.FinishRotation(t.Context(), next, k, believe), k.Close())
				}
				if err != nil && !errors.Is(err, keystore.ErrNoKey) && !strings.Contains(err.Error(), "stays as it is") {
					t.Error(err)
				}
				s.works(s.current("app"))
			}
		})
	}
	wg.Wait()
}

// atHandle returns the Name of what is at a persistent handle, "" for nothing.
func (s *shelf) atHandle(h tpm2.TPMHandle) string {
	s.t.Helper()
	_, name, err := s.on.ReadPublic(s.t.Context(), h)
	if err != nil && !errors.Is(err, tpm2.TPMRCHandle) {
		s.t.Fatal(err)
	}
	return string(name)
}

func TestAPersistentHandleGoesWithTheKey(t *testing.T) {
	t.Parallel()
	var warnings bytes.Buffer
	s := newShelf(t, tpmtest.ConnectWith(t, tpm.Config{
		Device: tpmtest.Simulator(t).Device(), Logger: slog.New(slog.NewTextHandler(&warnings, nil)),
	}))
	const place, other = 0x81010001, 0x81010002
	options := ecOptions()
	options.Persistent = place
	first := s.create("app", options)
	is := func(when string, h tpm2.TPMHandle, e keystore.Entry) {
		t.Helper()
		want := ""
		if e.Name != "" {
			k := s.open(e)
			defer k.Close()
			want = string(k.TPMKey().Name())
		}
		if got := s.atHandle(h); got != want {
			t.Errorf("%s: at 0x%08x is %x, want %x", when, uint32(h), got, want)
		}
	}
	is("made", place, first)
	s.open(s.begin("app", options)).Close()
	is("rotation begun", place, first)
	if err := s.CancelRotation(t.Context(), s.reach, "app"); err != nil {
		t.Fatal(err)
	}
	is("rotation cancelled", place, first)
	next := s.begin("app", options)
	if err := s.finish(next, believe); err != nil {
		t.Fatal(err)
	}
	is("rotation finished", place, next)
	s.open(first).Close()
	options.Persistent = other
	third := s.begin("app", options)
	is("rotation to another handle begun", other, third)
	if err := s.finish(third, believe); err != nil {
		t.Fatal(err)
	}
	is("rotation to another handle finished", place, next)
	if strings.Contains(warnings.String(), "not at its persistent handle") {
		t.Errorf("warned of what is as it should be: %s", &warnings)
	}
	options.Persistent = 0
	fourth := s.begin("app", options)
	is("the oldest is gone", place, keystore.Entry{})
	if err := s.finish(fourth, believe); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(t.Context(), s.reach, "app"); err != nil {
		t.Fatal(err)
	}
	is("deleted", place, keystore.Entry{})
	is("deleted", other, keystore.Entry{})
}

// A handle that cannot be had leaves no key behind that is not as it was asked for, and no key that cannot be removed.
func TestAPersistentHandleThatIsTaken(t *testing.T) {
	t.Parallel()
	s := newShelf(t, tpmtest.Open(t))
	options := ecOptions()
	options.Persistent = 0x81010001
	s.create("owner", options)
	taken := s.atHandle(options.Persistent)
	for h, want := range map[tpm2.TPMHandle]string{0x81010001: "choose another", 0x81000001: "is not between", 0x40000001: "is not between"} {
		options.Persistent = h
		if _, err := s.Create(t.Context(), s.on, "app", options); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("0x%08x: %v", uint32(h), err)
		}
		if _, err := s.Current("app"); !errors.Is(err, keystore.ErrNoKey) {
			t.Errorf("0x%08x: there is a key: %v", uint32(h), err)
		}
	}
	// Notes that name another object's place, as a crash before the key got there leaves them.
	e := s.create("app", ecOptions())
	if err := os.WriteFile(s.file("app", "1.json"), []byte(`{"persistent_handle": "0x81010001"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	s.works(s.current("app"))
	if err := s.finish(s.begin("app", ecOptions()), believe); err != nil {
		t.Error(err)
	}
	if err := s.Delete(t.Context(), s.reach, e.Name); err != nil {
		t.Error(err)
	}
	if got := s.atHandle(0x81010001); got != taken {
		t.Error("another key's place was touched")
	}
}

func TestAKeyWhosePlaceIsLostAtTheLastMomentIsNotThere(t *testing.T) {
	t.Parallel()
	proxy := tpmtest.NewProxy(t, tpmtest.Simulator(t).Device())
	s := newShelf(t, tpmtest.Connect(t, proxy.Device()))
	proxy.Handle(func(command []byte, forward tpmtest.Forward) ([]byte, error) {
		if tpm2.TPMCC(tpmtest.CommandCode(command)) == tpm2.TPMCCEvictControl {
			return tpmtest.Response(uint32(tpm2.TPMRCNVSpace)), nil
		}
		return forward(command)
	})
	options := ecOptions()
	options.Persistent = 0x81010001
	if _, err := s.Create(t.Context(), s.on, "app", options); !errors.Is(err, tpm2.TPMRCNVSpace) {
		t.Fatalf("made: %v", err)
	}
	if _, err := s.Current("app"); !errors.Is(err, keystore.ErrNoKey) {
		t.Errorf("there is a key: %v", err)
	}
}

func TestAdopting(t *testing.T) {
	t.Parallel()
	on := tpmtest.Open(t)
	s := newShelf(t, on)
	file := signertest.OtherProgramsKey(t, on)
	e, err := s.Adopt(t.Context(), on, "app", file, keystore.KeyOptions{Persistent: 0x81010003})
	if err != nil {
		t.Fatal(err)
	}
	if s.atHandle(0x81010003) == "" {
		t.Error("it is not persistent")
	}
	k, err := s.Open(t.Context(), e, signer.Config{TPM: on, AnyAttributes: true})
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	if len(k.Info().Deviations) == 0 || !k.Info().Created == false {
		t.Errorf("%+v", k.Info())
	}
	if _, err := s.Open(t.Context(), e, signer.Config{TPM: on}); !errors.Is(err, tpm.ErrAttributes) {
		t.Errorf("as a key that only signs: %v", err)
	}
	if _, err := s.Adopt(t.Context(), on, "app", file, keystore.KeyOptions{}); !errors.Is(err, keystore.ErrKeyExists) {
		t.Errorf("twice: %v", err)
	}
	exportable, err := signertest.CreateAs(t.Context(), on, func(p *tpm2.TPMTPublic) { p.ObjectAttributes.FixedTPM, p.ObjectAttributes.FixedParent = false, false })
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Adopt(t.Context(), on, "loose", exportable, keystore.KeyOptions{}); !errors.Is(err, tpm.ErrExportable) {
		t.Errorf("one that could leave: %v", err)
	}
	withValue, err := on.CreateKey(t.Context(), tpm.KeyOptions{Algorithm: tpm.ECDSAP256, AuthValue: secret.New("right")})
	if err != nil {
		t.Fatal(err)
	}
	wrong := keystore.KeyOptions{KeyOptions: tpm.KeyOptions{AuthValue: secret.New("wrong")}}
	if _, err := s.Adopt(t.Context(), on, "locked", withValue, wrong); !errors.Is(err, tpm.ErrAuthValue) {
		t.Errorf("with a wrong value: %v", err)
	}
	if names, err := s.Names(); err != nil || !slices.Equal(names, []string{"app"}) {
		t.Errorf("keys %v, %v", names, err)
	}
}

func TestOpenOrCreate(t *testing.T) {
	t.Parallel()
	s := newShelf(t, tpmtest.Open(t))
	for i := range 2 {
		k, e, err := s.OpenOrCreate(t.Context(), s.on, "app", ecOptions(), signer.Config{})
		if err != nil {
			t.Fatal(err)
		}
		defer k.Close()
		if k.Info().Created != (i == 0) || e.Generation != 1 || k.Info().Algorithm != "ECDSA-P256" {
			t.Errorf("time %d: %+v", i, k.Info())
		}
	}
}

func TestWaitingForTheLockEndsWithTheContext(t *testing.T) {
	t.Parallel()
	s := newShelf(t, tpmtest.Open(t))
	e := s.create("app", ecOptions())
	next := s.begin("app", ecOptions())
	ctx, cancel := context.WithCancel(t.Context())
	// The proof runs without the lock; what follows needs it.
	err := s.FinishRotation(t.Context(), next, s.open(next), func(context.Context, *signer.Key, []*x509.Certificate) error {
		return s.CancelRotation(t.Context(), s.reach, "app")
	})
	if err == nil {
		t.Error("a cancelled rotation was finished")
	}
	unlock := holdLock(t, s.file(".lock"))
	defer unlock()
	cancel()
	if err := s.Delete(ctx, s.reach, "app"); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), ".lock") {
		t.Errorf("got %v", err)
	}
	s.works(e)
}

func TestADirectoryThatIsOpenToOthersIsRefused(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "keys")
	if err := errors.Join(os.Mkdir(dir, 0o700), os.Chmod(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	if _, err := keystore.Open(keystore.Config{StateDir: filepath.Dir(dir)}); err == nil || !strings.Contains(err.Error(), "chmod 0700") {
		t.Errorf("got %v", err)
	}
	s := newShelf(t, tpmtest.Open(t))
	if err := errors.Join(os.Mkdir(s.file("app"), 0o700), os.Chmod(s.file("app"), 0o770)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Create(t.Context(), s.on, "app", ecOptions()); err == nil || !strings.Contains(err.Error(), "chmod 0700") {
		t.Errorf("got %v", err)
	}
}

func TestAStoreThatIsNotThereHoldsNothingAndIsNotMadeByLooking(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "state", "keys")
	store, err := keystore.Open(keystore.Config{StateDir: filepath.Dir(dir)})
	if err != nil {
		t.Fatal(err)
	}
	if names, err := store.Names(); err != nil || len(names) != 0 {
		t.Errorf("it holds %q, %v", names, err)
	}
	if _, err := store.Current("app"); !errors.Is(err, keystore.ErrNoKey) {
		t.Error(err)
	}
	if _, err := os.Lstat(filepath.Dir(dir)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("looking made it: %v", err)
	}
}
