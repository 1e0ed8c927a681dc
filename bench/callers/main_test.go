package callers_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/keyagent/keyagent/agentapi/policy"
	"github.com/keyagent/keyagent/client"
	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/daemon"
	"github.com/keyagent/keyagent/simulator"
	"github.com/keyagent/keyagent/simulator/fault"
	"github.com/keyagent/keyagent/simulator/imds"
)

// This program also runs as each process of the herd, which is then told where to ask, and as the
// thief.
func TestMain(m *testing.M) {
	var err error
	switch whom := os.Getenv(envAsk); whom {
	case "":
		os.Exit(m.Run())
	case askThief:
		err = oneThief(os.Getenv(envAt))
	default:
		err = oneOfTheHerd(whom)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// How long the platform's services take to answer.
const (
	imdsDelay  = 15 * time.Millisecond
	entraDelay = 80 * time.Millisecond
)

// resources is how many resources the tenant has for herds, each of which wants another one.
const resources = 1000

func resource(n int) string { return fmt.Sprintf("https://resource-%03d", n) }

// stage is a simulated platform with an agent.
type stage struct {
	platform *simulator.Platform
	client   *client.Client
	herds    int
}

func newStage(tb testing.TB) *stage {
	tb.Helper()
	var names []string
	for n := range resources {
		names = append(names, resource(n))
	}
	platform, err := simulator.Start(tb.Context(), simulator.Config{Dir: tb.TempDir(), Resources: names})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = platform.Close() })
	s := &stage{platform: platform}
	s.slowDown(tb)
	s.startAgent(tb)
	return s
}

// slowDown makes the platform as slow, and as strict, as the real one.
func (s *stage) slowDown(tb testing.TB) {
	tb.Helper()
	err := s.platform.SetIMDS(imds.Behaviour{Limit: &imds.Limit{}})
	for operation, delay := range map[string]time.Duration{
		"imds.token": imdsDelay, "imds.getplatformmetadata": imdsDelay, "imds.issuecredential": imdsDelay, "entra.mtls.token": entraDelay,
	} {
		err = errors.Join(err, s.platform.Faults().Add(fault.Fault{Operation: operation, Kind: fault.Delay, Delay: fault.Duration(delay)}))
	}
	if err != nil {
		tb.Fatal(err)
	}
}

// startAgent starts the agent and has it get its certificate.
func (s *stage) startAgent(tb testing.TB) {
	tb.Helper()
	cfg, err := config.Load(s.platform.Info().ConfigFile)
	if err != nil {
		tb.Fatal(err)
	}
	cfg.Rules[0].Resources = []string{policy.AnyResource}
	cfg.Rules[0].Users = append(cfg.Rules[0].Users, strconv.Itoa(nobody))
	cfg.Endpoints.AppService = &config.LoopbackEndpoint{Listen: freeAddress(tb)}
	cfg.Socket = filepath.Join(openDir(tb), "agent.sock")
	a, err := runAgent(tb.Context(), cfg, slog.DiscardHandler, s.platform.Clock().Now)
	if err != nil {
		tb.Fatal(err)
	}
	s.client = a.client
	tb.Cleanup(func() {
		if err := a.stop(); err != nil {
			tb.Error(err)
		}
	})
	if _, err := a.client.Token(tb.Context(), client.TokenRequest{Identity: "vm", Resource: s.platform.Info().ResourceAudience}); err != nil {
		tb.Fatal(err)
	}
}

// openDir returns a folder that every user can enter.
func openDir(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("", "callers")
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// freeAddress returns an address of loopback where nobody listens.
func freeAddress(tb testing.TB) string {
	tb.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// agent is one that runs in this process. Stop it.
type agent struct {
	client *client.Client
	stop   func() error
}

// runAgent starts an agent and returns when it answers. Between attempts, it does not wait.
func runAgent(ctx context.Context, cfg *config.Config, log slog.Handler, now func() time.Time) (agent, error) {
	ctx, cancel := context.WithCancel(ctx)
	d, err := daemon.Open(ctx, cfg, daemon.Options{
		Version: "bench", Logger: slog.New(log), Audit: slog.New(slog.DiscardHandler), Now: now,
		Sleep: func(ctx context.Context, _ time.Duration) error { return ctx.Err() },
	})
	if err != nil {
		cancel()
		return agent{}, err
	}
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx) }()
	c := client.New(client.Config{Socket: cfg.Socket})
	stop := func() error {
		err := c.Close()
		cancel()
		return errors.Join(err, <-ended, d.Close())
	}
	for err = client.ErrNotReachable; errors.Is(err, client.ErrNotReachable); {
		_, err = c.Status(ctx)
	}
	if err != nil {
		return agent{}, errors.Join(err, stop())
	}
	return agent{c, stop}, nil
}
