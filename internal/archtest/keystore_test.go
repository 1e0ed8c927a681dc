package archtest_test

import (
	"go/ast"
	"go/token"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// keyOwner is the one package that writes, moves and deletes in the directories of named keys.
const keyOwner = "signer/keystore"

// keyNames are the names of which the paths in these directories are built. They stand in the owner's source only.
var keyNames = []string{"keys", ".key.pem", ".cert.pem", ".accepted.json", ".tested.json", ".certificates", ".replaced-", "current"}

// keyPaths are the fields that hold a path of such a file. Others may show it, and have a file read.
var keyPaths = []string{"KeyFile", "CertFile"}

// A package that can build no path of a key's files, and that hands those that it is shown to no
// function that works on files, changes none of them. The demonstration below simulator plays a thief
// of these files, and is left out.
func TestAKeysLifeHasOneOwner(t *testing.T) {
	for _, s := range sources(t) {
		if s.servesTests() || s.dir() == keyOwner || within(s.dir(), "simulator") {
			continue
		}
		uses := slices.Contains(s.imports(), module+"/"+keyOwner)
		ast.Inspect(s.file, func(n ast.Node) bool {
			if given, ok := n.(*ast.AssignStmt); ok && uses {
				checkNoCopyOfAKeysPath(t, s, given)
			}
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			name, onFiles := fileFunction(call)
			if !onFiles {
				return true
			}
			for _, arg := range call.Args {
				if text := namesAKeysFile(arg); text != "" {
					t.Errorf("%s:%d: %s(… %q …): the paths of keys' files are %s's to build", s.path, s.line(call), name, text, keyOwner)
				}
				if field := holdsAKeysPath(arg); field != "" && uses {
					t.Errorf("%s:%d: %s(… %s …): the files of keys are %s's to work on", s.path, s.line(call), name, field, keyOwner)
				}
			}
			return true
		})
	}
}

// checkNoCopyOfAKeysPath refuses a local variable for such a path: it would hide what becomes of it.
func checkNoCopyOfAKeysPath(t *testing.T, s source, given *ast.AssignStmt) {
	t.Helper()
	for i, to := range given.Lhs {
		if _, local := to.(*ast.Ident); !local || i >= len(given.Rhs) {
			continue
		}
		if field, ok := given.Rhs[i].(*ast.SelectorExpr); ok && slices.Contains(keyPaths, field.Sel.Name) {
			t.Errorf("%s:%d: %s in a variable: show it, and leave the file to %s", s.path, s.line(given), field.Sel.Name, keyOwner)
		}
	}
}

// fileFunction names the function that is called, if it is one of a package that works on files or paths.
func fileFunction(call *ast.CallExpr) (name string, ok bool) {
	f, isSelector := call.Fun.(*ast.SelectorExpr)
	if !isSelector {
		return "", false
	}
	pkg, isName := f.X.(*ast.Ident)
	if !isName || !slices.Contains([]string{"os", "filepath", "path", "unix", "syscall", "statefile"}, pkg.Name) {
		return "", false
	}
	return pkg.Name + "." + f.Sel.Name, true
}

// namesAKeysFile returns the first literal in an expression that names something in a key's directory.
func namesAKeysFile(e ast.Expr) (found string) {
	ast.Inspect(e, func(n ast.Node) bool {
		literal, ok := n.(*ast.BasicLit)
		if !ok || literal.Kind != token.STRING {
			return true
		}
		text, err := strconv.Unquote(literal.Value)
		if err == nil && slices.ContainsFunc(keyNames, func(name string) bool {
			return text == name || strings.HasPrefix(name, ".") && strings.HasSuffix(text, name)
		}) {
			found = text
		}
		return true
	})
	return found
}

// holdsAKeysPath returns the first field in an expression that holds the path of a key's file.
func holdsAKeysPath(e ast.Expr) (found string) {
	ast.Inspect(e, func(n ast.Node) bool {
		if field, ok := n.(*ast.SelectorExpr); ok && slices.Contains(keyPaths, field.Sel.Name) {
			found = field.Sel.Name
		}
		return true
	})
	return found
}
