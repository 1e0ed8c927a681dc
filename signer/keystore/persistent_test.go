package keystore_test

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyagent/keyagent/signer/keystore"
	"github.com/keyagent/keyagent/tpm"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

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
	k := s.open(first)
	if err := errors.Join(s.GoBack(t.Context(), first, k, believe), k.Close()); err != nil {
		t.Fatal(err)
	}
	is("gone back", place, first)
	if err := s.finish(next, believe); err != nil {
		t.Fatal(err)
	}
	is("forward again", place, next)
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

// A handle that cannot be had leaves no key behind that is not as it was asked for, and no key that
// cannot be removed.
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

func TestAKeyThatCannotBeMadePersistentIsRemoved(t *testing.T) {
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
