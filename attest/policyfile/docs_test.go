package policyfile_test

import (
	"errors"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/attest/policyfile"
)

// The page has a row for each member, and for nothing else. What members there are, a refusal says.
func TestThePageExplainsExactlyTheMembers(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/attestation.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(page), "\n## The policy\n")
	section, _, _ = strings.Cut(section, "\n## ")
	var explained []string
	for _, row := range regexp.MustCompile("(?m)^\\| (`[a-z_.0-9]+`(?:, `[a-z_.0-9]+`)*) \\|").FindAllStringSubmatch(section, -1) {
		for name := range strings.SplitSeq(row[1], ", ") {
			explained = append(explained, strings.Trim(name, "`"))
		}
	}
	var known []string
	for _, group := range []string{"", "pcrs", "event_log", "key", "sev_snp", "sev_snp.launch", "tdx", "anchors"} {
		known = append(known, namesBelow(t, group)...)
	}
	known = slices.DeleteFunc(known, func(name string) bool { // their members are explained
		return slices.ContainsFunc(known, func(other string) bool { return strings.HasPrefix(other, name+".") })
	})
	slices.Sort(known)
	slices.Sort(explained)
	if !slices.Equal(known, explained) {
		t.Errorf("there are\n%q\nexplained are\n%q", known, explained)
	}
}

// namesBelow returns the members of a group, with its name before them.
func namesBelow(t *testing.T, group string) []string {
	t.Helper()
	text, prefix := "{no_such_member: 1}", ""
	if group != "" {
		prefix = group + "."
		for _, name := range slices.Backward(strings.Split(group, ".")) {
			text = "{" + name + ": " + text + "}"
		}
	}
	_, err := policyfile.Parse("p", []byte(text), noFiles)
	var fault *policyfile.Error
	if !errors.As(err, &fault) {
		t.Fatal(err)
	}
	list, found := strings.CutPrefix(fault.Problems[0].Do, "there are ")
	if !found {
		t.Fatalf("%q says %v", text, fault)
	}
	var names []string
	for name := range strings.SplitSeq(list, ", ") {
		names = append(names, prefix+name)
	}
	return names
}
