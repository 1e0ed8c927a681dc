package accounts

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
)

const (
	passwdFile = "/etc/passwd"
	groupFile  = "/etc/group"
	// maxFileBytes has room for hundreds of thousands of local users.
	maxFileBytes = 64 << 20
)

// The fields of an entry, as passwd(5) and group(5) have them.
const (
	fieldName   = 0
	fieldNumber = 2

	passwdFields = 7
	groupFields  = 4
)

// errNoEntry means that a file has no entry that fits.
var errNoEntry = errors.New("no such entry")

// numberIn returns the number that the first entry of a name has in a file; errNoEntry if there is
// none, or no file. An entry that has the name and is damaged is another error: what comes after
// it, in this file or in a directory, must not decide about the name.
func numberIn(path string, fields int, name string) (uint32, error) {
	entry, err := readEntry(path, func(entry []string) bool { return entry[fieldName] == name })
	if err != nil {
		return 0, err
	}
	if len(entry) != fields {
		return 0, fmt.Errorf("its entry in %s has %d fields, not %d", path, len(entry), fields)
	}
	return parseID(entry[fieldNumber])
}

// NameOf returns the name that the file passwd has for a uid, for texts that people read.
// Directories are not asked, which could take long.
func (f Finder) NameOf(uid uint32) (name string, found bool) {
	number := strconv.FormatUint(uint64(uid), 10)
	entry, err := readEntry(f.passwd(), func(entry []string) bool {
		return len(entry) == passwdFields && entry[fieldNumber] == number && checkName(entry[fieldName]) == nil
	})
	if err != nil {
		return "", false
	}
	return entry[fieldName], true
}

func readEntry(path string, fits func(entry []string) bool) ([]string, error) {
	file, err := os.Open(path) // #nosec G304 -- passwd or group
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errNoEntry // as on machines that have a directory alone
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	entry, err := findEntry(file, fits)
	if err != nil && !errors.Is(err, errNoEntry) {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return entry, err
}

// findEntry returns the first entry that fits, split into its fields; errNoEntry if there is none.
// It passes over lines that are no user or group: comments, empty lines, and entries that refer to
// NIS (+ and -). It reads up to maxFileBytes.
func findEntry(file io.Reader, fits func(entry []string) bool) ([]string, error) {
	bounded := &io.LimitedReader{R: file, N: maxFileBytes + 1}
	lines := bufio.NewScanner(bounded)
	lines.Buffer(nil, maxEntryBytes)
	for lines.Scan() {
		line := strings.TrimLeft(lines.Text(), " \t")
		if line == "" || strings.ContainsRune("#+-", rune(line[0])) {
			continue
		}
		if entry := strings.Split(line, ":"); fits(entry) && bounded.N > 0 {
			return entry, nil
		}
	}
	switch {
	case lines.Err() != nil:
		return nil, lines.Err()
	case bounded.N <= 0:
		return nil, fmt.Errorf("it has more than %d bytes", maxFileBytes)
	}
	return nil, errNoEntry
}
