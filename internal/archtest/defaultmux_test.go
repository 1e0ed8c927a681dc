package archtest_test

import (
	"go/ast"
	"slices"
	"testing"
)

// onDefaultMux are the names of net/http that serve its default mux, or may, or add to it.
var onDefaultMux = []string{
	"DefaultServeMux", "Handle", "HandleFunc", "ListenAndServe", "ListenAndServeTLS", "Serve", "ServeTLS",
}

// A library that is linked may open the process's inside on the default mux, as expvar would. That
// is of no use to anybody as long as no server has that mux: one by its name, or one without a
// handler.
func TestNothingServesTheDefaultMux(t *testing.T) {
	servers := 0
	for _, s := range sources(t) {
		if s.servesTests() {
			continue
		}
		for _, use := range selections(s) {
			if use.pkg == "http" && slices.Contains(onDefaultMux, use.name) {
				t.Errorf("%s:%d: http.%s: whoever reaches it is not known; give a server of its own a handler", s.path, use.line, use.name)
			}
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			literal, ok := n.(*ast.CompositeLit)
			if !ok || !isServer(literal.Type) {
				return true
			}
			servers++
			if !hasField(literal, "Handler") {
				t.Errorf("%s:%d: a server without a handler serves the default mux", s.path, s.line(literal))
			}
			return true
		})
	}
	if servers == 0 {
		t.Error("no server was found: this test looks for something else")
	}
}

func isServer(e ast.Expr) bool {
	selector, ok := e.(*ast.SelectorExpr)
	if !ok || selector.Sel.Name != "Server" {
		return false
	}
	pkg, ok := selector.X.(*ast.Ident)
	return ok && pkg.Name == "http"
}

func hasField(literal *ast.CompositeLit, name string) bool {
	return slices.ContainsFunc(literal.Elts, func(e ast.Expr) bool {
		pair, ok := e.(*ast.KeyValueExpr)
		if !ok {
			return false
		}
		key, ok := pair.Key.(*ast.Ident)
		return ok && key.Name == name
	})
}
