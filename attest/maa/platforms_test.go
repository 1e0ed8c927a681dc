package maa_test

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/attest"
	at "github.com/keyagent/keyagent/attest/internal/attesttest"
	"github.com/keyagent/keyagent/attest/maa"
)

// Evidence of hardware that the service's form is not known for is refused, not sent in another's.
func TestEvidenceOfUnsupportedHardwareIsNotSent(t *testing.T) {
	t.Parallel()
	tdx, err := os.ReadFile("../../testdata/azure-cvm/hcl-tdx-2023/hcl-report.bin")
	if err != nil {
		t.Fatal(err)
	}
	cca := bytes.Clone(tdx)
	cca[1224] = 5
	for name, tt := range map[string]struct {
		change func(*attest.Evidence)
		want   string
	}{
		"Arm CCA":            {func(e *attest.Evidence) { e.HCLReport = cca }, "not supported"},
		"TDX without quote":  {func(e *attest.Evidence) { e.HCLReport = tdx }, "TD quote"},
		"no hardware report": {func(e *attest.Evidence) { e.HCLReport = nil }, "no hardware report"},
	} {
		r := newRig(t)
		r.machine.ChangeEvidence = tt.change
		if _, _, err := r.attest(t); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: error %v, want one that says %q", name, err, tt.want)
		}
	}
}

// TestTheServiceIsShownTheQuoteOfTDX as the host made it, with the claims beside it.
func TestTheServiceIsShownTheQuoteOfTDX(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.machine.TDX = at.NewTDX(at.NewIntel(t))
	r.service = at.NewService(t, r.machine.Anchors())
	r.service.Collateral = r.machine.TDX.Collateral(t)
	r.client = maa.New(maa.Config{Hosts: onlyHost(r.service.URL), HTTP: r.service.Client(), Now: at.Epoch})
	if token, _, err := r.attest(t); err != nil || token == "" {
		t.Errorf("token %q, %v", token, err)
	}
}
