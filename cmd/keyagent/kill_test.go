package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyagent/keyagent/client"
	"github.com/keyagent/keyagent/internal/agenttest"
	"github.com/keyagent/keyagent/simulator"
	"github.com/keyagent/keyagent/simulator/fault"
	"github.com/keyagent/keyagent/simulator/journal"
)

// killSeed is the environment variable that repeats the moments of a run's kills, as far as a
// machine repeats anything.
const killSeed = "KEYAGENT_KILL_SEED"

const (
	killRounds = 12
	vault      = "https://vault.azure.net"
)

// victim is a platform in this process, and an agent on it that is a process of its own.
type victim struct {
	t        *testing.T
	platform *simulator.Platform
	dir      string
	program  string // that is killed
	seed     uint64
	random   *rand.Rand
	client   *client.Client
	imds     *httptest.Server // what the agent takes for IMDS; one for each agent
	agent    *exec.Cmd
	ended    chan struct{} // closed when the agent has
	output   bytes.Buffer  // of all agents; to be read when none runs
}

func newVictim(t *testing.T, cfg simulator.Config) *victim {
	t.Helper()
	seed := rand.Uint64()
	if text := os.Getenv(killSeed); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	cfg.Dir, cfg.Keys = t.TempDir(), agenttest.Keys(t)
	platform, err := simulator.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	v := &victim{t: t, platform: platform, dir: cfg.Dir, program: "keyagent", seed: seed, random: rand.New(rand.NewPCG(seed, 0)),
		client: client.New(client.Config{Socket: filepath.Join(cfg.Dir, "agent.sock")})}
	if program := os.Getenv(killProgram); program != "" {
		v.program = program
	}
	t.Cleanup(func() {
		v.kill()
		_ = v.client.Close()
		if err := platform.Close(); err != nil {
			t.Error(err)
		}
		t.Logf("%d requests, %d and %d certificates", len(platform.Journal().Entries()), v.issued("vm"), v.issued("vm-user"))
		if t.Failed() {
			t.Logf("repeat with %s=%d:\n%s", killSeed, seed, v.output.String())
		}
	})
	return v
}

// start starts an agent, which need not answer yet.
func (v *victim) start() {
	v.t.Helper()
	v.startWith(&v.output, &v.output, "")
}

// startWith starts an agent with these standard streams, and more settings than the platform's.
func (v *victim) startWith(stdout, stderr io.Writer, settings string) {
	v.t.Helper()
	v.imds = relayIMDS(v.t, v.platform.Info().IMDS)
	v.agent = exec.Command(v.program, "serve", "--config", v.config(settings)) // kill ends it
	v.agent.Stdout, v.agent.Stderr = stdout, stderr
	if err := v.agent.Start(); err != nil {
		v.t.Fatal(err)
	}
	ended, agent := make(chan struct{}), v.agent
	v.ended = ended
	go func() {
		defer close(ended)
		_ = agent.Wait() // it was killed
	}()
}

// config writes the agent's configuration, without the applications: their keys are not made, so
// the agent would not be ready.
func (v *victim) config(settings string) string {
	v.t.Helper()
	text, err := os.ReadFile(v.platform.Info().ConfigFile)
	if err != nil {
		v.t.Fatal(err)
	}
	path := filepath.Join(v.dir, "agent.yaml")
	first, rules := bytes.Index(text, []byte("  - name: app-")), bytes.Index(text, []byte("rules:"))
	if first < 0 || rules < first {
		v.t.Fatalf("the platform's configuration has no applications:\n%s", text)
	}
	text = bytes.ReplaceAll(append(text[:first:first], text[rules:]...), []byte(", app-fic, app-cert"), nil)
	text = append(bytes.ReplaceAll(text, []byte(v.platform.Info().IMDS), []byte(v.imds.URL)), settings...)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		v.t.Fatal(err)
	}
	return path
}

// relayIMDS passes requests on, and goes on with those whose client has died: when it is closed,
// nothing of theirs is under way.
func relayIMDS(t *testing.T, platform string) *httptest.Server {
	t.Helper()
	target, err := url.Parse(platform)
	if err != nil {
		t.Fatal(err)
	}
	relay := &httputil.ReverseProxy{
		Rewrite:  func(r *httputil.ProxyRequest) { r.SetURL(target) },
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug), // clients that die are what this is about
	}
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() { _ = recover() }() // how the relay says that its client has gone
		// Without a context that can end, the relay would watch the client instead.
		ctx, cancel := context.WithCancel(context.WithoutCancel(r.Context()))
		defer cancel()
		relay.ServeHTTP(w, r.WithContext(ctx))
	}))
}

// kill kills the agent, which has no say in it.
func (v *victim) kill() {
	if v.agent == nil {
		return
	}
	_ = v.agent.Process.Kill() // it may have ended, which ready and token say
	<-v.ended
	v.imds.Close()
	v.agent = nil
}

// ready waits until the agent answers. One that ends instead is a failure: every restart serves.
func (v *victim) ready() {
	v.t.Helper()
	if !v.until(func() bool { _, err := v.client.Status(v.t.Context()); return err == nil }) {
		v.t.Fatal("the agent does not serve")
	}
}

// until waits for a condition; false says that the agent ended, or a minute, before.
func (v *victim) until(reached func() bool) bool {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(readyLimit)
	for !reached() {
		select {
		case <-tick.C:
		case <-v.ended:
			return false
		case <-limit:
			return false
		}
	}
	return true
}

// issued counts the certificates of an identity, which are what the state directory has to keep.
func (v *victim) issued(name string) int {
	v.t.Helper()
	n := 0
	for _, e := range v.platform.Journal().Operation("imds.issuecredential") {
		if e.Outcome == journal.OK && e.Detail["client_id"] == v.identity(name).ClientID {
			n++
		}
	}
	return n
}

func (v *victim) identity(name string) simulator.Identity {
	for _, id := range v.platform.Info().Identities {
		if id.Name == name {
			return id
		}
	}
	v.t.Fatalf("there is no identity %q", name)
	return simulator.Identity{}
}

// stateFile is where the certificate of an identity is kept.
func (v *victim) stateFile(name string) string {
	selector := "system"
	if id := v.identity(name); id.Kind == simulator.UserAssigned {
		selector = "client-" + id.ClientID
	}
	return filepath.Join(v.dir, "state", "binding-"+selector+".json")
}

// checkState wants every file of the state directory whole, and none put aside.
func (v *victim) checkState() {
	v.t.Helper()
	err := filepath.WalkDir(filepath.Join(v.dir, "state"), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		switch name := entry.Name(); {
		case err != nil:
			return err
		case strings.Contains(name, ".torn-"):
			v.t.Errorf("%s was put aside", name)
		case strings.HasPrefix(name, "binding-") && strings.HasSuffix(name, ".json") && !json.Valid(text):
			v.t.Errorf("%s is torn: %q", name, text)
		case strings.HasSuffix(name, ".pem") && !bytes.HasSuffix(text, []byte("-----\n")):
			v.t.Errorf("%s is torn: %q", name, text)
		}
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		v.t.Error(err)
	}
}

// round starts an agent, has it asked for tokens, kills it at some moment, and looks at what it has
// left.
func (v *victim) round(most func(name string) int) {
	v.t.Helper()
	if v.random.IntN(3) == 0 { // so that there is something to issue
		if err := os.Remove(v.stateFile("vm")); err != nil && !errors.Is(err, fs.ErrNotExist) {
			v.t.Error(err)
		}
	}
	before, may := map[string]int{}, map[string]int{}
	for _, name := range []string{"vm", "vm-user"} {
		before[name], may[name] = v.issued(name), most(name)
	}
	v.platform.Faults().Clear()
	v.start()
	if v.random.IntN(4) > 0 { // else it may be killed before it serves
		v.ready()
	}
	v.disturb()
	var callers sync.WaitGroup
	for range 4 {
		for _, name := range []string{"vm", "vm-user"} {
			callers.Go(func() { _, _ = v.client.Token(v.t.Context(), client.TokenRequest{Identity: name, Resource: vault}) })
		}
	}
	asked := make(chan struct{})
	go func() { defer close(asked); callers.Wait() }()
	v.await(asked)
	v.kill()
	<-asked
	v.checkState()
	for name, n := range before {
		if issued := v.issued(name) - n; issued > may[name] {
			v.t.Errorf("%s: %d certificates were issued to one start, want at most %d", name, issued, may[name])
		}
	}
}

// disturb makes one endpoint slow, so that the kill hits a request to it.
func (v *victim) disturb() {
	operations := []string{"imds.getplatformmetadata", "maa.attest", "imds.issuecredential", "entra.mtls.token"}
	f := fault.Fault{Operation: operations[v.random.IntN(len(operations))], Kind: fault.Delay, Delay: fault.Duration(50 * time.Millisecond)}
	if err := v.platform.Faults().Add(f); err != nil {
		v.t.Error(err)
	}
}

// await waits for so many requests at the platform, and a moment, or until all callers have their
// answer.
func (v *victim) await(asked <-chan struct{}) {
	entries := len(v.platform.Journal().Entries()) + v.random.IntN(10)
	v.until(func() bool {
		select {
		case <-asked:
			return true
		default:
			return len(v.platform.Journal().Entries()) >= entries
		}
	})
	longest := []int{20_000, 600_000}[v.random.IntN(2)] // the longer one has room for a renewal, which no request waits for
	moment := time.NewTimer(time.Duration(v.random.IntN(longest)) * time.Microsecond)
	defer moment.Stop()
	select {
	case <-moment.C:
	case <-v.ended:
	}
}

// serves wants an agent that gives tokens.
func (v *victim) serves() {
	v.t.Helper()
	v.platform.Faults().Clear()
	v.start()
	v.ready()
	for _, name := range []string{"vm", "vm-user"} {
		if _, err := v.client.Token(v.t.Context(), client.TokenRequest{Identity: name, Resource: vault}); err != nil {
			v.t.Errorf("%s: %v", name, err)
		}
	}
	v.kill()
	v.checkState()
}

// Killed at any moment, also while it makes its key: the next start serves, no file is torn, and a
// start costs one certificate at most.
func TestAnAgentThatIsKilledServesAgain(t *testing.T) {
	v := newVictim(t, simulator.Config{})
	for range killRounds {
		v.round(func(string) int { return 1 })
	}
	v.serves()
	had := v.issued("vm") + v.issued("vm-user")
	v.serves()
	if n := v.issued("vm") + v.issued("vm-user"); n != had {
		t.Errorf("a start with whole files issued %d certificates", n-had)
	}
}

// The platform's certificates are half over when they come: each start renews, while it gives
// tokens.
func TestAnAgentThatIsKilledWhileItRenewsServesAgain(t *testing.T) {
	v := newVictim(t, simulator.Config{
		Now:              func() time.Time { return time.Now().Add(-12 * time.Minute) },
		BindingTokenLife: 20 * time.Minute,
	})
	for range killRounds {
		v.round(func(name string) int {
			if _, err := os.Stat(v.stateFile(name)); err != nil {
				return 2 // one to begin with, which is due at once
			}
			return 1
		})
	}
	v.serves()
}

func TestATornFileCostsOneCertificate(t *testing.T) {
	v := newVictim(t, simulator.Config{})
	v.serves()
	whole, err := os.ReadFile(v.stateFile("vm"))
	if err != nil {
		t.Fatal(err)
	}
	for n := 1; n <= 3; n++ {
		torn := whole[:v.random.IntN(len(whole)-1)]
		if err := os.WriteFile(v.stateFile("vm"), torn, 0o600); err != nil {
			t.Fatal(err)
		}
		vm, user := v.issued("vm"), v.issued("vm-user")
		v.start()
		v.ready()
		for range 2 {
			if _, err := v.client.Token(t.Context(), client.TokenRequest{Identity: "vm", Resource: vault}); err != nil {
				t.Error(err)
			}
		}
		v.kill()
		if v.issued("vm") != vm+1 || v.issued("vm-user") != user {
			t.Errorf("got %d and %d certificates, want one for the torn file", v.issued("vm")-vm, v.issued("vm-user")-user)
		}
		aside, err := os.ReadFile(v.stateFile("vm") + ".torn-" + strconv.Itoa(n))
		if err != nil || !bytes.Equal(aside, torn) {
			t.Errorf("the torn file was not put aside: %v", err)
		}
	}
}
