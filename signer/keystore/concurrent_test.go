package keystore_test

import (
	"context"
	"crypto/x509"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/keyagent/keyagent/signer"
	"github.com/keyagent/keyagent/signer/keystore"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

// A generation's number does not say which key it is: while a certificate was made for one, another
// may have got the number.
func TestACertificateIsNotPutBesideAKeyThatCameMeanwhile(t *testing.T) {
	t.Parallel()
	s := newShelf(t, tpmtest.Open(t))
	for _, tt := range []struct {
		name  string
		first func() keystore.Entry
		again func() error
	}{
		{"the key was deleted and made again", func() keystore.Entry { return s.create("app", ecOptions()) }, func() error {
			return errors.Join(s.Delete(t.Context(), s.reach, "app"), func() error { s.create("app", ecOptions()); return nil }())
		}},
		{"the rotation was cancelled and begun again", func() keystore.Entry { return s.begin("app", ecOptions()) }, func() error {
			return errors.Join(s.CancelRotation(t.Context(), s.reach, "app"), func() error { s.begin("app", ecOptions()); return nil }())
		}},
	} {
		e := tt.first()
		k := s.open(e)
		chain := []*x509.Certificate{selfSigned(t, k)}
		if err := tt.again(); err != nil {
			t.Fatal(err)
		}
		if err := s.put(t.Context(), e, k, chain); err == nil {
			t.Errorf("%s: it was imported", tt.name)
		}
		if _, err := s.Certificates(e); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: there is a certificate: %v", tt.name, err)
		}
		_ = k.Close() // a TPM has three places
	}
}

// A change of keys waits for another one under way; an import is such a change.
func TestAnImportWaitsForTheLock(t *testing.T) {
	t.Parallel()
	s := newShelf(t, tpmtest.Open(t))
	e := s.create("app", ecOptions())
	k := s.open(e)
	chain := []*x509.Certificate{selfSigned(t, k)}
	f, err := os.OpenFile(s.file(".lock"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := s.put(ctx, e, k, chain); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

// The notes of a key are those of the process that made it, not of the one that was late.
func TestTwoProcessesAtOnce(t *testing.T) {
	t.Parallel()
	on := tpmtest.Open(t) // one for all, since a TPM without a resource manager has few sessions
	dir := filepath.Join(t.TempDir(), "keys")
	var stores []*shelf
	for range 4 {
		stores = append(stores, openShelf(t, on, dir))
	}
	var wg sync.WaitGroup
	won := make([]bool, len(stores))
	for i, s := range stores {
		wg.Go(func() {
			options := ecOptions()
			options.PCRs.PCRs = []int{i}
			_, err := s.Create(t.Context(), s.on, "app", options)
			won[i] = err == nil
			if err != nil && !errors.Is(err, keystore.ErrKeyExists) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	s := stores[0]
	e := s.current("app")
	for i := range stores {
		if _, noted := e.PCRValues.Values[i]; noted != won[i] {
			t.Errorf("store %d made the key: %v; notes: %v", i, won[i], e.PCRValues.Values)
		}
	}
	if pcrs := s.open(e).TPMKey().PCRs().PCRs; !won[pcrs[0]] {
		t.Errorf("the key is bound to %v", pcrs)
	}
	rotateAtOnce(t, stores)
}

// rotateAtOnce has all stores begin, finish, cancel and delete at once; whatever the result, the
// key in use works.
func rotateAtOnce(t *testing.T, stores []*shelf) {
	t.Helper()
	var wg sync.WaitGroup
	for i, s := range stores {
		wg.Go(func() {
			for range 3 {
				next, err := s.BeginRotation(t.Context(), s.on, "app", ecOptions())
				if err != nil {
					t.Error(err)
					return
				}
				if i == 0 {
					err = s.CancelRotation(t.Context(), s.reach, "app")
				} else if k, openErr := s.Open(t.Context(), next, signer.Config{TPM: s.on}); openErr == nil {
					err = errors.Join(s.FinishRotation(t.Context(), next, k, believe), k.Close())
				}
				if err != nil && !errors.Is(err, keystore.ErrNoKey) && !strings.Contains(err.Error(), "stays as it is") {
					t.Error(err)
				}
				s.works(s.current("app"))
			}
		})
	}
	wg.Wait()
}

func TestWaitingForTheLockEndsWithTheContext(t *testing.T) {
	t.Parallel()
	s := newShelf(t, tpmtest.Open(t))
	e := s.create("app", ecOptions())
	next := s.begin("app", ecOptions())
	ctx, cancel := context.WithCancel(t.Context())
	// The proof runs without the lock; what follows needs it.
	err := s.FinishRotation(t.Context(), next, s.open(next), func(context.Context, *signer.Key, []*x509.Certificate) error {
		return s.CancelRotation(t.Context(), s.reach, "app")
	})
	if err == nil {
		t.Error("a cancelled rotation was finished")
	}
	unlock := holdLock(t, s.file(".lock"))
	defer unlock()
	cancel()
	if err := s.Delete(ctx, s.reach, "app"); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), ".lock") {
		t.Errorf("got %v", err)
	}
	s.works(e)
}
