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

// Supersedes reports whether a state file, which a [Manager] with other [Files] wrote for the key
// called keyName (hex TPM Name), is to be moved to path, where a manager that is made later reads
// it. A file for the same key that is at path already is newer and stays: an earlier start could
// not read the other one. A file at path that cannot be read stays as well, with an error: a later
// call can decide.
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

// free reports whether there is no file at path yet, so that one which the agent does not read,
// such as a torn one, can be moved there for the operator.
func free(path string) (bool, error) {
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("there is %s: look at both, and remove one", path)
	}
	return true, nil
}
