package pki_test

import (
	"crypto/rsa"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/keyagent/keyagent/simulator/pki"
)

func TestKeptKeysAreOneForEachRole(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "keys")
	for name, again := range map[string]func() pki.Keys{
		"in memory": func() func() pki.Keys { kept := pki.KeptKeys(); return func() pki.Keys { return kept } }(),
		"in files":  func() pki.Keys { return pki.KeysIn(dir) },
	} {
		var got [3]*rsa.PrivateKey
		var all sync.WaitGroup
		for i, role := range []string{"one", "one", "other"} {
			all.Go(func() {
				var err error
				if got[i], err = again()(role); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			})
		}
		all.Wait()
		if t.Failed() {
			return
		}
		if !got[0].Equal(got[1]) || got[0].Equal(got[2]) {
			t.Errorf("%s: the same role has another key, or another role the same", name)
		}
	}
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	if hidden, _ := filepath.Glob(filepath.Join(dir, ".*")); err != nil || len(left) != 2 || len(hidden) != 0 {
		t.Errorf("left behind: %v %v, %v", left, hidden, err)
	}
	for _, path := range left {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}
}

func TestAFileThatIsNoKeyIsNotReplaced(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "one.pem")
	if err := os.WriteFile(path, []byte("something else"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := pki.KeysIn(dir)("one"); err == nil {
		t.Error("a file that is no key was taken for one")
	}
	if data, err := os.ReadFile(path); err != nil || string(data) != "something else" {
		t.Errorf("the file is now %q, %v", data, err)
	}
}
