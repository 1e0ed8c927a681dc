package samples_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/keyagent/keyagent/client"
	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/tooltest"
	"github.com/keyagent/keyagent/simulator"
)

// readyLimit is far above what anything takes to start or to stop.
const readyLimit = time.Minute

// stage is a simulated platform, and beside it an operator who follows a sample's README.
type stage struct {
	t           *testing.T
	sample      string
	dir         string // the operator's working directory, and the platform's
	platform    *simulator.Platform
	application simulator.Application
	keyagent    string // the program
	socket      string
	agent       *exec.Cmd
	complaints  bytes.Buffer // of the agent; not to be read before it has ended
}

func newStage(t *testing.T, sample, application string) *stage {
	t.Helper()
	dir := shortDir(t)
	platform, err := simulator.Start(t.Context(), simulator.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	s := &stage{t: t, sample: sample, dir: dir, platform: platform, keyagent: program["./cmd/keyagent"]}
	s.socket = filepath.Join(dir, "agent.sock")
	for _, a := range platform.Info().Applications {
		if a.Name == application {
			s.application = a
		}
	}
	t.Cleanup(func() {
		s.stopAgent()
		if err := platform.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// shortDir is a directory whose path leaves room for a socket's name.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sample")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// configure writes the sample's configuration, edited, where the agent looks for it. Besides what
// the comments ask to be put in, the platform's addresses are.
func (s *stage) configure(edit func(string) string) {
	s.t.Helper()
	cfg, err := config.Parse("config.yaml", []byte(edit(read(s.t, s.sample, "config.yaml"))))
	if err != nil {
		s.t.Fatal(err)
	}
	vm, err := config.Load(s.platform.Info().ConfigFile)
	if err != nil {
		s.t.Fatal(err)
	}
	s.placeIdentity(&cfg.Identities[0])
	cfg.Rules[0].Users = []string{strconv.Itoa(os.Getuid())}
	vm.Identities, vm.Rules, vm.Socket = cfg.Identities, cfg.Rules, s.socket
	text, err := vm.YAML()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(s.configFile(), text, 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// placeIdentity puts in the platform's ids and addresses.
func (s *stage) placeIdentity(id *config.Identity) {
	info := s.platform.Info()
	app := id.Application
	app.Tenant, app.ClientID = info.TenantID, s.application.ClientID
	app.LoginEndpoint, app.MTLSEndpoint = info.Login, info.MTLSAuth
	if mi := app.Credentials[0].ManagedIdentity; mi != nil {
		mi.ClientID = info.Identities[1].ClientID
	}
}

func (s *stage) configFile() string { return filepath.Join(s.dir, "config.yaml") }

// follow types the README's commands for keyagent, in their order, and has a request answered when
// there is one.
func (s *stage) follow() {
	s.t.Helper()
	for line := range strings.SplitSeq(read(s.t, s.sample, "README.md"), "\n") {
		command, found := strings.CutPrefix(strings.TrimSpace(line), "keyagent ")
		switch {
		case !found:
			continue
		case command == "serve":
			s.startAgent()
			return
		}
		cmd := s.command(strings.Fields(command)...)
		if text, err := cmd.CombinedOutput(); err != nil {
			s.t.Fatalf("keyagent %s: %v\n%s", command, err, text)
		}
		if strings.HasPrefix(command, "key csr ") {
			s.certify()
		}
	}
	s.t.Fatal("the README does not start keyagent")
}

func (s *stage) command(args ...string) *exec.Cmd {
	cmd := exec.CommandContext(s.t.Context(), s.keyagent, args...)
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "KEYAGENT_CONFIG="+s.configFile())
	return cmd
}

// certify is what the authority and the administrator of the tenant do.
func (s *stage) certify() {
	s.t.Helper()
	chain, err := s.platform.Certify(s.application.Name, []byte(read(s.t, s.dir, "app.csr")))
	if err == nil {
		err = os.WriteFile(filepath.Join(s.dir, "app.cer"), chain, 0o600)
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *stage) startAgent() {
	s.t.Helper()
	s.agent = s.command("serve")
	s.agent.Stderr = &s.complaints
	s.agent.Cancel = func() error { return s.agent.Process.Signal(os.Interrupt) }
	if err := s.agent.Start(); err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(s.t.Context(), readyLimit)
	defer cancel()
	agent := client.New(client.Config{Socket: s.socket})
	defer agent.Close()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := agent.Status(ctx); !errors.Is(err, client.ErrNotReachable) {
			return
		}
		select {
		case <-ctx.Done():
			s.stopAgent()
			s.t.Fatalf("the agent is not ready: %s", s.complaints.String())
		case <-tick.C:
		}
	}
}

func (s *stage) stopAgent() {
	if s.agent == nil {
		return
	}
	_ = s.agent.Process.Signal(os.Interrupt)
	if err := s.agent.Wait(); err != nil && s.t.Context().Err() == nil {
		s.t.Errorf("the agent: %v\n%s", err, s.complaints.String())
	}
	if s.t.Failed() {
		s.t.Log(s.complaints.String())
	}
	s.agent = nil
}

// daemon is one of a sample's programs, as a command.
type daemon struct {
	name    string
	command func(t *testing.T) []string
}

func daemons(sample string) []daemon {
	return []daemon{
		{"Go", func(*testing.T) []string { return []string{program["./samples/"+sample+"/go"]} }},
		{"Python", func(t *testing.T) []string {
			return []string{tooltest.Tool(t, "python3"), filepath.Join(sample, "python", "daemon.py")}
		}},
		{"Node", func(t *testing.T) []string {
			return []string{tooltest.Tool(t, "node"), filepath.Join(sample, "node", "daemon.mjs")}
		}},
	}
}

// environment is what a daemon is told, and all that it is told.
type environment map[string]string

func (d daemon) run(t *testing.T, env environment) (out, complaint string, err error) {
	t.Helper()
	command := d.command(t)
	cmd := exec.CommandContext(t.Context(), command[0], command[1:]...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir()}
	for name, value := range env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = cmd.Run()
	return stdout.String(), stderr.String(), err
}
