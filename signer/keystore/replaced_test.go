package keystore_test

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keyagent/keyagent/internal/tooltest"
	"github.com/keyagent/keyagent/signer"
	"github.com/keyagent/keyagent/signer/certreq"
	"github.com/keyagent/keyagent/signer/internal/signertest"
	"github.com/keyagent/keyagent/signer/keystore"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

// another makes one more certificate for a generation.
func (s *shelf) another(e keystore.Entry) []*x509.Certificate {
	s.t.Helper()
	k := s.open(e)
	defer k.Close()
	return []*x509.Certificate{selfSigned(s.t, k)}
}

// replace imports over whatever is there.
func (s *shelf) replace(e keystore.Entry, chain []*x509.Certificate) *keystore.Replacement {
	s.t.Helper()
	k := s.open(e)
	defer k.Close()
	r, err := s.Import(s.t.Context(), e, k, chain, true)
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

// has checks which certificate a generation has.
func (s *shelf) has(e keystore.Entry, want []*x509.Certificate) {
	s.t.Helper()
	chain, err := s.Certificates(e)
	if err != nil || !chain[0].Equal(want[0]) {
		s.t.Errorf("generation %d has another certificate (%v)", e.Generation, err)
	}
}

func TestACertificateInUseIsReplacedOnlyIfThatIsMeant(t *testing.T) {
	t.Parallel()
	s := newShelf(t, tpmtest.Open(t))
	e := s.create("app", ecOptions())
	first := s.certify(e)
	second := s.another(e)
	k := s.open(e)
	defer k.Close()
	_, err := s.Import(t.Context(), e, k, second, false)
	if inUse, ok := errors.AsType[*keystore.InUseError](err); !ok || !inUse.Chain[0].Equal(first[0]) || inUse.Key != "app" {
		t.Errorf("imported over it: %v", err)
	}
	if err := s.CheckReplace(e, k); err == nil {
		t.Error("beforehand nothing is said")
	}
	s.has(e, first)
	if r, err := s.Import(t.Context(), e, k, first, false); err != nil || r != nil {
		t.Errorf("the same certificate again: %v, %v", r, err)
	}
	r, err := s.Import(t.Context(), e, k, second, true)
	if err != nil || !r.Chain[0].Equal(first[0]) {
		t.Fatalf("got %+v, %v", r, err)
	}
	s.has(e, second)
	kept, err := os.ReadFile(r.File)
	if err != nil || !bytes.Equal(kept, certreq.EncodeCertificates(first)) {
		t.Errorf("the old one is not in %s (%v)", r.File, err)
	}
}

func TestACertificateThatIsNotInUseIsReplacedAndKept(t *testing.T) {
	t.Parallel()
	s := newShelf(t, tpmtest.Open(t))
	s.certify(s.create("app", ecOptions()))
	next := s.begin("app", ecOptions())
	first, second := s.certify(next), s.another(next)
	k := s.open(next)
	defer k.Close()
	r, err := s.Import(t.Context(), next, k, second, false)
	if err != nil || r == nil || !r.Chain[0].Equal(first[0]) {
		t.Fatalf("got %+v, %v", r, err)
	}
	if back, err := s.Replaced(next); err != nil || !back[0].Equal(first[0]) {
		t.Errorf("the way back: %v", err)
	}
	if err := s.CancelRotation(t.Context(), s.reach, "app"); err != nil {
		t.Fatal(err)
	}
	if left := s.files("app"); slices.ContainsFunc(left, func(f string) bool { return strings.HasPrefix(f, "2.") }) {
		t.Errorf("left behind: %v", left)
	}
}

func TestThereIsAWayBackAndForth(t *testing.T) {
	t.Parallel()
	s := newShelf(t, tpmtest.Open(t))
	e := s.create("app", ecOptions())
	first := s.certify(e)
	if _, err := s.Replaced(e); !errors.Is(err, keystore.ErrNoneReplaced) {
		t.Errorf("before any was replaced: %v", err)
	}
	second := s.another(e)
	s.replace(e, second)
	for _, want := range [][]*x509.Certificate{first, second, first} {
		back, err := s.Replaced(e)
		if err != nil || !back[0].Equal(want[0]) {
			t.Fatalf("another one would come back: %v", err)
		}
		s.replace(e, back)
		s.has(e, want)
		if kept := s.kept(); len(kept) != 1 {
			t.Errorf("kept: %v", kept)
		}
	}
}

func (s *shelf) kept() []string {
	return slices.DeleteFunc(s.files("app"), func(f string) bool { return !strings.Contains(f, ".replaced-") })
}

func TestTheLastSixteenReplacedCertificatesAreKept(t *testing.T) {
	t.Parallel()
	s := newShelf(t, tpmtest.Open(t))
	e := s.create("app", ecOptions())
	s.certify(e)
	for range 18 {
		s.replace(e, s.another(e))
	}
	kept := s.kept()
	if len(kept) != 16 || !slices.Contains(kept, "1.cert.pem.replaced-18") || slices.Contains(kept, "1.cert.pem.replaced-2") {
		t.Errorf("kept: %v", kept)
	}
}

func TestADamagedCertificateIsPutAsideByAnImport(t *testing.T) {
	t.Parallel()
	s := newShelf(t, tpmtest.Open(t))
	e := s.create("app", ecOptions())
	chain := s.another(e)
	for i, content := range []string{"-----BEGIN CERTIFICATE-----\nMIIB", "", strings.Repeat("x", 100<<10)} {
		if err := os.WriteFile(e.CertFile, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := s.put(t.Context(), e, s.open(e), chain); err != nil {
			t.Error(err)
		}
		s.has(e, chain)
		if aside, err := os.ReadFile(fmt.Sprintf("%s.torn-%d", e.CertFile, i+1)); err != nil || string(aside) != content {
			t.Errorf("%.20q was not put aside: %v", content, err)
		}
	}
}

// Not in parallel with others: the process has no descriptors for a while.
func TestAnUnreadableCertificateIsNotReplaced(t *testing.T) {
	s := newShelf(t, tpmtest.Open(t))
	e := s.create("app", ecOptions())
	first := s.certify(e)
	k := s.open(e)
	second := []*x509.Certificate{selfSigned(t, k)}
	for name, fault := range map[string]func() (end func()){
		"no descriptor is left": func() func() { return tooltest.WithoutDescriptors(t) },
		"it is open to others": func() func() {
			err := os.Chmod(e.CertFile, 0o644) // #nosec G302 -- the case under test
			return func() {
				if err := errors.Join(err, os.Chmod(e.CertFile, 0o600)); err != nil {
					t.Fatal(err)
				}
			}
		},
		"a socket is in its place": func() func() {
			undo := inPlaceOf(t, e.CertFile)
			return undo
		},
	} {
		end := fault()
		_, err := s.Import(t.Context(), e, k, second, true)
		end()
		if err == nil {
			t.Errorf("%s: it was imported", name)
		}
		s.has(e, first)
		if left := s.files("app"); len(left) != 3 {
			t.Errorf("%s: left behind: %v", name, left)
		}
	}
}

// inPlaceOf puts a socket where a file is: to open it fails with the system's error (ENXIO), as a
// bad disk would make it fail.
func inPlaceOf(t *testing.T, path string) (undo func()) {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err == nil {
		err = errors.Join(os.Rename(path, path+".away"), syscall.Bind(fd, &syscall.SockaddrUnix{Name: path}), syscall.Close(fd))
	}
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := os.Rename(path+".away", path); err != nil {
			t.Fatal(err)
		}
	}
}

// The notes say at which handle a key is: what goes by them must not take them for empty because
// they could not be read.
func TestNotesThatCannotBeReadCostNoPersistentKey(t *testing.T) {
	t.Parallel()
	s := newShelf(t, tpmtest.Open(t))
	options := ecOptions()
	options.Persistent = 0x81010001
	e := s.create("app", options)
	name := s.atHandle(options.Persistent)
	undo := inPlaceOf(t, s.file("app", "1.json"))
	if unread := s.current("app"); unread.CheckNotes() == nil {
		t.Error("nothing is said of the notes")
	} else {
		s.works(unread)
	}
	if next, err := s.BeginRotation(t.Context(), s.on, "app", ecOptions()); err == nil {
		t.Errorf("a successor was made without a place: %+v", next)
	}
	if err := s.Delete(t.Context(), s.reach, "app"); err == nil {
		t.Error("it was deleted, and is left in the TPM")
	}
	undo()
	undo = inPlaceOf(t, e.KeyFile)
	if err := s.Delete(t.Context(), s.reach, "app"); err == nil {
		t.Error("it was deleted without its file, and is left in the TPM")
	}
	undo()
	if now := s.current("app"); now.Persistent != options.Persistent || s.atHandle(options.Persistent) != name {
		t.Errorf("it lost its place: %+v", now)
	}
	if err := s.Delete(t.Context(), s.reach, "app"); err != nil || s.atHandle(options.Persistent) == name {
		t.Errorf("afterwards: %v", err)
	}
}

// Not in parallel with others: the process has no descriptors for a while.
func TestWithoutFileDescriptorsNoKeyIsTakenForMissing(t *testing.T) {
	s := newShelf(t, tpmtest.Open(t))
	e := s.create("app", ecOptions())
	rotated := s.begin("app", ecOptions())
	s.certify(rotated)
	if err := s.finish(rotated, believe); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(rotated.KeyFile, rotated.KeyFile+".away"); err != nil {
		t.Fatal(err)
	}
	end := tooltest.WithoutDescriptors(t)
	_, current := s.Current("app")
	_, _, made := s.OpenOrCreate(t.Context(), s.on, "app", ecOptions(), signer.Config{})
	end()
	for _, err := range []error{current, made} {
		if !errors.Is(err, syscall.EMFILE) || errors.Is(err, keystore.ErrNoKey) {
			t.Errorf("got %v", err)
		}
	}
	if _, err := os.Stat(e.KeyFile); err != nil {
		t.Error(err)
	}
}

func TestAcceptanceByEntraIsNoted(t *testing.T) {
	t.Parallel()
	s := newShelf(t, tpmtest.Open(t))
	e := s.create("app", ecOptions())
	first, second := s.certify(e)[0], s.another(e)[0]
	if err := s.NoteAccepted(e, first); err != nil {
		t.Fatal(err)
	}
	when, err := s.Accepted(e, first)
	if err != nil || time.Since(when) > time.Hour {
		t.Errorf("got %v, %v", when, err)
	}
	if when, err := s.Accepted(e, second); err != nil || !when.IsZero() {
		t.Errorf("of another certificate: %v, %v", when, err)
	}
	if err := errors.Join(s.NoteAccepted(e, second), s.NoteAccepted(e, first)); err != nil {
		t.Fatal(err)
	}
	if again, err := s.Accepted(e, first); err != nil || !again.Equal(when) {
		t.Errorf("the first time is %v now (%v)", again, err)
	}
}

func TestNotesOfAcceptedCertificatesThatCannotBeReadAreKept(t *testing.T) {
	t.Parallel()
	s := newShelf(t, tpmtest.Open(t))
	e := s.create("app", ecOptions())
	first, second := s.certify(e)[0], s.another(e)[0]
	if err := s.NoteAccepted(e, first); err != nil {
		t.Fatal(err)
	}
	undo := inPlaceOf(t, s.file("app", "1.accepted.json"))
	_, unread := s.Accepted(e, first)
	if err := s.NoteAccepted(e, second); err == nil || unread == nil {
		t.Error("no error")
	}
	undo()
	if when, err := s.Accepted(e, first); err != nil || when.IsZero() {
		t.Errorf("the note is lost: %v", err)
	}
	if err := os.WriteFile(s.file("app", "1.accepted.json"), []byte("{torn"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.NoteAccepted(e, second); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(s.file("app", "1.accepted.json.torn-1")); err != nil {
		t.Errorf("the torn note was not put aside: %v", err)
	}
}

// A chain that differs in its issuers only is another one: what it replaces is kept. One that lacks
// issuers takes none away.
func TestNoIssuerIsLostByAnImport(t *testing.T) {
	t.Parallel()
	s := newShelf(t, tpmtest.Open(t))
	e := s.create("app", ecOptions())
	k := s.open(e)
	defer k.Close()
	valid := func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour).Truncate(time.Second), time.Now().Add(24*time.Hour).Truncate(time.Second)
	}
	root := signertest.NewIssuer(t, nil, "Root", valid)
	self := signertest.Template("Root", signertest.Authority, valid, func(c *x509.Certificate) { c.SerialNumber = big.NewInt(2) })
	again := (&signertest.Issuer{Certificate: self, Key: root.Key}).Issue(t, root.Key.Public(), self)
	leaf := root.Issue(t, k.Public(), signertest.Template("app", signertest.Client, valid))
	full, alone, other := []*x509.Certificate{leaf, root.Certificate}, []*x509.Certificate{leaf}, []*x509.Certificate{leaf, again}
	for _, step := range []struct {
		name     string
		imported []*x509.Certificate
		want     []*x509.Certificate
		kept     []*x509.Certificate // what was replaced, and can be put back
	}{
		{"the leaf alone", alone, alone, nil},
		{"with its issuer", full, full, nil},
		{"the leaf alone again", alone, full, nil},
		{"with another certificate of the issuer", other, other, full},
		{"the leaf alone once more", alone, other, full},
	} {
		if _, err := s.Import(t.Context(), e, k, step.imported, false); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		if there, err := s.Certificates(e); err != nil || !slices.EqualFunc(there, step.want, (*x509.Certificate).Equal) {
			t.Errorf("%s: %d certificates are there (%v)", step.name, len(there), err)
		}
		if back, err := s.Replaced(e); (err == nil) != (step.kept != nil) || !slices.EqualFunc(back, step.kept, (*x509.Certificate).Equal) {
			t.Errorf("%s: %d certificates were kept (%v)", step.name, len(back), err)
		}
	}
}

// A kept certificate that is damaged does not stand in the way of the others.
func TestADamagedReplacedCertificateIsPassedOver(t *testing.T) {
	t.Parallel()
	s := newShelf(t, tpmtest.Open(t))
	e := s.create("app", ecOptions())
	first, second, third := s.certify(e), s.another(e), s.another(e)
	s.replace(e, second)
	last := s.replace(e, third)
	if err := os.WriteFile(last.File, []byte("torn"), 0o600); err != nil {
		t.Fatal(err)
	}
	if back, err := s.Replaced(e); err != nil || !back[0].Equal(first[0]) {
		t.Errorf("got %v, want the one before it", err)
	}
}
