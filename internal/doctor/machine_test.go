package doctor

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/keyagent/keyagent/config"
)

func TestRoomOnADisk(t *testing.T) {
	const blockBytes = 4096
	roomy := unix.Statfs_t{Bsize: blockBytes, Blocks: 1 << 20, Bavail: 1 << 18, Files: 1 << 16, Ffree: 1 << 15}
	for _, tt := range []struct {
		name    string
		change  func(*unix.Statfs_t)
		verdict string
		detail  string
	}{
		{"a gigabyte", func(*unix.Statfs_t) {}, VerdictOK, "1024 MB are free"},
		{"read-only", func(fs *unix.Statfs_t) { fs.Flags |= unix.ST_RDONLY }, VerdictFail, "read-only"},
		{"full for all but root", func(fs *unix.Statfs_t) { fs.Bavail, fs.Bfree = 0, 1<<10 }, VerdictFail, "full"},
		{"nearly full", func(fs *unix.Statfs_t) { fs.Bavail = 255 }, VerdictFail, "1020 KB"},
		{"scarce", func(fs *unix.Statfs_t) { fs.Bavail = 1 << 10 }, VerdictWarn, "4 MB"},
		{"no inodes", func(fs *unix.Statfs_t) { fs.Ffree = 0 }, VerdictFail, "room for 0 files"},
		{"one that counts neither", func(fs *unix.Statfs_t) { fs.Blocks, fs.Bavail, fs.Files, fs.Ffree = 0, 0, 0, 0 }, VerdictOK, ""},
	} {
		fs := roomy
		tt.change(&fs)
		if verdict, detail := roomIn(fs); verdict != tt.verdict || !strings.Contains(detail, tt.detail) {
			t.Errorf("%s: %s, %q; want %s, %q", tt.name, verdict, detail, tt.verdict, tt.detail)
		}
	}
}

func TestTheSocketsDirectory(t *testing.T) {
	for _, tt := range []struct {
		name    string
		prepare func(dir string) error
		below   string // of the directory
		verdict string
		detail  string
	}{
		{"one that others can enter", func(dir string) error { return os.Chmod(dir, 0o755) }, "", VerdictOK, "callers can reach it"},
		{"one that others cannot enter", func(dir string) error { return os.Chmod(dir, 0o700) }, "", VerdictWarn, "cannot reach"},
		{"one that others can write", func(dir string) error { return os.Chmod(dir, 0o777) }, "", VerdictFail, "lets others write"},
		{"none, which can be made", func(string) error { return nil }, "new", VerdictOK, "the agent makes it"},
		{"none, and none above it", func(string) error { return nil }, "new/one", VerdictWarn, "cannot make it"},
		{"a file", func(dir string) error { return os.WriteFile(filepath.Join(dir, "file"), nil, 0o600) }, "file", VerdictFail, "not a directory"},
		{"a path that is too long", func(string) error { return nil }, strings.Repeat("x", 120), VerdictFail, "longer than"},
	} {
		dir, err := os.MkdirTemp("", "socket")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
		if err := tt.prepare(dir); err != nil {
			t.Fatal(err)
		}
		cfg := config.Default()
		cfg.Socket = filepath.Join(dir, tt.below, "agent.sock")
		d := &doctor{cfg: cfg}
		d.checkSocket()
		said := d.findings[len(d.findings)-1]
		if said.Check != "socket directory" || said.Verdict != tt.verdict || !strings.Contains(said.Detail, tt.detail) {
			t.Errorf("%s: %v; want %s, %q", tt.name, fmt.Sprintf("%+v", said), tt.verdict, tt.detail)
		}
	}
}
