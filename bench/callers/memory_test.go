package callers_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyagent/keyagent/client"
	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/simulator"
)

const (
	maxIdleKB     = 18 << 10
	maxSteadyKB   = maxIdleKB * 13 / 10
	steadyClients = 64
	steadyFor     = time.Minute
	quietAfter    = 150 * time.Second // without a request the agent has given memory back by then
)

// BenchmarkAgentMemory measures the resident memory of the agent as it is installed: when it has
// got a token and nobody has asked for one since, and after a minute in which 64 clients ask on a
// connection each, one request after the other. The latter is held to 1.3 times the bound of an
// idle agent, and not to 1.3 times what that has: an agent that gives memory back must not look
// worse.
func BenchmarkAgentMemory(b *testing.B) {
	platform, err := simulator.Start(b.Context(), simulator.Config{Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = platform.Close() })
	cfg, err := config.Load(platform.Info().ConfigFile)
	if err != nil {
		b.Fatal(err)
	}
	pid := startInstalled(b, platform.Info().ConfigFile)
	ask := func(c *client.Client) error {
		_, err := c.Token(b.Context(), client.TokenRequest{Identity: "vm", Resource: platform.Info().ResourceAudience})
		return err
	}
	first := client.New(client.Config{Socket: cfg.Socket})
	for err = client.ErrNotReachable; errors.Is(err, client.ErrNotReachable) && b.Context().Err() == nil; {
		err = ask(first)
	}
	if err = errors.Join(err, first.Close()); err != nil {
		b.Fatal(err)
	}
	quiet := time.NewTimer(quietAfter)
	defer quiet.Stop()
	select {
	case <-quiet.C:
	case <-b.Context().Done():
	}
	idle := residentMemory(b, pid)
	ctx, cancel := context.WithTimeout(b.Context(), steadyFor)
	defer cancel()
	var asking sync.WaitGroup
	for range steadyClients {
		asking.Go(func() {
			c := client.New(client.Config{Socket: cfg.Socket})
			defer func() { _ = c.Close() }()
			for ctx.Err() == nil {
				if err := ask(c); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	asking.Wait()
	b.ReportMetric(idle, "ours-idle-kB")
	b.ReportMetric(maxIdleKB, "reference-idle-kB")
	b.ReportMetric(residentMemory(b, pid), "ours-steady-kB")
	b.ReportMetric(maxSteadyKB, "reference-steady-kB")
}

// startInstalled builds the production binary, starts the agent and ends it with the benchmark.
func startInstalled(b *testing.B, configFile string) (pid int) {
	b.Helper()
	program := filepath.Join(b.TempDir(), "keyagent")
	build := exec.CommandContext(b.Context(), "go", "build", "-trimpath", "-o", program, "./cmd/keyagent")
	build.Dir, build.Env = filepath.Join("..", ".."), append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	agent := exec.Command(program, "serve", "--config", configFile)
	agent.Env = os.Environ()
	if err := agent.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = agent.Process.Signal(os.Interrupt)
		_ = agent.Wait()
	})
	return agent.Process.Pid
}

// residentMemory returns how much of a process is in memory, in kB of 1024 bytes.
func residentMemory(tb testing.TB, pid int) float64 {
	tb.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		tb.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var kB float64
		if n, _ := fmt.Sscanf(line, "VmRSS: %f kB", &kB); n == 1 {
			return kB
		}
	}
	tb.Fatal("the process has no VmRSS")
	return 0
}
