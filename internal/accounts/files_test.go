package accounts_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/internal/accounts"
)

// files is a Finder with files of its own, whose getent knows everybody as 7777.
func files(t *testing.T, passwd, group string) accounts.Finder {
	t.Helper()
	f := nameService(t, `echo "x:*:7777:7777::/:/bin/false"`)
	f.PasswdFile, f.GroupFile = filepath.Join(t.TempDir(), "passwd"), filepath.Join(t.TempDir(), "group")
	for path, text := range map[string]string{f.PasswdFile: passwd, f.GroupFile: group} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func TestTheFilesAreReadStrictly(t *testing.T) {
	const directory = 7777
	for _, tc := range []struct {
		name, passwd string
		want         uint32
		problem      string // part of the error; "" for none
	}{
		{"an entry", "root:x:0:0:root:/root:/bin/sh\nbob:x:1000:1000::/:/bin/sh\n", 1000, ""},
		{"the last line has no end", "bob:x:1000:1000::/:/bin/sh", 1000, ""},
		{"the first of two", "bob:x:1000:1000::/:/bin/sh\nbob:x:1001:1000::/:/bin/sh\n", 1000, ""},
		{"behind spaces, as the C library takes it", " \tbob:x:1000:1000::/:/bin/sh\n", 1000, ""},
		{"no entry", "root:x:0:0:root:/root:/bin/sh\n", directory, ""},
		{"an empty file", "", directory, ""},
		{"part of a name", "bobby:x:1000:1000::/:/bin/sh\nbo:x:1001:1000::/:/bin/sh\nBob:x:1002:1000::/:/bin/sh\n", directory, ""},
		{"the name elsewhere in an entry", "root:bob:0:0:bob:/bob:bob\n", directory, ""},
		{"a comment", "#bob:x:1000:1000::/:/bin/sh\n", directory, ""},
		{"one of NIS", "+bob:x:1000:1000::/:/bin/sh\n-bob:x:1000:1000::/:/bin/sh\n+::::::\n", directory, ""},
		{"a damaged entry of somebody else", "eve\nbob:x:1000:1000::/:/bin/sh\n", 1000, ""},
		{"too few fields, before a good entry", "bob:x:10\nbob:x:1001:1000::/:/bin/sh\n", 0, "has 3 fields, not 7"},
		{"too many fields", "bob:x:1000:1000::/:/bin/sh:\n", 0, "has 8 fields, not 7"},
		{"no number", "bob:x:one:1000::/:/bin/sh\n", 0, "a number that is none"},
		{"a number with a sign", "bob:x:+0:1000::/:/bin/sh\n", 0, "a number that is none"},
		{"an empty number", "bob:x::1000::/:/bin/sh\n", 0, "a number that is none"},
		{"a number that nobody has", "bob:x:4294967295:1000::/:/bin/sh\n", 0, "a number that is none"},
		{"a number that is too large", "bob:x:4294967296:1000::/:/bin/sh\n", 0, "a number that is none"},
		{"an endless line", strings.Repeat("a", 2<<20), 0, "token too long"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			uid, err := files(t, tc.passwd, "").User(t.Context(), "bob")
			if tc.problem == "" && (err != nil || uid != tc.want) {
				t.Errorf("got %d, %v, want %d", uid, err, tc.want)
			}
			if tc.problem != "" && (err == nil || errors.Is(err, accounts.ErrUnknown) || !strings.Contains(err.Error(), tc.problem) || !strings.Contains(err.Error(), "by number (uid)")) {
				t.Errorf("got %d, %v, want %q", uid, err, tc.problem)
			}
		})
	}
	f := files(t, "web:x:1:1::/:/bin/sh\n", "staff:x:50:bob,eve\nweb:x:51:\nweb:x:52:\ntorn:x:53\n")
	if gid, err := f.Group(t.Context(), "web"); err != nil || gid != 51 {
		t.Errorf("group web: %d, %v", gid, err)
	}
	if gid, err := f.Group(t.Context(), "torn"); err == nil || !strings.Contains(err.Error(), "by number (gid)") {
		t.Errorf("a torn group: %d, %v", gid, err)
	}
}

// A file that cannot be read may have any name, so that no directory is believed about one.
func TestAFileThatCannotBeReadIsNotPassedOver(t *testing.T) {
	f := files(t, "", "")
	f.PasswdFile = t.TempDir()
	if uid, err := f.User(t.Context(), "bob"); err == nil || errors.Is(err, accounts.ErrUnknown) {
		t.Errorf("got %d, %v", uid, err)
	}
	f.PasswdFile = filepath.Join(t.TempDir(), "none")
	if uid, err := f.User(t.Context(), "bob"); err != nil || uid != 7777 {
		t.Errorf("on a machine that has no such file: %d, %v", uid, err)
	}
}

func TestAFileIsReadUpToALimit(t *testing.T) {
	comment := "#" + strings.Repeat("x", 1<<19-2) + "\n"
	for _, tc := range []struct {
		name    string
		before  int // half MiB of comments
		problem bool
	}{{"below", 127, false}, {"beyond", 129, true}} {
		_, err := accounts.FindEntry(strings.NewReader(strings.Repeat(comment, tc.before)+"bob:x:1:1::/:/bin/sh\n"), func(entry []string) bool { return entry[0] == "bob" })
		if (err != nil) != tc.problem || err != nil && !strings.Contains(err.Error(), "more than 67108864 bytes") {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}

// The environment of this process has no say about names.
func TestTheEnvironmentDoesNotSayWhoIsWho(t *testing.T) {
	for _, variable := range []string{"USER", "LOGNAME", "HOME"} {
		t.Setenv(variable, "bob")
	}
	f := files(t, "root:x:0:0:root:/root:/bin/sh\n", "")
	f.Getent = "/nowhere/getent"
	if uid, err := f.User(t.Context(), "bob"); err == nil {
		t.Errorf("bob is taken for %d, the user of this process", uid)
	}
	if name, found := f.NameOf(uint32(os.Geteuid())); os.Geteuid() != 0 && found {
		t.Errorf("this process' user is called %q", name)
	}
}

func TestTheNameOfANumber(t *testing.T) {
	f := files(t, "torn:x:1000\nev\x1bil:x:1000:1000::/:/bin/sh\nbob:x:1000:1000::/:/bin/sh\nbob2:x:1000:1000::/:/bin/sh\n#eve:x:1001:1::/:/bin/sh\n", "")
	for uid, want := range map[uint32]string{1000: "bob", 1001: "", 1002: ""} {
		if got, found := f.NameOf(uid); got != want || found != (want != "") {
			t.Errorf("%d: got %q, want %q", uid, got, want)
		}
	}
}

// Whatever a file has, an entry that is found is one of its lines, whole, and the first that fits.
func FuzzFindEntry(f *testing.F) {
	for _, seed := range []string{"a:x:1:2:c:/:/bin/sh\n", "#a:x:1:2\n+a:x:1:2\na:x:3:", "a", "", ":::", "\n\n a:x:1:2\r\n", "a:x:1\x00:2\n"} {
		f.Add(seed, "a")
	}
	f.Fuzz(func(t *testing.T, file, name string) {
		entry, err := accounts.FindEntry(strings.NewReader(file), func(entry []string) bool { return entry[0] == name })
		if err != nil {
			return
		}
		if strings.ContainsAny(name, ":\n") || len(entry) == 0 || entry[0] != name {
			t.Fatalf("%q is found for %q in %q", entry, name, file)
		}
		for line := range strings.Lines(file) {
			line = strings.TrimLeft(strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r"), " \t")
			if strings.HasPrefix(line, name+":") || line == name && name != "" {
				if line != "" && !strings.ContainsAny(line[:1], "#+-") {
					if line != strings.Join(entry, ":") {
						t.Errorf("%q is found, and %q comes first", entry, line)
					}
					return
				}
			}
		}
		t.Errorf("%q is not in %q", entry, file)
	})
}
