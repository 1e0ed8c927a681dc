package binding_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/keyagent/keyagent/acquire/binding"
	"github.com/keyagent/keyagent/internal/tooltest"
	"github.com/keyagent/keyagent/signer/keystore"
)

// A staging is what a rotation left for the key after it.
type staging struct {
	*world
	store *keystore.Store
	next  keystore.Entry
}

// staged makes a world with a certificate of an old key, and beside it one that a rotation obtained
// for the next key.
func staged(t *testing.T) (s staging, from string, next *binding.Certificate) {
	t.Helper()
	w := newWorld(t)
	w.certificate(t, w.start())
	store, err := keystore.Open(keystore.Config{StateDir: t.TempDir()})
	must(t, err)
	s = staging{w, store, keystore.Entry{Name: "binding", Generation: 2}}
	files, err := store.Stage(s.next)
	must(t, err)
	state := w.dir
	from = filepath.Dir(files.Path("any"))
	w.dir, w.key, w.keyName = from, softKey{newKey(t)}, "000b02"
	next = w.certificate(t, w.start())
	w.dir = state
	return s, from, next
}

// takeOver is what the first start with the next key does.
func (s staging) takeOver(t *testing.T) error {
	t.Helper()
	return s.store.TakeStaged(t.Context(), s.next, s.dir, func(path string) (bool, error) { return binding.Supersedes(path, s.keyName) })
}

func TestStagedCertificatesAreTakenOver(t *testing.T) {
	w, from, next := staged(t)
	must(t, os.WriteFile(filepath.Join(from, ".binding-system.json.tmp-1"), []byte("half"), 0o600))
	must(t, w.takeOver(t))
	must(t, w.takeOver(t)) // as every start does
	if c := w.certificate(t, w.start()); c.Thumbprint() != next.Thumbprint() {
		t.Error("another certificate was obtained")
	}
	if _, err := os.Stat(from); !os.IsNotExist(err) {
		t.Errorf("the staged files are still there: %v", err)
	}
}

// The first start could not read the directory, and obtained a certificate of its own; the second
// can.
func TestAStagedCertificateReplacesNoLaterOne(t *testing.T) {
	w, _, next := staged(t)
	end := tooltest.WithoutDescriptors(t)
	err := w.takeOver(t)
	end()
	if err == nil {
		t.Fatal("no error without descriptors")
	}
	later := w.certificate(t, w.start())
	must(t, w.takeOver(t))
	if c := w.certificate(t, w.start()); c.Thumbprint() != later.Thumbprint() || c.Thumbprint() == next.Thumbprint() {
		t.Error("the later certificate was replaced by the staged one")
	}
}

func TestAStagedCertificateReplacesNoFileThatCannotBeRead(t *testing.T) {
	for name, fault := range unreadable {
		t.Run(name, func(t *testing.T) {
			w, from, _ := staged(t)
			before := w.content(t)
			end := fault(t, w.file())
			err := w.takeOver(t)
			end()
			if err == nil || w.content(t) != before {
				t.Errorf("got %v, and %s", err, w.content(t))
			}
			if _, err := os.Stat(filepath.Join(from, "binding-system.json")); err != nil {
				t.Errorf("the staged certificate is gone: %v", err)
			}
		})
	}
}
