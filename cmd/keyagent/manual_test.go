package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

func TestEachCommandHasAManualPage(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "man1")
	var out, complaints strings.Builder
	if code := run(t.Context(), []string{"manual", dir}, streams{out: &out, err: &complaints}); code != exitDone {
		t.Fatalf("exit code %d: %s", code, complaints.String())
	}
	root := (&app{}).rootCommand()
	checkPages(t, root, dir)
	if _, err := os.Stat(filepath.Join(dir, "keyagent-manual.1")); err == nil {
		t.Error("a hidden command has a page")
	}
	general := page(t, dir, "keyagent")
	for _, part := range []string{"\n.SH \"EXIT STATUS\"\n", "/etc/keyagent/config.yaml", "/run/keyagent/agent.sock", "KEYAGENT_SOCKET"} {
		if !strings.Contains(general, part) {
			t.Errorf("keyagent(1) has no %q", part)
		}
	}
}

// checkPages looks at the pages of a command and of those below it.
func checkPages(t *testing.T, cmd *cobra.Command, dir string) {
	t.Helper()
	text := page(t, dir, pageName(cmd))
	for _, section := range []string{"NAME", "SYNOPSIS", "DESCRIPTION", "EXAMPLES", "SEE ALSO"} {
		if section == "EXAMPLES" && cmd.Example == "" {
			continue
		}
		if !strings.Contains(text, "\n.SH \""+section+"\"\n") {
			t.Errorf("%s(1) has no section %s", pageName(cmd), section)
		}
	}
	for _, sub := range pagesBelow(cmd) {
		checkPages(t, sub, dir)
	}
}

func page(t *testing.T, dir, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, name+".1"))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// What a page shows is what --help says, also where troff would take it for something else.
func TestManualPagesShowTextAsItIs(t *testing.T) {
	t.Parallel()
	groff, err := exec.LookPath("groff")
	if err != nil {
		t.Skip("groff is not installed")
	}
	const example = `  .TH is no request here, nor is
  'this; a\b is no escape, "quoted" -- and ~, ^, ` + "`x`" + ` stay ASCII`
	cmd := &cobra.Command{Use: "thing", Short: "Do a thing", Long: ".PP a paragraph\n\n  --flag=\\n kept\n   deeper", Example: example}
	(&cobra.Command{Use: "keyagent"}).AddCommand(cmd)
	render := exec.CommandContext(t.Context(), groff, "-man", "-Tascii", "-P-cbou", "-ww")
	render.Stdin = strings.NewReader(manualPage(cmd))
	out, err := render.CombinedOutput()
	if err != nil {
		t.Fatalf("groff: %v\n%s", err, out)
	}
	for _, line := range []string{
		".PP a paragraph", "--flag=\\n kept", " deeper", ".TH is no request here, nor is",
		"'this; a\\b is no escape, \"quoted\" -- and ~, ^, `x` stay ASCII", "keyagent-thing - do a thing",
	} {
		if !strings.Contains(string(out), line+"\n") {
			t.Errorf("the page has no line %q:\n%s", line, out)
		}
	}
	if strings.Contains(string(out), "warning") {
		t.Errorf("groff warns:\n%s", out)
	}
}

func TestTheVersionTellsHowTheProgramWasBuilt(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	if code := run(t.Context(), []string{"version"}, streams{out: &out, err: &out}); code != exitDone {
		t.Fatalf("exit code %d: %s", code, out.String())
	}
	for _, part := range []string{"keyagent devel (go1.", "\nbuilt with ", "GOOS=linux"} {
		if !strings.Contains(out.String(), part) {
			t.Errorf("the version has no %q: %s", part, out.String())
		}
	}
}
