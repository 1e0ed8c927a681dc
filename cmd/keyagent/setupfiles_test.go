package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/accounts"
	"github.com/keyagent/keyagent/internal/advice"
)

// Root can read every file; the agent's user cannot.
func TestWhatIsClosedToTheAgentsUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: files are given to others")
	}
	top, err := os.MkdirTemp("", "setup")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(top) })
	dir, file, link := filepath.Join(top, "d"), filepath.Join(top, "d", "ca.pem"), filepath.Join(top, "link")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	const uid, gid, group = 4711, 4712, 4713
	user := accounts.Account{Name: "agent", UID: uid, GID: gid, Groups: []uint32{group}}
	for _, tt := range []struct {
		name            string
		dirMode         os.FileMode
		mode            os.FileMode
		owner, ofGroup  int
		path, forbidden string
	}{
		{"for everybody", 0o755, 0o644, 0, 0, file, ""},
		{"root's alone", 0o755, 0o600, 0, 0, file, file},
		{"in a directory of root's", 0o700, 0o644, 0, 0, file, dir},
		{"in a directory that cannot be searched", 0o744, 0o644, 0, 0, file, dir},
		{"their own", 0o755, 0o400, uid, 0, file, ""},
		{"their own, and not readable", 0o755, 0o044, uid, 0, file, file},
		{"of their group", 0o755, 0o040, 0, gid, file, ""},
		{"of another group of theirs", 0o755, 0o040, 0, group, file, ""},
		{"by a link", 0o755, 0o600, 0, 0, link, file},
		{"a directory", 0o755, 0o644, 0, 0, dir, ""},
		{"a directory that cannot be listed", 0o711, 0o644, 0, 0, dir, dir},
	} {
		for path, mode := range map[string]os.FileMode{top: 0o755, dir: tt.dirMode, file: tt.mode} {
			if err := os.Chmod(path, mode); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Chown(file, tt.owner, tt.ofGroup); err != nil {
			t.Fatal(err)
		}
		if got, err := closedFor(user, tt.path); err != nil || got != tt.forbidden {
			t.Errorf("%s: %q %v, want %q", tt.name, got, err, tt.forbidden)
		}
	}
}

// A path can be anything, and the command with it is pasted by root.
func TestTheCommandForAFileOfAuthoritiesIsQuoted(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, whom the check is for")
	}
	file := filepath.Join(t.TempDir(), "a%d b;c.pem")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{filepath.Dir(file), filepath.Dir(filepath.Dir(file))} {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cfg := config.Default()
	cfg.CAFile = file
	what, ok := advice.Of(checkFilesFor("nobody", cfg))
	if want := "install -m 0644 '" + file + "' /etc/keyagent/"; !ok || !strings.Contains(what.Text(words{}), want) {
		t.Errorf("advice %q, want …%s", what.Text(words{}), want)
	}
}
