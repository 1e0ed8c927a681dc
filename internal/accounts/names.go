package accounts

import (
	"fmt"
	"strconv"
)

// NameOf is the name that /etc/passwd has for a user, or the number if it has none.
func NameOf(uid uint32) string {
	if name, known := (Finder{}).NameOf(uid); known {
		return name
	}
	return strconv.FormatUint(uint64(uid), 10)
}

// SudoName is a user as an argument of sudo -u: "#" and the number if no name is known (sudo(8)).
func SudoName(uid uint32) string {
	if name, known := (Finder{}).NameOf(uid); known {
		return name
	}
	return fmt.Sprintf("'#%d'", uid)
}
