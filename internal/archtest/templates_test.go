package archtest_test

import (
	"go/ast"
	"slices"
	"testing"
)

// byTemplate are the methods of cobra that print by package text/template.
var byTemplate = []string{"SetVersionTemplate", "SetHelpTemplate", "SetUsageTemplate", "SetErrPrefixTemplate"}

// A template may call any method by its name. A program that can execute one keeps every exported
// method of every type that it has, and the agent would be two megabytes larger, on disk and
// resident. Cobra brings the package along; what counts is that nothing executes a template.
func TestNoTemplateIsExecuted(t *testing.T) {
	linked := map[string]bool{}
	for _, p := range goList(t, []string{"CGO_ENABLED=0"}, "-deps", "./"+program) {
		linked[p.ImportPath] = true
	}
	for _, s := range sources(t) {
		if s.isTest() || !linked[module+"/"+s.dir()] {
			continue
		}
		for _, name := range []string{"text/template", "html/template"} {
			if slices.Contains(s.imports(), name) {
				t.Errorf("%s imports %s", s.path, name)
			}
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			if sel, ok := n.(*ast.SelectorExpr); ok && slices.Contains(byTemplate, sel.Sel.Name) {
				t.Errorf("%s:%d: %s prints by a template", s.path, s.line(sel), sel.Sel.Name)
			}
			return true
		})
	}
}
