package accounts_test

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/keyagent/keyagent/internal/accounts"
)

// nameService is a getent that is a shell script. It is written before anything else is started, so
// that nobody has it open for writing when it runs.
func nameService(t *testing.T, script string) accounts.Finder {
	t.Helper()
	path := filepath.Join(t.TempDir(), "getent")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return accounts.Finder{Getent: path}
}

func TestAUserInTheFilesIsFoundWithoutANameService(t *testing.T) {
	f := nameService(t, "exit 9")
	if uid, err := f.User(t.Context(), "root"); err != nil || uid != 0 {
		t.Errorf("user root: %d, %v", uid, err)
	}
	if gid, err := f.Group(t.Context(), "root"); err != nil || gid != 0 {
		t.Errorf("group root: %d, %v", gid, err)
	}
}

func TestAUserThatOnlyTheNameServiceKnowsIsFound(t *testing.T) {
	f := nameService(t, `case "$#/$1/$2" in
2/passwd/websvc@corp.example) echo "websvc@corp.example:*:61123:61000:Web:/:/bin/false" ;;
2/passwd/'CORP\web svc') echo 'web svc:*:61124:61000::/:/bin/false' ;;
2/group/webteam) echo "webteam:x:61200:websvc,other" ;;
2/group/Ärzte) echo "Ärzte:x:61201:" ;;
*) exit 2 ;;
esac`)
	for _, tc := range []struct {
		kind, name string
		want       uint32
	}{{"user", "websvc@corp.example", 61123}, {"user", `CORP\web svc`, 61124}, {"group", "webteam", 61200}, {"group", "Ärzte", 61201}} {
		find := f.User
		if tc.kind == "group" {
			find = f.Group
		}
		if id, err := find(t.Context(), tc.name); err != nil || id != tc.want {
			t.Errorf("%s %s: %d, %v, want %d", tc.kind, tc.name, id, err, tc.want)
		}
	}
}

func TestTheErrorForAnUnknownUserAdvisesANumber(t *testing.T) {
	for _, tc := range []struct {
		name, script, want string
		unknown            bool
	}{
		{"nobody knows the name", "exit 2", "not known on this machine", true},
		{"the name service fails", "exit 1", "exit status 1", false},
		{"the name service says nothing", "exit 0", "something else than one entry", false},
		{"two entries", "echo a:x:1:2:; echo b:x:2:2:", "something else than one entry", false},
		{"no number", "echo a:x:one:2:", "number that is none", false},
		{"a number that nobody has", "echo a:x:4294967295:2:", "number that is none", false},
		{"a number that is too large", "echo a:x:4294967296:2:", "number that is none", false},
		{"an endless entry", "yes aaaaaaaaaaaaaaaaaaaaaaaaaaaa", "more than 1048576 bytes", false},
		{"a torn entry", "printf a:x:1", "something else than one entry", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := nameService(t, tc.script).User(t.Context(), "stranger")
			if err == nil || !strings.Contains(err.Error(), tc.want) || errors.Is(err, accounts.ErrUnknown) != tc.unknown {
				t.Fatalf("got %v, want %q, unknown: %v", err, tc.want, tc.unknown)
			}
			if !strings.Contains(err.Error(), `user "stranger"`) || !strings.Contains(err.Error(), "by number (uid)") {
				t.Errorf("%v: neither names the user nor says that a number would do", err)
			}
		})
	}
	_, err := accounts.Finder{Getent: "/nowhere/getent"}.Group(t.Context(), "strangers")
	if err == nil || errors.Is(err, accounts.ErrUnknown) || !strings.Contains(err.Error(), "by number (gid)") {
		t.Errorf("without getent: %v", err)
	}
}

// getent takes what strtoul(3) takes for a number, and 4294967296 for 0: root.
func TestAnInvalidNameIsNotLookedUp(t *testing.T) {
	f := nameService(t, `echo "root:x:0:0:root:/root:/bin/sh"`)
	for _, name := range []string{
		"", "4294967296", "18446744073709551616", "+4294967296", " 4294967296", "-4294967296", " -4294967296", "-s", "--help", "a:b", "a\nb", "a\x00b", "\t0",
		strings.Repeat("a", 257), "\xff",
	} {
		if uid, err := f.User(t.Context(), name); !errors.Is(err, accounts.ErrUnknown) {
			t.Errorf("user %q is taken for %d, %v", name, uid, err)
		}
		if gid, err := f.Group(t.Context(), name); !errors.Is(err, accounts.ErrUnknown) {
			t.Errorf("group %q is taken for %d, %v", name, gid, err)
		}
	}
}

// The child process gets no environment and no descriptor of the agent, and cannot block it.
func TestTheNameServiceGetsNothingOfTheAgent(t *testing.T) {
	t.Setenv("KEYAGENT_SECRET", "hunter2")
	t.Setenv("LD_PRELOAD_X", "hunter2")
	out := filepath.Join(t.TempDir(), "seen")
	f := nameService(t, `{ env; pwd; ls -l /proc/self/fd; cat; } >'`+out+`' 2>&1; exit 2`)
	if _, err := f.User(t.Context(), "stranger"); !errors.Is(err, accounts.ErrUnknown) {
		t.Fatal(err)
	}
	seen, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	if text := string(seen); strings.Contains(text, "hunter2") || !strings.Contains(text, "LC_ALL=C") || !strings.Contains(text, "PWD=/\n") {
		t.Errorf("the name service sees\n%s", text)
	}
}

func TestTheLookupOfANameServiceThatDoesNotAnswerEnds(t *testing.T) {
	f := nameService(t, "sleep 600 & sleep 600")
	f.Timeout = 50 * time.Millisecond
	if _, err := f.User(t.Context(), "stranger"); err == nil || !strings.Contains(err.Error(), "did not answer in time") || errors.Is(err, accounts.ErrUnknown) {
		t.Errorf("got %v", err)
	}
}

// Whatever a name service prints is one number of a user, or an error.
func FuzzParseEntry(f *testing.F) {
	for _, seed := range []string{"a:x:1:2:c:/:/bin/sh", "g:x:5:a,b", "", ":::", "a:x:4294967295:", "a:x:-1:", "a:x:1", "a:x:1:\nb:x:2:"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, line string) {
		id, err := accounts.ParseEntry(line)
		if err == nil && (id == 1<<32-1 || !strings.Contains(line, ":"+strconv.FormatUint(uint64(id), 10)+":") && !strings.Contains(line, ":0")) {
			t.Errorf("%q is taken for %d", line, id)
		}
	})
}
