package archtest_test

import (
	"encoding/json"
	"go/ast"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// A promise names the test that shows it; a renamed test must not leave it unkept.
func TestTheTestsThatPromisesNameExist(t *testing.T) {
	exist := testFunctions(t)
	names := regexp.MustCompile(`\b(?:Test|Fuzz|Benchmark)[A-Z][A-Za-z0-9_]*`)
	for _, page := range []string{"SECURITY.md", "docs/threat-model.md"} {
		for _, name := range names.FindAllString(read(t, page), -1) {
			if !exist[name] {
				t.Errorf("%s names %s, which is no test", page, name)
			}
		}
	}
}

func testFunctions(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	for _, s := range sources(t) {
		for _, d := range s.file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && s.isTest() {
				names[f.Name.Name] = true
			}
		}
	}
	return names
}

var tableLine = regexp.MustCompile("(?m)^\\| `([^`]+)` \\|")

func TestTheDocsExplainExactlyTheDependencies(t *testing.T) {
	page := read(t, "docs/dependencies.md")
	for folder, heading := range map[string]string{
		"bench":         "\n## For the comparisons only\n",
		"client/azcred": "\n## For apps with the Azure SDK only\n",
		"test/clients":  "\n## For the tests with other clients only\n",
		"test/formats":  "\n## For the test with another reader of results only\n",
	} {
		_, section, found := strings.Cut(page, heading)
		if !found {
			t.Fatalf("docs/dependencies.md has no section for %s", folder)
		}
		section, _, _ = strings.Cut(section, "\n## ")
		explains(t, section, folder)
		page = strings.Replace(page, section, "", 1)
	}
	explains(t, page, ".")
}

// explains checks that a text explains what a module of ours requires, and nothing else.
func explains(t *testing.T, text, folder string) {
	t.Helper()
	read(t, path.Join(folder, "go.mod")) // so that its change outdates a cached result
	var explained []string
	for _, match := range tableLine.FindAllStringSubmatch(text, -1) {
		explained = append(explained, match[1])
	}
	required := requirements(t, folder)
	for _, m := range required {
		if !slices.Contains(explained, m) {
			t.Errorf("docs/dependencies.md does not say why %s requires %s", path.Join(folder, "go.mod"), m)
		}
	}
	for _, m := range explained {
		if !slices.Contains(required, m) {
			t.Errorf("docs/dependencies.md explains %s, which %s does not require", m, path.Join(folder, "go.mod"))
		}
	}
}

// requirements returns what a module of ours requires directly, other than us.
func requirements(t *testing.T, folder string) []string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "mod", "edit", "-json")
	cmd.Dir = filepath.Join(root, folder)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go mod edit -json: %v", err)
	}
	var mod struct {
		Require []struct {
			Path     string
			Indirect bool
		}
	}
	if err := json.Unmarshal(out, &mod); err != nil {
		t.Fatal(err)
	}
	var direct []string
	for _, r := range mod.Require {
		if !r.Indirect && !within(r.Path, module) {
			direct = append(direct, r.Path)
		}
	}
	return direct
}

var link = regexp.MustCompile(`\]\(([^)#: ]+)(?:#[^)]*)?\)`)

func TestLinksBetweenPagesLeadSomewhere(t *testing.T) {
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && name != root && (isNoSource(d.Name()) || isModule(name)) {
			return filepath.SkipDir
		}
		if strings.HasSuffix(name, ".md") {
			checkLinks(t, name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func checkLinks(t *testing.T, page string) {
	t.Helper()
	content, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	for _, match := range link.FindAllStringSubmatch(string(content), -1) {
		if _, err := os.Stat(filepath.Join(filepath.Dir(page), match[1])); err != nil {
			t.Errorf("%s: link to %s leads nowhere", page, match[1])
		}
	}
}

func read(t *testing.T, page string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(root, page))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}
