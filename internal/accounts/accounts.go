package accounts

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// ErrUnknown means that neither the files nor the name service know the name. A directory whose
// service is not running may know it: the C library's getent does not tell that from an answer.
var ErrUnknown = errors.New("not known on this machine")

// maxNameBytes bounds a name; the longest that Linux takes have 32, those of directories are
// longer.
const maxNameBytes = 256

// noID is -1 as an unsigned number: the kernel assigns it to no user or group.
const noID = 1<<32 - 1

// Finder finds users and groups. The zero value is ready for use, and safe for concurrent use.
type Finder struct {
	// Getent is the absolute path of getent; empty means where the C library's packages put it.
	Getent string
	// PasswdFile and GroupFile are the files of local users and groups; empty means those in /etc.
	PasswdFile, GroupFile string
	// Timeout is how long one answer of getent may take; 0 means 5 seconds.
	Timeout time.Duration
}

// User returns the uid of a user. Errors are worded for an operator and say that a number would do.
func (f Finder) User(ctx context.Context, name string) (uint32, error) {
	return f.find(ctx, database{kind: "user", name: "passwd", number: "uid", file: f.passwd(), fields: passwdFields}, name)
}

// Group returns the gid of a group, with errors as [Finder.User] has them.
func (f Finder) Group(ctx context.Context, name string) (uint32, error) {
	return f.find(ctx, database{kind: "group", name: "group", number: "gid", file: cmp.Or(f.GroupFile, groupFile), fields: groupFields}, name)
}

func (f Finder) passwd() string { return cmp.Or(f.PasswdFile, passwdFile) }

// database is passwd or group.
type database struct {
	kind, name, number string
	file               string
	fields             int // that an entry of the file has
}

func (f Finder) find(ctx context.Context, db database, name string) (uint32, error) {
	if err := checkName(name); err != nil {
		return 0, fmt.Errorf("%s %q: %w", db.kind, name, err)
	}
	id, err := numberIn(db.file, db.fields, name)
	if err == nil {
		return id, nil
	}
	if !errors.Is(err, errNoEntry) {
		return 0, fmt.Errorf("%s %q: %w; name it by number (%s)", db.kind, name, err, db.number)
	}
	id, err = f.ask(ctx, db.name, name)
	switch {
	case errors.Is(err, ErrUnknown):
		return 0, fmt.Errorf("%s %q is %w: neither %s nor the name service (getent %s) has it, or the directory behind it is not running; if it is right, name it by number (%s)",
			db.kind, name, err, db.file, db.name, db.number)
	case err != nil:
		return 0, fmt.Errorf("%s %q is not in %s, and the name service did not tell (%w); name it by number (%s)",
			db.kind, name, db.file, err, db.number)
	}
	return id, nil
}

// ask asks the name service.
func (f Finder) ask(ctx context.Context, database, name string) (uint32, error) {
	line, err := f.getent(ctx, database, name)
	if err != nil {
		return 0, err
	}
	return parseEntry(line)
}

// checkName refuses texts that are no names, and those that getent would read as an option or, with
// strtoul(3), as a number.
func checkName(name string) error {
	switch {
	case name == "" || len(name) > maxNameBytes:
		return fmt.Errorf("not a name of 1 to %d bytes: %w", maxNameBytes, ErrUnknown)
	case strings.ContainsFunc(name, func(r rune) bool { return unicode.IsControl(r) || r == ':' || r == unicode.ReplacementChar }):
		return fmt.Errorf("a name has no colon and no control character: %w", ErrUnknown)
	case strings.HasPrefix(name, "-") || strings.Trim(strings.TrimLeft(name, " +-"), "0123456789") == "":
		return fmt.Errorf("a name does not begin with a hyphen, and a number is one from 0 to %d: %w", uint32(noID-1), ErrUnknown)
	}
	return nil
}

// parseEntry reads a line of passwd or group: name:password:number, and more.
func parseEntry(line string) (uint32, error) {
	fields := strings.SplitN(line, ":", 4)
	if len(fields) < 4 || fields[0] == "" || strings.Contains(line, "\n") {
		return 0, errors.New("getent answered with something else than one entry")
	}
	return parseID(fields[2])
}

func parseID(text string) (uint32, error) {
	id, err := strconv.ParseUint(text, 10, 32)
	if err != nil || id == noID {
		return 0, errors.New("the entry has a number that is none of a user or group")
	}
	return uint32(id), nil
}
