package tpmtest

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/keyagent/keyagent/simulator/vtpm"
	"github.com/keyagent/keyagent/tpm"
)

// Machine is a TPM that a test may restart.
type Machine interface {
	// Device is the address to open it by.
	Device() string
	// Reboot restarts the TPM: seeds and NV stay, all else goes.
	Reboot(t testing.TB)
}

// Simulator starts the TPM of an Azure Confidential VM. It ends with the test. There is one per
// process: where tests are parallel, the next one waits.
func Simulator(t testing.TB) *vtpm.TPM { return start(t, vtpm.Config{Azure: true}) }

// Shared is [Simulator] without a resource manager: nothing is put aside between the commands of
// two connections, which would cost more than what a benchmark measures.
func Shared(t testing.TB) *vtpm.TPM { return start(t, vtpm.Config{Azure: true, Shared: true}) }

// Bare starts a TPM as a manufacturer delivers it: nothing persistent, NV empty.
func Bare(t testing.TB) *vtpm.TPM { return start(t, vtpm.Config{}) }

func start(t testing.TB, cfg vtpm.Config) *vtpm.TPM {
	t.Helper()
	cfg.Socket = filepath.Join(shortDir(t), "tpm.sock")
	v, err := vtpm.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := v.Close(); err != nil {
			t.Error(err)
		}
	})
	return v
}

// Open starts [Simulator] and opens it.
func Open(t testing.TB) *tpm.TPM {
	t.Helper()
	return Connect(t, Simulator(t).Device())
}

// Connect opens the TPM at device and closes it when the test ends.
func Connect(t testing.TB, device string) *tpm.TPM {
	t.Helper()
	return ConnectWith(t, tpm.Config{Device: device})
}

// ConnectWith is [Connect] with a whole configuration.
func ConnectWith(t testing.TB, cfg tpm.Config) *tpm.TPM {
	t.Helper()
	opened, err := tpm.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := opened.Close(); err != nil {
			t.Error(err)
		}
	})
	return opened
}

// CreateKey makes a binding key and loads it. It is flushed when the test ends.
func CreateKey(t testing.TB, on *tpm.TPM) *tpm.Key {
	t.Helper()
	file, err := on.CreateKey(t.Context(), tpm.KeyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return LoadKey(t, on, file)
}

// LoadKey loads a key file. The key is flushed when the test ends.
func LoadKey(t testing.TB, on *tpm.TPM, file *tpm.KeyFile) *tpm.Key {
	t.Helper()
	key, err := on.LoadKey(t.Context(), file, tpm.LoadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := key.Close(); err != nil {
			t.Error(err)
		}
	})
	return key
}

type simulatedMachine struct{ *vtpm.TPM }

func (m simulatedMachine) Reboot(t testing.TB) {
	t.Helper()
	if err := m.Reset(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// shortDir is a directory whose path leaves room for a socket's name: a Unix socket's path has at
// most 107 bytes, and t.TempDir contains the name of the test.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "tpm")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}
