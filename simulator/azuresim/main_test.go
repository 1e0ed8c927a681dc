package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/simulator"
)

func TestWrongUsage(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		code int
		text string
	}{
		"no directory":      {nil, 2, "--dir is needed"},
		"an argument":       {[]string{"--dir", "x", "y"}, 2, "--dir is needed"},
		"an unknown option": {[]string{"--port", "80"}, 2, "port"},
		"help":              {[]string{"--help"}, 0, "Example:"},
	} {
		t.Run(name, func(t *testing.T) {
			var stderr bytes.Buffer
			if code := run(t.Context(), c.args, io.Discard, &stderr); code != c.code || !strings.Contains(stderr.String(), c.text) {
				t.Errorf("exit code %d, want %d; stderr: %s", code, c.code, stderr.String())
			}
		})
	}
}

// The help names all that the control endpoint can do.
func TestTheHelpHasAllOperationsAndKindsOfFaults(t *testing.T) {
	var help bytes.Buffer
	run(t.Context(), []string{"--help"}, io.Discard, &help)
	want := append(simulator.Operations(), `is status (`, `body (`, `delay (`, `reset (`, `CONTROL=$(jq -r .control D/azuresim.json)`, "\n  export KEYAGENT_CONFIG=/tmp/sim/keyagent.yaml\n", `'{"no_v2":true}' $CONTROL/imds`)
	for _, text := range want {
		if !strings.Contains(help.String(), text) {
			t.Errorf("the help does not have %s", text)
		}
	}
	if strings.Contains(help.String(), "%!") {
		t.Errorf("the help is badly formatted:\n%s", help.String())
	}
}

func TestADirectoryThatCannotBeMadeIsAnError(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	if code := run(t.Context(), []string{"--dir", file}, io.Discard, &stderr); code != 1 || !strings.HasPrefix(stderr.String(), "azuresim: error: ") {
		t.Errorf("exit code %d; stderr: %s", code, stderr.String())
	}
}

func TestItSaysWhenItIsReadyAndStopsOnASignal(t *testing.T) {
	dir, err := os.MkdirTemp("", "sim") // short: it holds a Unix socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	ctx, stop := signal.NotifyContext(t.Context(), syscall.SIGTERM)
	defer stop()
	out, in := io.Pipe()
	code := make(chan int)
	go func() { code <- run(ctx, []string{"--dir", dir}, in, io.Discard) }()

	line := make([]byte, 1024)
	n, err := out.Read(line)
	if err != nil || !strings.HasPrefix(string(line[:n]), "azuresim: ready: ") {
		t.Fatalf("line %q: %v", line[:n], err)
	}
	ready, err := os.ReadFile(filepath.Join(dir, "azuresim.json"))
	var info simulator.Info
	if err != nil || json.Unmarshal(ready, &info) != nil || info.Control == "" {
		t.Errorf("azuresim.json: %v %s", err, ready)
	}
	cfg, err := config.Load(info.ConfigFile)
	if err != nil {
		t.Fatal(err)
	}
	apps, imds := cfg.Endpoints.AppService, cfg.Endpoints.IMDS
	if apps == nil || imds == nil || apps.Listen == imds.Listen || len(cfg.Rules[0].Users) == 0 {
		t.Errorf("programs that know nothing of the agent are not served: %+v", cfg)
	}
	if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if got := <-code; got != 0 {
		t.Errorf("exit code %d", got)
	}
	if ctx.Err() != context.Canceled {
		t.Errorf("context: %v", ctx.Err())
	}
}
