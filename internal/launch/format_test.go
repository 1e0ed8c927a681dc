package launch_test

import (
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keyagent/keyagent/internal/launch"
	"github.com/keyagent/keyagent/internal/tooltest"
)

// awkward is an inherited value with all that quoting is about.
const awkward = `a'b"c\d$HOME;` + "`id`" + ` # e %n\$x`

func format(t *testing.T, form launch.Form, environ []string) string {
	t.Helper()
	text, err := plan(t, launch.Request{Endpoint: endpoint(), Environ: environ}).Format(form)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// want is the environment that every form must carry.
func want(t *testing.T, environ []string) []string {
	t.Helper()
	all := plan(t, launch.Request{Endpoint: endpoint(), Environ: environ}).Apply(nil)
	slices.Sort(all)
	return all
}

func TestShellsReadWhatIsExported(t *testing.T) {
	inherited := []string{"NO_PROXY=" + awkward, "IMDS_ENDPOINT=http://192.0.2.1"}
	for _, shell := range []string{"sh", "dash", "bash"} {
		for _, form := range []launch.Form{launch.Export, launch.Dotenv, launch.Systemd} {
			t.Run(shell+"/"+string(form), func(t *testing.T) {
				cmd := exec.CommandContext(t.Context(), tooltest.Tool(t, shell), "-c", `set -a; . "$0"; exec env`, writeFile(t, format(t, form, inherited)))
				cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "IMDS_ENDPOINT=http://192.0.2.1"}
				out, err := cmd.Output()
				if err != nil {
					t.Fatal(err)
				}
				got := matching(strings.Split(strings.TrimSpace(string(out)), "\n"), "IDENTITY_", "MSI_", "AZURE_", "APPSETTING_", "NO_PROXY", "no_proxy")
				slices.Sort(got)
				if diff := cmp.Diff(want(t, inherited), got); diff != "" {
					t.Errorf("want -, got +:\n%s", diff)
				}
				if has := strings.Contains(string(out), "IMDS_ENDPOINT="); has != (form != launch.Export) {
					t.Errorf("the variable of another source is there: %v", has)
				}
			})
		}
	}
}

func TestNodeReadsADotenvFile(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), tooltest.Tool(t, "node"), "--env-file="+writeFile(t, format(t, launch.Dotenv, nil)),
		"-p", "JSON.stringify(process.env)")
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var env map[string]string
	if err := json.Unmarshal(out, &env); err != nil {
		t.Fatal(err)
	}
	delete(env, "PATH")
	if diff := cmp.Diff(want(t, nil), entries(env)); diff != "" {
		t.Errorf("want -, got +:\n%s", diff)
	}
}

func TestDockerTakesLinesAsTheyAre(t *testing.T) {
	inherited := []string{"NO_PROXY=" + awkward}
	got := strings.Split(strings.TrimSpace(format(t, launch.Docker, inherited)), "\n")
	slices.Sort(got)
	if diff := cmp.Diff(want(t, inherited), got); diff != "" {
		t.Errorf("want -, got +:\n%s", diff)
	}
}

func TestJSONSaysWhatToUnset(t *testing.T) {
	inherited := []string{"NO_PROXY=" + awkward}
	var got struct {
		Set   map[string]string `json:"set"`
		Unset []string          `json:"unset"`
	}
	if err := json.Unmarshal([]byte(format(t, launch.JSON, inherited)), &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want(t, inherited), entries(got.Set)); diff != "" {
		t.Errorf("want -, got +:\n%s", diff)
	}
	if diff := cmp.Diff([]string{"IDENTITY_SERVER_THUMBPRINT", "IMDS_ENDPOINT"}, got.Unset); diff != "" {
		t.Errorf("want -, got +:\n%s", diff)
	}
}

func TestAValueThatALineCannotCarryIsAnError(t *testing.T) {
	env := plan(t, launch.Request{Endpoint: endpoint(), Environ: []string{"NO_PROXY=a\nLD_PRELOAD=x"}})
	for _, name := range launch.Forms() {
		form, err := launch.ParseForm(name)
		if err != nil {
			t.Fatal(err)
		}
		text, err := env.Format(form)
		if (form == launch.JSON) != (err == nil) || err != nil && (len(text) > 0 || !strings.Contains(err.Error(), "NO_PROXY")) {
			t.Errorf("%s: got %q, %v", form, text, err)
		}
	}
	if _, err := launch.ParseForm("xml"); err == nil {
		t.Error("a form that nobody knows is taken")
	}
}

func entries(env map[string]string) []string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(env)) {
		all = append(all, name+"="+env[name])
	}
	return all
}

func writeFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "env")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
