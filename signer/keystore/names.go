package keystore

import (
	"io/fs"
	"path"
	"strconv"
	"strings"
)

// Makes reports whether a [Store] makes something of that name and type. The name is relative to
// [Dir], and "." is that directory itself. For staged files it knows their directory alone: see
// [Staged].
func Makes(name string, kind fs.FileMode) bool {
	if name == "." {
		return kind.IsDir()
	}
	key, file, inside := strings.Cut(name, "/")
	switch {
	case !inside && kind.IsDir():
		return CheckName(key) == nil || strings.HasPrefix(key, trashPrefix)
	case !inside:
		return kind.IsRegular() && key == lockFile
	case CheckName(key) != nil && !strings.HasPrefix(key, trashPrefix), strings.Contains(file, "/"):
		return false
	case kind.IsDir():
		number, ok := strings.CutSuffix(file, stagedSuffix)
		return ok && isNumber(number)
	}
	return kind.IsRegular() && makesFile(file)
}

// Staged reports whether a name below [Dir] is in a directory that [Store.Stage] makes. Whoever
// staged it knows what it is.
func Staged(name string) bool {
	return Makes(path.Dir(name), fs.ModeDir) && strings.Count(name, "/") == 2
}

// makesFile reports whether a file in a key's directory has one of the names that the store gives,
// or that package statefile makes of them.
func makesFile(name string) bool {
	if whole, random, ok := strings.Cut(strings.TrimPrefix(name, "."), ".tmp-"); ok && strings.HasPrefix(name, ".") {
		return isNumber(random) && makesFile(whole)
	}
	if whole, n, ok := strings.Cut(name, ".torn-"); ok {
		return isNumber(n) && makesFile(whole)
	}
	if name == currentFile {
		return true
	}
	number, rest, _ := strings.Cut(name, ".")
	if !isNumber(number) {
		return false
	}
	switch suffix := "." + rest; suffix {
	case keySuffix, certSuffix, notesSuffix, acceptedSuffix, testedSuffix:
		return true
	default:
		n, ok := strings.CutPrefix(suffix, certSuffix+replacedSuffix)
		return ok && isNumber(n)
	}
}

func isNumber(text string) bool {
	_, err := strconv.ParseUint(text, 10, 64)
	return err == nil
}
