package imageprep_test

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/imageprep"
	"github.com/keyagent/keyagent/internal/statedir"
	"github.com/keyagent/keyagent/internal/statefile"
)

// state is a configuration whose state directory has these files; a name that ends in a slash is a
// directory.
func state(t *testing.T, names ...string) *config.Config {
	t.Helper()
	cfg := config.Default()
	cfg.StateDir = filepath.Join(t.TempDir(), "state")
	cfg.TPM = "unix:" + filepath.Join(t.TempDir(), "none.sock")
	if err := os.Mkdir(cfg.StateDir, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		path := filepath.Join(cfg.StateDir, name)
		err := os.MkdirAll(path, 0o700)
		if !strings.HasSuffix(name, "/") {
			err = errors.Join(os.Remove(path), os.WriteFile(path, []byte("content"), 0o600))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return cfg
}

// left is all that is in the state directory.
func left(t *testing.T, cfg *config.Config) string {
	t.Helper()
	var names []string
	err := fs.WalkDir(os.DirFS(cfg.StateDir), ".", func(path string, _ fs.DirEntry, err error) error {
		if path != "." {
			names = append(names, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(names, " ")
}

// What came between the look and the removal was not shown to anybody.
func TestAFileMadeSinceTheLookIsNotRemoved(t *testing.T) {
	t.Parallel()
	cfg := state(t, "keys/app/1.json")
	inv, err := imageprep.Look(cfg, statedir.Options{}, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(cfg.StateDir, "keys/app/ca.pem"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := inv.Remove(t.Context()); err == nil || left(t, cfg) != "keys keys/app keys/app/1.json keys/app/ca.pem" {
		t.Errorf("got %v, and %q is left", err, left(t, cfg))
	}
}

func TestFilesThatAreNotRemovedAreReported(t *testing.T) {
	t.Parallel()
	root, cfg := t.TempDir(), config.Default()
	cfg.Audit = config.Audit{To: config.AuditToFile, File: filepath.Join(root, "log/audit.jsonl")}
	for _, name := range []string{
		"etc/credstore/keyagent.auth", "etc/credstore/other.auth", "etc/credstore.encrypted/keyagent.proxy",
		"log/audit.jsonl", "log/audit.jsonl.1", "log/audit.jsonl.2.gz", "log/audit-20260101.jsonl", "log/auditor.txt",
	} {
		path := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, nil, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	var told []string
	for _, item := range imageprep.Beside(cfg, root) {
		told = append(told, strings.TrimPrefix(item.Path, root+"/"))
	}
	want := "etc/credstore/keyagent.auth etc/credstore.encrypted/keyagent.proxy log/audit-20260101.jsonl log/audit.jsonl.1 log/audit.jsonl.2.gz"
	if got := strings.Join(told, " "); got != want {
		t.Errorf("told of %s\nwant %s", got, want)
	}
}

func TestTheAgentsFilesAreRemovedAndNoOthers(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		files   []string
		refused bool
	}{
		{"what an agent leaves", []string{"storage-root", "keys/", "keys/app/", "binding-system.json", "appsecret.key", "agent.pid"}, false},
		{"a key with all that it may have", []string{"keys/.lock", "keys/app/current", "keys/app/1.key.pem", "keys/app/1.json", "keys/app/1.cert.pem",
			"keys/app/1.cert.pem.replaced-2", "keys/app/1.accepted.json", "keys/app/1.tested.json", "keys/app/1.json.torn-1", "keys/app/.2.key.pem.tmp-123",
			"keys/app/2.certificates/binding-system.json", "keys/.deleted-app-x1/1.key.pem"}, false},
		{"a file of somebody's beside keys", []string{"keys/app/1.key.pem", "keys/notes.txt"}, true},
		{"a directory of somebody's with the name of a key", []string{"keys/my-other-ca/ca.pem"}, true},
		{"a directory that no key can be", []string{"keys/Other/"}, true},
		{"a file of somebody's beside a certificate", []string{"keys/app/1.cert.pem.old"}, true},
		{"a directory of somebody's in a key's", []string{"keys/app/backup/1.key.pem"}, true},
		{"a directory with the name of a key file", []string{"keys/app/1.key.pem/"}, true},
		{"a file of somebody's among certificates", []string{"keys/app/2.certificates/ca.pem"}, true},
		{"what a crash leaves", []string{"storage-root.torn-1", ".binding-system.json.tmp-123", "appsecret.key.torn-2"}, false},
		{"a key that is in no TPM", []string{"software-key.pem"}, false},
		{"nothing", nil, false},
		{"a file of somebody's", []string{"storage-root", "README"}, true},
		{"a directory of somebody's", []string{"storage-root", "binding-system.json/"}, true},
		{"a name that only begins so", []string{"storage-roots"}, true},
	} {
		cfg := state(t, tt.files...)
		before := left(t, cfg)
		inv, err := imageprep.Look(cfg, statedir.Options{}, false)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		_, err = inv.Remove(t.Context())
		want := ""
		if tt.refused {
			want = before
		}
		if after := left(t, cfg); (err != nil) != tt.refused || after != want {
			t.Errorf("%s: got %v, and %q is left", tt.name, err, after)
		}
	}
}

// An interruption leaves the note of the TPM, so that the keys of another one are still refused.
func TestTheNoteOfTheTPMGoesLast(t *testing.T) {
	t.Parallel()
	cfg := state(t, "storage-root", "keys/", "software-key.pem")
	inv, err := imageprep.Look(cfg, statedir.Options{}, false)
	if err != nil {
		t.Fatal(err)
	}
	if last := inv.Items[len(inv.Items)-1].Path; filepath.Base(last) != "storage-root" {
		t.Errorf("the last is %s", last)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if _, err := inv.Remove(ended); !errors.Is(err, context.Canceled) || !strings.Contains(left(t, cfg), "storage-root") {
		t.Errorf("got %v, and %q is left", err, left(t, cfg))
	}
}

// A service manager that listens for the agent would start it again, and is not woken by the look.
func TestNothingIsRemovedWhileTheAgentWouldBeStartedAgain(t *testing.T) {
	t.Parallel()
	cfg := state(t, "storage-root")
	dir, err := os.MkdirTemp("", "prep") // short: it holds a Unix socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	cfg.Socket = filepath.Join(dir, "agent.sock")
	listener, err := net.Listen("unix", cfg.Socket)
	if err != nil {
		t.Fatal(err)
	}
	_, err = imageprep.Look(cfg, statedir.Options{}, false)
	if err == nil || !strings.Contains(err.Error(), "the next program that asks for a token starts it") {
		t.Errorf("got %v", err)
	}
	if err := listener.(*net.UnixListener).SetDeadline(time.Now()); err != nil {
		t.Fatal(err)
	}
	if conn, err := listener.Accept(); err == nil {
		t.Error("it was connected to")
		_ = conn.Close()
	}
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(cfg.Socket, nil, 0o600); err != nil { // what is left of one
		t.Fatal(err)
	}
	if _, err := imageprep.Look(cfg, statedir.Options{}, false); err != nil {
		t.Errorf("nobody listens: %v", err)
	}
}

// An agent that starts between the look and the removal keeps its state.
func TestNothingIsRemovedUnderAnAgent(t *testing.T) {
	t.Parallel()
	cfg := state(t, "storage-root")
	inv, err := imageprep.Look(cfg, statedir.Options{}, false)
	if err != nil {
		t.Fatal(err)
	}
	unlock, err := statefile.Lock(cfg.StateDir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := inv.Remove(t.Context()); err == nil || !strings.Contains(left(t, cfg), "storage-root") {
		t.Errorf("got %v, and %q is left", err, left(t, cfg))
	}
	if _, err := imageprep.Look(cfg, statedir.Options{}, false); err == nil {
		t.Error("an agent runs, and that was not said")
	}
	if err := unlock(); err != nil {
		t.Fatal(err)
	}
}

func TestAuditRecordsStayUnlessTheyAreNamed(t *testing.T) {
	t.Parallel()
	cfg := state(t)
	cfg.Audit = config.Audit{To: config.AuditToFile, File: filepath.Join(t.TempDir(), "audit.jsonl")}
	if err := os.WriteFile(cfg.Audit.File, []byte("{}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, named := range []bool{false, true} {
		inv, err := imageprep.Look(cfg, statedir.Options{}, named)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := inv.Remove(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(cfg.Audit.File); errors.Is(err, os.ErrNotExist) != named {
			t.Errorf("named %v: %v", named, err)
		}
	}
}
