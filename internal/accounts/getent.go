package accounts

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"
)

const (
	getentTimeout = 5 * time.Second
	// maxEntryBytes has room for a group of thousands of members, whose names are not used.
	maxEntryBytes = 1 << 20
	// exitNoSuchKey is getent's exit code for a name that the database does not have. With the GNU C
	// library it is also that for a name of a directory whose service is not running: getpwnam(3)
	// returns no user then, and getent does not look at the reason.
	exitNoSuchKey = 2
)

// getentPaths are where C libraries' packages put it. PATH does not count: it is not ours to
// choose.
var getentPaths = []string{"/usr/bin/getent", "/bin/getent"}

// getent returns the one line that a database has for a name.
func (f Finder) getent(ctx context.Context, database, name string) (string, error) {
	path, err := f.getentPath()
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(f.Timeout, getentTimeout))
	defer cancel()
	var entry entryBuffer
	cmd := exec.CommandContext(ctx, path, database, name) // #nosec G204 -- no shell, a fixed path, and a name that checkName has seen
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	cmd.Dir = "/"
	cmd.Stdout = &entry
	cmd.WaitDelay = time.Second // a child of getent's that keeps the pipe open does not keep us
	err = cmd.Run()
	exit, ended := errors.AsType[*exec.ExitError](err)
	switch {
	case ctx.Err() != nil:
		return "", errors.New("getent did not answer in time")
	case entry.tooLong:
		return "", fmt.Errorf("getent: the entry has more than %d bytes", maxEntryBytes)
	case ended && exit.ExitCode() == exitNoSuchKey:
		return "", ErrUnknown
	case err != nil:
		return "", fmt.Errorf("getent: %w", err)
	}
	return strings.TrimSuffix(entry.text.String(), "\n"), nil
}

func (f Finder) getentPath() (string, error) {
	if f.Getent != "" {
		return f.Getent, nil
	}
	for _, path := range getentPaths {
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("there is no %s", strings.Join(getentPaths, " and no "))
}

// entryBuffer takes up to maxEntryBytes. It does not embed its buffer, whose ReadFrom would know no
// limit.
type entryBuffer struct {
	text    bytes.Buffer
	tooLong bool
}

func (b *entryBuffer) Write(p []byte) (int, error) {
	if b.text.Len()+len(p) > maxEntryBytes {
		b.tooLong = true
		return 0, io.ErrShortWrite
	}
	return b.text.Write(p)
}
