package archtest_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// module is the path that every package of ours starts with.
const module = "github.com/keyagent/keyagent"

// root is the module's root, seen from this package's folder.
const root = "../.."

// A source is one Go file of the module.
type source struct {
	path  string // relative to the root, with slashes
	bytes []byte
	fset  *token.FileSet
	file  *ast.File

	elsewhere bool // of a module of its own below the root
}

func (s source) dir() string         { return path.Dir(s.path) }
func (s source) isTest() bool        { return strings.HasSuffix(s.path, "_test.go") }
func (s source) isProgram() bool     { return s.file.Name.Name == "main" }
func (s source) line(n ast.Node) int { return s.fset.Position(n.Pos()).Line }

// imports returns what the file imports, as import paths.
func (s source) imports() []string {
	var paths []string
	for _, spec := range s.file.Imports {
		paths = append(paths, strings.Trim(spec.Path.Value, `"`))
	}
	return paths
}

// servesTests says whether the file is compiled only for tests, either by its name or
// because its whole package is a test's helper.
func (s source) servesTests() bool {
	return s.isTest() || testHelpers[s.dir()] != ""
}

// sources returns every Go file of the module. Modules of their own below the root, test data and
// whatever the make targets produce are left out. The files are those of all tests: only look.
func sources(t *testing.T) []source {
	t.Helper()
	return slices.DeleteFunc(sourcesOfAllModules(t), func(s source) bool { return s.elsewhere })
}

// sourcesOfAllModules also returns the modules of their own below the root.
func sourcesOfAllModules(t *testing.T) []source {
	t.Helper()
	all, err := tree()
	if err != nil {
		t.Fatal(err)
	}
	return slices.Clone(all)
}

// tree reads and parses the files once for all tests: it takes longer than all that they look for.
var tree = sync.OnceValues(func() (all []source, err error) {
	var modules []string // folders of modules below the root
	err = filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && name != root && isNoSource(d.Name()):
			return filepath.SkipDir
		case d.IsDir() && name != root && isModule(name):
			modules = append(modules, name)
		}
		if d.IsDir() || !strings.HasSuffix(name, ".go") {
			return nil
		}
		s, err := parse(name)
		s.elsewhere = slices.ContainsFunc(modules, func(m string) bool { return within(name, m) })
		all = append(all, s)
		return err
	})
	return all, err
})

func isNoSource(base string) bool {
	return base == "testdata" || base == "bin" || base == "node_modules" || strings.HasPrefix(base, ".")
}

// isModule says whether a folder is a module's own.
func isModule(name string) bool {
	_, err := os.Stat(filepath.Join(name, "go.mod"))
	return err == nil
}

func parse(name string) (source, error) {
	content, err := os.ReadFile(name)
	if err != nil {
		return source{}, err
	}
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, name, content, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return source{}, err
	}
	relative, err := filepath.Rel(root, name)
	if err != nil {
		return source{}, err
	}
	return source{path: filepath.ToSlash(relative), bytes: content, fset: fset, file: file}, nil
}

// A listed package is what `go list -json` says of it, as far as the rules ask.
type listed struct {
	ImportPath string
	Standard   bool
	CgoFiles   []string
	Module     *struct{ Path string }
}

// goList runs go list in the root, with more environment if given.
func goList(t *testing.T, env []string, args ...string) []listed {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"list", "-json=ImportPath,Standard,CgoFiles,Module"}, args...)...)
	cmd.Dir = root
	cmd.Env = append(append(os.Environ(), "GOFLAGS=-buildvcs=false"), env...)
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list %s: %v\n%s", strings.Join(args, " "), err, complaints.String())
	}
	var all []listed
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		err := dec.Decode(&p)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatalf("go list %s: %v", strings.Join(args, " "), err)
		}
		all = append(all, p)
	}
}

// ours returns the folder of one of our packages, "." for the root; ok is false for
// everybody else's.
func ours(importPath string) (dir string, ok bool) {
	if importPath == module {
		return ".", true
	}
	return strings.CutPrefix(importPath, module+"/")
}

// within says whether an import path or folder is parent or lies below it.
func within(child, parent string) bool {
	return child == parent || strings.HasPrefix(child, parent+"/")
}
