package accounts

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Account is a local user with the groups of which they are a member.
type Account struct {
	Name   string
	UID    uint32
	GID    uint32   // the group of passwd
	Groups []uint32 // those of the file group, without GID
}

const fieldGroup = 3 // of passwd: the number of the user's group; of group: its members

// Account returns a user's entries in passwd and group. Directories are not asked. For a user that
// neither file has, the error is [ErrUnknown].
func (f Finder) Account(name string) (Account, error) {
	if err := checkName(name); err != nil {
		return Account{}, fmt.Errorf("user %q: %w", name, err)
	}
	entry, err := readEntry(f.passwd(), func(entry []string) bool { return entry[fieldName] == name })
	if errors.Is(err, errNoEntry) || err == nil && len(entry) != passwdFields {
		return Account{}, fmt.Errorf("user %q is %w", name, ErrUnknown)
	}
	if err != nil {
		return Account{}, fmt.Errorf("user %q: %w", name, err)
	}
	uid, errUser := parseID(entry[fieldNumber])
	gid, errGroup := parseID(entry[fieldGroup])
	groups, errGroups := groupsOf(cmp.Or(f.GroupFile, groupFile), name)
	if err := errors.Join(errUser, errGroup, errGroups); err != nil {
		return Account{}, fmt.Errorf("user %q: %w", name, err)
	}
	return Account{Name: name, UID: uid, GID: gid, Groups: groups}, nil
}

// groupsOf returns the groups that list a user as a member.
func groupsOf(path, name string) ([]uint32, error) {
	var all []uint32
	_, err := readEntry(path, func(entry []string) bool {
		if len(entry) == groupFields && slices.Contains(strings.Split(entry[fieldGroup], ","), name) {
			if gid, err := parseID(entry[fieldNumber]); err == nil {
				all = append(all, gid)
			}
		}
		return false
	})
	if err != nil && !errors.Is(err, errNoEntry) {
		return nil, err
	}
	return all, nil
}

// GroupNameOf returns the name that the file group has for a gid, or the number if it has none.
func (f Finder) GroupNameOf(gid uint32) string {
	number := fmt.Sprint(gid)
	entry, err := readEntry(cmp.Or(f.GroupFile, groupFile), func(entry []string) bool {
		return len(entry) == groupFields && entry[fieldNumber] == number && checkName(entry[fieldName]) == nil
	})
	if err != nil {
		return number
	}
	return entry[fieldName]
}
