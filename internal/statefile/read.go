package statefile

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
)

// ErrTooLarge is in the error of [Read] for a file that is larger than it may be.
var ErrTooLarge = errors.New("it is larger than any file that the agent writes")

// Read returns the content of the file at path, at most maxBytes of it; a larger one gives an error
// that is [ErrTooLarge]. The file must be a regular one, owned by the effective user and closed to
// group and others. A missing file gives an error that is [fs.ErrNotExist]. Every other error says
// nothing about the content, which may be as good as it was: the process may lack a descriptor for
// a moment.
//
// The checks are made on the opened file, so that nobody can swap it between check and read.
func Read(path string, maxBytes int64) ([]byte, error) {
	// O_NONBLOCK: a named pipe put here must not make the agent hang in open(2).
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0) // #nosec G304 -- the caller's choice
	if err != nil {
		return nil, fmt.Errorf("reading state file: %w%s", err, openHint(err))
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("reading state file: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("state file %q is a %s: move it away", path, kind(info.Mode()))
	}
	if err := checkPrivate("state file", path, info, "0600"); err != nil {
		return nil, err
	}
	return readLimited(f, maxBytes)
}

func readLimited(f *os.File, maxBytes int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(f, maxBytes+1))
	if err != nil {
		return nil, fmt.Errorf("reading state file %q: %w", f.Name(), err)
	}
	if int64(len(data)) > maxBytes {
		return nil, fmt.Errorf("state file %q is larger than %d bytes: %w", f.Name(), maxBytes, ErrTooLarge)
	}
	return data, nil
}

// openHint explains the one open(2) error whose text misleads: with O_NOFOLLOW, ELOOP reads "too
// many levels of symbolic links".
func openHint(err error) string {
	if errors.Is(err, syscall.ELOOP) {
		return " (it is a symbolic link: replace it by the file itself)"
	}
	return ""
}
