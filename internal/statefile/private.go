package statefile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// ExportPrivate puts data into the file at path for this user alone: a copy of a secret that
// another program reads. A regular file, or a symbolic link to one, is replaced in one step by a
// new file of mode 0600 that belongs to this user; on any error the old content stays.
//
// A path that is no regular file (a pipe, a terminal) is written to and never replaced.
func ExportPrivate(path string, data []byte) error {
	info, err := os.Stat(path)
	if err == nil && !info.Mode().IsRegular() && !info.IsDir() {
		if err := writeInto(path, data); err != nil {
			return fmt.Errorf("writing %q: %w", path, err)
		}
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("writing %q: %w", path, err)
	}
	return Write(path, data)
}

// writeInto writes to a path that is no regular file.
func writeInto(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|syscall.O_NOCTTY, 0) // #nosec G304 -- the operator's choice
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err == nil && info.Mode().IsRegular() {
		err = errors.New("it was exchanged by somebody meanwhile")
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	return writeTo(f, data)
}
