package samples_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/tooltest"
	"github.com/keyagent/keyagent/simulator/resource"
)

const execSample = "exec"

func TestProgramsThatKnowNothingOfKeyagentRunAsTheREADMESays(t *testing.T) {
	for _, tool := range []string{"bash", "jq", "python3", "node"} {
		tooltest.Tool(t, tool)
	}
	dir := shortDir(t)
	user := ordinaryUser(t, dir)
	out := runShellAs(t, user, dir, strings.NewReplacer(
		"make build simulators", "true", "/tmp/sim", filepath.Join(dir, "sim"), "bin/keyagent", program["./cmd/keyagent"], "bin/azuresim", program["./simulator/azuresim"],
		"go run ./samples/exec/go", program["./samples/exec/go"],
	).Replace(shellLines(t, execSample, "## Against the simulator")))
	var callers []resource.Caller
	for line := range strings.SplitSeq(out, "\n") {
		var saw resource.Caller
		if json.Unmarshal([]byte(line), &saw) == nil && saw.ClientID != "" {
			callers = append(callers, saw)
		}
	}
	if len(callers) != 3 || callers[0].ClientID != callers[1].ClientID || callers[1].ClientID != callers[2].ClientID {
		t.Errorf("the API saw %+v, want one identity three times:\n%s", callers, out)
	}
}

func TestTheProgramsOfExecNeedNothingOfKeyagent(t *testing.T) {
	for _, name := range []string{"go/main.go", "python/whoami.py", "node/whoami.mjs"} {
		for line := range strings.SplitSeq(read(t, execSample, name), "\n") {
			if strings.Contains(line, "keyagent") && !strings.Contains(line, "nothing of keyagent") {
				t.Errorf("%s knows it: %s", name, line)
			}
		}
	}
}

func TestTheConfigurationOfExecServesPrograms(t *testing.T) {
	cfg, err := config.Parse("config.yaml", []byte(read(t, execSample, "config.yaml")))
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Endpoints.AppService == nil || cfg.Identities[0].Name != "vm" || cfg.Rules[0].Identities[0] != "vm" {
		t.Errorf("got %+v", cfg)
	}
}

// ordinaryUser has the sample's programs in dir, which is that of an ordinary user; nil: this
// process is one. Root's programs are not served on loopback.
func ordinaryUser(t *testing.T, dir string) *syscall.Credential {
	t.Helper()
	if err := os.CopyFS(filepath.Join(dir, "samples", execSample), os.DirFS(execSample)); err != nil {
		t.Fatal(err)
	}
	uid := tooltest.User()
	if uid == os.Getuid() {
		return nil
	}
	if err := errors.Join(os.Chmod(filepath.Dir(program["./cmd/keyagent"]), 0o755), os.Chown(dir, uid, uid)); err != nil {
		t.Fatal(err)
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}
}
