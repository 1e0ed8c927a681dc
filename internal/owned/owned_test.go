package owned_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/keyagent/keyagent/internal/owned"
)

// The test binary also runs as another user's process: started with pathEnv set, it looks at
// that path, and prints where it leads or what is wrong.
const pathEnv = "KEYAGENT_OWNED_TEST_PATH"

func TestMain(m *testing.M) {
	if path := os.Getenv(pathEnv); path != "" {
		real, err := look(path)
		fmt.Println(real, err)
		return
	}
	os.Exit(m.Run())
}

// look makes both checks, as readers of a file do.
func look(path string) (string, error) {
	real, err := owned.Resolve(path)
	if err != nil {
		return "", err
	}
	info, err := os.Lstat(real)
	if err != nil {
		return "", err
	}
	return real, owned.Check(real, info)
}

// mallory is another user than root and the one of the test.
const mallory = 65534

// tree is a directory of root's that every user can reach, with a file dir/sub/file in it.
type tree struct {
	*testing.T
	dir string
}

func newTree(t *testing.T) tree {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("giving files to another user needs root")
	}
	dir, err := os.MkdirTemp("", "owned")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	tr := tree{t, dir}
	tr.do(os.Chmod(dir, 0o755))
	tr.mkdir("dir", 0o755)
	tr.mkdir("dir/sub", 0o755)
	tr.write("dir/sub/file")
	return tr
}

func (t tree) do(err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (t tree) path(name string) string { return filepath.Join(t.dir, name) }

func (t tree) mkdir(name string, mode fs.FileMode) {
	t.Helper()
	t.do(errors.Join(os.Mkdir(t.path(name), mode), os.Chmod(t.path(name), mode)))
}

func (t tree) write(name string) {
	t.Helper()
	t.do(errors.Join(os.WriteFile(t.path(name), []byte("content"), 0o644), os.Chmod(t.path(name), 0o644)))
}

func (t tree) chmod(name string, mode fs.FileMode) { t.Helper(); t.do(os.Chmod(t.path(name), mode)) }

func (t tree) give(name string) { t.Helper(); t.do(os.Lchown(t.path(name), mallory, mallory)) }

func (t tree) link(target, name string) { t.Helper(); t.do(os.Symlink(target, t.path(name))) }

// shared is a directory as /tmp is.
const shared = 0o777 | fs.ModeSticky

func TestResolveAndCheck(t *testing.T) {
	for _, tt := range []struct {
		name    string
		prepare func(t tree)
		path    string // below the tree; "" is dir/sub/file
		at      string // what is at fault, below the tree; "" for what is taken
		problem string
	}{
		{"a file of root's", func(tree) {}, "", "", ""},
		{"in a sticky directory of root's", func(t tree) { t.chmod("dir/sub", shared) }, "", "", ""},
		{"below a sticky directory of root's", func(t tree) { t.chmod("dir", shared) }, "", "", ""},
		{"over a link of root's", func(t tree) { t.link("dir/sub", "link") }, "link/file", "", ""},
		{"over a link of root's in a sticky directory", func(t tree) { t.mkdir("tmp", shared); t.link("../dir/sub", "tmp/link") }, "tmp/link/file", "", ""},
		{"over a link of another user's where only root can put links", func(t tree) { t.link("dir/sub/file", "link"); t.give("link") }, "link", "", ""},
		{"with dots and slashes", func(tree) {}, "dir//.//sub/../sub/file", "", ""},

		{"a file of another user's", func(t tree) { t.give("dir/sub/file") }, "", "dir/sub/file", "belongs to uid 65534"},
		{"a file that everybody writes", func(t tree) { t.chmod("dir/sub/file", 0o646) }, "", "dir/sub/file", "mode 0646"},
		{"a file that a group writes", func(t tree) { t.chmod("dir/sub/file", 0o664) }, "", "dir/sub/file", "chmod go-w"},
		{"in a directory of another user's", func(t tree) { t.give("dir/sub") }, "", "dir/sub", "belongs to uid 65534"},
		{"in a sticky directory of another user's", func(t tree) { t.give("dir/sub"); t.chmod("dir/sub", 0o755|fs.ModeSticky) }, "", "dir/sub", "belongs to uid 65534"},
		{"in a shared directory of another user's", func(t tree) { t.give("dir/sub"); t.chmod("dir/sub", shared) }, "", "dir/sub", "belongs to uid 65534"},
		{"in a directory that everybody writes", func(t tree) { t.chmod("dir/sub", 0o777) }, "", "dir/sub", "mode 0777"},
		{"below a directory of another user's", func(t tree) { t.give("dir") }, "", "dir", "belongs to uid 65534"},
		{"below a sticky directory of another user's", func(t tree) { t.give("dir"); t.chmod("dir", shared) }, "", "dir", "belongs to uid 65534"},
		{"below a directory that a group writes", func(t tree) { t.chmod("dir", 0o775) }, "", "dir", "mode 0775"},
		{"over a link into a directory of another user's", func(t tree) { t.give("dir"); t.link("dir/sub/file", "link") }, "link", "dir", "belongs to uid 65534"},
		{"over a link that lies with another user, and leads to root's", func(t tree) {
			t.mkdir("home", 0o755)
			t.link("../dir/sub/file", "home/link")
			t.give("home")
		}, "home/link", "home", "belongs to uid 65534"},
		{"over a link of another user's in a sticky directory", func(t tree) {
			t.mkdir("tmp", shared)
			t.link("../dir/sub", "tmp/link")
			t.give("tmp/link")
		}, "tmp/link/file", "tmp/link", "belongs to uid 65534"},
		{"over two links, the second through another user's", func(t tree) {
			t.mkdir("home", 0o755)
			t.link(t.path("dir/sub"), "home/second")
			t.give("home")
			t.link("home/second", "first")
		}, "first/file", "home", "belongs to uid 65534"},
		{"in and out again of another user's directory", func(t tree) { t.mkdir("home", 0o755); t.give("home") }, "home/../dir/sub/file", "home", "belongs to uid 65534"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tr := newTree(t)
			tt.prepare(tr)
			if tt.path == "" {
				tt.path = "dir/sub/file"
			}
			real, err := look(tr.dir + "/" + tt.path)
			if tt.at == "" {
				if err != nil || real != tr.path("dir/sub/file") {
					t.Errorf("got %q, %v", real, err)
				}
				return
			}
			fault, ok := errors.AsType[*owned.Error](err)
			if !ok || fault.Path != tr.path(tt.at) || !strings.Contains(err.Error(), tt.problem) {
				t.Errorf("got %v, want …%s: …%s", err, tt.at, tt.problem)
			}
		})
	}
}

// What the agent's user or root owns is taken by the agent, and what the agent's user owns is not
// taken by another user.
func TestTheUserOfTheProcessIsTrustedBesideRoot(t *testing.T) {
	for _, tt := range []struct {
		name   string
		give   []string // to mallory, whose process looks
		uid    uint32
		wanted string // in what is printed
	}{
		{"all is root's, as below /etc", nil, mallory, "/dir/sub/file <nil>"},
		{"the directory is the process' own", []string{"dir/sub"}, mallory, "/dir/sub/file <nil>"},
		{"all is the process' own", []string{"dir", "dir/sub", "dir/sub/file"}, mallory, "/dir/sub/file <nil>"},
		{"a third user's process", []string{"dir/sub"}, mallory - 1, "belongs to uid 65534"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tr := newTree(t)
			for _, name := range tt.give {
				tr.give(name)
			}
			cmd := exec.Command("/proc/self/exe") // also for a user who cannot reach the binary's directory
			cmd.Env = []string{"GORACE=atexit_sleep_ms=0", pathEnv + "=" + tr.path("dir/sub/file")}
			cmd.Dir = "/"
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: tt.uid, Gid: tt.uid}}
			out, err := cmd.CombinedOutput()
			if err != nil || !strings.Contains(string(out), tt.wanted) {
				t.Errorf("got %s (%v), want …%s…", out, err, tt.wanted)
			}
		})
	}
}

func TestResolveWithoutAFile(t *testing.T) {
	dir := t.TempDir()
	if _, err := owned.Resolve(filepath.Join(dir, "none", "file")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want fs.ErrNotExist", err)
	}
	if err := os.Symlink("loop", filepath.Join(dir, "loop")); err != nil {
		t.Fatal(err)
	}
	if _, err := owned.Resolve(filepath.Join(dir, "loop")); !errors.Is(err, syscall.ELOOP) {
		t.Errorf("a link to itself: got %v, want ELOOP", err)
	}
	t.Chdir(dir)
	if err := os.WriteFile("file", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	want, err := filepath.EvalSymlinks(filepath.Join(dir, "file"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := owned.Resolve("./file"); err != nil || got != want {
		t.Errorf("a relative path: got %q, %v, want %q", got, err, want)
	}
}
