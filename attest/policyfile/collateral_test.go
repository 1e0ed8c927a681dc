package policyfile_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/attest/policyfile"
)

const realCollateral = "../../testdata/azure-cvm/tdx-2026/collateral"

// A directory with collateral lies where the policy says, seen from the policy's directory, and
// each of its files is in the report.
func TestADirectoryWithCollateral(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	copyOf := func(to string, change map[string]string) {
		t.Helper()
		if err := os.CopyFS(filepath.Join(dir, to), os.DirFS(realCollateral)); err != nil {
			t.Fatal(err)
		}
		for name, text := range change {
			if err := os.WriteFile(filepath.Join(dir, to, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	copyOf("intel", nil)
	copyOf("again", nil)
	copyOf("signature", map[string]string{"tcb-info.sig.hex": "no"})
	copyOf("statement", map[string]string{"tcb-info.json": "{}"})
	copyOf("large", map[string]string{"root-ca-crl.der": strings.Repeat("x", 1<<17)})
	load := func(text string) (*policyfile.Policy, error) {
		t.Helper()
		path := filepath.Join(dir, "policy.yaml")
		if err := os.WriteFile(path, []byte("tdx: {collateral_directory: "+text+"}"), 0o600); err != nil {
			t.Fatal(err)
		}
		return policyfile.Load(path)
	}
	p, err := load("intel")
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Rules.Collateral) != 1 || len(p.Origin.Named) != 9 || p.Origin.Named[0].File != "intel/tcb-info.json" || p.Origin.Named[0].Member != "tdx.collateral_directory" {
		t.Errorf("%d, %+v", len(p.Rules.Collateral), p.Origin.Named)
	}
	for text, want := range map[string]string{
		"[]": "empty list", "gone": "no such file", "[intel, again]": "a second one for platforms of FMSPC",
		"signature": "not hexadecimal", "statement": "TCB info", "large": "131072 bytes", "{}": "not a list",
	} {
		if _, err := load(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}

	// By a flag, in place of what the policy has.
	if err := p.ReadCollateral("--tdx-collateral", []string{filepath.Join(dir, "again")}); err != nil {
		t.Fatal(err)
	}
	if len(p.Rules.Collateral) != 1 || len(p.Origin.Named) != 9 || p.Origin.Named[0].Member != "--tdx-collateral" {
		t.Errorf("%d, %+v", len(p.Rules.Collateral), p.Origin.Named)
	}
	for want, dirs := range map[string][]string{"no such file": {"gone"}, "a second one": {realCollateral, filepath.Join(dir, "again")}} {
		if err := p.ReadCollateral("--tdx-collateral", dirs); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", dirs, err)
		}
	}
}
