package archtest_test

import (
	"go/ast"
	"go/token"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// quotedMessage is a message that docs/troubleshooting.md explains.
var quotedMessage = regexp.MustCompile("(?m)^### `(.+)`$")

// minFragment is how many bytes of a message, between what varies in it, are enough to know it by.
const minFragment = 6

// A page of symptoms is of use only while the agent says what it quotes: each part of a message
// that does not vary stands in the product's source, in one string.
func TestTheMessagesOfTheTroubleshootingPageAreTheProducts(t *testing.T) {
	var all []string
	for _, s := range sources(t) {
		if !s.servesTests() && !within(s.dir(), "simulator") {
			all = append(all, stringsOf(s.file)...)
		}
	}
	quoted := quotedMessage.FindAllStringSubmatch(read(t, "docs/troubleshooting.md"), -1)
	if len(quoted) < 30 {
		t.Fatalf("only %d messages were found on the page", len(quoted))
	}
	for _, match := range quoted {
		if missing := missingFragment(match[1], all); missing != "" {
			t.Errorf("docs/troubleshooting.md explains %q, and nothing says %q", match[1], missing)
		}
	}
}

// missingFragment returns a part of a message that no string has; "" if all are there.
func missingFragment(message string, all []string) string {
	known := 0
	for fragment := range strings.SplitSeq(message, "…") {
		if len(strings.TrimSpace(fragment)) < minFragment {
			continue
		}
		known++
		if !anyContains(all, fragment) {
			return fragment
		}
	}
	if known == 0 {
		return message
	}
	return ""
}

func anyContains(all []string, fragment string) bool {
	for _, s := range all {
		if strings.Contains(s, fragment) {
			return true
		}
	}
	return false
}

// stringsOf returns the strings of a file, those that are put together of several as one.
func stringsOf(file *ast.File) []string {
	var all []string
	ast.Inspect(file, func(n ast.Node) bool {
		expr, ok := n.(ast.Expr)
		if !ok {
			return true
		}
		text, ok := stringOf(expr)
		if ok {
			all = append(all, text)
		}
		return !ok
	})
	return all
}

func stringOf(e ast.Expr) (string, bool) {
	switch e := e.(type) {
	case *ast.BasicLit:
		if e.Kind != token.STRING {
			return "", false
		}
		text, err := strconv.Unquote(e.Value)
		return text, err == nil
	case *ast.BinaryExpr:
		left, okLeft := stringOf(e.X)
		right, okRight := stringOf(e.Y)
		return left + right, e.Op == token.ADD && okLeft && okRight
	}
	return "", false
}
