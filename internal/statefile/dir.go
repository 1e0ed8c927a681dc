package statefile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/keyagent/keyagent/internal/owned"
)

// EnsureDir makes the directory at path, with missing parents, and checks that it belongs to the
// agent alone: a real directory, owned by the effective user, without any permission for group or
// others, which no other user can replace. It does not repair a directory that fails a check:
// another user who could enter it may have left something behind, so an operator should look.
func EnsureDir(path string) error {
	if err := makeDirs(path, 0o700); err != nil {
		return fmt.Errorf("creating state directory %q: %w", path, err)
	}
	info, err := os.Lstat(path)
	if err != nil {
		return fmt.Errorf("checking state directory: %w", err)
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		return fmt.Errorf("state directory %q is a symbolic link: configure the directory it points to", path)
	}
	if !info.IsDir() {
		return fmt.Errorf("state directory %q is a %s: move it away", path, kind(info.Mode()))
	}
	if err := checkPrivate("state directory", path, info, "0700"); err != nil {
		return err
	}
	if _, err := owned.Resolve(path); err != nil {
		return fmt.Errorf("state directory %q: on the way to it, %w", path, err)
	}
	return nil
}

// makeDirs creates the directory at path with missing parents, and makes the entry of each durable.
// A directory that exists is fine.
func makeDirs(path string, mode fs.FileMode) error {
	path = filepath.Clean(path)
	_, err := os.Lstat(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := makeDirs(filepath.Dir(path), mode); err != nil {
		return err
	}
	if err := os.Mkdir(path, mode); err != nil && !errors.Is(err, fs.ErrExist) { // another process was faster
		return err
	}
	return syncDir(filepath.Dir(path))
}

// checkPrivate refuses a file or directory that another user owns or may read or write.
func checkPrivate(what, path string, info fs.FileInfo, want string) error {
	uid, err := owned.Owner(info)
	if err != nil {
		return fmt.Errorf("%s %q: %w", what, path, err)
	}
	if !owned.Ours(uid) {
		return fmt.Errorf("%s %q belongs to uid %d, not to this process' uid %d: run this as that user, or check its content, then chown it", what, path, uid, os.Geteuid())
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return fmt.Errorf("%s %q is open to group or others (mode %04o): check its content, then chmod %s", what, path, mode, want)
	}
	return nil
}

// kind names a file type for an operator.
func kind(mode fs.FileMode) string {
	switch mode.Type() {
	case 0:
		return "regular file"
	case fs.ModeDir:
		return "directory"
	case fs.ModeSymlink:
		return "symbolic link"
	case fs.ModeSocket:
		return "socket"
	case fs.ModeNamedPipe:
		return "named pipe"
	}
	return "device or special file"
}

// syncDir makes the names in dir durable.
func syncDir(dir string) error {
	d, err := os.Open(dir) // #nosec G304 -- the directory of a path that the caller chose
	if err != nil {
		return err
	}
	err = d.Sync()
	if errors.Is(err, syscall.EINVAL) { // a file system without it, where names are as durable as they get
		err = nil
	}
	return errors.Join(err, d.Close())
}
