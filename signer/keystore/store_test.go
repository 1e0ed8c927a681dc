package keystore_test

import (
	"context"
	"crypto/x509"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyagent/keyagent/internal/secret"
	"github.com/keyagent/keyagent/signer"
	"github.com/keyagent/keyagent/signer/certreq"
	"github.com/keyagent/keyagent/signer/internal/signertest"
	"github.com/keyagent/keyagent/signer/keystore"
	"github.com/keyagent/keyagent/tpm"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

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

func TestOnlyAProvenGenerationIsSwitchedTo(t *testing.T) {
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

// The generation before is kept until the next rotation begins, and so long it is a way back.
func TestAKeyGoesBackToTheGenerationBefore(t *testing.T) {
	t.Parallel()
	s := newShelf(t, tpmtest.Open(t))
	first := s.create("app", ecOptions())
	if _, err := s.Previous("app"); !errors.Is(err, keystore.ErrNoKey) {
		t.Errorf("before any rotation: %v", err)
	}
	second := s.begin("app", ecOptions())
	if err := s.finish(second, believe); err != nil {
		t.Fatal(err)
	}
	back := func(key keystore.Entry, prove keystore.Prove) error {
		k := s.open(key)
		defer k.Close()
		return s.GoBack(t.Context(), first, k, prove)
	}
	no := errors.New("no")
	if err := back(first, func(context.Context, *signer.Key, []*x509.Certificate) error { return no }); !errors.Is(err, no) || !strings.Contains(err.Error(), "previous generation") {
		t.Errorf("unproven: %v", err)
	}
	if err := back(second, believe); err == nil || !strings.Contains(err.Error(), "not that of the previous generation") {
		t.Errorf("with another key: %v", err)
	}
	if got := s.current("app"); got.Generation != 2 {
		t.Errorf("generation %d is in use", got.Generation)
	}
	if err := back(first, believe); err != nil {
		t.Fatal(err)
	}
	next, err := s.Next("app")
	if got := s.current("app"); got.Generation != 1 || err != nil || next.Generation != 2 {
		t.Errorf("generation %d is in use, and the next one is %d, %v", got.Generation, next.Generation, err)
	}
	if err := back(first, believe); err == nil || !strings.Contains(err.Error(), "meanwhile") {
		t.Errorf("twice: %v", err)
	}
	if err := s.finish(next, believe); err != nil { // forward again
		t.Fatal(err)
	}
	s.begin("app", ecOptions())
	if _, err := s.Previous("app"); !errors.Is(err, keystore.ErrNoKey) {
		t.Errorf("after the next rotation began: %v", err)
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
