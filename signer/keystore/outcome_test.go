package keystore_test

import (
	"os"
	"slices"
	"testing"

	"github.com/keyagent/keyagent/signer"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

// The outcome of the self-test lies beside the key file, and goes with it.
func TestTheOutcomeOfTheSelfTestIsKeptWithTheKey(t *testing.T) {
	t.Parallel()
	s := newShelf(t, tpmtest.Open(t))
	open := func() []byte {
		t.Helper()
		k, _, err := s.OpenOrCreate(t.Context(), s.on, "app", ecOptions(), signer.Config{})
		if err != nil {
			t.Fatal(err)
		}
		defer k.Close()
		text, err := os.ReadFile(s.file("app", "1.tested.json"))
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	made := open()
	if err := os.WriteFile(s.file("app", "1.tested.json"), made[:len(made)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	if again := open(); !slices.Equal(again, made) {
		t.Errorf("after it was torn, it is %s, and was %s", again, made)
	}
	next := s.begin("app", ecOptions())
	if err := s.finish(next, believe); err != nil {
		t.Fatal(err)
	}
	s.begin("app", ecOptions()) // which removes the first generation
	if files := s.files("app"); slices.Contains(files, "1.tested.json") {
		t.Errorf("there are %q", files)
	}
}
