package inputfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/keyagent/keyagent/internal/advice"
	"github.com/keyagent/keyagent/internal/owned"
	"github.com/keyagent/keyagent/internal/secret"
	"github.com/keyagent/keyagent/internal/shell"
)

// maxCredentialBytes bounds a credential; an authorization value has at most 32 bytes.
const maxCredentialBytes = 4 << 10

// Credential reads a credential that systemd hands to its service: LoadCredential= or
// LoadCredentialEncrypted= in the unit (systemd.exec(5), Credentials). One newline at the end is
// not part of it.
func Credential(name string) (secret.String, error) {
	dir := os.Getenv("CREDENTIALS_DIRECTORY")
	if dir == "" {
		return secret.String{}, fmt.Errorf("credential %q: systemd gave this process no credentials: put LoadCredential=%s:… into the unit", name, name)
	}
	if name != filepath.Base(name) || strings.HasPrefix(name, ".") {
		return secret.String{}, fmt.Errorf("credential %q: not the name of a credential", name)
	}
	return readSecretFile(filepath.Join(dir, name))
}

// readSecretFile reads a secret from a file, or from standard input if that is what the path leads
// to. One newline at the end is not part of it. A file must belong to root or to this user, and no
// other user may write it: they would know the value, or choose it.
func readSecretFile(path string) (secret.String, error) {
	return readChecked(path, owned.Check)
}

// Secret reads a secret from a file that an operator keeps, or from standard input. Besides what
// [Credential] demands of a file, it must not be readable for every user of the machine.
func Secret(path string) (secret.String, error) {
	return readChecked(path, func(path string, info fs.FileInfo) error {
		if perm := info.Mode().Perm(); perm&0o007 != 0 {
			return advice.To(fmt.Errorf("%s is open to every user of this machine (mode %04o)", path, perm),
				"chmod o= %s, and take another value if another user may have read this one", shell.Word(path))
		}
		return owned.Check(path, info)
	})
}

// stdinName is how a command line names standard input in the place of a file.
const stdinName = "-"

// Shown is how messages name a file: its path, or "standard input".
func Shown(path string) string {
	if path == stdinName {
		return "standard input"
	}
	return path
}

// openNamed opens a file that the operator has named. Standard input is read as it was handed over:
// opened by a path of its own, a file that another user has redirected there would be refused.
func openNamed(path string) (*os.File, error) {
	if path != stdinName {
		return os.Open(path) // #nosec G304 G703 -- the operator's choice
	}
	fd, err := unix.FcntlInt(os.Stdin.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("standard input: %w", err)
	}
	return os.NewFile(uintptr(fd), Shown(path)), nil
}

// readChecked checks the open file if it is a regular one. A pipe or a terminal was handed over by
// the user who started this process.
func readChecked(path string, check func(path string, info fs.FileInfo) error) (secret.String, error) {
	f, err := openNamed(path)
	if err != nil {
		return secret.String{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return secret.String{}, err
	}
	if info.Mode().IsRegular() {
		if err := check(Shown(path), info); err != nil {
			return secret.String{}, err
		}
	}
	return readSecret(f, Shown(path))
}

func readSecret(f io.Reader, path string) (secret.String, error) {
	text, err := io.ReadAll(io.LimitReader(f, maxCredentialBytes+1))
	if err != nil {
		return secret.String{}, err
	}
	value := strings.TrimSuffix(string(text), "\n")
	switch {
	case len(text) > maxCredentialBytes:
		return secret.String{}, fmt.Errorf("%s is larger than %d bytes", path, maxCredentialBytes)
	case value == "":
		return secret.String{}, errors.New(path + " is empty")
	}
	return secret.New(value), nil
}

// Read reads a file that an operator named, or standard input for "-". A file that is larger than
// most bytes is an error.
func Read(path string, most int64) ([]byte, error) {
	f, err := openNamed(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err == nil && info.IsDir() {
		err = &fs.PathError{Op: "read", Path: Shown(path), Err: syscall.EISDIR}
	}
	if err != nil {
		return nil, err
	}
	return readAllBounded(f, Shown(path), most)
}

func readAllBounded(r io.Reader, path string, most int64) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(r, most+1))
	if err == nil && int64(len(text)) > most {
		err = fmt.Errorf("%s is larger than %d bytes", path, most)
	}
	return text, err
}
