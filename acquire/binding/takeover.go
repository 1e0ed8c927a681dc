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

// Supersedes says whether a state file, which a [Manager] with other [Files] wrote for the key called keyName (hex TPM Name), is to be
// moved to path, where a manager that has not begun yet will look for it. A file for the same key that is there already is the later
// one and stays: an earlier start could not read the other. One that cannot be read stays, too, with an error: a later call may know.
func Supersedes(path, keyName string) (bool, error) {
	name := filepath.Base(path)
	if !strings.HasPrefix(name, filePrefix) || !strings.HasSuffix(name, fileSuffix) {
		return free(path)
	}
	later := false
	err := statefile.Load(path, maxRecordBytes, func(data []byte) error {
		r, err := decodeAnyRecord(data)
		later = err == nil && r.KeyName == keyName
		return err
	})
	_, torn := errors.AsType[*statefile.TornError](err)
	if err != nil && !torn && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	return !later, nil
}

// free says whether a file that nobody reads, such as a torn one, can be moved to where an operator looks for it.
func free(path string) (bool, error) {
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("there is %s: look at both, and remove one", path)
	}
	return true, nil
}
