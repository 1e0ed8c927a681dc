package accounts

import (
	"fmt"
	"os/user"
	"strconv"
)

// NameOf is the name of a user, or the number if no name is known.
func NameOf(uid uint32) string {
	number := strconv.FormatUint(uint64(uid), 10)
	if u, err := user.LookupId(number); err == nil {
		return u.Username
	}
	return number
}

// SudoName is a user as an argument of sudo -u: "#" and the number if no name is known (sudo(8)).
func SudoName(uid uint32) string {
	if name := NameOf(uid); name != strconv.FormatUint(uint64(uid), 10) {
		return name
	}
	return fmt.Sprintf("'#%d'", uid)
}
