package archtest_test

import (
	"go/ast"
	"path"
)

// A selection is a use of a name from an imported package.
type selection struct {
	pkg      string // last element of the import path, whatever the file calls it
	name     string
	function string // Func or Type.Func around it; "" at package level
	line     int
}

// selections finds each pkg.Name of a file. A local variable that shadows an import would give a
// wrong result; no file of ours has one, and govet reports them.
func selections(s source) []selection {
	names := importNames(s)
	var all []selection
	for _, d := range s.file.Decls {
		function := functionName(d)
		ast.Inspect(d, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if x, ok := sel.X.(*ast.Ident); ok && names[x.Name] != "" {
				all = append(all, selection{names[x.Name], sel.Sel.Name, function, s.line(sel)})
			}
			return true
		})
	}
	return all
}

// importNames maps the name that the file uses for an import to the last element of its
// path.
func importNames(s source) map[string]string {
	names := map[string]string{}
	for i, importPath := range s.imports() {
		last := path.Base(importPath)
		name := last
		if alias := s.file.Imports[i].Name; alias != nil {
			name = alias.Name
		}
		names[name] = last
	}
	return names
}

func functionName(d ast.Decl) string {
	f, ok := d.(*ast.FuncDecl)
	if !ok {
		return ""
	}
	if f.Recv == nil || len(f.Recv.List) == 0 {
		return f.Name.Name
	}
	receiver := f.Recv.List[0].Type
	if star, ok := receiver.(*ast.StarExpr); ok {
		receiver = star.X
	}
	if name, ok := receiver.(*ast.Ident); ok {
		return name.Name + "." + f.Name.Name
	}
	return f.Name.Name
}
