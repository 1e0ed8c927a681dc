package tee

import (
	"bytes"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
)

// TDReportSize is the size of a TDREPORT in bytes.
const TDReportSize = 1024

// Sizes of the body of a quote, in bytes.
const (
	bodySizeTD10 = 584
	bodySizeTD15 = 648
)

// Bits of TD attributes and XFAM (Intel TDX Module ABI, "ATTRIBUTES", "XFAM").
const (
	TDAttributesUnderDebug  = 0xff    // TUD: with any of these the host can look into the guest
	TDAttributeSEPTDisabled = 1 << 28 // SEPT_VE_DISABLE: the host cannot cause #VE in the guest
)

// TD is what TDX says about a guest and the module that guards it, in a TDREPORT and in a quote.
// Byte strings are as they came; integers are little-endian.
type TD struct {
	TEETCBSVN      []byte // 16: security versions of the module at the guest's launch
	MRSEAM         []byte // 48: measurement of the TDX module
	MRSignerSEAM   []byte // 48: zero for Intel's modules
	SEAMAttributes uint64
	Attributes     uint64
	XFAM           uint64
	MRTD           []byte   // 48: measurement of the guest's first memory, on Azure the paravisor
	MRConfigID     []byte   // 48
	MROwner        []byte   // 48
	MROwnerConfig  []byte   // 48
	RTMRs          [][]byte // 4 of 48
	ReportData     []byte   // 64 bytes chosen by the guest

	// TEETCBSVN2 and MRServiceTD are of the body "TD 1.5": security versions of the module that
	// runs now, 16 bytes, and the measurement of service TDs, 48. Nil in a body "TD 1.0".
	TEETCBSVN2  []byte
	MRServiceTD []byte
}

func parseBody(b []byte) TD {
	le := binary.LittleEndian
	td := TD{
		TEETCBSVN: b[:16], MRSEAM: b[16:64], MRSignerSEAM: b[64:112], SEAMAttributes: le.Uint64(b[112:]),
		Attributes: le.Uint64(b[120:]), XFAM: le.Uint64(b[128:]),
		MRTD: b[136:184], MRConfigID: b[184:232], MROwner: b[232:280], MROwnerConfig: b[280:328],
		RTMRs: registers(b[328:520]), ReportData: b[520:584],
	}
	if len(b) == bodySizeTD15 {
		td.TEETCBSVN2, td.MRServiceTD = b[584:600], b[600:648]
	}
	return td
}

func registers(b []byte) [][]byte {
	const size = sha512.Size384
	return [][]byte{b[:size], b[size : 2*size], b[2*size : 3*size], b[3*size:]}
}

// TDReport is a parsed TDREPORT. Only the CPU that made it can check it (its MAC); a remote party
// believes no more of it than a quote repeats.
type TDReport struct {
	TD
	raw []byte
}

// ParseTDReport parses exactly one TDREPORT. b is not retained.
func ParseTDReport(b []byte) (*TDReport, error) {
	if len(b) != TDReportSize {
		return nil, fmt.Errorf("TDREPORT of %d bytes, want %d", len(b), TDReportSize)
	}
	b = bytes.Clone(b)
	// Type TDX, subtype 0, version 0 or 1 (TDX module 1.0 or 1.5), reserved 0.
	if b[0] != quoteTEETDX || b[1] != 0 || b[2] > 1 || !allZero(b[3:16]) {
		return nil, fmt.Errorf("TDREPORT: type %x is not supported", b[:16])
	}
	for _, reserved := range [][]byte{b[192:224], b[400:512], b[960:]} {
		if !allZero(reserved) {
			return nil, errors.New("TDREPORT: reserved bytes are not zero")
		}
	}
	le := binary.LittleEndian
	seam, guest := b[256:495], b[512:]
	td := TD{
		TEETCBSVN: seam[8:24], MRSEAM: seam[24:72], MRSignerSEAM: seam[72:120], SEAMAttributes: le.Uint64(seam[120:]),
		TEETCBSVN2: seam[128:144],
		Attributes: le.Uint64(guest), XFAM: le.Uint64(guest[8:]),
		MRTD: guest[16:64], MRConfigID: guest[64:112], MROwner: guest[112:160], MROwnerConfig: guest[160:208],
		RTMRs: registers(guest[208:400]), MRServiceTD: guest[400:448],
		ReportData: b[128:192],
	}
	return &TDReport{TD: td, raw: b}, nil
}

// Matches checks that the report is whole and says what the quote says: the hashes over its two
// parts are right, and every field that both have is the same.
func (r *TDReport) Matches(q *TDQuote) error {
	for _, part := range []struct {
		name        string
		hash, bytes []byte
	}{
		{"TEE_TCB_INFO", r.raw[32:80], r.raw[256:495]},
		{"TDINFO", r.raw[80:128], r.raw[512:]},
	} {
		if sum := sha512.Sum384(part.bytes); !bytes.Equal(sum[:], part.hash) {
			return fmt.Errorf("TDREPORT: its hash of %s is wrong", part.name)
		}
	}
	return r.equal(&q.TD)
}

// equal compares the fields of a report with those of a quote.
func (t *TD) equal(quoted *TD) error {
	theirs := quoted.fields()
	for i, f := range t.fields() {
		if theirs[i].value != nil && !bytes.Equal(f.value, theirs[i].value) {
			return fmt.Errorf("TDREPORT and TD quote differ in %s", f.name)
		}
	}
	for i := range t.RTMRs {
		if !bytes.Equal(t.RTMRs[i], quoted.RTMRs[i]) {
			return fmt.Errorf("TDREPORT and TD quote differ in rtmr%d", i)
		}
	}
	if t.SEAMAttributes != quoted.SEAMAttributes || t.Attributes != quoted.Attributes || t.XFAM != quoted.XFAM {
		return errors.New("TDREPORT and TD quote differ in attributes or xfam")
	}
	return nil
}

type tdField struct {
	name  string
	value []byte
}

func (t *TD) fields() []tdField {
	return []tdField{
		{"report_data", t.ReportData},
		{"tee_tcb_svn", t.TEETCBSVN},
		{"mrseam", t.MRSEAM},
		{"mrsignerseam", t.MRSignerSEAM},
		{"mrtd", t.MRTD},
		{"mrconfigid", t.MRConfigID},
		{"mrowner", t.MROwner},
		{"mrownerconfig", t.MROwnerConfig},
		{"tee_tcb_svn2", t.TEETCBSVN2},
		{"servtd_hash", t.MRServiceTD},
	}
}
