package binding

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/keyagent/keyagent/internal/statefile"
)

const (
	filePrefix = "binding-"
	fileSuffix = ".json"
)

// TakeOver moves the state files in from, which a [Manager] with another state directory wrote for
// the key called keyName (hex TPM Name), to the state directory dir. It must be called before a
// manager uses dir. A file for the same key that is in dir already is newer and stays: an earlier
// start could not read from. One that cannot be read stays, too, and so does the file that would
// replace it; the error says so, and a later call goes on.
//
// From is removed once it is empty. It is no error if there is no such directory.
func TakeOver(from, dir, keyName string) error {
	entries, err := os.ReadDir(from)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("taking over certificates: %w", err)
	}
	for _, e := range entries {
		err = errors.Join(err, takeFile(filepath.Join(from, e.Name()), filepath.Join(dir, e.Name()), keyName))
	}
	if err != nil {
		return err
	}
	return os.Remove(from)
}

// takeFile moves one file.
func takeFile(from, to, keyName string) error {
	name := filepath.Base(from)
	if strings.HasPrefix(name, ".") { // a temporary file of a process that was killed
		return statefile.Remove(from)
	}
	if !strings.HasPrefix(name, filePrefix) || !strings.HasSuffix(name, fileSuffix) {
		return moveAside(from, to)
	}
	later := false
	err := statefile.Load(to, maxRecordBytes, func(data []byte) error {
		r, err := decodeAnyRecord(data)
		later = err == nil && r.KeyName == keyName
		return err
	})
	_, torn := errors.AsType[*statefile.TornError](err)
	switch {
	case err != nil && !torn && !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%s is not taken over: %w", from, err)
	case later:
		return statefile.Remove(from)
	}
	return statefile.Rename(from, to)
}

// moveAside moves a file that the agent does not read, such as a torn one, to where an operator
// looks for it.
func moveAside(from, to string) error {
	if _, err := os.Lstat(to); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is not taken over: there is %s: look at both, and remove one", from, to)
	}
	return statefile.Rename(from, to)
}
