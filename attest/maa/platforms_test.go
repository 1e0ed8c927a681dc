package maa_test

import (
	"os"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/attest"
)

// Evidence of hardware that the service's form is not known for is refused, not sent in another's.
func TestEvidenceOfUnsupportedHardwareIsNotSent(t *testing.T) {
	t.Parallel()
	tdx, err := os.ReadFile("../../testdata/azure-cvm/hcl-tdx-2023/hcl-report.bin")
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		change func(*attest.Evidence)
		want   string
	}{
		"Intel TDX":          {func(e *attest.Evidence) { e.HCLReport = tdx }, "TDX"},
		"no hardware report": {func(e *attest.Evidence) { e.HCLReport = nil }, "no hardware report"},
	} {
		r := newRig(t)
		r.machine.ChangeEvidence = tt.change
		if _, _, err := r.attest(t); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: error %v, want one that says %q", name, err, tt.want)
		}
	}
}
