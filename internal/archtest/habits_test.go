package archtest_test

import (
	"go/ast"
	"go/token"
	"os/exec"
	"strings"
	"testing"
)

// backgroundContexts are the functions that may start a context of their own below the
// programs, with the reason why the caller's does not serve.
var backgroundContexts = map[string]string{
	"acquire.New":       "the parent of every flight: a flight outlives the caller that began it, and ends with Close",
	"agentapi.newTrail": "an audit record outlives the request that it is of, and is not to be dropped with it",
}

// The go command puts its own gofmt first into a test's PATH. Package go/format would do, but takes
// six times as long under the race detector.
func TestGoFilesAreFormatted(t *testing.T) {
	args := []string{"-l"}
	for _, s := range sources(t) {
		args = append(args, s.path)
	}
	cmd := exec.CommandContext(t.Context(), "gofmt", args...) // #nosec G204 -- paths of our own files
	cmd.Dir = root
	unformatted, err := cmd.CombinedOutput()
	if err != nil || len(unformatted) > 0 {
		t.Errorf("not formatted (make fmt): %s%v", unformatted, err)
	}
}

func TestEachPackageTellsItsStory(t *testing.T) {
	told := map[string]bool{}
	for _, s := range sources(t) {
		if !s.isTest() {
			told[s.dir()] = told[s.dir()] || s.file.Doc != nil
		}
	}
	for dir, ok := range told {
		if !ok {
			t.Errorf("%s has no package comment", dir)
		}
	}
}

// Advice is made like fmt.Sprintf's text. A value in the format, such as a path with a percent
// sign, would garble the command that somebody pastes; in an argument it can be quoted.
func TestAdviceHasConstantFormats(t *testing.T) {
	found := 0
	for _, s := range sources(t) {
		ast.Inspect(s.file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			at, is := map[string]int{"advice.To": 1, "advice.New": 0, "Say": 0}[adviceCall(call.Fun)]
			if !is || len(call.Args) <= at {
				return true
			}
			found++
			if !constantText(call.Args[at]) {
				t.Errorf("%s:%d: advice with a format that is no constant", s.path, s.line(call))
			}
			return true
		})
	}
	if found < 50 {
		t.Errorf("only %d calls were looked at", found)
	}
}

// adviceCall names a function or method that takes a format of advice; "" if it is another.
func adviceCall(e ast.Expr) string {
	sel, ok := e.(*ast.SelectorExpr)
	if !ok {
		return ""
	}
	if of, ok := sel.X.(*ast.Ident); ok && of.Name == "advice" {
		return "advice." + sel.Sel.Name
	}
	return sel.Sel.Name
}

// constantText reports whether an expression is a text, or the sum of texts, without variables.
// Constants by their name are not told from variables, and not allowed; the parameter of a function
// that passes its format on is.
func constantText(e ast.Expr) bool {
	switch e := e.(type) {
	case *ast.BasicLit:
		return true
	case *ast.Ident:
		return e.Name == "format"
	case *ast.BinaryExpr:
		return constantText(e.X) && constantText(e.Y)
	}
	return false
}

// Work in init and values that anybody may change make two instances, parallel tests
// and reloading impossible.
func TestThereIsNoInitAndNoUnsetPackageVariable(t *testing.T) {
	for _, s := range sources(t) {
		if s.isTest() {
			continue
		}
		for _, d := range s.file.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Recv == nil && d.Name.Name == "init" {
					t.Errorf("%s:%d: init: make a value in New and pass it in", s.path, s.line(d))
				}
			case *ast.GenDecl:
				checkVariables(t, s, d)
			}
		}
	}
}

// A package variable that has no value at first is there to be given one later. The
// exception is filled by the compiler.
func checkVariables(t *testing.T, s source, d *ast.GenDecl) {
	t.Helper()
	if d.Tok != token.VAR || embedded(d.Doc) {
		return
	}
	for _, spec := range d.Specs {
		v, ok := spec.(*ast.ValueSpec)
		if ok && len(v.Values) == 0 && !embedded(v.Doc) {
			t.Errorf("%s:%d: package variable %s has no value: who sets it, and when?", s.path, s.line(v), v.Names[0])
		}
	}
}

func embedded(doc *ast.CommentGroup) bool {
	if doc == nil {
		return false
	}
	for _, c := range doc.List {
		if strings.HasPrefix(c.Text, "//go:embed ") {
			return true
		}
	}
	return false
}

// A library must not panic on input, state or environment. A panic for what cannot be
// says so: a comment with the word "impossible" stands beside it or right above.
func TestAPanicExplainsWhyItIsImpossible(t *testing.T) {
	for _, s := range sources(t) {
		if s.servesTests() {
			continue
		}
		explained := commentedLines(s, "impossible")
		ast.Inspect(s.file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			if name, ok := call.Fun.(*ast.Ident); ok && name.Name == "panic" && !explained[s.line(call)] {
				t.Errorf("%s:%d: panic without a comment that says why it is impossible", s.path, s.line(call))
			}
			return true
		})
	}
}

// commentedLines returns the lines that a comment with the word speaks of: its own and
// the one below its end.
func commentedLines(s source, word string) map[int]bool {
	lines := map[int]bool{}
	for _, group := range s.file.Comments {
		if !strings.Contains(group.Text(), word) {
			continue
		}
		for l := s.line(group); l <= s.fset.Position(group.End()).Line+1; l++ {
			lines[l] = true
		}
	}
	return lines
}

func TestNoContextStartsBelowThePrograms(t *testing.T) {
	used := map[string]bool{}
	for _, s := range sources(t) {
		if s.servesTests() || s.isProgram() {
			continue
		}
		for _, use := range selections(s) {
			if use.pkg != "context" || use.name != "Background" && use.name != "TODO" {
				continue
			}
			key := s.dir() + "." + use.function
			used[key] = true
			if backgroundContexts[key] == "" {
				t.Errorf("%s:%d: context.%s in %s: take the caller's, or enter it here with the reason", s.path, use.line, use.name, key)
			}
		}
	}
	for key := range backgroundContexts {
		if !used[key] {
			t.Errorf("%s starts no context any more: remove it from the list", key)
		}
	}
}

// notForLibraries are functions and variables that act for the whole process.
var notForLibraries = map[string]string{
	"os.Exit":              "only a program ends itself",
	"slog.Default":         "the logger is passed in",
	"slog.SetDefault":      "the logger is passed in",
	"slog.Debug":           "the logger is passed in",
	"slog.Info":            "the logger is passed in",
	"slog.Warn":            "the logger is passed in",
	"slog.Error":           "the logger is passed in",
	"http.DefaultClient":   "it has no timeout and is everybody's",
	"http.DefaultServeMux": "it serves what anybody registered",
	"http.Handle":          "it serves what anybody registered",
	"http.HandleFunc":      "it serves what anybody registered",
	"http.Get":             "it has no timeout and is everybody's",
	"http.Post":            "it has no timeout and is everybody's",
	"os.Setenv":            "the environment is everybody's",
	"os.Chdir":             "the working directory is everybody's",
}

func TestLibrariesDoNotActForTheWholeProcess(t *testing.T) {
	for _, s := range sources(t) {
		if s.servesTests() || s.isProgram() {
			continue
		}
		for _, use := range selections(s) {
			if why := notForLibraries[use.pkg+"."+use.name]; why != "" {
				t.Errorf("%s:%d: %s.%s: %s", s.path, use.line, use.pkg, use.name, why)
			}
		}
	}
}

// A sleep is either too short on a busy machine or too long on any other.
func TestNoTestSleeps(t *testing.T) {
	for _, s := range sources(t) {
		if !s.servesTests() {
			continue
		}
		for _, use := range selections(s) {
			if use.pkg == "time" && use.name == "Sleep" {
				t.Errorf("%s:%d: time.Sleep: wait for what you are waiting for", s.path, use.line)
			}
		}
	}
}
