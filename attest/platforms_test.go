package attest_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/attest"
)

func TestEachPlatformHasChecksOfItsOwnPrefix(t *testing.T) {
	t.Parallel()
	all, vouching := attest.CheckNames(), 0
	for prefix, p := range attest.Platforms() {
		if len(p.Rows) == 0 {
			t.Errorf("%s has no checks: nothing would say that its evidence is not supported", prefix)
		}
		for _, name := range p.Rows {
			if !strings.HasPrefix(name, prefix+".") {
				t.Errorf("check %s of platform %s", name, prefix)
			}
		}
		for _, name := range p.Vouches {
			if !slices.Contains(all, name) {
				t.Errorf("%s vouches by %s, which is no check", prefix, name)
			}
		}
		if len(p.Vouches) > 0 {
			vouching++
		}
	}
	if vouching == 0 {
		t.Error("no platform vouches for anything: nothing of the hardware would be asked for")
	}
}

// TestEvidenceOfNoVerifiedPlatformIsHeldToTheChecksOfAll: a missing or an unreadable report does
// not make the list of required checks shorter.
func TestEvidenceOfNoVerifiedPlatformIsHeldToTheChecksOfAll(t *testing.T) {
	t.Parallel()
	x := newTrial(t)
	x.policy = attest.Policy{}
	for name, change := range map[string]func(*attest.Evidence){
		"no hardware report":         func(e *attest.Evidence) { e.HCLReport = nil },
		"an unreadable report":       func(e *attest.Evidence) { e.HCLReport[0] = 'X' },
		"hardware not supported yet": func(e *attest.Evidence) { e.HCLReport[1224] = 5 },
	} {
		x.ChangeEvidence = change
		r := x.run(t)
		err := r.Err()
		if err == nil {
			t.Errorf("%s: verified", name)
			continue
		}
		for _, check := range attest.Floor() {
			if r.Status(check) != attest.Pass && !strings.Contains(err.Error(), check+": ") {
				t.Errorf("%s: %s has not passed and is not asked for", name, check)
			}
		}
	}
}

// TestARequiredCheckOfOnePlatformStandsForThoseOfAll: a policy that was written for one platform
// asks the same of the next, which must not have less to show.
func TestARequiredCheckOfOnePlatformStandsForThoseOfAll(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		attest.CheckSNPLaunch:     attest.CheckSNPLaunch,
		attest.CheckTDXStructure:  attest.CheckSNPStructure,
		"tdx.launch":              attest.CheckSNPLaunch,
		"snp.lunch":               "snp.lunch",
		"snp":                     "snp.",
		attest.CheckAKCertificate: attest.CheckAKCertificate,
		"misspelled":              "misspelled",
	} {
		if got := attest.RequiredOfSNP(name); !slices.Equal(got, []string{want}) {
			t.Errorf("%s stands for %v, want %s", name, got, want)
		}
	}
}
