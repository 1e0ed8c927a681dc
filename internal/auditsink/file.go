package auditsink

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/keyagent/keyagent/internal/owned"
	"github.com/keyagent/keyagent/internal/shell"
)

const (
	// fileMode is that of a file that is made here. One that is there may let a group read.
	fileMode = 0o600
	// openFlags have it read to see how it ends. Without O_NONBLOCK the open of a FIFO would wait
	// for a reader.
	openFlags = unix.O_RDWR | unix.O_APPEND | unix.O_CREAT | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_NOCTTY
	// everybody are the bits of those who are neither the owner nor of the group.
	everybody = 0o007
)

// errNoFile: the directory is as it must be, and the file is not there.
var errNoFile = errors.New("there is no such file")

// file is a writer of lines. It is safe for concurrent use.
type file struct {
	path  string
	flags int // to open it with

	mu     sync.Mutex
	open   *os.File // nil: it is opened for the next line
	id     fileID   // of open
	torn   bool     // the file does not end in a newline
	closed bool
}

// fileID tells one file from another.
type fileID struct{ dev, ino uint64 }

func openFile(path string) (*file, error) {
	f := &file{path: path, flags: openFlags}
	if !filepath.IsAbs(path) {
		return nil, fmt.Errorf("%s: the path is not absolute", path)
	}
	return f, f.openLocked()
}

// Write writes a line, which ends in a newline.
func (f *file) Write(line []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return 0, fs.ErrClosed
	}
	if f.open != nil && f.movedLocked() {
		f.dropLocked()
	}
	if f.open == nil {
		if err := f.openLocked(); err != nil {
			return 0, err
		}
	}
	return f.writeLocked(line)
}

// writeLocked makes one write, with a newline before the line if the one before was torn.
func (f *file) writeLocked(line []byte) (int, error) {
	before := 0
	if f.torn {
		line, before = append([]byte{'\n'}, line...), 1
	}
	n, err := f.open.Write(line)
	if n > 0 {
		f.torn = line[n-1] != '\n'
	}
	return max(0, n-before), err
}

// movedLocked reports whether the open file is not the one at its path any more.
func (f *file) movedLocked() bool {
	var there unix.Stat_t
	return unix.Lstat(f.path, &there) != nil || idOf(&there) != f.id
}

func idOf(s *unix.Stat_t) fileID { return fileID{s.Dev, s.Ino} }

func (f *file) openLocked() error {
	dir, name := filepath.Split(f.path)
	resolved, err := safeDir(filepath.Clean(dir))
	if err != nil {
		return err
	}
	opened, err := os.OpenFile(filepath.Join(resolved, name), f.flags, fileMode)
	if errors.Is(err, unix.ELOOP) {
		return fmt.Errorf("%s is a symbolic link, which could lead elsewhere: name the file itself", f.path)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %w", errNoFile, err)
	}
	if err != nil {
		return err
	}
	if err := f.useLocked(opened); err != nil {
		return errors.Join(err, opened.Close())
	}
	return nil
}

// useLocked takes an open file for the lines to come, if it is one that only we write and that
// strangers cannot read.
func (f *file) useLocked(opened *os.File) error {
	info, err := opened.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", f.path)
	}
	if err := owned.Check(f.path, info); err != nil {
		return err
	}
	if perm := info.Mode().Perm(); perm&everybody != 0 {
		return fmt.Errorf("%s: mode %04o lets everybody read which user asks for which token (chmod o= %s)", f.path, perm, shell.Word(f.path))
	}
	var stat unix.Stat_t
	if err := unix.Fstat(int(opened.Fd()), &stat); err != nil {
		return err
	}
	if f.torn, err = endsTorn(opened, info.Size()); err != nil {
		return err
	}
	f.open, f.id = opened, idOf(&stat)
	return nil
}

// endsTorn reports whether a file ends within a line, as one does that the disk had no room for.
func endsTorn(opened *os.File, size int64) (bool, error) {
	if size == 0 {
		return false, nil
	}
	last := make([]byte, 1)
	if _, err := opened.ReadAt(last, size-1); err != nil {
		return false, err
	}
	return last[0] != '\n', nil
}

func (f *file) dropLocked() {
	_ = f.open.Close() // each line was given to the kernel, or failed
	f.open = nil
}

func (f *file) reopen() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.open != nil {
		f.dropLocked()
	}
}

// Close implements io.Closer.
func (f *file) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	if f.open == nil {
		return nil
	}
	err := f.open.Close()
	f.open = nil
	return err
}

// safeDir returns the path without symbolic links of a directory that only we can write to. The
// directories above it must be root's or ours, too. One of them may be writable for its group, as
// /var/log is for syslog on Ubuntu: such a group could move the directory away, which shows as
// records that cannot be written, but not put one of its own there that would be taken.
func safeDir(dir string) (string, error) {
	resolved, err := filepath.EvalSymlinks(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("%w: make the directory, with mode 0750 and owned by the agent's user (systemd: LogsDirectory=)", err)
	}
	if err != nil {
		return "", err
	}
	info, err := os.Lstat(resolved)
	if err != nil {
		return "", err
	}
	if !info.IsDir() {
		return "", fmt.Errorf("%s is not a directory", dir)
	}
	if err := owned.Check(resolved, info); err != nil {
		return "", fmt.Errorf("others could take audit records away or put their own there: %w", err)
	}
	for _, path := range []string{dir, resolved} {
		if err := checkAbove(filepath.Dir(path)); err != nil {
			return "", err
		}
	}
	return resolved, nil
}

// checkAbove checks what leads to a path: each directory and symbolic link.
func checkAbove(path string) error {
	for at := path; at != filepath.Dir(at); at = filepath.Dir(at) {
		info, err := os.Lstat(at)
		if err != nil {
			return err
		}
		uid, err := owned.Owner(info)
		if err != nil {
			return err
		}
		if uid != 0 && !owned.Ours(uid) {
			return fmt.Errorf("%s belongs to uid %d, who could put another directory there: it must belong to root or to the agent's user", at, uid)
		}
		mode := info.Mode()
		if mode.IsDir() && mode.Perm()&0o002 != 0 && mode&fs.ModeSticky == 0 {
			return fmt.Errorf("%s: mode %04o lets everybody put another directory there (chmod o-w %s)", at, mode.Perm(), shell.Word(at))
		}
	}
	return nil
}
