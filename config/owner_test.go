package config_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/keyagent/keyagent/config"
)

// mallory is a user whom neither the agent nor an operator trusts.
const mallory = 65534

// Another user who can put a file in the configuration's place, or in that of certificate
// authorities, is found out whatever the directory's mode is. Each case first shows that they can.
func TestFilesThatAnotherUserCanReplaceAreNotRead(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("acting as another user needs root")
	}
	for _, tt := range []struct {
		name   string
		give   []string    // directories that belong to the other user
		mode   os.FileMode // of them
		move   [2]string   // what the other user renames
		reason string
	}{
		{"a sticky directory", []string{"home/etc"}, 0o755 | os.ModeSticky, [2]string{"home/etc/old.yaml", "home/etc/config.yaml"}, "home/etc: belongs to uid 65534"},
		{"a sticky directory that everybody writes", []string{"home/etc"}, 0o777 | os.ModeSticky, [2]string{"home/etc/old.yaml", "home/etc/config.yaml"}, "home/etc: belongs to uid 65534"},
		{"the directory above", []string{"home"}, 0o755, [2]string{"home/etc", "home/moved"}, "home: belongs to uid 65534"},
		{"a sticky directory above", []string{"home"}, 0o755 | os.ModeSticky, [2]string{"home/etc", "home/moved"}, "home: belongs to uid 65534"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			top, err := os.MkdirTemp("", "config")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = os.RemoveAll(top) })
			path := filepath.Join(top, "home", "etc", "config.yaml")
			err = errors.Join(os.Chmod(top, 0o755), os.MkdirAll(filepath.Dir(path), 0o755),
				os.WriteFile(path, []byte(good), 0o644), os.WriteFile(filepath.Join(filepath.Dir(path), "old.yaml"), []byte(good), 0o644))
			for _, dir := range tt.give {
				err = errors.Join(err, os.Chown(filepath.Join(top, dir), mallory, mallory), os.Chmod(filepath.Join(top, dir), tt.mode))
			}
			if err != nil {
				t.Fatal(err)
			}
			_, loadErr := config.Load(path)
			_, readErr := config.ReadTrusted(path)
			for _, err := range []error{loadErr, readErr} {
				if _, ok := errors.AsType[*config.Error](err); !ok || !strings.Contains(err.Error(), filepath.Join(top, tt.reason)) {
					t.Errorf("got %v, want …%s…", err, tt.reason)
				}
			}
			mv := exec.Command("mv", "-f", filepath.Join(top, tt.move[0]), filepath.Join(top, tt.move[1]))
			mv.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: mallory, Gid: mallory}}
			if out, err := mv.CombinedOutput(); err != nil {
				t.Errorf("the other user cannot do it, so the case shows nothing: %v: %s", err, out)
			}
		})
	}
}

// A link in a sticky directory is its owner's to change.
func TestALinkOfAnotherUserIsNotFollowed(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("giving a link to another user needs root")
	}
	dir := t.TempDir()
	path, link := filepath.Join(dir, "config.yaml"), filepath.Join(dir, "tmp", "config.yaml")
	err := errors.Join(os.WriteFile(path, []byte(good), 0o644), os.Mkdir(filepath.Dir(link), 0o777),
		os.Chmod(filepath.Dir(link), 0o777|os.ModeSticky), os.Symlink(path, link))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := config.Load(link); err != nil {
		t.Errorf("our own link: %v", err)
	}
	if err := os.Lchown(link, mallory, mallory); err != nil {
		t.Fatal(err)
	}
	if _, err := config.Load(link); err == nil || !strings.Contains(err.Error(), link+": belongs to uid 65534") {
		t.Errorf("another user's link: got %v", err)
	}
}
