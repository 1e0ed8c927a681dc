package attest_test

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keyagent/keyagent/attest"
	at "github.com/keyagent/keyagent/attest/internal/attesttest"
	"github.com/keyagent/keyagent/attest/tee"
)

// newTDXTrial is newTrial for a machine with Intel TDX.
func newTDXTrial(t testing.TB) *trial {
	t.Helper()
	x := newTrial(t)
	x.TDX = at.NewTDX(x.w.intel)
	return x
}

func TestGoodTDXEvidenceIsVerified(t *testing.T) {
	t.Parallel()
	for name, tdx := range map[string]at.TDX{
		"version 4":              {Version: 4},
		"version 5, body TD 1.5": {Version: 5},
		"version 5, body TD 1.0": {Version: 5, Short: true},
		"no zero byte after the chain": {Version: 4, ChangeChain: func(text []byte) []byte {
			return bytes.TrimSuffix(text, []byte{0})
		}},
		"no line break after the chain": {Version: 4, ChangeChain: func(text []byte) []byte {
			return bytes.TrimSuffix(text, []byte{'\n', 0})
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x := newTDXTrial(t)
			tdx.Intel = x.w.intel
			x.TDX, x.key = &tdx, &x.w.keys.Key.PublicKey
			r := x.run(t)
			if err := r.Err(); err != nil {
				t.Fatal(err)
			}
			if len(r.NotProven) != 0 {
				t.Errorf("not proven: %+v", r.NotProven)
			}
			if r.TCB.Status != tee.UpToDate || r.TCB.EvaluationNumber != 19 || r.SNP != nil {
				t.Errorf("TCB %+v, SNP report %v", r.TCB, r.SNP)
			}
		})
	}
}

// TestTDXClaimsWithoutTheirWrapper: a party that unwraps the HCL report leaves quote and claims.
func TestTDXClaimsWithoutTheirWrapper(t *testing.T) {
	t.Parallel()
	x := newTDXTrial(t)
	unwrapped := func(claims []byte) func(*attest.Evidence) {
		return func(e *attest.Evidence) { e.HCLReport, e.RuntimeClaims = nil, claims }
	}
	x.ChangeEvidence = unwrapped(x.Claims)
	if err := x.run(t).Err(); err != nil {
		t.Error(err)
	}
	x.ChangeEvidence = unwrapped(append(bytes.Clone(x.Claims), '\n'))
	if r := x.run(t); r.Status(attest.CheckHCLBinding) != attest.Fail {
		t.Errorf("other claims: %s is %q", attest.CheckHCLBinding, r.Status(attest.CheckHCLBinding))
	}
	x.ChangeEvidence = func(e *attest.Evidence) {
		unwrapped(x.Claims)(e)
		e.TDQuote = e.TDQuote[:700]
	}
	if r := x.run(t); r.Status(attest.CheckHCLBinding) != attest.Fail || r.Status(attest.CheckTDXStructure) != attest.Fail {
		t.Errorf("half a quote: %v", r.Err())
	}
}

func TestWithoutCollateralTheTCBLevelStaysUnproven(t *testing.T) {
	t.Parallel()
	x := newTDXTrial(t)
	x.ChangeEvidence = func(e *attest.Evidence) { e.TDXCollateral = nil }
	if r := x.run(t); r.Verdict() != attest.Incomplete {
		t.Errorf("verdict %q under the default policy: %v", r.Verdict(), r.Err())
	}
	x.policy.CollateralNotRequired = true
	r := x.run(t)
	if err := r.Err(); err != nil {
		t.Fatal(err)
	}
	if len(r.NotProven) != 1 || r.NotProven[0].Reason != attest.CheckTDXCollateral {
		t.Errorf("not proven: %+v", r.NotProven)
	}
	x.ChangeEvidence = func(e *attest.Evidence) { e.TDXCollateral.TCBInfo[1] ^= 1 }
	if x.run(t).Verified() {
		t.Error("wrong collateral is verified because none was asked for")
	}
}

func TestAcceptedStatuses(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		change   func(map[string]any)
		accepted []tee.TCBStatus
		ok       bool
	}{
		"out of date, accepted": {levels(at.TCBLevel(3, 5, 0, "OutOfDate")), []tee.TCBStatus{tee.OutOfDate}, true},
		"another one accepted":  {levels(at.TCBLevel(3, 5, 0, "OutOfDate")), []tee.TCBStatus{tee.SWHardeningNeeded}, false},
		"revoked, listed":       {levels(at.TCBLevel(3, 5, 0, "Revoked")), []tee.TCBStatus{tee.Revoked}, false},
	} {
		x := newTDXTrial(t)
		x.TDX.ChangeTCB, x.policy.AcceptedStatuses = tt.change, tt.accepted
		if r := x.run(t); r.Verified() != tt.ok {
			t.Errorf("%s: %v", name, r.Err())
		}
	}
}

// TestRequiredAttributes must all be set, and need not be accepted besides. The debug bits are
// refused even if required.
func TestRequiredAttributes(t *testing.T) {
	t.Parallel()
	const migratable = 1 << 29
	for name, tt := range map[string]struct {
		set, required, accepted uint64
		ok                      bool
	}{
		"none required, none set":       {0, 0, 0, true},
		"not set":                       {0, tee.TDAttributeSEPTDisabled, 0, false},
		"not set, accepted":             {0, tee.TDAttributeSEPTDisabled, tee.TDAttributeSEPTDisabled, false},
		"set":                           {tee.TDAttributeSEPTDisabled, tee.TDAttributeSEPTDisabled, 0, true},
		"one of two set":                {tee.TDAttributeSEPTDisabled, tee.TDAttributeSEPTDisabled | migratable, 0, false},
		"both set":                      {tee.TDAttributeSEPTDisabled | migratable, tee.TDAttributeSEPTDisabled | migratable, 0, true},
		"one more than is required":     {tee.TDAttributeSEPTDisabled | migratable, tee.TDAttributeSEPTDisabled, 0, false},
		"debugging, though it is asked": {1, 1, 1, false},
	} {
		x := newTDXTrial(t)
		x.policy.TDXPolicy.RequiredAttributes, x.policy.TDAttributes = tt.required, tt.accepted
		onReport(func(b []byte) { binary.LittleEndian.PutUint64(b[at.ReportGuest:], tt.set) })(t, x)
		r := x.run(t)
		if r.Verified() != tt.ok {
			t.Errorf("%s: %v", name, r.Err())
		}
		if err := r.Err(); !tt.ok && (err == nil || !strings.Contains(err.Error(), attest.CheckTDXPolicy)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// levels replaces the levels of the platform.
func levels(list ...any) func(map[string]any) {
	return func(document map[string]any) { document["tcbLevels"] = list }
}

// TestAnExceptionIsForOneComponentOfOneKindOfPlatform, and the result names it.
func TestAnExceptionIsForOneComponentOfOneKindOfPlatform(t *testing.T) {
	t.Parallel()
	fmspc := [6]byte{0x90, 0xC0, 0x6F}
	for name, tt := range map[string]struct {
		exceptions []tee.TCBException
		ok         bool
	}{
		"none":                  {nil, false},
		"the right one":         {[]tee.TCBException{{FMSPC: fmspc, Component: 8, MinSVN: 5}}, true},
		"another component":     {[]tee.TCBException{{FMSPC: fmspc, Component: 7, MinSVN: 5}}, false},
		"another platform":      {[]tee.TCBException{{FMSPC: [6]byte{1}, Component: 8, MinSVN: 5}}, false},
		"the platform is below": {[]tee.TCBException{{FMSPC: fmspc, Component: 8, MinSVN: 6}}, false},
		"no component":          {[]tee.TCBException{{FMSPC: fmspc, Component: 17}, {FMSPC: fmspc}}, false},
	} {
		x := newTDXTrial(t)
		x.TDX.ChangeTCB = func(document map[string]any) {
			level := at.TCBLevel(5, 13, 3, "UpToDate")
			level["tcb"].(map[string]any)["sgxtcbcomponents"].([]any)[7] = map[string]any{"svn": 9}
			levels(level)(document)
		}
		x.policy.TCBExceptions = tt.exceptions
		r := x.run(t)
		if r.Verified() != tt.ok {
			t.Errorf("%s: %v", name, r.Err())
		}
		if tt.ok && !slices.ContainsFunc(r.Proven, func(c attest.Claim) bool { return bytes.Contains([]byte(c.Anchor), []byte("component 8")) }) {
			t.Errorf("%s: no claim names the exception: %+v", name, r.Proven)
		}
	}
}

// tdxForgery has a machine with TDX, and changes one thing of it.
func tdxForgery(name string, forge func(t *testing.T, x *trial), also ...string) forgery {
	return forgery{name: name, also: also, forge: func(t *testing.T, x *trial) {
		x.TDX = at.NewTDX(x.w.intel)
		forge(t, x)
	}}
}

func onQuote(change func(q []byte) []byte) func(*testing.T, *trial) {
	return func(_ *testing.T, x *trial) { x.TDX.ChangeQuote = change }
}

// flipped changes one bit of a quote after it was made.
func flipped(offset int) func(*testing.T, *trial) {
	return onQuote(func(q []byte) []byte { q[offset] ^= 1; return q })
}

func onBody(change func(b []byte)) func(*testing.T, *trial) {
	return func(_ *testing.T, x *trial) { x.TDX.ChangeBody = change }
}

// onReport changes the TDREPORT before its quote is made, so that both say the same.
func onReport(change func(b []byte)) func(*testing.T, *trial) {
	return func(_ *testing.T, x *trial) { x.TDX.ChangeReport = change }
}

func onQE(change func(b []byte)) func(*testing.T, *trial) {
	return func(_ *testing.T, x *trial) { x.TDX.ChangeQE = change }
}

func onTCB(change func(map[string]any)) func(*testing.T, *trial) {
	return func(_ *testing.T, x *trial) { x.TDX.ChangeTCB = change }
}

func onQEID(change func(map[string]any)) func(*testing.T, *trial) {
	return func(_ *testing.T, x *trial) { x.TDX.ChangeQEID = change }
}

func member(name string, value any) func(map[string]any) {
	return func(document map[string]any) { document[name] = value }
}

func onSources(change func(t testing.TB, x *trial, c *tee.TDXCollateral)) func(*testing.T, *trial) {
	return func(_ *testing.T, x *trial) {
		x.TDX.ChangeSources = func(t testing.TB, c *tee.TDXCollateral) { change(t, x, c) }
	}
}

func tdxForgeries() map[string][]forgery {
	return map[string][]forgery{
		attest.CheckTDXStructure: tdxStructureForgeries(),
		attest.CheckTDXReport:    tdxReportForgeries(),
		attest.CheckTDXChain:     tdxChainForgeries(),
		attest.CheckTDXQE:        tdxQEForgeries(),
		attest.CheckTDXSignature: {
			tdxForgery("a bit of the header", flipped(30)),
			tdxForgery("a bit of the signature", flipped(640)),
			tdxForgery("another attestation key than signed", flipped(702), attest.CheckTDXQE),
			tdxForgery("a body changed afterwards", flipped(48+at.BodyMRTD), attest.CheckTDXReport, attest.CheckTDXLaunch),
		},
		attest.CheckTDXCollateral: tdxCollateralForgeries(),
		attest.CheckTDXTCB:        tdxTCBForgeries(),
		attest.CheckTDXPolicy:     tdxPolicyForgeries(),
		attest.CheckSNPStructure: {
			tdxForgery("a VCEK beside the HCL report of TDX", func(_ *testing.T, x *trial) {
				x.ChangeEvidence = func(e *attest.Evidence) { e.VCEKChain = x.AMD.VCEKChain() }
			}),
		},
		attest.CheckTDXLaunch: {
			tdxForgery("firmware of another party on a genuine processor", onReport(func(b []byte) { b[at.ReportGuest+16] ^= 1 })),
			tdxForgery("firmware that is no longer on the list", func(_ *testing.T, x *trial) { x.policy.MRTDs = x.policy.MRTDs[:3] }),
		},
	}
}

func tdxStructureForgeries() []forgery {
	set := func(offset int, value byte) func(*testing.T, *trial) {
		return onQuote(func(q []byte) []byte { q[offset] = value; return q })
	}
	v5 := func(offset int, value byte) func(*testing.T, *trial) {
		return func(t *testing.T, x *trial) {
			x.TDX.Version = 5
			set(offset, value)(t, x)
		}
	}
	const certification = 48 + 584 + 4 + 128
	return []forgery{
		tdxForgery("version 3", set(0, 3)),
		tdxForgery("version 6", set(0, 6)),
		tdxForgery("an attestation key of another curve", set(2, 3)),
		tdxForgery("of an SGX enclave", set(4, 0)),
		tdxForgery("a quoting enclave of another vendor", set(12, 0)),
		tdxForgery("version 4 that is called 5", set(0, 5)),
		tdxForgery("version 5 that is called 4", v5(0, 4)),
		tdxForgery("an unknown type of body", v5(48, 4)),
		tdxForgery("a body of another size than its type has", v5(48, 2)),
		tdxForgery("signature data beyond the end", set(48+584+2, 1)),
		tdxForgery("signature data that are shorter than what they hold", set(48+584, 0)),
		tdxForgery("other certification data", set(certification, 5)),
		tdxForgery("certification data beyond the end", set(certification+4, 1)),
		tdxForgery("authentication data beyond the end", set(certification+6+384+64+1, 0xff)),
		tdxForgery("a PCK that is only named, by its PPID", set(certification+6+384+64+2+32, 3)),
		tdxForgery("bytes after the signature data", onQuote(func(q []byte) []byte { q[len(q)-1] = 1; return q })),
		tdxForgery("half a quote", onQuote(func(q []byte) []byte { return q[:len(q)/2] })),
		tdxForgery("only a header", onQuote(func(q []byte) []byte { return q[:48] })),
		tdxForgery("an empty one", onQuote(func([]byte) []byte { return []byte{} })),
		{name: "a TD quote beside the HCL report of SEV-SNP", forge: func(t *testing.T, x *trial) {
			quote := at.NewTDX(x.w.intel).Quote(t, make([]byte, 1024))
			x.ChangeEvidence = func(e *attest.Evidence) { e.TDQuote = quote }
		}},
	}
}

func tdxReportForgeries() []forgery {
	hashed := func(change func(b []byte)) func(*testing.T, *trial) {
		return func(_ *testing.T, x *trial) { x.TDX.ChangeHashed = change }
	}
	flip := func(offset int) func([]byte) { return func(b []byte) { b[offset] ^= 1 } }
	list := []forgery{
		tdxForgery("a report of another type", hashed(func(b []byte) { b[2] = 2 })),
		tdxForgery("reserved bytes of the type used", hashed(flip(9))),
		tdxForgery("reserved bytes used", hashed(flip(200))),
		tdxForgery("reserved bytes of TEE_TCB_INFO used", hashed(flip(500))),
		tdxForgery("reserved bytes of TDINFO used", onReport(flip(1000))),
		tdxForgery("a wrong hash of TEE_TCB_INFO", hashed(flip(40))),
		tdxForgery("a wrong hash of TDINFO", hashed(flip(90))),
	}
	for name, offset := range map[string]int{
		"tee_tcb_svn": 2, "mrseam": 16, "mrtd": at.BodyMRTD, "rtmr0": 328, "rtmr3": 328 + 191, "report_data": at.BodyReportData,
	} {
		var also []string
		if name == "mrtd" {
			also = []string{attest.CheckTDXLaunch}
		}
		list = append(list, tdxForgery("quote with another "+name, onBody(func(b []byte) { b[offset] ^= 4 }), also...))
	}
	for name, offset := range map[string]int{
		"mrsignerseam": 64, "seam attributes": 112, "attributes": at.BodyAttributes + 5, "xfam": at.BodyXFAM + 5,
		"mrconfigid": at.BodyMRConfigID, "mrowner": at.BodyMRConfigID + 48, "mrownerconfig": at.BodyMRConfigID + 96,
	} {
		also := []string{attest.CheckTDXPolicy}
		if offset < at.BodyAttributes {
			also = append(also, attest.CheckTDXTCB)
		}
		list = append(list, tdxForgery("quote with another "+name, onBody(flip(offset)), also...))
	}
	long := func(offset int) func(*testing.T, *trial) {
		return func(_ *testing.T, x *trial) { x.TDX.Version, x.TDX.ChangeBody = 5, func(b []byte) { b[offset] |= 4 } }
	}
	return append(list,
		tdxForgery("quote with another tee_tcb_svn2", long(at.BodyTEETCBSVN2+2)),
		tdxForgery("quote with another mrservicetd", long(at.BodyMRServiceTD), attest.CheckTDXPolicy),
	)
}

func tdxChainForgeries() []forgery {
	chain := func(change func(x *trial, text []byte) []byte) func(*testing.T, *trial) {
		return func(_ *testing.T, x *trial) {
			x.TDX.ChangeChain = func(text []byte) []byte { return change(x, text) }
		}
	}
	platform := func(change func(t *testing.T, i *at.Intel) *at.Intel) func(*testing.T, *trial) {
		return func(t *testing.T, x *trial) { x.TDX.Intel = change(t, x.TDX.Intel) }
	}
	pck := func(change func(*x509.Certificate)) func(*testing.T, *trial) {
		return platform(func(t *testing.T, i *at.Intel) *at.Intel { return i.SetPCK(i.NewPCK(t, change)) })
	}
	return []forgery{
		tdxForgery("a root of the attacker's own", func(_ *testing.T, x *trial) {
			x.ChangeAnchors = func(a *attest.TrustAnchors) { a.Intel = attest.DefaultTrustAnchors().Intel }
		}, attest.CheckTDXCollateral),
		tdxForgery("no root at all", func(_ *testing.T, x *trial) {
			x.ChangeAnchors = func(a *attest.TrustAnchors) { a.Intel = nil }
		}, attest.CheckTDXCollateral),
		tdxForgery("an expired PCK certificate", pck(func(c *x509.Certificate) { c.NotAfter = at.Epoch().Add(-time.Second) })),
		tdxForgery("a PCK certificate of tomorrow", pck(func(c *x509.Certificate) { c.NotBefore = at.Epoch().Add(time.Hour) })),
		tdxForgery("a certificate of another name", pck(func(c *x509.Certificate) { c.Subject.CommonName = "Intel SGX TCB Signing" })),
		tdxForgery("a certificate that may not sign", pck(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment })),
		tdxForgery("a CA as PCK certificate", pck(func(c *x509.Certificate) { c.IsCA, c.KeyUsage = true, c.KeyUsage|x509.KeyUsageCertSign })),
		tdxForgery("a CA that may not issue", platform(func(t *testing.T, i *at.Intel) *at.Intel {
			return i.SetCA(t, func(c *x509.Certificate) { c.IsCA, c.KeyUsage, c.SubjectKeyId = false, x509.KeyUsageCRLSign, []byte{1} })
		}), attest.CheckTDXCollateral),
		tdxForgery("the CA of processors", platform(func(t *testing.T, i *at.Intel) *at.Intel {
			return i.SetCA(t, func(c *x509.Certificate) { c.Subject.CommonName = "Intel SGX PCK Processor CA" })
		})),
		tdxForgery("a PCK certificate without Intel's extension", pck(func(c *x509.Certificate) { c.ExtraExtensions = nil })),
		tdxForgery("two zero bytes after the chain", chain(func(_ *trial, text []byte) []byte { return append(text, 0) })),
		tdxForgery("text between the certificates", chain(func(_ *trial, text []byte) []byte {
			return bytes.Replace(text, []byte("\n-----BEGIN"), []byte("\nhello\n-----BEGIN"), 1)
		})),
		tdxForgery("text in front of the certificates", chain(func(_ *trial, text []byte) []byte { return append([]byte("hello\n"), text...) })),
		tdxForgery("nothing in the chain", chain(func(*trial, []byte) []byte { return []byte{0} })),
		tdxForgery("no CA in the chain", chain(func(x *trial, _ []byte) []byte { return x.w.intel.SigningChain() })),
		tdxForgery("four certificates", chain(func(x *trial, _ []byte) []byte {
			return append(x.w.intel.PCKChain(), x.w.intel.PCKChain()...)
		})),
	}
}

func tdxQEForgeries() []forgery {
	list := []forgery{
		tdxForgery("another attestation key than reported", onQE(func(b []byte) { b[320] ^= 1 })),
		tdxForgery("more than the hash reported", onQE(func(b []byte) { b[383] ^= 1 })),
		tdxForgery("an enclave of another signer", onQE(func(b []byte) { b[128] ^= 1 })),
		tdxForgery("an enclave in debug mode", onQE(func(b []byte) { b[48] |= 2 })),
		tdxForgery("another product of Intel's", onQE(func(b []byte) { b[256] = 1 })),
		tdxForgery("another MISCSELECT", onQE(func(b []byte) { b[16] = 1 })),
		tdxForgery("attributes that are not masked", onQE(func(b []byte) { b[48] |= 8 })),
		tdxForgery("reserved bytes used", onQE(func(b []byte) { b[300] = 1 })),
		tdxForgery("another PCK key", func(t *testing.T, x *trial) {
			chain := x.TDX.Intel.SetPCK(x.TDX.Intel.NewPCK(t, nil)).PCKChain()
			x.TDX.ChangeChain = func([]byte) []byte { return chain }
		}),
		tdxForgery("other authentication data", flipped(48+584+4+128+6+384+64+2)),
		tdxForgery("a bit of the signature", flipped(48+584+4+128+6+384)),
		tdxForgery("a bit of the QE report", flipped(48+584+4+128+6)),
		tdxForgery("an identity that asks for another enclave", onQEID(member("isvprodid", 3))),
	}
	for name, offset := range map[string]int{"another signer": 128, "another product": 256} {
		list = append(list, tdxForgery(name+" without collateral", func(t *testing.T, x *trial) {
			x.policy.CollateralNotRequired = true
			x.ChangeEvidence = func(e *attest.Evidence) { e.TDXCollateral = nil }
			onQE(func(b []byte) { b[offset] ^= 1 })(t, x)
		}))
	}
	return append(list, tdxForgery("an enclave in debug mode that Intel's masks let through", func(_ *testing.T, x *trial) {
		x.TDX.ChangeQE = func(b []byte) { b[48] |= 2 }
		x.TDX.ChangeQEID = member("attributesMask", "00000000000000000000000000000000")
	}))
}

func tdxCollateralForgeries() []forgery {
	later := func(offset time.Duration) func(*testing.T, *trial) {
		return func(_ *testing.T, x *trial) { x.now = x.now.Add(offset) }
	}
	const day = 24 * time.Hour
	list := []forgery{
		tdxForgery("after the next update", later(25*day)),
		tdxForgery("before the issue date", later(-13*day)),
		tdxForgery("TCB info of another kind of platform", onTCB(member("fmspc", "00806F050000"))),
		tdxForgery("TCB info of another PCE", onTCB(member("pceId", "0001"))),
		tdxForgery("TCB info that is valid no more", onTCB(member("nextUpdate", "2026-06-01T12:00:00Z"))),
		tdxForgery("TCB info of tomorrow", onTCB(member("issueDate", "2026-06-01T12:00:01Z"))),
		tdxForgery("a QE identity that is valid no more", onQEID(member("nextUpdate", "2026-06-01T12:00:00Z"))),
		tdxForgery("a QE identity of tomorrow", onQEID(member("issueDate", "2026-06-01T12:00:01Z"))),
		tdxForgery("an earlier review than the policy asks", func(_ *testing.T, x *trial) { x.policy.MinTCBEvaluationNumber = 20 }),
		tdxForgery("a QE identity of an earlier review", func(_ *testing.T, x *trial) {
			x.policy.MinTCBEvaluationNumber = 19
			x.TDX.ChangeQEID = member("tcbEvaluationDataNumber", 18)
		}),
		tdxForgery("another party's signing certificate", onSources(func(t testing.TB, _ *trial, c *tee.TDXCollateral) {
			c.TCBInfoChain = at.NewIntel(t).SigningChain()
		})),
		tdxForgery("signed with the PCK key", onSources(func(_ testing.TB, x *trial, c *tee.TDXCollateral) {
			c.TCBInfoChain = x.w.intel.PCKChain()
		})),
		tdxForgery("the PCK certificate is revoked", onSources(func(t testing.TB, x *trial, c *tee.TDXCollateral) {
			c.PCKCRL = x.w.intel.CRL(t, true, nil, big.NewInt(9), big.NewInt(4))
		})),
		tdxForgery("the CA is revoked", onSources(func(t testing.TB, x *trial, c *tee.TDXCollateral) {
			c.RootCACRL = x.w.intel.CRL(t, false, nil, big.NewInt(2))
		})),
		tdxForgery("the signing certificate is revoked", onSources(func(t testing.TB, x *trial, c *tee.TDXCollateral) {
			c.RootCACRL = x.w.intel.CRL(t, false, nil, big.NewInt(3))
		})),
		tdxForgery("one revocation list in place of the other", onSources(func(_ testing.TB, _ *trial, c *tee.TDXCollateral) {
			c.PCKCRL = c.RootCACRL
		})),
		tdxForgery("a chain of another CA with the revocation list", onSources(func(t testing.TB, x *trial, c *tee.TDXCollateral) {
			other := x.w.intel.SetCA(t, nil)
			c.PCKCRL, c.PCKCRLChain = other.CRL(t, true, nil), other.CAChain()
		})),
		{name: "collateral beside an SNP report", forge: func(t *testing.T, x *trial) {
			x.ChangeEvidence = func(e *attest.Evidence) { e.TDXCollateral = at.NewTDX(x.w.intel).Collateral(t) }
		}},
	}
	list = append(list, crlForgeries()...)
	return append(list, statementForgeries()...)
}

func crlForgeries() []forgery {
	lists := func(pck bool, change func(*x509.RevocationList)) func(*testing.T, *trial) {
		return onSources(func(t testing.TB, x *trial, c *tee.TDXCollateral) {
			to := &c.RootCACRL
			if pck {
				to = &c.PCKCRL
			}
			*to = x.w.intel.CRL(t, pck, change)
		})
	}
	var out []forgery
	for name, pck := range map[string]bool{"the root's revocation list": false, "the CA's revocation list": true} {
		out = append(out,
			tdxForgery(name+" is old", lists(pck, func(l *x509.RevocationList) { l.NextUpdate = at.Epoch() })),
			tdxForgery(name+" is of tomorrow", lists(pck, func(l *x509.RevocationList) { l.ThisUpdate = at.Epoch().Add(time.Second) })),
			tdxForgery(name+" is of some certificates only", lists(pck, func(l *x509.RevocationList) {
				l.ExtraExtensions = append(l.ExtraExtensions, critical())
			})),
			tdxForgery(name+" has entries of another issuer", lists(pck, func(l *x509.RevocationList) {
				l.RevokedCertificateEntries = []x509.RevocationListEntry{{SerialNumber: big.NewInt(99), RevocationTime: at.Epoch(), ExtraExtensions: criticalList()}}
			})),
		)
	}
	return out
}

// statementForgeries are statements of Intel's own that cannot be read for sure.
func statementForgeries() []forgery {
	without := func(name string) func(map[string]any) { return func(d map[string]any) { delete(d, name) } }
	tcb := map[string]func(map[string]any){
		"another version": member("version", 4), "of SGX": member("id", "SGX"), "another type": member("tcbType", 1),
		"no type": without("tcbType"), "no number of review": without("tcbEvaluationDataNumber"), "no FMSPC": without("fmspc"),
		"no date": without("issueDate"), "no next update": without("nextUpdate"), "no levels": without("tcbLevels"), "no module": without("tdxModule"),
		"a long FMSPC": member("fmspc", "90C06F00000000"), "an FMSPC in other letters": member("fmspc", "90C06F00000G"),
		"an unknown status":      levels(at.TCBLevel(5, 13, 3, "Splendid")),
		"a component that lacks": levels(cut(at.TCBLevel(5, 13, 3, "UpToDate"), "sgxtcbcomponents")),
		"no PCE version":         levels(cut(at.TCBLevel(5, 13, 3, "UpToDate"), "pcesvn")),
	}
	qe := map[string]func(map[string]any){
		"another version": member("version", 3), "of SGX": member("id", "QE"), "a short mask": member("attributesMask", "FB"),
		"no signer": without("mrsigner"), "no product": without("isvprodid"), "an unknown status": levels(at.SVNLevel(4, "Splendid")),
	}
	var out []forgery
	for name, change := range tcb {
		out = append(out, tdxForgery("TCB info: "+name, onTCB(change)))
	}
	for name, change := range qe {
		out = append(out, tdxForgery("QE identity: "+name, onQEID(change)))
	}
	for name, change := range map[string]func([]byte) []byte{
		"a member twice": func(b []byte) []byte {
			return bytes.Replace(b, []byte(`"version"`), []byte(`"version":3,"version"`), 1)
		},
		"a member in another case": func(b []byte) []byte {
			return bytes.Replace(b, []byte(`"version"`), []byte(`"Version":3,"version"`), 1)
		},
		"bytes after the document": func(b []byte) []byte { return append(b, ' ', '{', '}') },
	} {
		out = append(out, tdxForgery(name, func(_ *testing.T, x *trial) { x.TDX.ChangeSigned = change }))
	}
	return out
}

// cut takes a member out of a level, or the last component of a list.
func cut(level map[string]any, name string) map[string]any {
	tcb := level["tcb"].(map[string]any)
	if list, ok := tcb[name].([]any); ok {
		tcb[name] = list[1:]
	} else {
		delete(tcb, name)
	}
	return level
}

func tdxTCBForgeries() []forgery {
	svn := func(index int, value byte) func(*testing.T, *trial) {
		return onReport(func(b []byte) { b[at.ReportTEETCB+8+index] = value })
	}
	modules := func(list ...any) func(map[string]any) { return member("tdxModuleIdentities", append([]any{}, list...)) }
	return []forgery{
		tdxForgery("an outdated platform", onTCB(levels(at.TCBLevel(6, 13, 3, "UpToDate"), at.TCBLevel(4, 13, 3, "OutOfDate")))),
		tdxForgery("an outdated PCE", onTCB(levels(at.TCBLevel(5, 14, 3, "UpToDate"), at.TCBLevel(5, 13, 3, "OutOfDate")))),
		tdxForgery("an outdated microcode of the TDX module", svn(2, 2)),
		tdxForgery("no level at all", onTCB(levels(at.TCBLevel(6, 13, 3, "UpToDate")))),
		tdxForgery("a revoked level", onTCB(levels(at.TCBLevel(5, 13, 3, "Revoked")))),
		tdxForgery("a configuration that is needed", onTCB(levels(at.TCBLevel(5, 13, 3, "ConfigurationNeeded")))),
		tdxForgery("an outdated TDX module", svn(0, 5)),
		tdxForgery("a TDX module below every level", svn(0, 3)),
		tdxForgery("a TDX module of an unknown major version", svn(1, 2)),
		tdxForgery("no identities of TDX modules", onTCB(modules())),
		tdxForgery("a TDX module that now runs is outdated", func(t *testing.T, x *trial) {
			x.TDX.Version = 5
			onReport(func(b []byte) { b[at.ReportTEETCB+128] = 5 })(t, x)
		}),
		tdxForgery("an outdated quoting enclave", onQE(func(b []byte) { b[258] = 3 })),
		tdxForgery("a quoting enclave below every level", onQE(func(b []byte) { b[258] = 1 })),
		tdxForgery("a TDX module of another signer", onReport(func(b []byte) { b[at.ReportTEETCB+72] = 1 }), attest.CheckTDXPolicy),
	}
}

func tdxPolicyForgeries() []forgery {
	attributes := func(bit int) func(*testing.T, *trial) {
		return onReport(func(b []byte) { b[at.ReportGuest+bit/8] |= 1 << (bit % 8) })
	}
	list := []forgery{
		tdxForgery("debugging", attributes(0)),
		tdxForgery("profiling", attributes(5)),
		tdxForgery("debugging that the policy names", func(t *testing.T, x *trial) {
			x.policy.TDAttributes = 1
			attributes(0)(t, x)
		}),
		tdxForgery("migration", attributes(29)),
		tdxForgery("an unknown attribute", attributes(63)),
		tdxForgery("an unknown feature", onReport(func(b []byte) { b[at.ReportGuest+8+5] |= 1 })),
		tdxForgery("a service TD", func(t *testing.T, x *trial) {
			x.TDX.Version = 5
			onReport(func(b []byte) { b[at.ReportGuest+400] = 1 })(t, x)
		}),
		tdxForgery("a value that the policy does not list", func(_ *testing.T, x *trial) { x.policy.MROwners = [][]byte{bytes.Repeat([]byte{1}, 48)} }),
		tdxForgery("a module with attributes that Intel's mask lets through", func(t *testing.T, x *trial) {
			x.TDX.ChangeTCB = func(d map[string]any) {
				for _, m := range d["tdxModuleIdentities"].([]any) {
					m.(map[string]any)["attributesMask"] = "0000000000000000"
				}
			}
			onReport(func(b []byte) { binary.LittleEndian.PutUint64(b[at.ReportTEETCB+120:], 1) })(t, x)
		}),
	}
	for name, offset := range map[string]int{"mrconfigid": 64, "mrowner": 112, "mrownerconfig": 160} {
		list = append(list, tdxForgery(name+" in use", onReport(func(b []byte) { b[at.ReportGuest+offset] = 1 })))
	}
	return list
}

// critical is the extension of a list that covers some certificates only (RFC 5280, 5.2.5).
func critical() pkix.Extension {
	return pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 28}, Critical: true, Value: []byte{0x30, 0x03, 0x81, 0x01, 0xff}}
}

// criticalList is the extension of an entry that names another issuer (RFC 5280, 5.3.3).
func criticalList() []pkix.Extension {
	return []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 29}, Critical: true, Value: []byte{0x30, 0x00}}}
}
