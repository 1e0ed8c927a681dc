package tee_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-sev-guest/abi"
	"github.com/google/go-sev-guest/kds"
	"github.com/google/go-sev-guest/verify"
	"github.com/google/go-sev-guest/verify/trust"

	"github.com/keyagent/keyagent/attest/tee"
)

const vectors = "../../testdata/azure-cvm/"

func read(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(vectors, name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// realReports are the SNP reports of 2022 to 2026, versions 2 and 3.
func realReports(t testing.TB) map[string][]byte {
	t.Helper()
	out := map[string][]byte{"snp-milan-2026": read(t, "snp-milan-2026/snp-report.bin")}
	for _, dir := range []string{"snp-milan-2022-wrong-vcek", "snp-milan-2023", "snp-milan-2025"} {
		out[dir] = read(t, dir+"/hcl-report.bin")[32:1216]
	}
	return out
}

func realVCEK(t testing.TB, dir string) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode(read(t, dir+"/vcek-chain.pem"))
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func at(year int) time.Time { return time.Date(year, 8, 1, 0, 0, 0, 0, time.UTC) }

func TestEachStepStandsForItself(t *testing.T) {
	t.Parallel()
	tests := []struct {
		dir                        string
		year                       int
		chain, identity, signature bool
	}{
		{"snp-milan-2023", 2024, true, true, true},
		{"snp-milan-2026", 2026, true, true, true},
		{"snp-milan-2022-wrong-vcek", 2024, true, false, false},
		{"snp-milan-2023", 2035, false, true, true}, // the VCEK has expired
	}
	for _, tt := range tests {
		report, err := tee.ParseSNPReport(realReports(t)[tt.dir])
		if err != nil {
			t.Fatal(err)
		}
		vcek := realVCEK(t, tt.dir)
		root, err := tee.VerifySigner(vcek, tee.DefaultAMDRoots(), at(tt.year))
		if (err == nil) != tt.chain {
			t.Errorf("%s in %d: chain: %v", tt.dir, tt.year, err)
		}
		if err := tee.CheckIdentity(report, vcek, root); (err == nil) != tt.identity {
			t.Errorf("%s: identity: %v", tt.dir, err)
		}
		if err := report.VerifySignature(vcek); (err == nil) != tt.signature {
			t.Errorf("%s: signature: %v", tt.dir, err)
		}
	}
}

// TestSignatureAgreesWithGoSEVGuest asks an independent implementation, on good and on changed
// reports.
func TestSignatureAgreesWithGoSEVGuest(t *testing.T) {
	t.Parallel()
	vcek := realVCEK(t, "snp-milan-2023")
	raw := realReports(t)["snp-milan-2023"]
	for i := -1; i < 0x2A0+0x90; i += 41 {
		b := bytes.Clone(raw)
		if i >= 0 {
			b[i] ^= 1
		}
		report, err := tee.ParseSNPReport(b)
		if err != nil {
			continue
		}
		ours, theirs := report.VerifySignature(vcek), verify.SnpReportSignature(b, vcek)
		if (ours == nil) != (theirs == nil) {
			t.Errorf("byte %d changed: ours %v, theirs %v", i, ours, theirs)
		}
		if (ours == nil) != (i < 0) {
			t.Errorf("byte %d changed: %v", i, ours)
		}
	}
}

func TestTCBComparesByComponent(t *testing.T) {
	t.Parallel()
	tests := []struct {
		have, low tee.TCB
		want      bool
	}{
		{0xdb18000000000004, 0xdb18000000000004, true},
		{0xdb18000000000004, 0, true},
		{0xdb18000000000004, 0x7308000000000003, true},
		{0xdb18000000000003, 0x0000000000000004, false}, // a bigger number with a smaller component
		{0x0018000000000004, 0x7300000000000000, false},
		{0xff00000000000000, 0x0001000000000000, false},
	}
	for _, tt := range tests {
		if got := tt.have.AtLeast(tt.low); got != tt.want {
			t.Errorf("%v.AtLeast(%v) = %v", tt.have, tt.low, got)
		}
	}
}

func TestParseAMDRoots(t *testing.T) {
	t.Parallel()
	both := read(t, "roots/amd-ask-ark-milan.pem")
	roots, err := tee.ParseAMDRoots(both)
	if err != nil {
		t.Fatal(err)
	}
	builtIn := tee.DefaultAMDRoots()
	if len(roots) != 1 || roots[0].Product != "Milan" || !roots[0].ARK.Equal(builtIn[0].ARK) || !roots[0].ASK.Equal(builtIn[0].ASK) {
		t.Errorf("%d roots, the first for %q", len(roots), roots[0].Product)
	}
	_, ark := pem.Decode(both)
	genoa := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: builtIn[1].ASK.Raw}))
	if roots, err := tee.ParseAMDRoots([]byte(string(both) + string(both))); err != nil || len(roots) != 1 {
		t.Errorf("each twice: %d roots, %v", len(roots), err)
	}
	for name, data := range map[string]string{
		"nothing":                 "",
		"an ARK without its ASK":  string(ark),
		"an ASK without its ARK":  strings.TrimSuffix(string(both), string(ark)),
		"a certificate of others": string(both) + string(read(t, "roots/azure-virtual-tpm-root-2023.pem")),
		"an ASK of no use":        string(both) + genoa,
		"a second one, cut off":   string(both) + genoa[:300],
		"another of one name":     string(both) + namesake(t, builtIn[0].ASK.Subject),
		"no certificate":          "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
	} {
		if _, err := tee.ParseAMDRoots([]byte(data)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// namesake is another authority of this name, in PEM.
func namesake(t *testing.T, name pkix.Name) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: name, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func TestAVCEKOfNoTrustedProductIsRefused(t *testing.T) {
	t.Parallel()
	vcek := realVCEK(t, "snp-milan-2023")
	for name, roots := range map[string][]tee.AMDRoot{
		"no roots":                nil,
		"Genoa's roots":           tee.DefaultAMDRoots()[1:],
		"Genoa's, called Milan's": {{Product: "Milan", ARK: tee.DefaultAMDRoots()[1].ARK, ASK: tee.DefaultAMDRoots()[1].ASK}},
	} {
		if _, err := tee.VerifySigner(vcek, roots, at(2024)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := tee.VerifySigner(tee.DefaultAMDRoots()[0].ASK, tee.DefaultAMDRoots(), at(2024)); err == nil {
		t.Error("an ASK is accepted as VCEK")
	}
}

// FuzzParseSNPReport: what is accepted, go-sev-guest writes again to the same bytes.
func FuzzParseSNPReport(f *testing.F) {
	for _, b := range realReports(f) {
		f.Add(b)
	}
	f.Add(make([]byte, tee.SNPReportSize))
	vcek := realVCEK(f, "snp-milan-2023")
	f.Fuzz(func(t *testing.T, b []byte) {
		report, err := tee.ParseSNPReport(b)
		if err != nil {
			return
		}
		p, err := abi.ReportToProto(b)
		if err != nil {
			t.Fatal(err)
		}
		const stepping = 0x18A
		want := bytes.Clone(b)
		if p.Version >= 3 {
			want[stepping] &= 0x0f // go-sev-guest keeps the four bits that CPUID has
		}
		again, err := abi.ReportToAbiBytes(p)
		if err != nil || !bytes.Equal(again, want) {
			t.Errorf("accepted\n%x\nwhich is also\n%x (%v)", b, again, err)
		}
		_ = report.VerifySignature(vcek)
		_ = tee.CheckIdentity(report, vcek, nil)
	})
}

// FuzzParseEndorsement: what is accepted of a VCEK of Milan or Genoa, go-sev-guest reads to the
// same values, if it knows the certificate's other extensions.
func FuzzParseEndorsement(f *testing.F) {
	for _, dir := range []string{"snp-milan-2023", "snp-milan-2026"} {
		f.Add(realVCEK(f, dir).Raw)
	}
	f.Add(tee.DefaultAMDRoots()[0].ASK.Raw)
	f.Fuzz(func(t *testing.T, der []byte) {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return
		}
		e, err := tee.ParseEndorsement(cert)
		if err != nil || e.StructVersion != 0 || e.HWID == nil {
			return
		}
		theirs, err := kds.VcekCertificateExtensions(cert)
		if err == nil && (tee.TCB(theirs.TCBVersion) != e.TCB || !bytes.Equal(theirs.HWID, e.HWID) || theirs.ProductName != e.ProductName) {
			t.Errorf("%+v, go-sev-guest reads %+v", e, theirs)
		}
	})
}

func TestTheRootsAreThoseOfGoSEVGuest(t *testing.T) {
	t.Parallel()
	for _, root := range tee.DefaultAMDRoots() {
		theirs, err := trust.GetDefaultRootCerts(root.Product)
		if err != nil {
			t.Fatal(err)
		}
		if !root.ARK.Equal(theirs.ProductCerts.Ark) || !root.ASK.Equal(theirs.ProductCerts.Ask) {
			t.Errorf("%s: other roots", root.Product)
		}
		if err := root.ASVK.CheckSignatureFrom(root.ARK); err != nil {
			t.Errorf("%s: ASVK: %v", root.Product, err)
		}
	}
}
