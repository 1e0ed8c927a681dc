package owned

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/keyagent/keyagent/internal/shell"
)

// maxLinks bounds the symbolic links in the path to a file, as the kernel does.
const maxLinks = 40

// writableByOthers are the bits that let the group or everybody write.
const writableByOthers = 0o022

// Error is why a file or directory is not trusted.
type Error struct {
	Path    string // of the file or directory at fault, which may be one on the way
	Problem string // the fault and what to do, without the path
}

func (e *Error) Error() string { return e.Path + ": " + e.Problem }

// Owner returns the uid that a file belongs to.
func Owner(info fs.FileInfo) (uint32, error) {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, errors.New("the file system does not tell its owner")
	}
	return stat.Uid, nil
}

// Ours reports whether a uid is that of this process.
func Ours(uid uint32) bool { return int64(uid) == int64(os.Geteuid()) }

// Check refuses, with an [*Error], what belongs to another user than root and that of
// this process, and what others may write.
func Check(path string, info fs.FileInfo) error {
	if err := checkOwner(path, info); err != nil {
		return err
	}
	if perm := info.Mode().Perm(); perm&writableByOthers != 0 {
		return &Error{path, fmt.Sprintf("mode %04o lets others write it (chmod go-w %s)", perm, shell.Word(path))}
	}
	return nil
}

func checkOwner(path string, info fs.FileInfo) error {
	uid, err := Owner(info)
	switch {
	case err != nil:
		return &Error{path, err.Error()}
	case uid == 0 || Ours(uid):
		return nil
	}
	return &Error{path, fmt.Sprintf("belongs to uid %d, who can replace it or what is in it; "+
		"it must belong to root or to the agent's user (chown root %s)", uid, shell.Word(path))}
}

// Resolve returns the absolute path without symbolic links of a file that exists. It fails
// with an [*Error] if another user could lead the path elsewhere, and with what lstat(2) says
// if a part of it is not there. The file itself is not checked.
func Resolve(path string) (string, error) {
	if !filepath.IsAbs(path) {
		dir, err := os.Getwd()
		if err != nil {
			return "", err
		}
		path = dir + "/" + path // not cleaned: ".." after a link is not the link's own directory
	}
	r := resolution{at: "/", left: strings.Split(path, "/")}
	if err := r.enter(r.at); err != nil {
		return "", err
	}
	for len(r.left) > 0 {
		if err := r.step(); err != nil {
			return "", err
		}
	}
	return r.at, nil
}

// resolution is a path that is being resolved, name by name.
type resolution struct {
	at    string   // without symbolic links
	left  []string // names still to go
	links int      // that were followed
}

func (r *resolution) step() error {
	name := r.left[0]
	r.left = r.left[1:]
	switch name {
	case "", ".":
		return nil
	case "..":
		r.at = filepath.Dir(r.at)
		return nil
	}
	next := filepath.Join(r.at, name)
	info, err := os.Lstat(next)
	switch {
	case err != nil:
		return err
	case info.Mode()&fs.ModeSymlink != 0:
		return r.follow(next, info)
	case info.IsDir() && len(r.left) > 0:
		err = r.enter(next)
	}
	r.at = next
	return err
}

// follow continues at the target of a link.
func (r *resolution) follow(link string, info fs.FileInfo) error {
	dir, err := os.Lstat(r.at)
	if err != nil {
		return err
	}
	if dir.Mode().Perm()&writableByOthers != 0 { // sticky, or it would not have been entered
		if err := checkOwner(link, info); err != nil {
			return err
		}
	}
	r.links++
	if r.links > maxLinks {
		return &fs.PathError{Op: "resolve", Path: link, Err: syscall.ELOOP}
	}
	target, err := os.Readlink(link)
	if err != nil {
		return err
	}
	r.left = append(strings.Split(target, "/"), r.left...)
	if filepath.IsAbs(target) {
		r.at = "/"
	}
	return nil
}

// enter refuses a directory in which another user could put another file in the place of
// one that is looked for.
func (r *resolution) enter(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	if info.Mode()&fs.ModeSticky != 0 {
		return checkOwner(dir, info)
	}
	return Check(dir, info)
}
