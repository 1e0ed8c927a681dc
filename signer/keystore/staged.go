package keystore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/keyagent/keyagent/internal/statefile"
)

// stagedSuffix ends the name of the directory with the staged certificates of a generation.
const stagedSuffix = ".certificates"

func (s *Store) stagedDir(e Entry) string {
	return filepath.Join(s.path(e.Name), strconv.Itoa(e.Generation)+stagedSuffix)
}

// Stage makes the directory for certificates that are obtained with a generation before it is in
// use, and that are kept elsewhere then, unlike the one that [Store.Import] puts beside a key. They
// are removed with the generation, unless [Store.TakeStaged] has moved them.
func (s *Store) Stage(e Entry) (statefile.Dir, error) {
	dir := s.stagedDir(e)
	return statefile.In(dir), statefile.EnsureDir(dir)
}

// TakeStaged moves the staged files of a generation to the directory dir. For each file, replaces
// says whether it is to be moved to the path that it is given, where there may be one already; if
// not, the file is removed. If replaces returns an error, the file stays, and a later call tries
// again. If nothing is staged, TakeStaged does nothing.
func (s *Store) TakeStaged(ctx context.Context, e Entry, dir string, replaces func(path string) (bool, error)) error {
	from := s.stagedDir(e)
	if _, err := os.Lstat(from); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	files, err := os.ReadDir(from)
	if err != nil {
		return fmt.Errorf("taking over certificates: %w", err)
	}
	for _, f := range files {
		err = errors.Join(err, takeFile(filepath.Join(from, f.Name()), filepath.Join(dir, f.Name()), replaces))
	}
	if err != nil {
		return err
	}
	return statefile.Remove(from)
}

// takeFile moves one file, or removes it.
func takeFile(from, to string, replaces func(path string) (bool, error)) error {
	if strings.HasPrefix(filepath.Base(from), ".") { // a temporary file of a process that was killed
		return statefile.Remove(from)
	}
	take, err := replaces(to)
	switch {
	case err != nil:
		return fmt.Errorf("%s is not taken over: %w", from, err)
	case take:
		return statefile.Rename(from, to)
	}
	return statefile.Remove(from)
}
