package cases_test

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/attest/judge/cases"
)

const vectors = "../../../testdata/azure-cvm"

// good is a case that comes out as it says, as a document to change.
func good(t testing.TB, id string) map[string]any {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(vectors, "cases.json"))
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Cases []map[string]any `json:"cases"`
	}
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	for _, c := range file.Cases {
		if c["id"] == id {
			return c
		}
	}
	t.Fatalf("no case %s", id)
	return nil
}

// judge writes a file of cases beside the parts and judges it.
func judge(t testing.TB, document string) *cases.Report {
	t.Helper()
	f, err := open(t, document)
	if err != nil {
		t.Fatal(err)
	}
	return f.Judge()
}

func open(t testing.TB, document string) (*cases.File, error) {
	t.Helper()
	dir := t.TempDir()
	entries, err := os.ReadDir(vectors)
	if err != nil {
		t.Fatal(err)
	}
	absolute, err := filepath.Abs(vectors)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := os.Symlink(filepath.Join(absolute, e.Name()), filepath.Join(dir, e.Name())); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "broken.bin"), []byte("broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "cases.json")
	if err := os.WriteFile(name, []byte(document), 0o600); err != nil {
		t.Fatal(err)
	}
	return cases.Open(name)
}

func document(t testing.TB, list ...map[string]any) string {
	t.Helper()
	data, err := json.Marshal(map[string]any{"format": cases.Format, "cases": list})
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// Each change of a good case must be noticed.
func TestACaseThatDoesNotComeOutIsSaidSo(t *testing.T) {
	t.Parallel()
	fact := func(group, name string, value any) func(map[string]any) {
		return func(c map[string]any) { c["facts"].(map[string]any)[group].(map[string]any)[name] = value }
	}
	part := func(name, path string) func(map[string]any) {
		return func(c map[string]any) { c["parts"].(map[string]any)[name] = path }
	}
	policy := func(name string, value any) func(map[string]any) {
		return func(c map[string]any) { c["policy"] = map[string]any{name: value} }
	}
	member := func(name string, value any) func(map[string]any) {
		return func(c map[string]any) { c[name] = value }
	}
	for name, tt := range map[string]struct {
		change func(map[string]any)
		want   string // in a problem
	}{
		"another expectation":         {member("expect", "rejected"), "got verified, expected rejected"},
		"partial is not verified":     {member("expect", "partial"), "got verified, expected partial"},
		"an unknown expectation":      {member("expect", "good"), "unknown expectation"},
		"a failing check when good":   {member("failing_check", "snp.chain"), "a failing check"},
		"a check that did not pass":   {member("passing_checks", []string{"ak.certificate"}), "ak.certificate is not-applicable, expected to pass"},
		"a check that does not exist": {member("passing_checks", []string{"snp.lunch"}), "snp.lunch is not-applicable"},
		"no time":                     {func(c map[string]any) { delete(c, "time") }, "no time"},
		"no parts":                    {member("parts", map[string]any{}), "no parts"},
		"another nonce":               {member("nonce_hex", "00"), "got rejected"},
		"no nonce":                    {member("nonce_hex", ""), "got rejected"},
		"a nonce that is none":        {member("nonce_hex", "xyz"), "nonce_hex"},
		"another fact":                {fact("snp", "guest_svn", 6), "fact snp.guest_svn is 5, expected 6"},
		"another fact in hex":         {fact("snp", "policy", "0x3001e"), "fact snp.policy"},
		"another prefix":              {fact("snp", "chip_id_prefix", "19752a447db501a4"), "fact snp.chip_id_prefix"},
		"an empty prefix":             {fact("snp", "chip_id_prefix", ""), "fact snp.chip_id_prefix"},
		"another date":                {fact("snp", "vcek_not_before", "2023-05-03"), "fact snp.vcek_not_before"},
		"another configuration":       {fact("claims", "vm_configuration", map[string]any{"secure-boot": false}), "fact claims.vm_configuration"},
		"a fact that is not there":    {fact("claims", "vm_configuration", map[string]any{"colour": "red"}), "fact claims.vm_configuration"},
		"a fact of another type":      {fact("quote", "safe", "true"), "fact quote.safe"},
		"another list":                {fact("claims", "ak_key_ops", []string{"sign", "encrypt"}), "fact claims.ak_key_ops"},
		"facts about a missing part":  {func(c map[string]any) { c["facts"].(map[string]any)["certify"] = map[string]any{"clock": 1} }, "facts about certify cannot be read"},
		"an unknown part":             {part("event-horizon", "broken.bin"), "unknown part"},
		"a part that is missing":      {part("ak-cert-nv", "nowhere"), "no such file"},
		"a part that is a directory":  {part("ak-cert-nv", "roots"), "not a regular file"},
		"a part of broken bytes":      {part("quote", "broken.bin"), "quote.structure"},
		"two forms of one part":       {part("vcek", "snp-milan-2025/vcek.der"), "both parts vcek and vcek-chain"},
		"a policy that is unknown":    {policy("max_tcb", "00"), "unknown member"},
		"roots that are unknown":      {policy("amd_roots", "none"), "amd_roots"},
		"a TCB that is none":          {policy("min_tcb", "high"), "min_tcb"},
		"a higher TCB":                {policy("min_tcb", "7308000000000004"), "snp.tcb"},
		"another launch identity":     {policy("id_key_digests", []string{strings.Repeat("00", 48)}), "snp.launch"},
		"no launch identity":          {policy("id_key_digests", []string{}), "snp.launch"},
		"another user data":           {policy("user_data_hex", strings.Repeat("01", 64)), "hcl.user-data"},
		"a PCR that is not quoted":    {policy("required_pcrs", []int{99}), "quote.selection"},
		"collateral of a new kind":    {policy("tdx_collateral", "maybe"), "tdx_collateral"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := good(t, "snp-milan-2023")
			tt.change(c)
			r := judge(t, document(t, c, good(t, "snp-milan-2025")))
			if r.Failed != 1 || r.Cases[0].AsExpected || !r.Cases[1].AsExpected {
				t.Fatalf("%d failed: %+v", r.Failed, r.Cases[0])
			}
			if all := strings.Join(r.Cases[0].Problems, "\n"); !strings.Contains(all, tt.want) {
				t.Errorf("problems are %q, want %q", all, tt.want)
			}
		})
	}
}

// What a case says beyond what this program knows changes nothing, and is told. A policy is not
// among it: see above.
func TestUnknownMembersAreNoted(t *testing.T) {
	t.Parallel()
	for want, change := range map[string]func(map[string]any){
		`member "severity" is not known`:   func(c map[string]any) { c["severity"] = "high" },
		`platform "vax" is not known`:      func(c map[string]any) { c["platform"] = "vax" },
		"fact snp.colour is not known":     func(c map[string]any) { c["facts"].(map[string]any)["snp"].(map[string]any)["colour"] = "red" },
		`facts about "moon" are not known`: func(c map[string]any) { c["facts"].(map[string]any)["moon"] = map[string]any{"phase": 1} },
	} {
		c := good(t, "snp-milan-2023")
		change(c)
		r := judge(t, document(t, c))
		if notes := strings.Join(r.Cases[0].Notes, "\n"); r.Failed != 0 || !strings.Contains(notes, want) {
			t.Errorf("want %q: %d failed, notes %q", want, r.Failed, notes)
		}
	}
}

// What these policies ask for is there.
func TestPoliciesThatAreMet(t *testing.T) {
	t.Parallel()
	for name, value := range map[string]any{
		"min_tcb": "7308000000000003", "user_data_hex": strings.Repeat("00", 64), "require_secure_boot": true,
		"required_pcrs": []int{16}, "amd_roots": "built-in",
		"id_key_digests": []string{"0356215882a825279a85b300b0b742931d113bf7e32dde2e50ffde7ec743ca491ecdd7f336dc28a6e0b2bb57af7a44a3"},
	} {
		c := good(t, "snp-milan-2023")
		c["policy"] = map[string]any{name: value}
		if r := judge(t, document(t, c)); r.Failed != 0 {
			t.Errorf("%s: %v", name, r.Cases[0].Problems)
		}
	}
}

// Nobody loses the other cases to one that cannot be read.
func TestOneBrokenCaseFailsAlone(t *testing.T) {
	t.Parallel()
	one, err := json.Marshal(good(t, "snp-milan-2023"))
	if err != nil {
		t.Fatal(err)
	}
	for name, broken := range map[string]string{
		"not an object":      `7`,
		"null":               `null`,
		"a member twice":     `{"id":"a","id":"b"}`,
		"an empty case":      `{}`,
		"a string for parts": `{"id":"a","parts":"b"}`,
		"the same id":        string(one),
	} {
		r := judge(t, `{"format":"azure-cvm-vectors/1","cases":[`+string(one)+`,`+broken+`]}`)
		if len(r.Cases) != 2 || !r.Cases[0].AsExpected || r.Cases[1].AsExpected || r.Cases[1].ID == "" {
			t.Errorf("%s: %+v", name, r.Cases)
		}
	}
}

func TestTheFilesOtherMembersAreNotIgnored(t *testing.T) {
	t.Parallel()
	one := document(t, good(t, "snp-milan-2023"))
	for name, added := range map[string]string{
		"trust that is unknown":  `"trust":{"intel_root":"roots/x.pem"}`,
		"trust that is missing":  `"trust":{"vtpm_root":"roots/x.pem"}`,
		"an ARK without its ASK": `"trust":{"amd_ark":"roots/amd-ask-ark-milan.pem"}`,
		"trust that is broken":   `"trust":{"vtpm_root":"broken.bin"}`,
	} {
		r := judge(t, strings.TrimSuffix(one, "}")+","+added+"}")
		if r.Failed != 1 || r.Cases[0].AsExpected || !r.Cases[1].AsExpected {
			t.Errorf("%s: %+v", name, r.Cases)
		}
	}
	r := judge(t, strings.TrimSuffix(one, "}")+`,"origin":"here"}`)
	if r.Failed != 0 || len(r.Notes) != 1 || !strings.Contains(r.Notes[0], "origin") {
		t.Errorf("a member that is not known: %d failed, notes %q", r.Failed, r.Notes)
	}
	for name, text := range map[string]string{
		"nothing":            "",
		"another format":     `{"format":"azure-cvm-vectors/2","cases":[{}]}`,
		"no format":          `{"cases":[{}]}`,
		"no cases":           `{"format":"azure-cvm-vectors/1","cases":[]}`,
		"a list":             `[]`,
		"bytes after it":     one + "{}",
		"cases twice":        strings.TrimSuffix(one, "}") + `,"cases":[]}`,
		"the end is cut off": one[:len(one)-1],
	} {
		if _, err := open(t, text); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzFile(f *testing.F) {
	f.Add([]byte(`{"format":"azure-cvm-vectors/1","cases":[{"id":"a"}],"trust":{"vtpm_root":"x"}}`))
	one, err := json.Marshal(map[string]any{"format": cases.Format, "cases": []any{good(f, "snp-milan-2023"), good(f, "tpm2-certify-2024")}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(one)
	f.Fuzz(func(t *testing.T, data []byte) {
		name := filepath.Join(t.TempDir(), "cases.json")
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
		file, err := cases.Open(name)
		if err != nil {
			return
		}
		for _, o := range file.Judge().Cases {
			if o.AsExpected != (len(o.Problems) == 0) || strings.Contains(strings.Join(o.Problems, " "), "mistake") {
				t.Errorf("%+v", o)
			}
		}
	})
}

// Parts in another encoding than the captures have are the same parts.
func TestPartsInOtherEncodings(t *testing.T) {
	t.Parallel()
	c := good(t, "snp-milan-2023")
	base := maps.Clone(c["parts"].(map[string]any))
	for name, change := range map[string]map[string]any{
		"the chip's certificate alone, in DER": {"vcek": "x/vcek.der", "vcek-chain": nil},
		"a TPMT_SIGNATURE":                     {"quote-tpmt-signature": "x/quote.tpmt", "quote-signature": nil},
		"the key in DER beside the claims":     {"ak-public": "x/ak.der"},
		"the key's public area":                {"ak-public": "x/ak.tpmt"},
		"the key's TPM2B_PUBLIC":               {"ak-public-2b": "x/ak.2b"},
		"the values alone":                     {"pcrs": "x/pcrs.json"},
	} {
		parts := maps.Clone(base)
		for part, path := range change {
			if parts[part] = path; path == nil {
				delete(parts, part)
			}
		}
		c["parts"] = parts
		if r := judgeWith(t, document(t, c), encodings(t)); r.Failed != 0 {
			t.Errorf("%s: %v", name, r.Cases[0].Problems)
		}
	}
}
