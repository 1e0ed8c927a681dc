package formats_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/veraison/ear"

	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/attest/formats"
)

// captured reads evidence of a real machine, about its platform alone.
func captured(t *testing.T) *attest.Evidence {
	t.Helper()
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join("../../testdata/azure-cvm/snp-milan-2023", name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	e := &attest.Evidence{
		HCLReport: read("hcl-report.bin"), Quote: read("quote.msg"), QuoteSignature: read("quote.sig"), PCRs: map[int][]byte{},
	}
	chain, err := attest.ParseCertificates(read("vcek-chain.pem"))
	if err != nil {
		t.Fatal(err)
	}
	for _, cert := range chain {
		e.VCEKChain = append(e.VCEKChain, cert.Raw)
	}
	var list struct {
		PCRs map[string]string `json:"pcrs"`
	}
	if err := json.Unmarshal(read("pcrs.json"), &list); err != nil {
		t.Fatal(err)
	}
	for name, value := range list.PCRs {
		index, err := strconv.Atoi(name)
		if err != nil {
			t.Fatal(err)
		}
		if e.PCRs[index], err = hex.DecodeString(value); err != nil {
			t.Fatal(err)
		}
	}
	return e
}

func written(t *testing.T, f formats.Format, nonce string) []byte {
	t.Helper()
	at := time.Date(2024, 6, 1, 0, 0, 0, 0, time.UTC)
	result := attest.VerifyExpected(captured(t), attest.Expected{Quote: []byte(nonce), AllowShort: true},
		attest.DefaultTrustAnchors(), attest.PlatformPolicy(), at)
	var b bytes.Buffer
	a := formats.Appraisal{Result: result, Nonce: []byte(nonce), At: at, Build: "v1", PolicyIDs: []string{"sha-256:00"}}
	if err := formats.WriteResult(&b, f, a); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// The library takes the older spelling, in full: no member is one that it drops.
func TestVeraisonReadsTheOlderSpelling(t *testing.T) {
	t.Parallel()
	for nonce, want := range map[string]struct {
		status   ear.TrustTier
		hardware ear.TrustClaim
	}{
		"challenge":     {ear.TrustTierAffirming, ear.GenuineHardwareClaim},
		"another nonce": {ear.TrustTierContraindicated, ear.GenuineHardwareClaim},
	} {
		text := written(t, formats.EARVeraison, nonce)
		var r ear.AttestationResult
		if err := r.UnmarshalJSON(text); err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		one := r.Submods[formats.Label]
		if one == nil || one.Status == nil || *one.Status != want.status || one.TrustVector == nil {
			t.Fatalf("nonce %q: appraisal %+v", nonce, one)
		}
		v := one.TrustVector
		if v.Hardware != want.hardware || v.InstanceIdentity != ear.TrustworthyInstanceClaim || v.RuntimeOpaque != ear.EncryptedMemoryRuntimeClaim {
			t.Errorf("nonce %q: vector %+v", nonce, v)
		}
		if one.AppraisalPolicyID == nil || *one.AppraisalPolicyID != "sha-256:00" || r.Nonce == nil || *r.Nonce != base64.RawURLEncoding.EncodeToString([]byte(nonce)) {
			t.Errorf("nonce %q: policy or nonce of %s", nonce, text)
		}
		before := *one.Status
		one.UpdateStatusFromTrustVector()
		if *one.Status < before {
			t.Errorf("nonce %q: the library makes a better status of the vector", nonce)
		}
		again, err := r.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		var ours, theirs any
		if json.Unmarshal(text, &ours) != nil || json.Unmarshal(again, &theirs) != nil {
			t.Fatal("not JSON")
		}
		sameMembers(t, "", ours, theirs)
	}
}

// sameMembers checks that nothing which we wrote is lost or different.
func sameMembers(t *testing.T, path string, ours, theirs any) {
	t.Helper()
	object, ok := ours.(map[string]any)
	if !ok {
		a, _ := json.Marshal(ours)
		b, _ := json.Marshal(theirs)
		if !bytes.Equal(a, b) {
			t.Errorf("%s: %s became %s", path, a, b)
		}
		return
	}
	other, _ := theirs.(map[string]any)
	for name, value := range object {
		sameMembers(t, path+"/"+name, value, other[name])
	}
}

// The draft's spelling is not this release's. When it is, this test is to become the one above.
func TestVeraisonDoesNotReadTheDraft(t *testing.T) {
	t.Parallel()
	var r ear.AttestationResult
	err := r.UnmarshalJSON(written(t, formats.EAR, "challenge"))
	if err == nil || !strings.Contains(err.Error(), "ear.verifier-id") {
		t.Errorf("error %v", err)
	}
}
