package statefile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Write puts data into the file at path, mode 0600, replacing an older one in one step. On any
// error the old content stays; only if syncing the directory fails may the new content already be
// visible.
func Write(path string, data []byte) error {
	if err := write(path, data, createPrivate, os.Rename); err != nil {
		return fmt.Errorf("writing state file %q: %w", path, err)
	}
	return nil
}

// WriteNew puts data into a new file at path, mode 0600. If path exists, whatever it is, nothing
// changes and the error is [fs.ErrExist]: of two processes that create the same file at once, one
// wins and the other learns it.
func WriteNew(path string, data []byte) error {
	if err := write(path, data, createPrivate, linkNew); err != nil {
		return fmt.Errorf("writing new state file %q: %w", path, err)
	}
	return nil
}

// linkNew gives the file at temp the name path. Unlike rename, link(2) fails if the name is taken.
func linkNew(temp, path string) error {
	if err := os.Link(temp, path); err != nil {
		return err
	}
	return os.Remove(temp)
}

// createPrivate makes a temporary file that nobody else may read.
func createPrivate(dir, base string) (*os.File, error) {
	return os.CreateTemp(dir, "."+base+".tmp-*") // mode 0600, O_EXCL
}

// write writes a durable temporary file, which create makes beside path, and lets install give it
// its name.
func write(path string, data []byte, create func(dir, base string) (*os.File, error), install func(temp, path string) error) (err error) {
	dir, base := filepath.Split(filepath.Clean(path))
	if dir == "" {
		dir = "."
	}
	temp, err := create(dir, base)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(temp.Name()) // gone already if only the last sync failed
		}
	}()
	if err := fill(temp, data); err != nil {
		return err
	}
	if err := install(temp.Name(), path); err != nil {
		return err
	}
	return syncDir(dir)
}

// fill writes data, makes it durable and closes the file.
func fill(f *os.File, data []byte) error {
	_, err := f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// Link gives the file at path a second name in the same file system, for good. Writing the file
// anew leaves what the second name has. If there is such a name, the error is [fs.ErrExist].
func Link(path, name string) error {
	if err := os.Link(path, name); err != nil {
		return fmt.Errorf("keeping state file: %w", err)
	}
	return syncDir(filepath.Dir(name))
}

// Remove removes the file at path, for good: a power cut does not bring it back. One that is not
// there is fine.
func Remove(path string) error {
	err := os.Remove(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		return fmt.Errorf("removing state file: %w", err)
	}
	return nil
}

// Rename gives a file or directory another name in the same file system, for good.
func Rename(path, name string) error {
	if err := os.Rename(path, name); err != nil {
		return fmt.Errorf("renaming state file: %w", err)
	}
	err := syncDir(filepath.Dir(name)) // first: a power cut may leave both names, not none
	if filepath.Dir(path) != filepath.Dir(name) {
		err = errors.Join(err, syncDir(filepath.Dir(path)))
	}
	return err
}
