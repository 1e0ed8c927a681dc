package forms_test

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/internal/forms"
)

var update = flag.Bool("update", false, "rewrite what the documentation shows of the code")

// README.md and docs/credentials.md show the list as the code has it: go test ./internal/forms
// -run Documentation -update writes it there.
func TestTheDocumentationShowsTheForms(t *testing.T) {
	const begin, end = "<!-- forms: made by go test ./internal/forms -run Documentation -update -->\n", "<!-- /forms -->\n"
	want := formTable()
	for _, path := range []string{"../../README.md", "../../docs/credentials.md"} {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		before, rest, ok := strings.Cut(string(text), begin)
		shown, after, closed := strings.Cut(rest, end)
		if !ok || !closed {
			t.Fatalf("%s has no place for the table", path)
		}
		if *update {
			if err := os.WriteFile(path, []byte(before+begin+want+end+after), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if shown != want {
			t.Errorf("the table in %s is not the code's; got\n%s\nwant\n%s", path, shown, want)
		}
	}
}

func formTable() string {
	var out strings.Builder
	out.WriteString("| Form | Entra is shown | Configured | Works | Strength | Rests on |\n|---|---|---|---|---|---|\n")
	for _, f := range forms.All() {
		fmt.Fprintf(&out, "| %s | %s | %s | %s | %s | %s |\n", f.Name, f.What, f.Configuration, f.Works, f.Strength, f.RestsOn)
	}
	return out.String()
}
