package main

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// checkPrefix begins the names of mutants that lack a whole check.
const checkPrefix = "check "

// outcomeCall is where the verifier makes a check. The code put around it makes the check
// removable.
const (
	outcomeCall = "outcome(s.name, s.do())"
	removable   = "outcome(s.name, mutantWithout(s.name, s.do()))"
)

// helpers is the file that each mutated package gets. A condition is asked whether it counts; a
// check's error is dropped if the check is removed.
const helpers = `package %s

import "os"

func mutantIs(name string) bool { return os.Getenv("` + variable + `") == name }

func mutantWithout(check string, err error) error {
	if mutantIs("` + checkPrefix + `" + check) {
		return nil
	}
	return err
}

var _ = mutantWithout
`

// instrument writes mutable copies of the packages into dir, with the overlay that puts them in
// place, and returns the names of all mutants.
func instrument(dir string) ([]string, error) {
	overlay := struct{ Replace map[string]string }{map[string]string{}}
	var names []string
	for _, pkg := range packages() {
		files, err := filepath.Glob(filepath.Join(pkg, "*.go"))
		if err != nil {
			return nil, err
		}
		for _, name := range files {
			if strings.HasSuffix(name, "_test.go") || filepath.Base(name) == "doc.go" {
				continue
			}
			source, mutants, err := mutable(name)
			if err != nil {
				return nil, err
			}
			names = append(names, mutants...)
			if err := place(&overlay.Replace, dir, name, source); err != nil {
				return nil, err
			}
		}
		helper := filepath.Join(pkg, "mutant_helpers.go")
		text := fmt.Sprintf(helpers, filepath.Base(pkg))
		if err := place(&overlay.Replace, dir, helper, []byte(text)); err != nil {
			return nil, err
		}
	}
	checks, err := checkNames()
	if err != nil {
		return nil, err
	}
	data, err := json.Marshal(overlay)
	if err != nil {
		return nil, err
	}
	return append(checks, names...), os.WriteFile(filepath.Join(dir, "overlay.json"), data, 0o600)
}

// place writes one file's replacement.
func place(replace *map[string]string, dir, name string, source []byte) error {
	absolute, err := filepath.Abs(name)
	if err != nil {
		return err
	}
	copied := filepath.Join(dir, strings.ReplaceAll(filepath.ToSlash(name), "/", "-"))
	(*replace)[absolute] = copied
	return os.WriteFile(copied, source, 0o600)
}

// checkNames are the names in doc.go's list of the procedure, which a test keeps true.
func checkNames() ([]string, error) {
	doc, err := os.ReadFile(filepath.Join("attest", "doc.go"))
	if err != nil {
		return nil, err
	}
	var names []string
	for _, m := range regexp.MustCompile(`\d+\. ([a-z]+(?:\.[a-z-]+)+)`).FindAllSubmatch(doc, -1) {
		names = append(names, checkPrefix+string(m[1]))
	}
	return names, nil
}

// edit is text to put into a source.
type edit struct {
	at   int
	text string
}

// mutable returns the source of a file with every refusal guarded, and the guards' names.
func mutable(name string) (source []byte, mutants []string, err error) {
	source, err = os.ReadFile(name)
	if err != nil {
		return nil, nil, err
	}
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, name, source, 0)
	if err != nil {
		return nil, nil, err
	}
	offset := func(p token.Pos) int { return fset.Position(p).Offset }
	var edits []edit
	for _, decl := range file.Decls {
		fn, ok := decl.(*ast.FuncDecl)
		if !ok || fn.Body == nil {
			continue
		}
		number := 0
		for _, cond := range refusals(fn.Body) {
			number++
			text := strings.Join(strings.Fields(string(source[offset(cond.Pos()):offset(cond.End())])), " ")
			id := fmt.Sprintf("%s %s %d: %.90s", name, fn.Name.Name, number, text)
			mutants = append(mutants, id)
			edits = append(edits, edit{offset(cond.Pos()), fmt.Sprintf("!mutantIs(%q) && (", id)}, edit{offset(cond.End()), ")"})
		}
	}
	slices.SortStableFunc(edits, func(a, b edit) int { return a.at - b.at })
	return apply(source, edits), mutants, nil
}

func apply(source []byte, edits []edit) []byte {
	var out []byte
	last := 0
	for _, e := range edits {
		out = append(append(out, source[last:e.at]...), e.text...)
		last = e.at
	}
	out = append(out, source[last:]...)
	return []byte(strings.Replace(string(out), outcomeCall, removable, 1))
}

// refusals are the conditions under which a function returns at once with an error, or with false.
func refusals(body *ast.BlockStmt) []ast.Expr {
	var list []ast.Expr
	ast.Inspect(body, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncLit:
			return true
		case *ast.IfStmt:
			if refuses(n.Body.List) {
				list = append(list, n.Cond)
			}
		case *ast.SwitchStmt:
			if n.Tag != nil {
				return true
			}
			for _, s := range n.Body.List {
				if c, ok := s.(*ast.CaseClause); ok && len(c.List) == 1 && refuses(c.Body) {
					list = append(list, c.List[0])
				}
			}
		}
		return true
	})
	return list
}

// refuses reports whether statements end in a return whose last value is an error that is made or
// passed on. "return nil" is none, and neither is one of *missing: it makes a check not applicable.
func refuses(stmts []ast.Stmt) bool {
	if len(stmts) == 0 {
		return false
	}
	ret, ok := stmts[len(stmts)-1].(*ast.ReturnStmt)
	if !ok || len(ret.Results) == 0 {
		return false
	}
	switch last := ret.Results[len(ret.Results)-1].(type) {
	case *ast.Ident:
		return last.Name == "err" || last.Name == "false"
	case *ast.CallExpr:
		return made(last.Fun)
	}
	return false
}

// made reports whether a call makes an error.
func made(fun ast.Expr) bool {
	sel, ok := fun.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	pkg, ok := sel.X.(*ast.Ident)
	return ok && (pkg.Name == "errors" && sel.Sel.Name == "New" || pkg.Name == "fmt" && sel.Sel.Name == "Errorf")
}
