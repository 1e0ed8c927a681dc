package cases_test

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"

	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/attest/hcl"
	"github.com/keyagent/keyagent/attest/judge/cases"
)

func judgeWith(t *testing.T, text string, files map[string][]byte) *cases.Report {
	t.Helper()
	dir := t.TempDir()
	absolute, err := filepath.Abs(vectors)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(absolute, "snp-milan-2023"), filepath.Join(dir, "snp-milan-2023")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	files["cases.json"] = []byte(text)
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f, err := cases.Open(filepath.Join(dir, "cases.json"))
	if err != nil {
		t.Fatal(err)
	}
	return f.Judge()
}

// encodings are parts of the capture of 2023, written in other ways.
func encodings(t *testing.T) map[string][]byte {
	t.Helper()
	read := func(name string) []byte {
		data, err := os.ReadFile(filepath.Join(vectors, "snp-milan-2023", name))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	chain, _ := pem.Decode(read("vcek-chain.pem"))
	report, err := hcl.Parse(read("hcl-report.bin"))
	if err != nil {
		t.Fatal(err)
	}
	claims, err := hcl.ParseClaims(report.Claims)
	if err != nil {
		t.Fatal(err)
	}
	area := attest.AKPublicArea(claims.AK.N.Bytes())
	var pcrs struct {
		PCRs json.RawMessage `json:"pcrs"`
	}
	if err := json.Unmarshal(read("pcrs.json"), &pcrs); err != nil {
		t.Fatal(err)
	}
	return map[string][]byte{
		"x/vcek.der":   chain.Bytes,
		"x/quote.tpmt": append([]byte{0x00, 0x14, 0x00, 0x0B, 0x01, 0x00}, read("quote.sig")...),
		"x/ak.der":     x509.MarshalPKCS1PublicKey(&rsa.PublicKey{N: claims.AK.N, E: claims.AK.E}),
		"x/ak.tpmt":    area,
		"x/ak.2b":      append(binary.BigEndian.AppendUint16(nil, uint16(len(area))), area...),
		"x/pcrs.json":  pcrs.PCRs,
	}
}
