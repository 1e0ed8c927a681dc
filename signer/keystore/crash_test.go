package keystore_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/keyagent/keyagent/internal/tooltest"
	"github.com/keyagent/keyagent/signer/keystore"
	"github.com/keyagent/keyagent/tpm"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

// The environment makes this test binary a process that changes keys, to be killed or starved.
const (
	stepVariable   = "KEYAGENT_TEST_STORE_STEP"
	dirVariable    = "KEYAGENT_TEST_STORE_DIR"
	deviceVariable = "KEYAGENT_TEST_STORE_TPM"
	limitVariable  = "KEYAGENT_TEST_STORE_LIMIT" // bytes that a file may have
)

// A step changes the keys of a shelf on which scene has put something.
type step struct {
	scene func(*shelf)
	do    func(context.Context, *shelf) error
	done  error // that doing it once more may give after it was done
}

// oneOldOneCurrent leaves generations 1 and 2, with certificates.
func oneOldOneCurrent(s *shelf) {
	s.certify(s.create("app", ecOptions()))
	next := s.begin("app", ecOptions())
	s.certify(next)
	if err := s.finish(next, believe); err != nil {
		s.t.Fatal(err)
	}
}

// beforeFile is a copy of the certificate that is in use before a step.
const beforeFile = "before.pem"

// certificateReplaced leaves a certificate that replaced another.
func certificateReplaced(s *shelf) {
	oneOldOneCurrent(s)
	if err := steps()["import"].do(s.t.Context(), s); err != nil {
		s.t.Fatal(err)
	}
	text, err := os.ReadFile(s.current("app").CertFile)
	if err == nil {
		err = os.WriteFile(s.file(beforeFile), text, 0o600)
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// keeps says whether the certificate from before a step is in some file of the key in use.
func (s *shelf) keeps(e keystore.Entry) bool {
	s.t.Helper()
	before, err := os.ReadFile(s.file(beforeFile))
	if err != nil {
		s.t.Fatal(err)
	}
	files, err := filepath.Glob(e.CertFile + "*")
	if err != nil {
		s.t.Fatal(err)
	}
	return slices.ContainsFunc(files, func(path string) bool {
		text, err := os.ReadFile(path)
		return err == nil && bytes.Equal(text, before)
	})
}

func rotationBegun(s *shelf) {
	oneOldOneCurrent(s)
	s.certify(s.begin("app", ecOptions()))
}

func steps() map[string]step {
	return map[string]step{
		"create": {func(*shelf) {}, func(ctx context.Context, s *shelf) error {
			_, err := s.Create(ctx, s.on, "app", ecOptions())
			return err
		}, keystore.ErrKeyExists},
		"import": {certificateReplaced, func(ctx context.Context, s *shelf) error {
			e := s.current("app")
			k := s.open(e)
			defer k.Close()
			_, err := s.Import(ctx, e, k, []*x509.Certificate{selfSigned(s.t, k)}, true)
			return err
		}, nil},
		"begin": {oneOldOneCurrent, func(ctx context.Context, s *shelf) error {
			_, err := s.BeginRotation(ctx, s.on, "app", ecOptions())
			return err
		}, nil},
		"finish": {rotationBegun, func(ctx context.Context, s *shelf) error {
			next, err := s.Next("app")
			if err != nil {
				return err
			}
			k := s.open(next)
			defer k.Close()
			return s.FinishRotation(ctx, next, k, keystore.ProveHere(nil))
		}, keystore.ErrNoKey},
		"back": {oneOldOneCurrent, func(ctx context.Context, s *shelf) error {
			previous, err := s.Previous("app")
			if err != nil {
				return err
			}
			k := s.open(previous)
			defer k.Close()
			return s.GoBack(ctx, previous, k, keystore.ProveHere(nil))
		}, keystore.ErrNoKey},
		"cancel": {rotationBegun, func(ctx context.Context, s *shelf) error { return s.CancelRotation(ctx, s.reach, "app") }, keystore.ErrNoKey},
		"delete": {rotationBegun, func(ctx context.Context, s *shelf) error { return s.Delete(ctx, s.reach, "app") }, keystore.ErrNoKey},
	}
}

// TestStoreStep is the process that the others start.
func TestStoreStep(t *testing.T) {
	name := tooltest.Entry(t, stepVariable)
	s := openShelf(t, tpmtest.Connect(t, os.Getenv(deviceVariable)), os.Getenv(dirVariable))
	limit, err := strconv.ParseUint(os.Getenv(limitVariable), 10, 32)
	if err != nil {
		if err := steps()[name].do(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		return
	}
	signal.Ignore(syscall.SIGXFSZ)
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: limit, Max: limit}); err != nil {
		t.Fatal(err)
	}
	if err := steps()[name].do(t.Context(), s); !errors.Is(err, syscall.EFBIG) {
		t.Fatalf("on a full disk: %v", err)
	}
}

func stepProcess(name, dir, device string, more ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], "-test.run=^TestStoreStep$", "-test.v") // #nosec G204 -- this test binary
	cmd.Env = append(os.Environ(), append(more, stepVariable+"="+name, dirVariable+"="+dir, deviceVariable+"="+device)...)
	return cmd
}

// survived checks that nothing was lost by a step that ended in the middle, and that it can be done
// again.
func survived(t *testing.T, s *shelf, name string) {
	t.Helper()
	e, err := s.Current("app")
	mayMiss := name == "create" || name == "delete"
	if err != nil && !(mayMiss && errors.Is(err, keystore.ErrNoKey)) {
		t.Fatal(err)
	}
	if err == nil && !s.works(e) && name != "create" {
		t.Error("the key in use has no certificate")
	}
	if next, err := s.Next("app"); err == nil {
		s.works(next)
	} else if !errors.Is(err, keystore.ErrNoKey) {
		t.Error(err)
	}
	if name == "import" && !s.keeps(e) {
		t.Errorf("the certificate from before is lost: %v", s.files("app"))
	}
	st := steps()[name]
	if err := st.do(t.Context(), s); err != nil && !(st.done != nil && errors.Is(err, st.done)) {
		t.Errorf("once more: %v", err)
	}
	if e, err := s.Current("app"); err == nil {
		s.works(e)
	} else if name != "delete" {
		t.Error(err)
	}
	if left := s.files(""); slices.ContainsFunc(left, func(f string) bool { return strings.HasPrefix(f, ".deleted") }) && name == "delete" {
		// What a crash left of a deleted key goes with the next one that is deleted.
		s.create("another", ecOptions())
		if err := s.Delete(t.Context(), s.reach, "another"); err != nil || len(s.files("")) != 1 {
			t.Errorf("left behind: %v, %v", s.files(""), err)
		}
	}
}

// A disk that is full at one of the files of a step: files of up to limit bytes can be written.
func TestAFullDiskLosesNoKey(t *testing.T) {
	t.Parallel()
	v := tpmtest.Simulator(t)
	on := tpmtest.ConnectWith(t, tpm.Config{Device: v.Device(), PlainSessions: true}) // so that it keeps no session
	for name, limits := range map[string][]int{"create": {0, 100}, "begin": {0, 100}, "finish": {0}, "back": {0}, "import": {0, 100}} {
		for _, limit := range limits {
			t.Run(name+" "+strconv.Itoa(limit), func(t *testing.T) {
				s := newShelf(t, on)
				steps()[name].scene(s)
				before := s.files("app")
				out, err := stepProcess(name, s.dir, v.Device(), limitVariable+"="+strconv.Itoa(limit)).CombinedOutput()
				if err != nil || !strings.Contains(string(out), "--- PASS: TestStoreStep") {
					t.Fatalf("%v\n%s", err, out)
				}
				left := slices.DeleteFunc(s.files("app"), func(f string) bool { return slices.Contains(before, f) || strings.HasSuffix(f, ".json") })
				if len(left) != 0 {
					t.Errorf("left behind: %v", left)
				}
				survived(t, s, name)
			})
		}
	}
}

// holdLock is another process that changes keys.
func holdLock(t *testing.T, path string) (unlock func()) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err == nil {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
	}
	if err != nil {
		t.Fatal(err)
	}
	return func() { _ = f.Close() }
}

// copyTree copies a store's directory.
func copyTree(t *testing.T, from string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "keys")
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	err := filepath.Walk(to, func(path string, info os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		if info.IsDir() {
			return os.Chmod(path, 0o700)
		}
		return os.Chmod(path, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
	return to
}
