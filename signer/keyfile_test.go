package signer_test

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyagent/keyagent/internal/statefile"
	"github.com/keyagent/keyagent/signer"
	"github.com/keyagent/keyagent/signer/internal/signertest"
	"github.com/keyagent/keyagent/tpm"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

func contents(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path) // #nosec G304 -- the test's own
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestTheKeyFileIsMadeOnceAndForTheOwnerAlone(t *testing.T) {
	t.Parallel()
	on, path := tpmtest.Open(t), signertest.KeyPath(t)
	first := signertest.Open(t, on, path)
	before := contents(t, path)
	if !bytes.HasPrefix(before, []byte("-----BEGIN TSS2 PRIVATE KEY-----\n")) {
		t.Errorf("the key file begins %q", before[:32])
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	second := signertest.Open(t, on, path)
	if !bytes.Equal(before, contents(t, path)) || !bytes.Equal(first.TPMKey().Name(), second.TPMKey().Name()) {
		t.Error("the key changed")
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Errorf("%v, %v", entries, err)
	}
}

func TestTwoProcessesThatCreateEndWithTheSameKey(t *testing.T) {
	t.Parallel()
	v, path := tpmtest.Simulator(t), signertest.KeyPath(t)
	var keys [2]*signer.Key
	var wg sync.WaitGroup
	for i := range keys {
		on := tpmtest.Connect(t, v.Device())
		wg.Go(func() {
			var err error
			keys[i], err = signer.Open(t.Context(), signer.Config{TPM: on, KeyFile: path})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	if !bytes.Equal(keys[0].TPMKey().Name(), keys[1].TPMKey().Name()) {
		t.Error("two keys")
	}
	if keys[0].Info().Created && keys[1].Info().Created {
		t.Error("both say that they made the file")
	}
	for _, k := range keys {
		if err := k.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestAKeyFileThatCannotBeUsedIsKeptAndExplained(t *testing.T) {
	t.Parallel()
	wide := func(t *testing.T, on *tpm.TPM) []byte { return signertest.OtherProgramsKey(t, on).Encode() }
	exportable := func(t *testing.T, on *tpm.TPM) []byte {
		f, err := signertest.CreateAs(t.Context(), on, func(p *tpm2.TPMTPublic) { p.ObjectAttributes.FixedTPM, p.ObjectAttributes.FixedParent = false, false })
		if err != nil {
			t.Fatal(err)
		}
		return f.Encode()
	}
	foreign := func(t *testing.T, on *tpm.TPM) []byte {
		f, err := on.CreateKey(t.Context(), tpm.KeyOptions{})
		if err != nil {
			t.Fatal(err)
		}
		f.Private[len(f.Private)-1] ^= 1
		return f.Encode()
	}
	for _, tt := range []struct {
		name    string
		content func(*testing.T, *tpm.TPM) []byte
		is      error
		want    string
	}{
		{"a file of another TPM", foreign, tpm.ErrForeignTPM, "move the file away"},
		{"a key that may leave the TPM", exportable, tpm.ErrExportable, "move the file away"},
		{"a key that may do more than sign", wide, tpm.ErrAttributes, "move the file away"},
		{"an empty file", func(*testing.T, *tpm.TPM) []byte { return nil }, nil, "move it away"},
		{"half a file", func(t *testing.T, on *tpm.TPM) []byte { return foreign(t, on)[:300] }, nil, "move it away"},
		{"a software key", func(*testing.T, *tpm.TPM) []byte { return []byte("-----BEGIN PRIVATE KEY-----\n") }, nil, "move it away"},
		{"a huge file", func(*testing.T, *tpm.TPM) []byte { return make([]byte, 1<<20) }, nil, "larger than"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			on, path := tpmtest.Open(t), signertest.KeyPath(t)
			content := tt.content(t, on)
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
			k, err := signer.Open(t.Context(), signer.Config{TPM: on, KeyFile: path})
			if err == nil {
				t.Fatal(k.Close())
			}
			if tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("got %v, want %v", err, tt.is)
			}
			if !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("%q does not help", err)
			}
			if !bytes.Equal(contents(t, path), content) {
				t.Error("the file was changed")
			}
		})
	}
}

func TestOpenNeedsItsDirectory(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "missing", "key.pem")
	_, err := signer.Open(t.Context(), signer.Config{TPM: tpmtest.Open(t), KeyFile: path})
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), path) {
		t.Errorf("got %v", err)
	}
}

func TestOpenRefusesAKeyFileThatOthersMayRead(t *testing.T) {
	t.Parallel()
	on, path := tpmtest.Open(t), signertest.KeyPath(t)
	signertest.Open(t, on, path)
	if err := os.Chmod(path, 0o640); err != nil { // #nosec G302 -- the case under test
		t.Fatal(err)
	}
	if k, err := signer.Open(t.Context(), signer.Config{TPM: on, KeyFile: path}); err == nil {
		t.Fatal(k.Close())
	}
}

func TestOpenEndsWithItsContext(t *testing.T) {
	t.Parallel()
	on, path := tpmtest.Open(t), signertest.KeyPath(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := signer.Open(ctx, signer.Config{TPM: on, KeyFile: path}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if _, err := statefile.Read(path, 1<<10); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a key file was left: %v", err)
	}
	// And a context that ends later does not end the key.
	ctx, cancel = context.WithCancel(t.Context())
	k, err := signer.Open(ctx, signer.Config{TPM: on, KeyFile: path})
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	cancel()
	if _, err := k.Sign(nil, make([]byte, 32), crypto.SHA256); err != nil {
		t.Error(err)
	}
}
