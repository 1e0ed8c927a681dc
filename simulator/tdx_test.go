package simulator_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/attest/collect"
	"github.com/keyagent/keyagent/attest/hcl"
	"github.com/keyagent/keyagent/attest/policyfile"
	"github.com/keyagent/keyagent/attest/tee"
	"github.com/keyagent/keyagent/simulator"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

// quoteFor asks the host for a quote.
func quoteFor(t *testing.T, imdsURL, body string) (int, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, imdsURL+"/acc/tdquote", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Metadata", "true")
	rsp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer rsp.Body.Close()
	answer, err := io.ReadAll(rsp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var quote struct {
		Quote string `json:"quote"`
	}
	_ = json.Unmarshal(answer, &quote)
	raw, err := base64.RawURLEncoding.DecodeString(quote.Quote)
	if err != nil {
		t.Fatal(err)
	}
	return rsp.StatusCode, raw
}

// A VM with TDX has a TDREPORT of its own launch, a host that makes quotes of it and nothing else,
// and collateral of its own Intel.
func TestAVMWithTDX(t *testing.T) {
	p, err := simulator.Start(t.Context(), simulator.Config{Dir: t.TempDir(), TEE: simulator.TDX})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	info := p.Info()
	nv, err := tpmtest.Connect(t, info.TPM).ReadNV(t.Context(), collect.NVHCLReport)
	if err != nil {
		t.Fatal(err)
	}
	report, err := hcl.Parse(nv)
	if err != nil || report.Type != hcl.TypeTDX || report.CheckBinding() != nil {
		t.Fatalf("HCL report %+v, %v", report, err)
	}
	status, raw := quoteFor(t, info.IMDS, `{"report":"`+base64.RawURLEncoding.EncodeToString(report.Hardware)+`"}`)
	quote, err := tee.ParseTDQuote(raw)
	if status != http.StatusOK || err != nil {
		t.Fatalf("status %d, %v", status, err)
	}
	td, err := tee.ParseTDReport(report.Hardware)
	if err != nil {
		t.Fatal(err)
	}
	if err := td.Matches(quote); err != nil || hex.EncodeToString(quote.MRTD) != info.MRTD {
		t.Errorf("MRTD %x, %v", quote.MRTD, err)
	}
	for _, body := range []string{``, `{}`, `{"report":"AAAA"}`, `{"report":"?"}`} {
		if status, _ := quoteFor(t, info.IMDS, body); status != http.StatusBadRequest {
			t.Errorf("%q: status %d", body, status)
		}
	}
	roots, err := os.ReadFile(info.IntelRootsFile)
	if err != nil {
		t.Fatal(err)
	}
	trusted, err := attest.ParseIntelRoots(roots)
	if err != nil || bytes.Contains(roots, []byte("PRIVATE")) {
		t.Fatalf("Intel's roots: %v", err)
	}
	if trusted[0].Equal(tee.DefaultIntelRoots()[0]) {
		t.Error("the simulated root is the real one")
	}
	if _, err := collect.ReadCollateral(info.CollateralDir); err != nil {
		t.Error(err)
	}
	policy, err := policyfile.Load(info.PolicyFile)
	if err != nil {
		t.Fatal(err)
	}
	if len(policy.Rules.MRTDs) != 1 || !bytes.Equal(policy.Rules.MRTDs[0], quote.MRTD) || len(policy.Anchors.Intel) != 1 || !policy.Anchors.Intel[0].Equal(trusted[0]) {
		t.Errorf("the verifier's policy trusts %x, %v", policy.Rules.MRTDs, policy.Anchors.Intel)
	}
	http.DefaultClient.CloseIdleConnections()
}

func TestAHostWithoutTDXMakesNoQuotes(t *testing.T) {
	p := start(t)
	if status, _ := quoteFor(t, p.Info().IMDS, `{"report":"AAAA"}`); status != http.StatusNotFound {
		t.Errorf("status %d", status)
	}
	http.DefaultClient.CloseIdleConnections()
	if _, err := simulator.Start(t.Context(), simulator.Config{Dir: t.TempDir(), TEE: "sgx"}); err == nil {
		t.Error("a TEE that is not simulated")
	}
}
