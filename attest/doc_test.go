package attest_test

import (
	"os"
	"regexp"
	"slices"
	"strconv"
	"testing"

	"github.com/keyagent/keyagent/attest"
)

// TestDocListsTheProcedure keeps the numbered list of doc.go and the code together.
func TestDocListsTheProcedure(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	var listed []string
	for i, m := range regexp.MustCompile(`(\d+)\. ([a-z]+(?:\.[a-z-]+)+)`).FindAllStringSubmatch(string(doc), -1) {
		if m[1] != strconv.Itoa(i+1) {
			t.Errorf("row %d is numbered %s", i+1, m[1])
		}
		listed = append(listed, m[2])
	}
	if !slices.Equal(listed, attest.CheckNames()) {
		t.Errorf("doc.go lists\n%v\nthe procedure is\n%v", listed, attest.CheckNames())
	}
}
