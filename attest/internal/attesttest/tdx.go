package attesttest

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"testing"

	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/attest/tee"
)

// Offsets in a TDREPORT and in the body of a quote, in bytes.
const (
	ReportTEETCB     = 256
	ReportGuest      = 512
	BodyAttributes   = 120
	BodyXFAM         = 128
	BodyMRTD         = 136
	BodyMRConfigID   = 184
	BodyReportData   = 520
	BodyTEETCBSVN2   = 584
	BodyMRServiceTD  = 600
	quoteHeaderBytes = 48
)

// TDX is how a machine's TDX evidence is made. Its function fields, if not nil, change one step.
type TDX struct {
	Intel   *Intel
	Version uint16 // of the quote, 4 or 5
	Short   bool   // body "TD 1.0" in a quote of version 5

	ChangeReport  func(raw []byte)                         // TDREPORT, before its hashes are made
	ChangeHashed  func(raw []byte)                         // TDREPORT, after
	ChangeHeader  func(raw []byte)                         // of the quote, before signing
	ChangeBody    func(raw []byte)                         // of the quote, before signing
	ChangeQE      func(raw []byte)                         // QE report, before signing
	ChangeChain   func(text []byte) []byte                 // in the quote
	ChangeQuote   func(quote []byte) []byte                // at the end
	ChangeTCB     func(map[string]any)                     // TCB info, before signing
	ChangeQEID    func(map[string]any)                     // QE identity, before signing
	ChangeSigned  func(text []byte) []byte                 // both statements as text, before signing
	ChangeSources func(t testing.TB, c *tee.TDXCollateral) // at the end
}

// NewTDX is TDX of an ordinary guest on Azure.
func NewTDX(i *Intel) *TDX { return &TDX{Intel: i, Version: 4} }

func apply(change func([]byte), b []byte) {
	if change != nil {
		change(b)
	}
}

// Report makes a TDREPORT.
func (x *TDX) Report(reportData []byte) []byte {
	b := make([]byte, 1024)
	b[0] = 0x81
	copy(b[128:], reportData)
	tcb, guest := b[ReportTEETCB:], b[ReportGuest:]
	copy(tcb[8:], []byte{moduleMinor, moduleMajor, 3})
	copy(tcb[24:72], hash48("tdx module"))
	copy(tcb[128:], []byte{moduleMinor, moduleMajor, 3})
	binary.LittleEndian.PutUint64(guest, 1<<28)
	binary.LittleEndian.PutUint64(guest[8:], 0x618e7)
	copy(guest[16:64], attest.AzureMRTDs()[3])
	apply(x.ChangeReport, b)
	copy(b[32:80], hash48(string(tcb[:239])))
	copy(b[80:128], hash48(string(guest[:512])))
	apply(x.ChangeHashed, b)
	return b
}

func hash48(s string) []byte {
	sum := sha512.Sum384([]byte(s))
	return sum[:]
}

// Quote makes the quote of a TDREPORT.
func (x *TDX) Quote(t testing.TB, report []byte) []byte {
	t.Helper()
	q := x.signedPart(report)
	signature := sign(t, x.Intel.attestation, q)
	data := append(signature, point(x.Intel.attestation)...)
	data = append(data, sized(6, x.qeCertification(t))...)
	q = binary.LittleEndian.AppendUint32(q, uint32(len(data)))
	q = append(q, data...)
	if x.Version == 4 {
		q = append(q, make([]byte, 70)...)
	}
	if x.ChangeQuote != nil {
		q = x.ChangeQuote(q)
	}
	return q
}

// signedPart is header, descriptor and body.
func (x *TDX) signedPart(report []byte) []byte {
	le := binary.LittleEndian
	q := make([]byte, quoteHeaderBytes)
	le.PutUint16(q, x.Version)
	q[2], q[4] = 2, 0x81
	copy(q[12:28], unhex("939a7233f79c4ca9940a0db3957f0607"))
	apply(x.ChangeHeader, q)
	body := quoteBody(report, x.Version == 5 && !x.Short)
	apply(x.ChangeBody, body)
	if x.Version == 5 {
		kind := uint16(3)
		if x.Short {
			kind = 2
		}
		q = le.AppendUint32(le.AppendUint16(q, kind), uint32(len(body)))
	}
	return append(q, body...)
}

func quoteBody(report []byte, long bool) []byte {
	tcb, guest := report[ReportTEETCB:], report[ReportGuest:]
	body := append([]byte{}, tcb[8:24]...)
	body = append(body, tcb[24:128]...) // mrseam, mrsignerseam, attributes
	body = append(body, guest[:400]...) // attributes to rtmr3
	body = append(body, report[128:192]...)
	if long {
		body = append(body, tcb[128:144]...)
		body = append(body, guest[400:448]...)
	}
	return body
}

// qeCertification is the QE report with its signature, authentication data and chain.
func (x *TDX) qeCertification(t testing.TB) []byte {
	t.Helper()
	auth := []byte("authentication data of the QE...")
	qe := make([]byte, 384)
	copy(qe[48:], []byte{0x15, 0, 0, 0, 0, 0, 0, 0, 0xe7})
	copy(qe[128:], unhex("dc9e2a7c6f948f17474e34a7fc43ed030f7c1563f1babddf6340c82e0e54a8c5"))
	binary.LittleEndian.PutUint16(qe[256:], 2)
	binary.LittleEndian.PutUint16(qe[258:], qeSVN)
	sum := sha256.Sum256(append(point(x.Intel.attestation), auth...))
	copy(qe[320:], sum[:])
	apply(x.ChangeQE, qe)
	chain := append(x.Intel.PCKChain(), 0)
	if x.ChangeChain != nil {
		chain = x.ChangeChain(chain)
	}
	b := append(qe, sign(t, x.Intel.pck.key, qe)...)
	b = append(binary.LittleEndian.AppendUint16(b, uint16(len(auth))), auth...)
	return append(b, sized(5, chain)...)
}

func sized(kind uint16, b []byte) []byte {
	le := binary.LittleEndian
	return append(le.AppendUint32(le.AppendUint16(nil, kind), uint32(len(b))), b...)
}

// Collateral makes Intel's statements about the platform.
func (x *TDX) Collateral(t testing.TB) *tee.TDXCollateral {
	t.Helper()
	i := x.Intel
	c := &tee.TDXCollateral{
		TCBInfo: x.text(t, tcbInfo(), x.ChangeTCB), TCBInfoChain: i.SigningChain(),
		QEIdentity: x.text(t, qeIdentity(), x.ChangeQEID), QEIdentityChain: i.SigningChain(),
		RootCACRL: i.CRL(t, false, nil), PCKCRL: i.CRL(t, true, nil), PCKCRLChain: i.CAChain(),
	}
	c.TCBInfoSignature = sign(t, i.tcbSigning.key, c.TCBInfo)
	c.QEIdentitySignature = sign(t, i.tcbSigning.key, c.QEIdentity)
	if x.ChangeSources != nil {
		x.ChangeSources(t, c)
	}
	return c
}

func (x *TDX) text(t testing.TB, document map[string]any, change func(map[string]any)) []byte {
	t.Helper()
	if change != nil {
		change(document)
	}
	text, err := json.Marshal(document)
	if err != nil {
		t.Fatal(err)
	}
	if x.ChangeSigned != nil {
		text = x.ChangeSigned(text)
	}
	return text
}

func tcbInfo() map[string]any {
	return map[string]any{
		"id": "TDX", "version": 3, "issueDate": "2026-05-20T00:00:00Z", "nextUpdate": "2026-06-20T00:00:00Z",
		"fmspc": FMSPC, "pceId": "0000", "tcbType": 0, "tcbEvaluationDataNumber": 19,
		"tdxModule": module(nil),
		"tdxModuleIdentities": []any{
			module(map[string]any{"id": "TDX_03", "tcbLevels": []any{SVNLevel(3, "UpToDate")}}),
			module(map[string]any{"id": "TDX_01", "tcbLevels": []any{SVNLevel(6, "UpToDate"), SVNLevel(4, "OutOfDate")}}),
		},
		"tcbLevels": []any{TCBLevel(component, pceSVN, 3, "UpToDate"), TCBLevel(4, 11, 2, "OutOfDate"), TCBLevel(3, 5, 0, "Revoked")},
	}
}

func module(more map[string]any) map[string]any {
	m := map[string]any{"mrsigner": hex.EncodeToString(make([]byte, 48)), "attributes": "0000000000000000", "attributesMask": "FFFFFFFFFFFFFFFF"}
	for k, v := range more {
		m[k] = v
	}
	return m
}

// SVNLevel is a level of a TDX module or of a quoting enclave.
func SVNLevel(svn int, status string) map[string]any {
	return map[string]any{"tcb": map[string]any{"isvsvn": svn}, "tcbDate": "2025-05-14T00:00:00Z", "tcbStatus": status}
}

// TCBLevel is a level of a platform: all SGX components and the PCE at one version each, and the
// TDX module's late microcode update.
func TCBLevel(sgx, pce, tdx int, status string) map[string]any {
	var s, x []any
	for n := range tee.Components {
		s = append(s, map[string]any{"svn": sgx, "category": "BIOS"})
		svn := 0
		if n == 2 {
			svn = tdx
		}
		x = append(x, map[string]any{"svn": svn})
	}
	return map[string]any{
		"tcb":     map[string]any{"sgxtcbcomponents": s, "pcesvn": pce, "tdxtcbcomponents": x},
		"tcbDate": "2025-05-14T00:00:00Z", "tcbStatus": status, "advisoryIDs": []any{"INTEL-SA-01036"},
	}
}

func qeIdentity() map[string]any {
	return map[string]any{
		"id": "TD_QE", "version": 2, "issueDate": "2026-05-20T00:00:00Z", "nextUpdate": "2026-06-20T00:00:00Z", "tcbEvaluationDataNumber": 19,
		"miscselect": "00000000", "miscselectMask": "FFFFFFFF",
		"attributes": "11000000000000000000000000000000", "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
		"mrsigner": "DC9E2A7C6F948F17474E34A7FC43ED030F7C1563F1BABDDF6340C82E0E54A8C5", "isvprodid": 2,
		"tcbLevels": []any{SVNLevel(4, "UpToDate"), SVNLevel(2, "OutOfDate")},
	}
}

// sign makes a signature, r and s of 32 bytes each.
func sign(t testing.TB, key *ecdsa.PrivateKey, message []byte) []byte {
	t.Helper()
	sum := sha256.Sum256(message)
	r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	return append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
}

// point is a public key, x and y.
func point(key *ecdsa.PrivateKey) []byte {
	b, err := key.PublicKey.Bytes()
	if err != nil {
		panic(err) // impossible: the key was just made
	}
	return b[1:]
}

func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err) // impossible: a constant
	}
	return b
}
