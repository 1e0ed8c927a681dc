package archtest_test

import (
	"go/ast"
	"go/token"
	"regexp"
	"testing"
)

// commandLine is a command of ours as it is typed.
var commandLine = regexp.MustCompile(`\bkeyagent (key|cert|config|serve|token|status|doctor|capabilities|takeover|version|exec|env|setup|image-prepare|attest|verify)\b`)

// Commands and flags belong to the program: below it, advice names what is to be done (package
// internal/advice), so that a command can be renamed in one place.
func TestOnlyTheProgramNamesItsCommands(t *testing.T) {
	for _, s := range sources(t) {
		if s.servesTests() || !within(s.dir(), "internal") {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			literal, ok := n.(*ast.BasicLit)
			if !ok || literal.Kind != token.STRING {
				return true
			}
			if command := commandLine.FindString(literal.Value); command != "" {
				t.Errorf("%s:%d: %q: say it with advice.Run, and have cmd/keyagent word it", s.path, s.line(literal), command)
			}
			return true
		})
	}
}
