package binding_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/keyagent/keyagent/acquire/binding"
	"github.com/keyagent/keyagent/internal/statefile"
	"github.com/keyagent/keyagent/internal/tooltest"
)

// staged makes a world with a certificate of an old key, and beside it one that a rotation obtained
// for the next key.
func staged(t *testing.T) (w *world, from string, next *binding.Certificate) {
	t.Helper()
	w = newWorld(t)
	w.certificate(t, w.start())
	state := w.dir
	w.dir = filepath.Join(t.TempDir(), "staged")
	must(t, statefile.EnsureDir(w.dir))
	w.key, w.keyName = softKey{newKey(t)}, "000b02"
	next = w.certificate(t, w.start())
	from, w.dir = w.dir, state
	return w, from, next
}

func TestStagedCertificatesAreTakenOver(t *testing.T) {
	w, from, next := staged(t)
	must(t, os.WriteFile(filepath.Join(from, ".binding-system.json.tmp-1"), []byte("half"), 0o600))
	must(t, binding.TakeOver(from, w.dir, w.keyName))
	must(t, binding.TakeOver(from, w.dir, w.keyName)) // as every start does
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
	w, from, next := staged(t)
	end := tooltest.WithoutDescriptors(t)
	err := binding.TakeOver(from, w.dir, w.keyName)
	end()
	if err == nil {
		t.Fatal("no error without descriptors")
	}
	later := w.certificate(t, w.start())
	must(t, binding.TakeOver(from, w.dir, w.keyName))
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
			err := binding.TakeOver(from, w.dir, w.keyName)
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
