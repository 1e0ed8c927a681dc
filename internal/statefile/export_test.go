package statefile_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/keyagent/keyagent/internal/statefile"
)

func TestAnExportedFileIsReplacedInOneStep(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "app.cer")
	must(t, os.WriteFile(path, []byte("old content"), 0o600))
	must(t, os.Chmod(path, 0o640)) // #nosec G302 -- somebody's choice
	reader, err := os.Open(path)
	must(t, err)
	defer reader.Close()
	must(t, statefile.Export(path, []byte("new")))
	if got := content(t, path); got != "new" {
		t.Errorf("it holds %q", got)
	}
	if old, err := io.ReadAll(reader); err != nil || string(old) != "old content" {
		t.Errorf("a reader that had it open reads %q, %v", old, err)
	}
	info, err := os.Stat(path)
	if must(t, err); info.Mode().Perm() != 0o640 {
		t.Errorf("its mode is %v now", info.Mode())
	}
	if got := names(t, dir); len(got) != 1 {
		t.Errorf("left behind: %v", got)
	}
}

func TestExportMakesMissingDirectories(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, path := range []string{"new/deeper/app.cer", "new/other.cer", "./new/../dots/app.cer", strings.Repeat("n", 255)} {
		path = dir + "/" + path
		must(t, statefile.Export(path, []byte("text")))
		info, err := os.Stat(path)
		must(t, err)
		if got := content(t, path); got != "text" || info.Mode().Perm()&0o400 == 0 || info.Mode().Perm()&^0o644 != 0 {
			t.Errorf("%s holds %q, mode %v", path, got, info.Mode())
		}
	}
}

func TestExportFollowsLinksAndKeepsThem(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(dir, "real", "inner"), 0o700))
	must(t, os.Symlink("real/inner", filepath.Join(dir, "by")))
	for link, target := range map[string]string{
		"absolute": filepath.Join(dir, "real", "a.cer"), "relative": "real/b.cer", "nowhere": "real/new/c.cer", "by/up": "../d.cer",
	} {
		path := filepath.Join(dir, link)
		must(t, os.Symlink(target, path))
		for _, text := range []string{"first", "second"} {
			must(t, statefile.Export(path, []byte(text)))
			if got := content(t, path); got != text {
				t.Errorf("%s holds %q", link, got)
			}
		}
		if info, err := os.Lstat(path); err != nil || info.Mode()&fs.ModeSymlink == 0 {
			t.Errorf("%s is no link any more (%v)", link, err)
		}
	}
	for _, file := range []string{"a.cer", "b.cer", "new/c.cer", "d.cer"} {
		if got := content(t, filepath.Join(dir, "real", file)); got != "second" {
			t.Errorf("%s holds %q", file, got)
		}
	}
}

func TestExportWritesToPipesAndTerminals(t *testing.T) {
	t.Parallel()
	fifo := filepath.Join(t.TempDir(), "fifo")
	must(t, syscall.Mkfifo(fifo, 0o600))
	read := make(chan string)
	go func() {
		text, err := os.ReadFile(fifo)
		read <- string(text) + errorText(err)
	}()
	must(t, statefile.Export(fifo, []byte("through a pipe")))
	if got := <-read; got != "through a pipe" {
		t.Errorf("the reader got %q", got)
	}
	if info, err := os.Lstat(fifo); err != nil || info.Mode()&fs.ModeNamedPipe == 0 {
		t.Errorf("the pipe is replaced (%v)", err)
	}
	must(t, statefile.Export("/dev/null", []byte("away")))
	if info, err := os.Lstat("/dev/null"); err != nil || info.Mode()&fs.ModeDevice == 0 {
		t.Errorf("/dev/null is replaced (%v)", err)
	}
}

func content(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	must(t, err)
	return string(text)
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// exportTo, when set, makes the test binary a process that exports to standard output, by this
// name.
const exportTo = "KEYAGENT_TEST_EXPORT_TO"

func TestExportToStandardOutputContinuesIt(t *testing.T) {
	if name := os.Getenv(exportTo); name != "" {
		must(t, errors.Join(statefile.Export(name, []byte("exported\n"))))
		return
	}
	t.Parallel()
	dir := t.TempDir()
	link := filepath.Join(dir, "link")
	must(t, os.Symlink("/dev/stdout", link))
	for _, name := range []string{"/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", link} {
		path := filepath.Join(dir, "out")
		must(t, os.WriteFile(path, []byte("before\n"), 0o600))
		out, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
		must(t, err)
		child := exec.Command(os.Args[0], "-test.run=^TestExportToStandardOutputContinuesIt$") // #nosec G204 -- this test binary
		child.Env = append(os.Environ(), exportTo+"="+name)
		child.Stdout = out
		must(t, errors.Join(child.Run(), out.Close()))
		if got := content(t, path); !strings.HasPrefix(got, "before\nexported\n") || !strings.Contains(got, "PASS") {
			t.Errorf("%s: it holds %q", name, got)
		}
	}
}

func TestExportRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "file"), []byte("x"), 0o600))
	must(t, os.Symlink("loop", filepath.Join(dir, "loop")))
	for name, path := range map[string]string{
		"a directory": dir, "a new directory": dir + "/new/", "nothing": "", "what would be below a file": dir + "/file/app.cer", "a loop": dir + "/loop",
	} {
		if err := statefile.Export(path, []byte("text")); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if got := names(t, dir); len(got) != 2 {
		t.Errorf("left behind: %v", got)
	}
}

// A command must not follow a link that another user put into a directory for all. The kernel sees
// to that, if its protection is on.
func TestExportFollowsNoLinkThatAnotherUserLeft(t *testing.T) {
	t.Parallel()
	on, err := os.ReadFile("/proc/sys/fs/protected_symlinks")
	if err != nil || !bytes.HasPrefix(on, []byte("1")) || os.Geteuid() != 0 {
		t.Skip("it takes root, and fs.protected_symlinks")
	}
	dir := t.TempDir()
	victim := filepath.Join(dir, "victim")
	must(t, os.WriteFile(victim, []byte("victim"), 0o600))
	shared := filepath.Join(dir, "shared")
	must(t, os.Mkdir(shared, 0o700))
	must(t, os.Chmod(shared, 0o777|fs.ModeSticky)) // #nosec G302 -- the case under test
	must(t, os.Chown(shared, 12345, -1))
	for link, target := range map[string]string{"there": victim, "new": filepath.Join(dir, "planted")} {
		path := filepath.Join(shared, link)
		must(t, os.Symlink(target, path))
		must(t, unix.Lchown(path, 12346, -1))
		if err := statefile.Export(path, []byte("text")); err == nil {
			t.Errorf("%s: the link was followed", link)
		}
	}
	if got := content(t, victim); got != "victim" {
		t.Errorf("the victim holds %q", got)
	}
}
