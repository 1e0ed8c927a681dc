package tee_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keyagent/keyagent/attest/tee"
)

// realQuotes are the TD quotes of 2023 to 2026, versions 4 and 5.
func realQuotes(t testing.TB) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	for _, name := range []string{"tdx-2024/td-quote.bin", "tdx-2026/td-quote.bin", "td-quotes/td-quote-v4-no-tcb-level.bin", "td-quotes/td-quote-v5.bin"} {
		out[name] = read(t, name)
	}
	return out
}

func realCollateral(t testing.TB) *tee.TDXCollateral {
	t.Helper()
	file := func(name string) []byte { return read(t, "tdx-2026/collateral/"+name) }
	signature := func(name string) []byte {
		b, err := hex.DecodeString(strings.TrimSpace(string(file(name))))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	return &tee.TDXCollateral{
		TCBInfo: file("tcb-info.json"), TCBInfoSignature: signature("tcb-info.sig.hex"), TCBInfoChain: file("tcb-info-issuer-chain.pem"),
		QEIdentity: file("qe-identity.json"), QEIdentitySignature: signature("qe-identity.sig.hex"), QEIdentityChain: file("qe-identity-issuer-chain.pem"),
		RootCACRL: file("root-ca-crl.der"), PCKCRL: file("pck-crl.der"), PCKCRLChain: file("pck-crl-issuer-chain.pem"),
	}
}

func TestTheBuiltInRootIsIntels(t *testing.T) {
	t.Parallel()
	roots := tee.DefaultIntelRoots()
	if len(roots) != 1 {
		t.Fatalf("%d roots", len(roots))
	}
	const want = "44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3"
	if sum := sha256.Sum256(roots[0].Raw); hex.EncodeToString(sum[:]) != want {
		t.Errorf("SHA-256 %x, want %s", sum, want)
	}
}

func TestTheBuiltInQEIdentityIsIntels(t *testing.T) {
	t.Parallel()
	signed, err := tee.ParseQEIdentity(realCollateral(t).QEIdentity)
	if err != nil {
		t.Fatal(err)
	}
	built := tee.DefaultQEIdentity()
	if !bytes.Equal(built.MRSigner, signed.MRSigner) || built.ProductID != signed.ProductID || !bytes.Equal(built.Attributes, signed.Attributes) ||
		!bytes.Equal(built.AttributesMask, signed.AttributesMask) || !bytes.Equal(built.MiscSelect, signed.MiscSelect) || !bytes.Equal(built.MiscMask, signed.MiscMask) {
		t.Errorf("built in: %+v\nsigned by Intel: %+v", built, signed)
	}
}

func TestRealQuotesVerifyStepByStep(t *testing.T) {
	t.Parallel()
	for name, raw := range realQuotes(t) {
		q, err := tee.ParseTDQuote(raw)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		chain, err := tee.ParseChain(q.PCKChain)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		pck, err := tee.ParsePCK(chain[0])
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for step, err := range map[string]error{
			"chain":     tee.VerifyPCKChain(chain, tee.DefaultIntelRoots(), at(2026)),
			"signature": q.VerifySignature(),
			"QE":        q.VerifyQE(pck.Key),
			"identity":  q.CheckQE(tee.DefaultQEIdentity()),
		} {
			if err != nil {
				t.Errorf("%s: %s: %v", name, step, err)
			}
		}
		if err := tee.VerifyPCKChain(chain, tee.DefaultIntelRoots(), time.Time{}); err == nil {
			t.Errorf("%s: verified at no time", name)
		}
		if err := tee.VerifyPCKChain(chain, tee.DefaultIntelRoots(), at(2034)); err == nil {
			t.Errorf("%s: verified after its end", name)
		}
	}
}

// FuzzParseTDQuote: what is accepted is as long as it says, and a changed quote verifies never.
func FuzzParseTDQuote(f *testing.F) {
	var good [][]byte
	for _, b := range realQuotes(f) {
		f.Add(b)
		f.Add(bytes.TrimRight(b, "\x00"))
		good = append(good, b)
	}
	f.Add(make([]byte, 5006))
	f.Fuzz(func(t *testing.T, b []byte) {
		q, err := tee.ParseTDQuote(b)
		if err != nil {
			return
		}
		if len(q.MRTD) != 48 || len(q.ReportData) != 64 || (q.TEETCBSVN2 == nil) != (q.MRServiceTD == nil) {
			t.Errorf("accepted %x", b)
		}
		_ = q.CheckQE(tee.DefaultQEIdentity())
		if q.VerifySignature() != nil {
			return
		}
		chain, err := tee.ParseChain(q.PCKChain)
		if err != nil || tee.VerifyPCKChain(chain, tee.DefaultIntelRoots(), at(2026)) != nil {
			return
		}
		p, err := tee.ParsePCK(chain[0])
		if err != nil || q.VerifyQE(p.Key) != nil {
			return
		}
		if !slices.ContainsFunc(good, func(g []byte) bool { return bytes.Equal(bytes.TrimRight(g, "\x00"), bytes.TrimRight(b, "\x00")) }) {
			t.Errorf("a quote that nobody made verifies:\n%x", b)
		}
	})
}

// FuzzParseTDReport: a changed report does not match a quote, but for what no quote repeats.
func FuzzParseTDReport(f *testing.F) {
	q, err := tee.ParseTDQuote(read(f, "tdx-2026/td-quote.bin"))
	if err != nil {
		f.Fatal(err)
	}
	good := read(f, "tdx-2026/hcl-report.bin")[32 : 32+tee.TDReportSize]
	f.Add(good)
	f.Add(read(f, "tdx-2024/hcl-report.bin")[32 : 32+tee.TDReportSize])
	f.Add(read(f, "hcl-tdx-2023/hcl-report.bin")[32 : 32+tee.TDReportSize])
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := tee.ParseTDReport(b)
		if err != nil || r.Matches(q) != nil {
			return
		}
		if !bytes.Equal(b[128:192], good[128:192]) || !bytes.Equal(b[512:], good[512:]) {
			t.Errorf("matches:\n%x", b)
		}
	})
}

// FuzzTDXCollateral: only what Intel signed verifies.
func FuzzTDXCollateral(f *testing.F) {
	c := realCollateral(f)
	q, err := tee.ParseTDQuote(read(f, "tdx-2026/td-quote.bin"))
	if err != nil {
		f.Fatal(err)
	}
	chain, err := tee.ParseChain(q.PCKChain)
	if err != nil {
		f.Fatal(err)
	}
	pck, err := tee.ParsePCK(chain[0])
	if err != nil {
		f.Fatal(err)
	}
	use := tee.CollateralUse{
		Roots: tee.DefaultIntelRoots(), Time: time.Date(2026, 6, 10, 0, 0, 0, 0, time.UTC), PCKChain: chain, PCK: pck,
	}
	f.Add(c.TCBInfo, c.QEIdentity, c.TCBInfoChain, c.RootCACRL, c.PCKCRL)
	f.Add([]byte(`{"id":"TDX","version":3}`), []byte(`{"id":"TD_QE","version":2}`), []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), []byte{0x30, 0}, []byte{0x30, 0})
	f.Fuzz(func(t *testing.T, info, qe, text, rootCRL, pckCRL []byte) {
		got := *c
		got.TCBInfo, got.QEIdentity, got.TCBInfoChain, got.RootCACRL, got.PCKCRL = info, qe, text, rootCRL, pckCRL
		i, err := tee.ParseTCBInfo(info)
		if err != nil {
			return
		}
		id, err := tee.ParseQEIdentity(qe)
		if err != nil {
			return
		}
		_, _ = i.Evaluate(tee.Platform{PCK: pck, Quote: q, QE: id})
		if got.Verify(i, id, use) != nil {
			return
		}
		if !bytes.Equal(info, c.TCBInfo) || !bytes.Equal(qe, c.QEIdentity) || !bytes.Equal(rootCRL, c.RootCACRL) || !bytes.Equal(pckCRL, c.PCKCRL) {
			t.Errorf("verifies:\n%s\n%s\n%x\n%x", info, qe, rootCRL, pckCRL)
		}
	})
}

// FuzzPCKExtension reads what a certificate may hold.
func FuzzPCKExtension(f *testing.F) {
	for _, raw := range realQuotes(f) {
		q, err := tee.ParseTDQuote(raw)
		if err != nil {
			f.Fatal(err)
		}
		chain, err := tee.ParseChain(q.PCKChain)
		if err != nil {
			f.Fatal(err)
		}
		for _, e := range chain[0].Extensions {
			if e.Id.String() == "1.2.840.113741.1.13.1" {
				f.Add(e.Value)
			}
		}
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		p, err := tee.ParseSGXExtension(value)
		if err != nil {
			return
		}
		// What was read is nowhere but in the bytes: without the last of them there is nothing.
		if again, err := tee.ParseSGXExtension(value[:len(value)-1]); err == nil {
			t.Errorf("%x is read as %+v, and without its end as %+v", value, p, again)
		}
	})
}
