package starts_test

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/keyagent/keyagent/client"
	"github.com/keyagent/keyagent/simulator"
)

const (
	patience  = 2 * time.Minute
	lookEvery = time.Millisecond
)

// stage is a platform whose TPM is behind a proxy.
type stage struct {
	platform *simulator.Platform
	tpm      *slowTPM
}

func newStage(tb testing.TB) *stage {
	tb.Helper()
	platform, err := simulator.Start(tb.Context(), simulator.Config{Dir: tb.TempDir()})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = platform.Close() })
	return &stage{platform: platform, tpm: newSlowTPM(tb, platform.Info().TPM)}
}

// installation is a build of the agent with a state directory and a socket of its own.
type installation struct {
	stage   *stage
	program string
	dir     string
}

// newer are the parts of the platform's configuration that the former build does not know. No build
// gets them, so that all do the same.
var newer = regexp.MustCompile(`(?m)^endpoints:.*\n(?:  .*\n)+|^  event_log: .*\n`)

// install gives a build its folder and its configuration: that of the platform, with the TPM behind
// the proxy.
func (s *stage) install(tb testing.TB, program string) *installation {
	tb.Helper()
	i := &installation{stage: s, program: program, dir: tb.TempDir()}
	text, err := os.ReadFile(s.platform.Info().ConfigFile)
	if err != nil {
		tb.Fatal(err)
	}
	for setting, value := range map[string]string{"tpm": s.tpm.proxy.Device(), "state_dir": i.state(), "socket": i.socket()} {
		line := regexp.MustCompile(`(?m)^` + setting + `: .*$`)
		if len(line.FindAll(text, -1)) != 1 {
			tb.Fatalf("the platform's configuration does not set %s once", setting)
		}
		text = line.ReplaceAll(text, []byte(setting+`: "`+value+`"`))
	}
	text = newer.ReplaceAll(text, nil)
	if err := os.WriteFile(i.configFile(), text, 0o600); err != nil {
		tb.Fatal(err)
	}
	return i
}

func (i *installation) state() string      { return filepath.Join(i.dir, "state") }
func (i *installation) socket() string     { return filepath.Join(i.dir, "agent.sock") }
func (i *installation) configFile() string { return filepath.Join(i.dir, "keyagent.yaml") }

// forget makes the next start the first ever.
func (i *installation) forget(tb testing.TB) {
	tb.Helper()
	if err := os.RemoveAll(i.state()); err != nil {
		tb.Fatal(err)
	}
}

// start is what a start took until the first token.
type start struct {
	took   time.Duration // from the start of the process
	ready  count         // until the socket could be connected to
	served count         // until the token was there
	waited time.Duration // from the start of the process until the socket could be connected to
}

// start starts the agent, gets a token as soon as it can be asked, and stops it.
func (i *installation) start(tb testing.TB, d delays) start {
	tb.Helper()
	i.stage.tpm.restart(d)
	ctx, cancel := context.WithTimeout(tb.Context(), patience)
	defer cancel()
	said := new(strings.Builder)
	agent := exec.CommandContext(ctx, i.program, "serve", "--config", i.configFile())
	agent.Env, agent.Stdout, agent.Stderr = os.Environ(), said, said
	var s start
	begin := time.Now()
	err := agent.Start()
	if err == nil {
		if err = i.untilReady(ctx); err == nil {
			s.waited = time.Since(begin)
			s.ready = i.stage.tpm.counted()
			err = i.token(ctx)
			s.took, s.served = time.Since(begin), i.stage.tpm.counted()
		}
		i.stage.tpm.restart(delays{}) // what is sent on stopping is not measured
		err = errors.Join(err, agent.Process.Signal(os.Interrupt), agent.Wait())
	}
	if err != nil {
		tb.Fatalf("%v\n%s", err, said)
	}
	return s
}

// untilReady waits until the agent listens on its socket, which it does when it is ready for
// requests.
func (i *installation) untilReady(ctx context.Context) error {
	for {
		conn, err := new(net.Dialer).DialContext(ctx, "unix", i.socket())
		if err == nil {
			return conn.Close()
		}
		select {
		case <-time.After(lookEvery):
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		}
	}
}

func (i *installation) token(ctx context.Context) error {
	c := client.New(client.Config{Socket: i.socket()})
	_, err := c.Token(ctx, client.TokenRequest{Identity: "vm", Resource: i.stage.platform.Info().ResourceAudience})
	return errors.Join(err, c.Close())
}
