package hcl_test

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/attest/hcl"
)

const vectors = "../../testdata/azure-cvm/"

// reports are the real reports of every layout that has been seen.
func reports(t testing.TB) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	for _, dir := range []string{"snp-milan-2022-wrong-vcek", "snp-milan-2023", "snp-milan-2025", "hcl-tdx-2023"} {
		b, err := os.ReadFile(filepath.Join(vectors, dir, "hcl-report.bin"))
		if err != nil {
			t.Fatal(err)
		}
		out[dir] = b
	}
	return out
}

func TestRealReports(t *testing.T) {
	t.Parallel()
	want := map[string]struct {
		version  uint32
		kind     hcl.ReportType
		claims   int
		userData bool
		secure   bool
		vm       string
	}{
		"snp-milan-2022-wrong-vcek": {1, hcl.TypeSNP, 583, false, true, "BAEFD3E1-184B-4C4C-AB88-0BDAD260505F"},
		"snp-milan-2023":            {1, hcl.TypeSNP, 1110, true, true, "911B0EF8-9DBA-48B0-B275-4E4DF2D39252"},
		"snp-milan-2025":            {1, hcl.TypeSNP, 1110, true, true, "26F8BC30-774E-4290-8E7A-535F3B672AEE"},
		"hcl-tdx-2023":              {2, hcl.TypeTDX, 1202, true, false, "D270E56B-F668-4990-A5BC-9B624576841D"},
	}
	for name, raw := range reports(t) {
		r, err := hcl.Parse(raw)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := r.CheckBinding(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		c, err := hcl.ParseClaims(r.Claims)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		w := want[name]
		if r.Version != w.version || r.Type != w.kind || len(r.Claims) != w.claims || (c.UserData != nil) != w.userData {
			t.Errorf("%s: version %d, %v, %d bytes of claims, user data %x", name, r.Version, r.Type, len(r.Claims), c.UserData)
		}
		if c.VMConfiguration.VMUniqueID != w.vm || *c.VMConfiguration.SecureBoot != w.secure || c.AK.N.BitLen() != 2048 {
			t.Errorf("%s: %+v", name, c.VMConfiguration)
		}
	}
}

func TestParseChecksEveryLength(t *testing.T) {
	t.Parallel()
	good := reports(t)["snp-milan-2023"]
	for _, n := range []int{0, 1, 31, 1215, 1235, 1236, 1300} {
		if _, err := hcl.Parse(good[:n]); err == nil {
			t.Errorf("%d bytes are accepted", n)
		}
	}
	if _, err := hcl.Parse(append(bytes.Clone(good), make([]byte, 4096)...)); err == nil {
		t.Error("more than the limit is accepted")
	}
	for at := range 5 {
		for _, v := range []uint32{0, 1, 3, 19, 20, 0x7fffffff, 0xfffffff0, 0xffffffff} {
			b := bytes.Clone(good)
			binary.LittleEndian.PutUint32(b[1216+4*at:], v)
			if r, err := hcl.Parse(b); err == nil && len(r.Claims) != 1110 {
				t.Errorf("offset %d, value %d: %d bytes of claims", 1216+4*at, v, len(r.Claims))
			}
		}
	}
}

func TestParseLooksAtWhatTheHeaderCovers(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		report string
		change func(b []byte)
	}{
		"a TDREPORT that is called SNP":          {"snp-milan-2023", func(b []byte) { b[32] = 0x81 }},
		"an SNP report that is called TDX":       {"hcl-tdx-2023", func(b []byte) { b[32] = 3 }},
		"bytes after the TDREPORT":               {"hcl-tdx-2023", func(b []byte) { b[32+1024] = 1 }},
		"a data size that the report size hides": {"snp-milan-2023", func(b []byte) { b[1216]++; b[8]++ }},
	} {
		b := reports(t)[tt.report]
		tt.change(b)
		if _, err := hcl.Parse(b); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestParseCopiesItsInput(t *testing.T) {
	t.Parallel()
	raw := reports(t)["snp-milan-2023"]
	r, err := hcl.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	clear(raw)
	if err := r.CheckBinding(); err != nil {
		t.Error(err)
	}
}

func TestBindingLooksAtEveryByteOfReportData(t *testing.T) {
	t.Parallel()
	for name, at := range map[string]int{"snp-milan-2023": 0x50, "hcl-tdx-2023": 128} {
		r, err := hcl.Parse(reports(t)[name])
		if err != nil {
			t.Fatal(err)
		}
		for i := range 64 {
			r.Hardware[at+i] ^= 1
			if r.CheckBinding() == nil {
				t.Errorf("%s: byte %d of report_data is not looked at", name, i)
			}
			r.Hardware[at+i] ^= 1
		}
		r.HashType = 2
		if r.CheckBinding() == nil {
			t.Errorf("%s: hash type 2 is accepted", name)
		}
	}
}

func TestBindingOfAnEmptyReportFails(t *testing.T) {
	t.Parallel()
	if (&hcl.Report{HashType: hcl.HashSHA256}).CheckBinding() == nil {
		t.Error("accepted")
	}
}

func TestClaimsWithoutOptionalMembers(t *testing.T) {
	t.Parallel()
	n := "_" + strings.Repeat("A", 340) + "Q" // an odd number of 2048 bits
	c, err := hcl.ParseClaims([]byte(`{"keys":[{"kid":"HCLAkPub","kty":"RSA","e":"AQAB","n":"` + n + `"}],"vm-configuration":{}}`))
	if err != nil {
		t.Fatal(err)
	}
	if c.UserData != nil || c.VMConfiguration.SecureBoot != nil || c.VMConfiguration.VMUniqueID != "" {
		t.Errorf("%+v", c)
	}
}

func TestClaimsThatAreRefused(t *testing.T) {
	t.Parallel()
	claims := func(n string) string {
		return `{"keys":[{"kid":"HCLAkPub","kty":"RSA","e":"AQAB","n":"` + n + `"}],"vm-configuration":{}}`
	}
	good := "_" + strings.Repeat("A", 340) + "Q"
	if _, err := hcl.ParseClaims([]byte(claims(good))); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"a modulus of 255 bytes":  claims("_" + strings.Repeat("A", 338) + "B"),
		"a modulus of 258 bytes":  claims("_" + strings.Repeat("A", 342) + "B"),
		"a line break in base64":  claims(good[:10] + `\n` + good[10:]),
		"padding in base64":       claims(good + "=="),
		"stray bits in base64":    claims(good[:341] + "R"),
		"an even modulus":         claims(good[:341] + "A"),
		"more than the limit":     claims(good) + strings.Repeat(" ", hcl.MaxSize),
		"user-data in base64":     strings.TrimSuffix(claims(good), "}") + `,"user-data":"` + strings.Repeat("x", 128) + `"}`,
		"a key that is no object": `{"keys":["HCLAkPub"],"vm-configuration":{}}`,
	} {
		if _, err := hcl.ParseClaims([]byte(text)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// FuzzParse: what is accepted can be put together again from its parts.
func FuzzParse(f *testing.F) {
	for _, b := range reports(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := hcl.Parse(b)
		if err != nil {
			return
		}
		if again := wrap(r, len(b)); !bytes.Equal(again, b) {
			t.Errorf("accepted\n%x\nwhich is also\n%x", b, again)
		}
		_ = r.CheckBinding()
		_, _ = hcl.ParseClaims(r.Claims)
	})
}

// wrap writes a report of size bytes.
func wrap(r *hcl.Report, size int) []byte {
	b := make([]byte, size)
	n := uint32(len(r.Claims))
	copy(b, "HCLA")
	for at, v := range map[int]uint32{
		4: r.Version, 8: 1236 + n, 12: 2, 1216: 20 + n, 1220: 1, 1224: uint32(r.Type), 1228: r.HashType, 1232: n,
	} {
		binary.LittleEndian.PutUint32(b[at:], v)
	}
	copy(b[32:], r.Hardware)
	copy(b[1236:], r.Claims)
	return b
}

// FuzzParseClaims: accepted claims have a usable key.
func FuzzParseClaims(f *testing.F) {
	for _, b := range reports(f) {
		r, err := hcl.Parse(b)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(r.Claims)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := hcl.ParseClaims(b)
		if err != nil {
			return
		}
		if c.AK.N.BitLen() != 2048 || c.AK.N.Bit(0) != 1 || c.AK.E != 65537 {
			t.Errorf("accepted the key %v, %d", c.AK.N, c.AK.E)
		}
		if c.UserData != nil && len(c.UserData) != hcl.UserDataSize {
			t.Errorf("user data of %d bytes", len(c.UserData))
		}
	})
}
