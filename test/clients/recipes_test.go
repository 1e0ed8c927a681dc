package clients_test

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/internal/tooltest"
	"github.com/keyagent/keyagent/simulator/resource"
)

// recipe is a command of docs/apps.md, and the program text that stands before it.
type recipe struct {
	section, command string
	file, text       string // "": the command needs none
}

// name is that of the test.
func (r recipe) name() string {
	if r.file != "" {
		return r.section + ", " + r.file
	}
	first, _, _ := strings.Cut(r.command, " -")
	return r.section + ", " + first
}

var (
	codeBlock = regexp.MustCompile("(?ms)^```([a-z]+)\n(.*?)^```$")
	fileName  = regexp.MustCompile(`^(?://|#) (\S+\.[a-z]+)\n`)
	headings  = regexp.MustCompile(`(?m)^## (.*)$`)
)

// recipes reads the page. A block whose first line is a comment with a file's name is that file; a
// block of sh is run, with the file before it.
func recipes(t *testing.T) []recipe {
	t.Helper()
	page, err := os.ReadFile("../../docs/apps.md")
	if err != nil {
		t.Fatal(err)
	}
	var found []recipe
	var file, text string
	for _, at := range codeBlock.FindAllSubmatchIndex(page, -1) {
		language, code := string(page[at[2]:at[3]]), string(page[at[4]:at[5]])
		if name := fileName.FindStringSubmatch(code); name != nil {
			file, text = name[1], code
			continue
		}
		if language != "sh" {
			continue
		}
		before := headings.FindAllSubmatch(page[:at[0]], -1)
		found = append(found, recipe{string(before[len(before)-1][1]), code, file, text})
		file, text = "", ""
	}
	if file != "" {
		t.Errorf("%s is not run", file)
	}
	return found
}

// What docs/apps.md says works as it stands there.
func TestTheRecipesWork(t *testing.T) {
	t.Parallel()
	s := newWorld(t).newStation(unchanged)
	authorities, err := os.ReadFile(s.info.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	all := recipes(t)
	if len(all) < 10 {
		t.Errorf("only %d commands of the page were found", len(all))
	}
	for _, r := range all {
		t.Run(r.name(), func(t *testing.T) {
			dir := folder(t)
			trusted := filepath.Join(dir, "authorities.pem")
			if err := os.WriteFile(trusted, authorities, 0o644); err != nil { // #nosec G306 -- certificates
				t.Fatal(err)
			}
			if r.file != "" {
				r.prepare(t, dir)
			}
			cmd := exec.CommandContext(t.Context(), "bash", "-c", "set -o pipefail\n"+r.command)
			cmd.Dir, cmd.SysProcAttr = dir, asAppUser()
			cmd.Env = []string{
				"PATH=" + filepath.Dir(must(t, keyagentBuilt)) + ":/usr/bin:" + os.Getenv("PATH"), "HOME=" + dir,
				wire.EnvSocket + "=" + s.cfg.Socket, "VAULT_URL=" + s.info.Resource, "CURL_CA_BUNDLE=" + trusted, "SSL_CERT_FILE=" + trusted,
			}
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			out, err := cmd.Output()
			if err != nil {
				t.Fatalf("%v: %s%s", err, out, stderr.Bytes())
			}
			if got, want := s.seen(t, out), s.info.Identities[0].ClientID; got != want {
				t.Errorf("got a token of %q, want %q", got, want)
			}
		})
	}
}

// seen is the client id that the vault has seen, or would see: a recipe prints a token, the agent's
// answer with one, or what the vault has answered.
func (s *station) seen(t *testing.T, out []byte) string {
	t.Helper()
	var answered struct {
		Token string `json:"access_token"`
		resource.Caller
	}
	if err := json.Unmarshal(out, &answered); err != nil {
		answered.Token = string(out)
	}
	if answered.Token == "" {
		return answered.ClientID
	}
	return s.caller(t, answered.Token).ClientID
}

// prepare puts the program where its command runs, with what it imports.
func (r recipe) prepare(t *testing.T, dir string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, r.file), []byte(r.text), 0o644); err != nil { // #nosec G306 -- another user runs it
		t.Fatal(err)
	}
	switch filepath.Ext(r.file) {
	case ".go":
		r.build(t, dir)
	case ".py":
		if strings.Contains(r.text, "azure.identity") {
			python(t) // it may skip
		}
		tooltest.Tool(t, "python3")
	case ".mjs":
		tooltest.Tool(t, "node")
		if !strings.Contains(r.text, "@azure/identity") {
			return
		}
		installed := reached(t, packages(t, "js"))
		if err := os.Symlink(filepath.Join(installed, "node_modules"), filepath.Join(dir, "node_modules")); err != nil {
			t.Fatal(err)
		}
	case ".java":
		java(t)
	default:
		t.Fatalf("how is %s run?", r.file)
	}
}

// build builds a Go program with this module's requirements.
func (r recipe) build(t *testing.T, dir string) {
	t.Helper()
	program := filepath.Join(dir, strings.TrimSuffix(r.file, ".go"))
	build := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-o", program, filepath.Join(dir, r.file))
	if text, err := build.CombinedOutput(); err != nil { // from this folder, whose go.mod counts
		t.Fatalf("%v: %s", err, text)
	}
}

// java skips where there is none that runs a program from its source.
func java(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("java"); err != nil {
		t.Skip("java is not installed; a JDK of version 17 or newer is never promised")
	}
}

// Every language of the table has a recipe that is run, or says that it is not.
func TestThePageHasARecipeForEachRuntime(t *testing.T) {
	sections := map[string]bool{}
	for _, r := range recipes(t) {
		sections[r.section] = true
	}
	for _, want := range []string{"Go", "Python", "Node", "Java", "Shell"} {
		if !sections[want] {
			t.Errorf("nothing is run of section %s; there are %q", want, slices.Sorted(maps.Keys(sections)))
		}
	}
}
