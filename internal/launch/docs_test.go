package launch_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keyagent/keyagent/internal/launch"
)

var (
	familyRow = regexp.MustCompile("(?m)^\\| `([a-z]+)` \\| (`[A-Z].*) \\|$")
	variable  = regexp.MustCompile("`([A-Z_]+)`")
)

func TestThePageSaysWhatEachFamilyFinds(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "exec.md"))
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string][]string{}
	for _, row := range familyRow.FindAllStringSubmatch(string(page), -1) {
		for _, name := range variable.FindAllStringSubmatch(row[2], -1) {
			documented[row[1]] = append(documented[row[1]], name[1])
		}
	}
	for _, family := range launch.FamilyNames() {
		if family == string(launch.All) {
			continue
		}
		var set []string
		for _, v := range plan(t, launch.Request{Endpoint: endpoint(), Families: []launch.Family{launch.Family(family)}}).Set {
			if !strings.EqualFold(v.Name, "NO_PROXY") {
				set = append(set, v.Name)
			}
		}
		if diff := cmp.Diff(set, documented[family]); diff != "" {
			t.Errorf("%s: code -, page +:\n%s", family, diff)
		}
		delete(documented, family)
	}
	if len(documented) > 0 {
		t.Errorf("the page has families that are none: %v", documented)
	}
	for _, name := range launch.Foreign(nil) {
		if !slices.Contains(strings.Split(string(page), "`"), name) {
			t.Errorf("the page does not say that %s is taken out", name)
		}
	}
}
