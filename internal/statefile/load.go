package statefile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
)

// TornError is the error of [Load] for a file whose content is of no use, and which was put aside.
type TornError struct {
	Aside string // its name now
	Err   error  // its fault
}

func (e *TornError) Error() string { return fmt.Sprintf("%v; it was put aside as %q", e.Err, e.Aside) }

// Unwrap returns the file's fault.
func (e *TornError) Unwrap() error { return e.Err }

// Load reads the file at path and has decode take its content. A file that is larger than maxBytes,
// or that decode refuses, is put aside by [Quarantine], and the error is a *[TornError]: the path
// is free. So it is if there is no file, which gives an error that is [fs.ErrNotExist]. After every
// other error the file is where it was and may be good: it must not be replaced, and the caller can
// try again.
func Load(path string, maxBytes int64, decode func(data []byte) error) error {
	data, err := Read(path, maxBytes)
	if err != nil && !errors.Is(err, ErrTooLarge) {
		return err
	}
	if err == nil {
		if err = decode(data); err == nil {
			return nil
		}
		err = fmt.Errorf("state file %q: %w", path, err)
	}
	aside, failed := Quarantine(path)
	if failed != nil {
		return fmt.Errorf("%w; %w", err, failed)
	}
	return &TornError{Aside: aside, Err: err}
}

// maxTorn bounds the search for a free name in [Quarantine]: more torn files than that need an
// operator, not another name.
const maxTorn = 100

// Quarantine moves a file that cannot be used out of the way, to the first free name path.torn-1,
// path.torn-2, …, and returns that name. Its content is kept, so that an operator can find out what
// happened; nothing is overwritten. A crash in between leaves both names, and the next call picks
// the next number.
func Quarantine(path string) (string, error) {
	for n := 1; n <= maxTorn; n++ {
		torn := path + ".torn-" + strconv.Itoa(n)
		err := os.Link(path, torn)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err == nil {
			err = os.Remove(path)
		}
		if err == nil {
			err = syncDir(filepath.Dir(path))
		}
		if err != nil {
			return "", fmt.Errorf("setting torn state file %q aside: %w", path, err)
		}
		return torn, nil
	}
	return "", fmt.Errorf("setting torn state file %q aside: %d earlier ones are still there: look at them and remove them", path, maxTorn)
}
