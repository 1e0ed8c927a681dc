// Package shell writes values into commands for a POSIX shell that somebody is told to paste: a
// path with a space, a semicolon or a quote must neither break the command nor add another.
//
// It knows no command, and runs none.
package shell

import "strings"

// Word quotes a path or another value if it needs that. One that begins with a minus is taken for a
// path, and written so that the program does not take it for an option.
func Word(value string) string {
	if strings.HasPrefix(value, "-") {
		value = "./" + value
	}
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/._-+=:@%,", r)
	}
	if value != "" && strings.IndexFunc(value, func(r rune) bool { return !plain(r) }) < 0 {
		return value
	}
	return Quoted(value)
}

// Quoted is one word of a shell with exactly this value (POSIX.1, XCU 2.2.2).
func Quoted(value string) string { return "'" + strings.ReplaceAll(value, "'", `'\''`) + "'" }
