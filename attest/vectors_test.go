package attest_test

import (
	"encoding/hex"
	"os"
	"path/filepath"
	"testing"

	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/attest/hcl"
	"github.com/keyagent/keyagent/attest/judge/cases"
)

const vectorDir = "../testdata/azure-cvm"

func readVector(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(vectorDir, name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// vector is a case of testdata/azure-cvm/cases.json.
type vector struct {
	*cases.Case
	file *cases.File
}

func vectors(t testing.TB) *cases.File {
	t.Helper()
	file, err := cases.Open(filepath.Join(vectorDir, "cases.json"))
	if err != nil {
		t.Fatal(err)
	}
	return file
}

func vectorNamed(t testing.TB, id string) vector {
	t.Helper()
	file := vectors(t)
	c, err := file.Case(id)
	if err != nil {
		t.Fatal(err)
	}
	return vector{c, file}
}

// verify verifies the case under the policy of its file, or under policy.
func (v vector) verify(t testing.TB, policy *attest.Policy) *attest.Result {
	t.Helper()
	r, err := v.file.Verify(v.Case, func(p *attest.Policy) {
		if policy != nil {
			*p = *policy
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (v vector) evidence(t testing.TB) *attest.Evidence {
	t.Helper()
	e, err := v.file.Evidence(v.Case)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// policy is the policy that the case asks for.
func (v vector) policy() attest.Policy {
	var policy attest.Policy
	_, _ = v.file.Verify(v.Case, func(p *attest.Policy) { policy = *p })
	return policy
}

func (v vector) under(t testing.TB, policy attest.Policy) *attest.Result {
	t.Helper()
	return v.verify(t, &policy)
}

// Every case of real machines comes out as it says: verdict, checks and facts.
func TestRealEvidence(t *testing.T) {
	t.Parallel()
	for _, o := range vectors(t).Judge().Cases {
		t.Run(o.ID, func(t *testing.T) {
			for _, problem := range append(o.Problems, o.Notes...) {
				t.Error(problem)
			}
		})
	}
}

func TestKnownLaunchIdentitiesAreAzures(t *testing.T) {
	t.Parallel()
	for _, id := range []string{"snp-milan-2023", "snp-milan-2025", "snp-milan-2026", "snp-milan-2022-wrong-vcek"} {
		r := vectorNamed(t, id).under(t, attest.PlatformPolicy())
		if r.Status(attest.CheckSNPLaunch) != attest.Pass {
			t.Errorf("%s: %v", id, r.Err())
		}
	}
}

func TestRealEvidenceIsRefusedByDefaultForLackOfAKey(t *testing.T) {
	t.Parallel()
	r := vectorNamed(t, "snp-milan-2023").under(t, attest.DefaultPolicy())
	if got := r.Verdict(); got != attest.Incomplete {
		t.Fatalf("verdict %q, want incomplete", got)
	}
	if r.Err() == nil {
		t.Fatal("no error")
	}
}

func TestKnownMRTDsAreAzures(t *testing.T) {
	t.Parallel()
	for _, id := range []string{"tdx-2024", "tdx-2026", "td-quote-v4-no-tcb-level", "td-quote-v5"} {
		r := vectorNamed(t, id).under(t, attest.PlatformPolicy())
		if r.Status(attest.CheckTDXLaunch) != attest.Pass {
			t.Errorf("%s: %v", id, r.Err())
		}
	}
}

// A TDREPORT is no proof to anybody but its own processor: it proves nothing, and is no error.
func TestATDREPORTWithoutAQuoteProvesNothing(t *testing.T) {
	t.Parallel()
	r := vectorNamed(t, "hcl-tdx-2023").under(t, attest.PlatformPolicy())
	if r.Verdict() != attest.Incomplete || len(r.Proven) != 0 {
		t.Errorf("verdict %q, proven %v", r.Verdict(), r.Proven)
	}
	for _, check := range []string{attest.CheckTDXStructure, attest.CheckTDXReport, attest.CheckTDXSignature, attest.CheckTDXTCB} {
		if r.Status(check) != attest.NotApplicable {
			t.Errorf("%s is %q", check, r.Status(check))
		}
	}
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func equal[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s is %v, want %v", what, got, want)
	}
}

// mix is a case with parts of another machine, and the checks that then fail.
type mix struct {
	of     string
	parts  map[string]string
	failed []string
}

func (m mix) mustFail(t *testing.T) {
	v := vectorNamed(t, m.of)
	for part, path := range m.parts {
		v.Parts[part] = path
	}
	r := v.verify(t, nil)
	for _, check := range m.failed {
		if r.Status(check) != attest.Fail {
			t.Errorf("%s is %q, want fail", check, r.Status(check))
		}
	}
}

func TestClaimsOfAnotherMachineDoNotVouchForAQuote(t *testing.T) {
	t.Parallel()
	mix{"snp-milan-2023", map[string]string{
		"quote": "quote-only-2023/quote.msg", "quote-signature": "quote-only-2023/quote.sig", "pcrs": "quote-only-2023/pcrs.json",
	}, []string{attest.CheckQuoteSignature, attest.CheckQuoteSigner}}.mustFail(t)
}

func TestPartsOfTwoMachinesAreRefused(t *testing.T) {
	t.Parallel()
	for name, m := range map[string]mix{
		"claims of one that nothing vouches for, quote and key of another": {
			"quote-only-2023", map[string]string{"runtime-claims": "quote-only-2023/runtime-claims.json"},
			[]string{attest.CheckAKPublic, attest.CheckQuoteSignature, attest.CheckQuoteSigner},
		},
		"report of one, chip's certificate of another": {
			"snp-milan-2023", map[string]string{"vcek-chain": "snp-milan-2026/vcek-chain.pem"},
			[]string{attest.CheckSNPIdentity, attest.CheckSNPSignature},
		},
		"report of one, claims of another": {
			"snp-milan-2026", map[string]string{"runtime-claims": "quote-only-2023/runtime-claims.json"},
			[]string{attest.CheckHCLBinding, attest.CheckAKPublic, attest.CheckQuoteSignature, attest.CheckQuoteSigner},
		},
		"values of one, quote of another": {
			"snp-milan-2023", map[string]string{"pcrs": "snp-milan-2025/pcrs.json"}, []string{attest.CheckQuoteDigest},
		},
		"quote of one, signature of another": {
			"snp-milan-2025", map[string]string{"quote-signature": "snp-milan-2025-again/quote.sig"}, []string{attest.CheckQuoteSignature},
		},
	} {
		t.Run(name, m.mustFail)
	}
}

func TestHCLParserReadsEveryRealReport(t *testing.T) {
	t.Parallel()
	names, err := filepath.Glob(filepath.Join(vectorDir, "*", "hcl-report.bin"))
	if err != nil || len(names) < 7 {
		t.Fatalf("%d reports: %v", len(names), err)
	}
	for _, name := range names {
		raw, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := hcl.Parse(raw); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
