package statefile

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	exportMode    = 0o644 // less the umask
	exportDirMode = 0o755 // less the umask
	maxLinks      = 40    // as path_resolution(7)
)

// Export puts data into the file at path, for others to read: a copy of what the agent has, which
// is no secret. A regular file is replaced in one step, and keeps its mode and, where that is
// possible, its owner; a new one is made with missing parents. On any error the old content stays.
// A symbolic link is followed, and stays a link.
//
// A path that is no regular file (a pipe, a terminal, /dev/stdout wherever that leads) is written
// to and never replaced.
func Export(path string, data []byte) error {
	if err := export(path, data); err != nil {
		return fmt.Errorf("writing %q: %w", path, err)
	}
	return nil
}

func export(path string, data []byte) error {
	if path == "" || os.IsPathSeparator(path[len(path)-1]) {
		return errors.New("it does not name a file")
	}
	hops, err := followLinks(path)
	if err != nil {
		return err
	}
	if own, ok := ownDescriptor(hops); ok {
		return writeTo(own, data)
	}
	target := hops[len(hops)-1]
	// By its first name: the kernel does not follow a link that another user left in a sticky
	// directory (proc(5), protected_symlinks).
	there, err := os.OpenFile(path, os.O_WRONLY|syscall.O_NOCTTY, 0) // #nosec G304 -- the operator's choice
	if errors.Is(err, fs.ErrNotExist) {
		return exportNew(target, data)
	}
	if err != nil {
		return err
	}
	info, err := there.Stat()
	if err != nil {
		return errors.Join(err, there.Close())
	}
	if !info.Mode().IsRegular() || slices.ContainsFunc(hops, inProc) {
		return writeTo(there, data)
	}
	_ = there.Close() // nothing was written
	return exportOver(target, info, data)
}

// exportNew makes a file, and the directories that are missing above it.
func exportNew(path string, data []byte) error {
	if err := makeDirs(filepath.Dir(path), exportDirMode); err != nil {
		return err
	}
	return write(path, data, createPublic, os.Rename)
}

// exportOver replaces a regular file.
func exportOver(path string, old fs.FileInfo, data []byte) error {
	now, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if !os.SameFile(now, old) {
		return errors.New("it was exchanged by somebody meanwhile")
	}
	return write(path, data, func(dir, base string) (*os.File, error) { return createLike(dir, base, old) }, os.Rename)
}

// createPublic makes a temporary file that others may read.
func createPublic(dir, _ string) (*os.File, error) {
	// Not after the file: its name may be as long as a name can be.
	return os.OpenFile(filepath.Join(dir, ".keyagent-"+rand.Text()), os.O_WRONLY|os.O_CREATE|os.O_EXCL, exportMode) // #nosec G302 G304 -- public
}

// createLike makes a temporary file that is to replace another.
func createLike(dir, base string, old fs.FileInfo) (*os.File, error) {
	f, err := createPublic(dir, base)
	if err != nil {
		return nil, err
	}
	if stat, ok := old.Sys().(*syscall.Stat_t); ok {
		_ = f.Chown(int(stat.Uid), int(stat.Gid)) // only root may, and some others the group
	}
	if err := f.Chmod(old.Mode().Perm()); err != nil {
		return nil, errors.Join(err, f.Close(), os.Remove(f.Name()))
	}
	return f, nil
}

// followLinks lists path and what the symbolic links from there on lead to; the last is no link,
// and need not be there. Directories are left to the kernel.
func followLinks(path string) ([]string, error) {
	hops := []string{path}
	for len(hops) <= maxLinks {
		link, err := os.Readlink(path)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.EINVAL) { // there is nothing, or no link
			return hops, nil
		}
		if err != nil {
			return nil, err
		}
		if !filepath.IsAbs(link) {
			// Not cleaned: the name before ".." may be a link.
			link = filepath.Dir(path) + string(filepath.Separator) + link
		}
		path = link
		hops = append(hops, path)
	}
	return nil, syscall.ELOOP
}

// inProc reports whether a path is one of the kernel's, such as a link that stands for a file that
// is open (proc(5)).
func inProc(path string) bool {
	var at unix.Statfs_t
	return unix.Statfs(filepath.Dir(path), &at) == nil && at.Type == unix.PROC_SUPER_MAGIC
}

// ownDescriptor returns a descriptor of this process that one of the paths stands for, as
// /dev/stdout and /dev/fd/1 do. It is written to as it is: opened anew, a file would be written
// from its beginning.
func ownDescriptor(hops []string) (*os.File, bool) {
	for _, path := range hops {
		dir, err := filepath.EvalSymlinks(filepath.Dir(path))
		if err == nil && dir == fmt.Sprintf("/proc/%d/fd", os.Getpid()) {
			return duplicate(filepath.Base(path))
		}
	}
	return nil, false
}

func duplicate(number string) (*os.File, bool) {
	fd, err := strconv.Atoi(number)
	if err != nil {
		return nil, false
	}
	own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0) // #nosec G115 -- a descriptor
	if err != nil {
		return nil, false
	}
	return os.NewFile(uintptr(own), "descriptor "+number), true // #nosec G115 -- a descriptor
}

func writeTo(f *os.File, data []byte) error {
	_, err := f.Write(data)
	return errors.Join(err, f.Close())
}
