package inputfile_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/internal/inputfile"
)

func TestCredentialsThatCannotBeRead(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{"empty": "\n", "huge": strings.Repeat("x", 5000)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("CREDENTIALS_DIRECTORY", dir)
	for name, want := range map[string]string{"empty": "is empty", "huge": "larger", "missing": "no such file", "../passwd": "not the name", ".": "not the name"} {
		if v, err := inputfile.Credential(name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, %v", name, v, err)
		}
	}
	t.Setenv("CREDENTIALS_DIRECTORY", "")
	if _, err := inputfile.Credential("key-auth"); err == nil || !strings.Contains(err.Error(), "LoadCredential=") {
		t.Errorf("outside of systemd: %v", err)
	}
}

// What another user owns or may write is no secret, whether systemd is said to have put it there or
// an operator names it.
func TestSecretsOfAnotherUserAreNotTaken(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("giving a file to another user needs root")
	}
	dir := t.TempDir()
	t.Setenv("CREDENTIALS_DIRECTORY", dir)
	path := filepath.Join(dir, "value")
	for _, tt := range []struct {
		name string
		mode fs.FileMode
		uid  int
		want string // in the error of the credential; "": taken
		file string // in that of the file
	}{
		{"as systemd makes it", 0o400, 0, "", ""},
		{"readable for a group, as with an access control list", 0o440, 0, "", ""},
		{"readable for all", 0o444, 0, "", "open to every user"},
		{"another user's", 0o400, 65534, "belongs to uid 65534", "belongs to uid 65534"},
		{"writable for a group", 0o460, 0, "lets others write it", "lets others write it"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := errors.Join(os.WriteFile(path, []byte("secret"), 0o600), os.Chmod(path, tt.mode), os.Chown(path, tt.uid, 0)); err != nil {
				t.Fatal(err)
			}
			defer os.Remove(path)
			_, err := inputfile.Credential("value")
			checkSaid(t, "as a credential", err, tt.want)
			_, err = inputfile.Secret(path)
			checkSaid(t, "as a file", err, tt.file)
		})
	}
}

// checkSaid compares an error with a part of its text; "" is no error.
func checkSaid(t *testing.T, what string, err error, want string) {
	t.Helper()
	if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
		t.Errorf("%s: got %v, want …%s…", what, err, want)
	}
}
