package pki_test

import (
	"crypto/rsa"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/keyagent/keyagent/simulator/pki"
)

func TestPlatformsThatUseOneDirectoryHaveTheSameKeys(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "keys")
	var got [3][2]*rsa.PrivateKey
	var all sync.WaitGroup
	for platform := range got {
		all.Go(func() {
			keys := pki.KeysIn(dir)
			for i := range got[platform] {
				var err error
				if got[platform][i], err = keys.Next(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if t.Failed() {
		return
	}
	if got[0][0].Equal(got[0][1]) {
		t.Error("a platform has one key twice")
	}
	for _, keys := range got {
		if !keys[0].Equal(got[0][0]) || !keys[1].Equal(got[0][1]) {
			t.Error("two platforms have different keys")
		}
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 2 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	for _, entry := range left {
		if info, err := entry.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", entry.Name(), info.Mode(), err)
		}
	}
}

func TestAFileThatIsNoKeyIsNotReplaced(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "1.pem")
	if err := os.WriteFile(path, []byte("something else"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := pki.KeysIn(dir).Next(); err == nil {
		t.Error("a file that is no key was taken for one")
	}
	if data, err := os.ReadFile(path); err != nil || string(data) != "something else" {
		t.Errorf("the file is now %q, %v", data, err)
	}
}
