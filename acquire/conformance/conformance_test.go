package conformance_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

// demand is one row of the reference: where it stands, what it demands as a sentence, and the case
// that checks it.
type demand struct {
	section  string
	sentence string
	check    func(t *testing.T)
}

// demands returns the whole table.
func demands() []demand {
	return slices.Concat(
		metadataDemands(), requestDemands(), attestationDemands(), credentialDemands(), certificateDemands(),
		endpointDemands(), formDemands(), answerDemands(), reactionDemands(), transportDemands(),
		applicationDemands(), federationDemands(), regionDemands(), v1Demands(), claimsDemands(), selectionDemands(),
		platformDemands(), vectorDemands(),
	)
}

// sections are those that speak to the agent; each needs a case.
var sections = []string{
	"0.4",
	"1.1", "1.2", "1.3", "1.4", "1.5", "1.6", "1.7",
	"2.1", "2.2", "2.3", "2.4", "2.5",
	"3.2", "3.3", "3.4", "3.5",
	"4.1", "4.2", "4.3", "4.4", "4.5",
	"5.1", "5.2", "5.3", "5.4", "5.5", "5.6", "5.7", "5.8",
	"6.1", "6.2", "6.3",
	"7.1", "7.2", "7.3", "7.4",
	"8", "9.1", "9.7", "10", "11.3", "11.4",
	"16.1", "16.2", "16.3", "16.4", "16.5", "16.6", "16.7", "16.8", "16.9", "16.10", "16.11", "16.12", "16.13",
}

func TestMain(m *testing.M) {
	code := m.Run()
	closePlatform()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func TestConformance(t *testing.T) {
	for _, section := range sections {
		t.Run(section, func(t *testing.T) {
			for _, d := range demands() {
				if d.section == section {
					t.Run(d.sentence, d.check)
				}
			}
		})
	}
}

func TestEverySectionHasACase(t *testing.T) {
	count, said := map[string]int{}, map[string]bool{}
	for _, d := range demands() {
		if !slices.Contains(sections, d.section) {
			t.Errorf("section %s of %q is not on the list, so the case does not run", d.section, d.sentence)
		}
		if name := d.section + " " + d.sentence; said[name] || strings.TrimSpace(d.sentence) == "" {
			t.Errorf("%q is demanded twice, or of nothing", name)
		} else {
			said[name] = true
		}
		count[d.section]++
	}
	for _, section := range sections {
		if count[section] == 0 {
			t.Errorf("section %s has no case", section)
		}
	}
}
