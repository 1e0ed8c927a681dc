package report_test

import (
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/attest/report"
)

// The page names each member of the JSON form, of all objects in it.
func TestThePageExplainsTheJSONForm(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/attestation.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(page), "\n## The JSON form\n")
	section, _, _ = strings.Cut(section, "\n## ")
	for _, name := range members(reflect.TypeFor[report.Report](), map[reflect.Type]bool{}) {
		if !strings.Contains(section, "`"+name+"`") {
			t.Errorf("the page does not explain %s", name)
		}
	}
}

// members are the names of all members of a type of this module's reports and of those below it.
// That of the event log is explained elsewhere.
func members(t reflect.Type, seen map[reflect.Type]bool) []string {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || seen[t] || strings.HasSuffix(t.PkgPath(), "/eventlog") {
		return nil
	}
	seen[t] = true
	var names []string
	for field := range t.Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if name != "" {
			names = append(names, name)
		}
		if field.IsExported() {
			names = append(names, members(field.Type, seen)...)
		}
	}
	return names
}
