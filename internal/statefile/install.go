package statefile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/keyagent/keyagent/internal/owned"
)

// Installation says how [Install] puts a file where the agent looks for it.
type Installation struct {
	Mode fs.FileMode
	GID  int // of the file's group; -1: that of the process
	// Replace lets it take the place of another file, which is kept.
	Replace bool
}

// Install puts a file that decides what the agent does, such as its configuration, at path, with
// missing directories above it. The file is wholly there or not at all, and belongs to the user of
// this process. It fails if another user could change the file (package owned).
//
// An existing file is not overwritten: without Replace the error is [fs.ErrExist], and with it the
// old file is kept beside the new one, under the name that is returned.
func Install(path string, data []byte, how Installation) (kept string, err error) {
	if kept, err = install(filepath.Clean(path), data, how); err != nil {
		return "", fmt.Errorf("writing %q: %w", path, err)
	}
	return kept, nil
}

func install(path string, data []byte, how Installation) (kept string, err error) {
	if err := makeDirs(filepath.Dir(path), exportDirMode); err != nil {
		return "", err
	}
	if _, err := owned.Resolve(filepath.Dir(path) + "/."); err != nil {
		return "", err
	}
	create := func(dir, base string) (*os.File, error) { return createInstalled(dir, base, how) }
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", write(path, data, create, linkNew)
	case err != nil:
		return "", err
	case !info.Mode().IsRegular():
		return "", fmt.Errorf("a %s is there", kind(info.Mode()))
	case !how.Replace:
		return "", &fs.PathError{Op: "install", Path: path, Err: fs.ErrExist}
	}
	if kept, err = keep(path); err != nil {
		return "", err
	}
	return kept, write(path, data, create, os.Rename)
}

// createInstalled makes a temporary file with the mode and group that the file is to have.
func createInstalled(dir, base string, how Installation) (*os.File, error) {
	f, err := createPrivate(dir, base)
	if err != nil {
		return nil, err
	}
	if how.GID >= 0 {
		err = f.Chown(-1, how.GID)
	}
	if err == nil {
		err = f.Chmod(how.Mode)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close(), os.Remove(f.Name()))
	}
	return f, nil
}

// maxKept bounds how many earlier files are looked for.
const maxKept = 1000

// keep gives a file a second name beside it that no file has.
func keep(path string) (string, error) {
	for n := 1; n < maxKept; n++ {
		name := fmt.Sprintf("%s.old-%d", path, n)
		err := Link(path, name)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		return name, err
	}
	return "", fmt.Errorf("there are %d earlier ones beside it: remove some", maxKept)
}
