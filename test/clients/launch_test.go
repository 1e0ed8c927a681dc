package clients_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"

	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/tooltest"
)

// built returns a function that builds a program once for all tests, where every user can run it.
func built(dir, pkg, name string) func() (string, error) {
	return sync.OnceValues(func() (string, error) {
		program := filepath.Join(programs, name)
		build := exec.Command("go", "build", "-buildvcs=false", "-o", program, pkg)
		build.Dir = dir
		if text, err := build.CombinedOutput(); err != nil {
			return "", errors.Join(err, errors.New(string(text)))
		}
		return program, nil
	})
}

var (
	programs      string // a folder
	keyagentBuilt = built("../..", "./cmd/keyagent", "keyagent")
	goappsBuilt   = built("goapps", ".", "goapps")
)

func TestMain(m *testing.M) {
	// The libraries look there for hosts that are no VMs.
	for _, name := range []string{"IDENTITY_ENDPOINT", "IDENTITY_HEADER", "IMDS_ENDPOINT", "MSI_ENDPOINT", "MSI_SECRET", "AZURE_REGIONAL_AUTHORITY_NAME", "MSAL_FORCE_REGION"} {
		_ = os.Unsetenv(name) // fails for no name without "="
	}
	dir, err := os.MkdirTemp("", "programs")
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	code := 1
	if programs = dir; err == nil {
		code = m.Run()
	}
	if err := errors.Join(err, os.RemoveAll(dir)); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

// appUser is who runs the programs. Root's are not served on loopback.
var appUser = tooltest.User()

// asAppUser starts a process as that user.
func asAppUser() *syscall.SysProcAttr {
	if appUser == os.Getuid() {
		return &syscall.SysProcAttr{}
	}
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(appUser), Gid: uint32(appUser)}}
}

// folder is one of that user.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "app")
	if err == nil && appUser != os.Getuid() {
		err = errors.Join(os.Chmod(dir, 0o755), os.Chown(dir, appUser, appUser))
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// reached is a path, if that user can get there; else the test is skipped.
func reached(t *testing.T, path string) string {
	t.Helper()
	path, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	look := exec.CommandContext(t.Context(), "test", "-x", path)
	look.Dir, look.SysProcAttr = "/", asAppUser()
	if err := look.Run(); err != nil {
		t.Skipf("uid %d, as whom programs run here, cannot get to %s: a tree in another user's home cannot be used for that", appUser, path)
	}
	return path
}

func must(t *testing.T, build func() (string, error)) string {
	t.Helper()
	program, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return program
}

// station is an agent that serves programs on loopback.
type station struct {
	*world
	cfg    *config.Config
	record trail
	stop   func()
}

// newStation starts an agent with both endpoints.
func (w *world) newStation(change func(*config.Config)) *station {
	w.t.Helper()
	s := &station{world: w}
	if err := os.Chmod(w.dir, 0o755); err != nil { // #nosec G302 -- the agent's socket is in it
		w.t.Fatal(err)
	}
	_, s.stop = w.runAgent(&s.record, func(c *config.Config) {
		c.Endpoints.AppService = &config.LoopbackEndpoint{Listen: freeAddress(w.t)}
		c.Endpoints.IMDS = &config.LoopbackEndpoint{Listen: freeAddress(w.t)}
		c.Rules[0].Users = append(c.Rules[0].Users, strconv.Itoa(appUser))
		change(c)
		s.cfg = c
	})
	return s
}

func unchanged(*config.Config) {}

func freeAddress(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// event is a record of the agent's audit.
type event struct {
	Route, Code, Reason, Identity string

	Status int
	UID    *uint32
}

// trail keeps an agent's audit.
type trail struct {
	mu     sync.Mutex
	events []event
	text   bytes.Buffer
}

func (a *trail) Write(record []byte) (int, error) {
	var e event
	if err := json.Unmarshal(record, &e); err != nil {
		return 0, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.events = append(a.events, e)
	return a.text.Write(record)
}

// since are the records of requests for tokens on loopback after the first n of them.
func (a *trail) since(n int) []event {
	a.mu.Lock()
	defer a.mu.Unlock()
	asked := slices.DeleteFunc(slices.Clone(a.events), func(e event) bool { return e.Route != wire.PathAppServiceToken && e.Route != wire.PathIMDSToken })
	return asked[n:]
}

// whole is all of it, as it was written.
func (a *trail) whole() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.text.String()
}

// exec is keyagent exec for an identity, with what to run after it. The program has nothing else in
// its environment than what every program has.
func (s *station) exec(ctx context.Context, t *testing.T, identity string, args ...string) *exec.Cmd {
	t.Helper()
	own := []string{"exec", "--socket", s.cfg.Socket}
	if identity != "" {
		own = append(own, "--identity", identity)
	}
	cmd := exec.CommandContext(ctx, must(t, keyagentBuilt), append(append(own, "--"), args...)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + folder(t)}
	cmd.Dir, cmd.SysProcAttr = "/", asAppUser()
	return cmd
}

// unmodified is an app of a library that knows nothing of the agent.
type unmodified struct {
	name   string
	args   func(*testing.T) []string // of the app, before the resource; it may skip the test
	stdin  string                    // a file
	dir    func(*testing.T) string   // where it stands; nil: anywhere
	takes  []string                  // the selectors of a user-assigned identity
	expiry bool                      // whether it says when the token expires

	refreshes bool // whether it asks anew in the last minutes of a token, at each call
	patient   bool // it takes no advice on how long to wait, and waits longer each time
	alike     bool // its requests are made by a library that stands in the list, too
}

const (
	byClientID   = "client_id"
	byObjectID   = "object_id"
	byResourceID = "resource_id"
)

func unmodifiedApps() []unmodified {
	goapp := func(library string) func(*testing.T) []string {
		return func(t *testing.T) []string { return []string{must(t, goappsBuilt), library} }
	}
	nodeapp := func(library string) func(*testing.T) []string {
		return func(t *testing.T) []string { return append(node(t).Args, library) }
	}
	pythonapp := func(library string) func(*testing.T) []string {
		return func(t *testing.T) []string { return append(python(t).Args, library) }
	}
	js := func(t *testing.T) string { return reached(t, packages(t, "js")) }
	all := []string{byClientID, byObjectID, byResourceID}
	return []unmodified{
		{name: "azidentity", args: goapp("azidentity"), takes: all, expiry: true, refreshes: true},
		{name: "azidentity, the default chain", args: goapp("DefaultAzureCredential"), expiry: true, refreshes: true, alike: true},
		{name: "MSAL Go", args: goapp("msal"), takes: all, expiry: true, refreshes: true},
		{name: "hashicorp/go-azure-sdk", args: goapp("go-azure-sdk"), takes: []string{byClientID}, expiry: true, refreshes: true},
		{name: "go-autorest/adal", args: goapp("adal"), takes: []string{byClientID, byResourceID}, expiry: true, refreshes: true, patient: true},
		{name: "Prometheus remote write", args: goapp("prometheus"), takes: []string{byClientID}, alike: true},
		{name: "@azure/identity", args: nodeapp("@azure/identity"), stdin: "js/app.mjs", dir: js, takes: all, expiry: true, refreshes: true},
		{name: "@azure/identity, the default chain", args: nodeapp("DefaultAzureCredential"), stdin: "js/app.mjs", dir: js, expiry: true, refreshes: true, alike: true},
		{name: "msal-node", args: nodeapp("msal-node"), stdin: "js/app.mjs", dir: js, takes: all, expiry: true, refreshes: true},
		{name: "azure-identity of Python", args: pythonapp("ManagedIdentityCredential"), stdin: "python/app.py", takes: all, expiry: true},
		{name: "azure-identity of Python, the default chain", args: pythonapp("DefaultAzureCredential"), stdin: "python/app.py", expiry: true, alike: true},
	}
}

// command is the app under exec, after a prefix of the command line, which may be empty.
func (u unmodified) command(t *testing.T, s *station, identity string, prefix []string, wants ...string) *exec.Cmd {
	t.Helper()
	args := slices.Concat(prefix, u.args(t), wants)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	cmd := s.exec(ctx, t, identity, args...)
	u.equip(t, cmd)
	return cmd
}

// equip gives a command the app's program text and its place.
func (u unmodified) equip(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if u.stdin != "" {
		program, err := os.Open(u.stdin)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = program.Close() })
		cmd.Stdin = program
	}
	if u.dir != nil {
		cmd.Dir = u.dir(t)
	}
}

// says runs a command that prints what an app sees.
func says(t *testing.T, cmd *exec.Cmd) answer {
	t.Helper()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, stderr.Bytes())
	}
	var a answer
	if err := json.Unmarshal(out, &a); err != nil {
		t.Fatalf("%v: %s%s", err, out, stderr.Bytes())
	}
	return a
}
