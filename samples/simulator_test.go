package samples_test

import (
	"bytes"
	"context"
	"encoding/json"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/keyagent/keyagent/internal/tooltest"
	"github.com/keyagent/keyagent/simulator/resource"
)

// The lines that a newcomer pastes into a shell, in another directory and with the programs that
// are built already.
func TestTheProgramsRunAgainstTheSimulatorAsTheREADMEsSay(t *testing.T) {
	for _, tool := range []string{"bash", "curl", "jq", "python3", "node"} {
		tooltest.Tool(t, tool)
	}
	for _, sample := range samples() {
		t.Run(sample, func(t *testing.T) {
			dir := shortDir(t)
			out := runShell(t, strings.NewReplacer(
				"make build simulators", "true", "/tmp/sim", dir, "bin/keyagent", program["./cmd/keyagent"], "bin/azuresim", program["./simulator/azuresim"],
				"go run ./samples/"+sample+"/go", program["./samples/"+sample+"/go"],
			).Replace(shellLines(t, sample, "## Against the simulator")))
			callers := map[string]int{}
			for line := range strings.SplitSeq(out, "\n") {
				var saw resource.Caller
				if json.Unmarshal([]byte(line), &saw) == nil && saw.ClientID != "" && !saw.Bound {
					callers[saw.ClientID]++
				}
			}
			if len(callers) != 1 || !strings.Contains(out, "azuresim: ready") {
				t.Fatalf("the API saw %v, want one app:\n%s", callers, out)
			}
			for app, times := range callers {
				if times != len(daemons(sample)) {
					t.Errorf("the API saw %s %d times, want once from each program:\n%s", app, times, out)
				}
			}
		})
	}
}

// shellLines is the first block of commands under a heading of a sample's README.
func shellLines(t *testing.T, sample, heading string) string {
	t.Helper()
	_, section, found := strings.Cut(read(t, sample, "README.md"), "\n"+heading+"\n")
	_, block, begins := strings.Cut(section, "\n```sh\n")
	lines, _, ends := strings.Cut(block, "\n```\n")
	if !found || !begins || !ends {
		t.Fatalf("%s has no commands under %q", sample, heading)
	}
	return lines
}

// runShell runs commands in the root of the repository until one fails, and then ends what they
// left running.
func runShell(t *testing.T, commands string) string {
	t.Helper()
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	return runShellAs(t, nil, root, commands)
}

// runShellAs is runShell in another directory, and as another user if there is one.
func runShellAs(t *testing.T, user *syscall.Credential, dir, commands string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), readyLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-e", "-c", "trap 'kill $(jobs -p); wait' EXIT\n"+commands)
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: user} // so that all of them can be ended
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	return out.String()
}
