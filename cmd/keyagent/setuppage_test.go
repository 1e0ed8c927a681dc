package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"go.yaml.in/yaml/v3"
)

const cloudInitPage = "../../docs/cloud-init.yaml"

// cloudConfig is what of cloud-init's format the page uses; anything else is an error.
type cloudConfig struct {
	Packages []string
	RunCmd   [][]string
}

func readCloudConfig(t *testing.T) cloudConfig {
	t.Helper()
	text, err := os.ReadFile(cloudInitPage)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(string(text), "#cloud-config\n") {
		t.Error("cloud-init goes by the first line, which is another")
	}
	dec := yaml.NewDecoder(strings.NewReader(string(text)))
	dec.KnownFields(true)
	var page cloudConfig
	if err := dec.Decode(&page); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(page.Packages, []string{"keyagent"}) || len(page.RunCmd) < 2 {
		t.Fatalf("the page says %+v", page)
	}
	return page
}

// TestCloudInit boots a machine by docs/cloud-init.yaml as far as that is the agent's matter: its
// commands are run, the services' manager is a stub that notes what it is told, and the platform is
// a simulated one.
func TestCloudInit(t *testing.T) {
	page := readCloudConfig(t)
	var lines []string
	for _, command := range page.RunCmd {
		var words []string
		for _, word := range command {
			words = append(words, "'"+strings.ReplaceAll(word, "'", `'\''`)+"'")
		}
		lines = append(lines, strings.Join(words, " "))
	}
	testscript.Run(t, params(t, "cloudinit", func(env *testscript.Env) {
		script := "set -e\n" + strings.Join(lines, "\n") + "\n"
		if err := os.WriteFile(filepath.Join(env.WorkDir, "runcmd.sh"), []byte(script), 0o600); err != nil {
			t.Fatal(err)
		}
	}))
}

// TestCloudInitTakesThePage asks cloud-init itself, where it is installed.
func TestCloudInitTakesThePage(t *testing.T) {
	program, err := exec.LookPath("cloud-init")
	if err != nil {
		t.Skipf("NOT CHECKED by cloud-init, which is not installed (apt-get install cloud-init): %v", err)
	}
	if out, err := exec.CommandContext(t.Context(), program, "schema", "--config-file", cloudInitPage).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// Every command that the pages for operators show is one that there is, with flags that there are.
func TestTheCommandsOfTheOperatorsPagesExist(t *testing.T) {
	command := regexp.MustCompile("(?m)(?:^ *|[`\"]|sudo -u [a-z]+ |sudo )keyagent ([a-z][^`\"\n|>]*)")
	count := 0
	for _, page := range []string{"setup.md", "operations.md", "troubleshooting.md"} {
		text, err := os.ReadFile(filepath.Join("..", "..", "docs", page))
		if err != nil {
			t.Fatal(err)
		}
		for _, found := range command.FindAllStringSubmatch(string(text), -1) {
			count++
			words := strings.Fields(strings.ReplaceAll(found[1], `"`, ""))
			cmd, rest, err := (&app{}).rootCommand().Find(words)
			if err == nil {
				err = cmd.ParseFlags(rest)
			}
			if err != nil || !cmd.HasParent() {
				t.Errorf("%s: keyagent %s: %v", page, found[1], err)
			}
		}
	}
	if count < 8 {
		t.Errorf("only %d commands were found", count)
	}
}
