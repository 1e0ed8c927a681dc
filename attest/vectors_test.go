package attest_test

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/attest/hcl"
)

const vectorDir = "../testdata/azure-cvm"

// vector is a case of testdata/azure-cvm/cases.json; its README describes the members.
type vector struct {
	ID            string            `json:"id"`
	Platform      string            `json:"platform"`
	Parts         map[string]string `json:"parts"`
	NonceHex      string            `json:"nonce_hex"`
	Time          time.Time         `json:"time"`
	Expect        string            `json:"expect"`
	FailingCheck  string            `json:"failing_check"`
	PassingChecks []string          `json:"passing_checks"`
	Policy        struct {
		RequiredPCRs  []int  `json:"required_pcrs"`
		TDXCollateral string `json:"tdx_collateral"`
	} `json:"policy"`
	Facts facts `json:"facts"`
}

// facts are what a parser must read from the case, as far as a Result shows it.
type facts struct {
	Claims struct {
		AKName          string         `json:"ak_name"`
		AKQualifiedName string         `json:"ak_qualified_name"`
		Configuration   map[string]any `json:"vm_configuration"`
	} `json:"claims"`
	Quote struct {
		Clock        uint64 `json:"clock"`
		ResetCount   uint32 `json:"reset_count"`
		RestartCount uint32 `json:"restart_count"`
		Safe         bool   `json:"safe"`
	} `json:"quote"`
	SNP struct {
		Version     uint32 `json:"version"`
		GuestSVN    uint32 `json:"guest_svn"`
		VMPL        uint32 `json:"vmpl"`
		Policy      string `json:"policy"`
		Platform    string `json:"platform_info"`
		CurrentTCB  string `json:"current_tcb"`
		Committed   string `json:"committed_tcb"`
		Reported    string `json:"reported_tcb"`
		Launch      string `json:"launch_tcb"`
		IDKeyDigest string `json:"id_key_digest"`
		Measurement string `json:"measurement"`
	} `json:"snp"`
	TDX struct {
		Version      uint16 `json:"version"`
		FMSPC        string `json:"fmspc"`
		MRSEAM       string `json:"mrseam"`
		MRTD         string `json:"mrtd"`
		TDAttributes string `json:"td_attributes"`
		TEETCBSVN    string `json:"tee_tcb_svn"`
		TEETCBSVN2   string `json:"tee_tcb_svn_2"`
		XFAM         string `json:"xfam"`
	} `json:"tdx"`
}

func loadVectors(t testing.TB) []vector {
	t.Helper()
	var file struct {
		Format string   `json:"format"`
		Cases  []vector `json:"cases"`
	}
	if err := json.Unmarshal(readVector(t, "cases.json"), &file); err != nil {
		t.Fatal(err)
	}
	if file.Format != "azure-cvm-vectors/1" || len(file.Cases) == 0 {
		t.Fatalf("cases.json: format %q with %d cases", file.Format, len(file.Cases))
	}
	return file.Cases
}

func readVector(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(vectorDir, name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// evidence puts the parts of a case together as this project's bundle has them.
func (v vector) evidence(t testing.TB) *attest.Evidence {
	t.Helper()
	e := &attest.Evidence{}
	for part, name := range v.Parts {
		if part == "collateral" {
			e.TDXCollateral = collateral(t, name)
			continue
		}
		b := readVector(t, name)
		switch part {
		case "hcl-report":
			e.HCLReport = b
		case "snp-report":
			e.SNPReport = b
		case "runtime-claims":
			e.RuntimeClaims = b
		case "vcek", "vcek-chain":
			e.VCEKChain = certificates(t, b)
		case "ak-cert-nv":
			e.AKCertificate = b
		case "ak-intermediates":
			e.AKIntermediates = certificates(t, b)
		case "td-quote":
			e.TDQuote = b
		case "ak-public":
			e.AKPublic = publicFromPEM(t, b)
		case "ak-public-2b":
			e.AKPublic = b[2:]
		case "binding-public-2b":
			e.KeyPublic = b[2:]
		case "certify":
			e.Certify = b
		case "certify-signature":
			e.CertifySignature = b
		case "quote":
			e.Quote = b
		case "quote-signature", "quote-tpmt-signature":
			e.QuoteSignature = b
		case "pcrs":
			e.PCRs = pcrValues(t, b)
		default:
			t.Fatalf("unknown part %q", part)
		}
	}
	return e
}

func collateral(t testing.TB, dir string) *attest.TDXCollateral {
	t.Helper()
	file := func(name string) []byte { return readVector(t, filepath.Join(dir, name)) }
	signature := func(name string) []byte { return unhex(t, strings.TrimSpace(string(file(name)))) }
	return &attest.TDXCollateral{
		TCBInfo: file("tcb-info.json"), TCBInfoSignature: signature("tcb-info.sig.hex"), TCBInfoChain: file("tcb-info-issuer-chain.pem"),
		QEIdentity: file("qe-identity.json"), QEIdentitySignature: signature("qe-identity.sig.hex"), QEIdentityChain: file("qe-identity-issuer-chain.pem"),
		RootCACRL: file("root-ca-crl.der"), PCKCRL: file("pck-crl.der"), PCKCRLChain: file("pck-crl-issuer-chain.pem"),
	}
}

func certificates(t testing.TB, b []byte) [][]byte {
	t.Helper()
	if b[0] == 0x30 {
		return [][]byte{b}
	}
	certs, err := attest.ParseCertificates(b)
	if err != nil {
		t.Fatal(err)
	}
	var out [][]byte
	for _, c := range certs {
		out = append(out, c.Raw)
	}
	return out
}

// publicFromPEM rebuilds the AK's public area: PEM keeps the modulus only, and the paravisor's
// template gives the rest.
func publicFromPEM(t testing.TB, b []byte) []byte {
	t.Helper()
	block, _ := pem.Decode(b)
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return attest.AKPublicArea(key.(*rsa.PublicKey).N.Bytes())
}

func pcrValues(t testing.TB, b []byte) map[int][]byte {
	t.Helper()
	var file struct {
		PCRs map[string]string `json:"pcrs"`
	}
	if err := json.Unmarshal(b, &file); err != nil {
		t.Fatal(err)
	}
	out := map[int][]byte{}
	for name, digest := range file.PCRs {
		index, err := strconv.Atoi(name)
		if err != nil {
			t.Fatal(err)
		}
		out[index] = unhex(t, digest)
	}
	return out
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// vectorPolicy is the default policy of cases.json: no key is asked for, no list of launch
// identities.
func (v vector) policy() attest.Policy {
	p := attest.PlatformPolicy()
	p.Required = nil
	p.Launch, p.MRTDs = attest.Launch{}, nil
	p.CollateralNotRequired = v.Policy.TDXCollateral == "not-required"
	if v.Policy.RequiredPCRs != nil {
		p.PCRs = v.Policy.RequiredPCRs
	}
	return p
}

func (v vector) verify(t testing.TB, p attest.Policy) *attest.Result {
	t.Helper()
	nonce := unhex(t, v.NonceHex)
	// Most captures were made with the nonce "challenge", of 9 bytes.
	expected := attest.Expected{Certify: nonce, Quote: nonce, AllowShort: true}
	return attest.VerifyExpected(v.evidence(t), expected, attest.DefaultTrustAnchors(), p, v.Time)
}

func TestRealEvidence(t *testing.T) {
	t.Parallel()
	verdicts := map[string]attest.Verdict{"verified": attest.Verified, "rejected": attest.Rejected, "partial": attest.Incomplete}
	for _, v := range loadVectors(t) {
		t.Run(v.ID, func(t *testing.T) {
			t.Parallel()
			if _, ok := v.Parts["td-quote"]; ok {
				t.Skip("TD quotes are not verified yet")
			}
			if v.Expect == "parsed" {
				v.mustParseOnly(t)
				return
			}
			r := v.verify(t, v.policy())
			if got := r.Verdict(); got != verdicts[v.Expect] {
				t.Errorf("verdict %q, want %q: %v", got, v.Expect, r.Err())
			}
			if v.FailingCheck != "" && r.Status(v.FailingCheck) != attest.Fail {
				t.Errorf("%s is %q, want fail: %v", v.FailingCheck, r.Status(v.FailingCheck), r.Err())
			}
			for _, name := range v.PassingChecks {
				if r.Status(name) != attest.Pass {
					t.Errorf("%s is %q, want pass: %v", name, r.Status(name), r.Err())
				}
			}
			v.checkFacts(t, r)
		})
	}
}

// mustParseOnly is for evidence that a remote party can check nothing of: it is understood, and
// refused.
func (v vector) mustParseOnly(t *testing.T) {
	r := v.verify(t, v.policy())
	for _, name := range []string{attest.CheckHCLStructure, attest.CheckHCLBinding, attest.CheckHCLClaims} {
		if r.Status(name) != attest.Pass {
			t.Errorf("%s is %q, want pass", name, r.Status(name))
		}
	}
	if r.Verified() {
		t.Error("verified")
	}
	v.checkFacts(t, r)
}

func (v vector) checkFacts(t *testing.T, r *attest.Result) {
	t.Helper()
	want := v.Facts
	if want.Claims.AKName != "" {
		equal(t, "AK name", hex.EncodeToString(r.AK.Name), want.Claims.AKName)
		equal(t, "AK qualified name", hex.EncodeToString(r.AK.QualifiedName), want.Claims.AKQualifiedName)
		equal(t, "VM id", any(r.VMID), want.Claims.Configuration["vmUniqueId"])
	}
	if want.Quote.Clock != 0 {
		equal(t, "clock", r.Clock.Milliseconds, want.Quote.Clock)
		equal(t, "reset count", r.Clock.ResetCount, want.Quote.ResetCount)
		equal(t, "restart count", r.Clock.RestartCount, want.Quote.RestartCount)
		equal(t, "safe", r.Clock.Safe, want.Quote.Safe)
	}
	v.checkTDXFacts(t, r)
	if want.SNP.Version == 0 {
		return
	}
	s := r.SNP
	equal(t, "version", s.Version, want.SNP.Version)
	equal(t, "guest SVN", s.GuestSVN, want.SNP.GuestSVN)
	equal(t, "VMPL", s.VMPL, want.SNP.VMPL)
	equal(t, "policy", "0x"+strconv.FormatUint(s.Policy, 16), want.SNP.Policy)
	equal(t, "platform info", "0x"+strconv.FormatUint(s.PlatformInfo, 16), want.SNP.Platform)
	equal(t, "current TCB", s.CurrentTCB.String(), want.SNP.CurrentTCB)
	equal(t, "committed TCB", s.CommittedTCB.String(), want.SNP.Committed)
	equal(t, "reported TCB", s.ReportedTCB.String(), want.SNP.Reported)
	equal(t, "launch TCB", s.LaunchTCB.String(), want.SNP.Launch)
	equal(t, "id key digest", hex.EncodeToString(s.IDKeyDigest), want.SNP.IDKeyDigest)
	equal(t, "measurement", hex.EncodeToString(s.Measurement), want.SNP.Measurement)
}

func (v vector) checkTDXFacts(t *testing.T, r *attest.Result) {
	t.Helper()
	want := v.Facts.TDX
	if want.Version == 0 {
		return
	}
	q := r.TDX
	equal(t, "version", q.Version, want.Version)
	equal(t, "FMSPC", hex.EncodeToString(r.PCK.FMSPC[:]), want.FMSPC)
	equal(t, "mrseam", hex.EncodeToString(q.MRSEAM), want.MRSEAM)
	equal(t, "mrtd", hex.EncodeToString(q.MRTD), want.MRTD)
	equal(t, "TD attributes", littleEndian(q.Attributes), want.TDAttributes)
	equal(t, "tee_tcb_svn", hex.EncodeToString(q.TEETCBSVN), want.TEETCBSVN)
	equal(t, "tee_tcb_svn2", hex.EncodeToString(q.TEETCBSVN2), want.TEETCBSVN2)
	if want.XFAM != "" {
		equal(t, "XFAM", littleEndian(q.XFAM), want.XFAM)
	}
}

func littleEndian(v uint64) string {
	return hex.EncodeToString(binary.LittleEndian.AppendUint64(nil, v))
}

func equal[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s is %v, want %v", what, got, want)
	}
}

func vectorNamed(t testing.TB, id string) vector {
	t.Helper()
	all := loadVectors(t)
	i := slices.IndexFunc(all, func(v vector) bool { return v.ID == id })
	if i < 0 {
		t.Fatalf("no case %q", id)
	}
	return all[i]
}

func TestKnownLaunchIdentitiesAreAzures(t *testing.T) {
	t.Parallel()
	for _, id := range []string{"snp-milan-2023", "snp-milan-2025", "snp-milan-2026", "snp-milan-2022-wrong-vcek"} {
		v := vectorNamed(t, id)
		r := v.verify(t, attest.PlatformPolicy())
		if r.Status(attest.CheckSNPLaunch) != attest.Pass {
			t.Errorf("%s: %v", id, r.Err())
		}
	}
}

func TestKnownMRTDsAreAzures(t *testing.T) {
	t.Parallel()
	for _, id := range []string{"tdx-2024", "tdx-2026", "td-quote-v4-no-tcb-level", "td-quote-v5"} {
		v := vectorNamed(t, id)
		r := v.verify(t, attest.PlatformPolicy())
		if r.Status(attest.CheckTDXLaunch) != attest.Pass {
			t.Errorf("%s: %v", id, r.Err())
		}
	}
}

func TestRealEvidenceIsRefusedByDefaultForLackOfAKey(t *testing.T) {
	t.Parallel()
	r := vectorNamed(t, "snp-milan-2023").verify(t, attest.DefaultPolicy())
	if got := r.Verdict(); got != attest.Incomplete {
		t.Fatalf("verdict %q, want incomplete", got)
	}
	if r.Err() == nil {
		t.Fatal("no error")
	}
}

// A TDREPORT is no proof to anybody but its own processor: it proves nothing, and is no error.
func TestATDREPORTWithoutAQuoteProvesNothing(t *testing.T) {
	t.Parallel()
	r := vectorNamed(t, "hcl-tdx-2023").verify(t, attest.PlatformPolicy())
	if r.Verdict() != attest.Incomplete || len(r.Proven) != 0 {
		t.Errorf("verdict %q, proven %v", r.Verdict(), r.Proven)
	}
	for _, check := range []string{attest.CheckTDXStructure, attest.CheckTDXReport, attest.CheckTDXSignature, attest.CheckTDXTCB} {
		if r.Status(check) != attest.NotApplicable {
			t.Errorf("%s is %q", check, r.Status(check))
		}
	}
}

func TestClaimsOfAnotherMachineDoNotVouchForAQuote(t *testing.T) {
	t.Parallel()
	v := vectorNamed(t, "snp-milan-2023")
	v.Parts["quote"] = "quote-only-2023/quote.msg"
	v.Parts["quote-signature"] = "quote-only-2023/quote.sig"
	v.Parts["pcrs"] = "quote-only-2023/pcrs.json"
	r := v.verify(t, v.policy())
	for _, name := range []string{attest.CheckQuoteSignature, attest.CheckQuoteSigner} {
		if r.Status(name) != attest.Fail {
			t.Errorf("%s is %q, want fail", name, r.Status(name))
		}
	}
}

func TestHCLParserReadsEveryRealReport(t *testing.T) {
	t.Parallel()
	for _, v := range loadVectors(t) {
		name, ok := v.Parts["hcl-report"]
		if !ok {
			continue
		}
		if _, err := hcl.Parse(readVector(t, name)); err != nil {
			t.Errorf("%s: %v", v.ID, err)
		}
	}
}
