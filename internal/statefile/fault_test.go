package statefile_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/keyagent/keyagent/internal/statefile"
	"github.com/keyagent/keyagent/internal/tooltest"
)

// fullDiskDir, when set, makes the test binary the process that TestFullDisk starts: one whose
// files may not grow past a few kilobytes, so that write(2) fails half-way as on a full disk.
const fullDiskDir = "KEYAGENT_TEST_FULL_DISK_DIR"

func TestFullDiskKeepsTheOldContent(t *testing.T) {
	t.Parallel()
	dir := stateDir(t)
	path := filepath.Join(dir, "cert.json")
	must(t, statefile.Write(path, []byte("old content")))

	child := exec.Command(os.Args[0], "-test.run=^TestWriteOnAFullDisk$", "-test.v") // #nosec G204 -- this test binary
	child.Env = append(os.Environ(), fullDiskDir+"="+dir)
	out, err := child.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("--- PASS: TestWriteOnAFullDisk")) {
		t.Fatalf("%v\n%s", err, out)
	}
	if got := read(t, path); got != "old content" {
		t.Errorf("the file now holds %d bytes", len(got))
	}
	if got := names(t, dir); len(got) != 1 {
		t.Errorf("left behind: %v", got)
	}
}

func TestWriteOnAFullDisk(t *testing.T) {
	dir := tooltest.Entry(t, fullDiskDir)
	signal.Ignore(syscall.SIGXFSZ)
	must(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 4096, Max: 4096}))
	big := bytes.Repeat([]byte("n"), 64<<10)
	for name, write := range map[string]func(string, []byte) error{
		"cert.json": statefile.Write, "./cert.json": statefile.Export, "new.json": statefile.WriteNew, "new.cer": statefile.Export,
	} {
		err := write(filepath.Join(dir, name), big)
		if !errors.Is(err, syscall.EFBIG) || !strings.Contains(err.Error(), filepath.Base(name)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestWriteOverADirectoryCleansUp(t *testing.T) {
	t.Parallel()
	dir := stateDir(t)
	path := filepath.Join(dir, "taken")
	must(t, os.Mkdir(path, 0o700))
	if err := statefile.Write(path, []byte("x")); err == nil {
		t.Error("a directory was replaced")
	}
	if got := names(t, dir); len(got) != 1 {
		t.Errorf("left behind: %v", got)
	}
}

// A crash between writing and renaming leaves a temporary file. It must never be taken for the
// state.
func TestATornTemporaryFileIsNotRead(t *testing.T) {
	t.Parallel()
	dir := stateDir(t)
	path := filepath.Join(dir, "key.pem")
	must(t, os.WriteFile(filepath.Join(dir, ".key.pem.tmp-1234"), []byte("half a k"), 0o600))
	if _, err := statefile.Read(path, limit); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Read returned %v", err)
	}
	must(t, statefile.WriteNew(path, []byte("whole key")))
	if got := read(t, path); got != "whole key" {
		t.Errorf("read %q", got)
	}
}
