package launch_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keyagent/keyagent/internal/launch"
	"github.com/keyagent/keyagent/internal/tooltest"
)

func TestNamesOfUnits(t *testing.T) {
	for name, want := range map[string]string{
		"web": "web.service /run/web/keyagent.env", "web.service": "web.service /run/web/keyagent.env", "web@one": "web@one.service /run/web@one/keyagent.env",
		"web@.service": "web@.service /run/web@/%I/keyagent.env", `a\x2db.service`: `a\x2db.service /run/a_x2db/keyagent.env`,
		`a\x2db@`: `a\x2db@.service /run/a_x2db@/%I/keyagent.env`, "org.example.web": "org.example.web.service /run/org.example.web/keyagent.env",
		strings.Repeat("x", 247): strings.Repeat("x", 247) + ".service /run/" + strings.Repeat("x", 247) + "/keyagent.env",
	} {
		unit, err := launch.ParseUnit(name)
		if got := unit.String() + " " + unit.File(); err != nil || got != want {
			t.Errorf("%s: got %q, %v, want %q", name, got, err, want)
		}
	}
	for _, name := range []string{
		"", ".service", "..", "../web", "web/x.service", "a b", "web.socket", "web.timer", "web\n", "web%n", "@one.service", "ü", strings.Repeat("x", 248),
	} {
		if unit, err := launch.ParseUnit(name); err == nil {
			t.Errorf("%q: got %s", name, unit)
		}
	}
}

func TestADropIn(t *testing.T) {
	unit, err := launch.ParseUnit("web")
	if err != nil {
		t.Fatal(err)
	}
	got := unit.DropIn([]string{"/usr/bin/keyagent", "env", "--identity", "vm", "--socket", `/run/a b/%n$x"\.sock`, "--out", unit.File()},
		[]string{"/usr/bin/keyagent", "env", "--check"}, []launch.Family{launch.All})
	want := `# /etc/systemd/system/web.service.d/50-keyagent.conf
# Before each start the program's environment is written, with a secret for keyagent. The secret is of
# use to this unit only and ends with it; it outlives a restart of the agent.
[Unit]
Wants=keyagent.socket
After=keyagent.socket keyagent.service

[Service]
RuntimeDirectory=web
ExecStartPre=/usr/bin/keyagent env --identity vm --socket "/run/a b/%%n$$x\"\\.sock" --out /run/web/keyagent.env
ExecStartPre=/usr/bin/keyagent env --check
EnvironmentFile=-/run/web/keyagent.env
UnsetEnvironment=IDENTITY_SERVER_THUMBPRINT IMDS_ENDPOINT
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("want -, got +:\n%s", diff)
	}
}

func TestSystemdTakesTheDropIn(t *testing.T) {
	analyze := tooltest.Tool(t, "systemd-analyze")
	for _, name := range []string{"web", "web@"} {
		unit, err := launch.ParseUnit(name)
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		text := "[Unit]\nDescription=A program\n[Service]\nUser=daemon\nExecStart=/bin/true\n"
		if err := os.WriteFile(filepath.Join(dir, unit.String()), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(filepath.Join(dir, unit.String()+".d"), 0o700); err != nil {
			t.Fatal(err)
		}
		dropIn := unit.DropIn([]string{"/bin/true", "env", "--identity", "a b", "--out", unit.File()}, []string{"/bin/true"}, nil)
		if err := os.WriteFile(filepath.Join(dir, unit.String()+".d", "50-keyagent.conf"), []byte(dropIn), 0o600); err != nil {
			t.Fatal(err)
		}
		instance := strings.Replace(unit.String(), "@.", "@one.", 1)
		out, err := exec.CommandContext(t.Context(), analyze, "verify", filepath.Join(dir, instance)).CombinedOutput()
		if err != nil || strings.Contains(string(out), dir) {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}
