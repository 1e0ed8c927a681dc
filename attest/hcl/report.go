package hcl

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
)

// MaxSize is the largest report accepted, in bytes. NV indices of 2048, 2600 and 2900 bytes have
// been seen.
const MaxSize = 4096

// Offsets and sizes of the wrapper, in bytes; its integers are little-endian.
const (
	headerSize      = 32
	hardwareSize    = 1184
	tdReportSize    = 1024
	dataOffset      = headerSize + hardwareSize // sizes, version and types, see claimsOf
	dataHeaderSize  = 20
	claimsOffset    = dataOffset + dataHeaderSize
	reportDataSize  = 64
	snpReportDataAt = 0x50
	tdReportDataAt  = 128
	tdReportTag     = 0x81 // first byte of a TDREPORT; that of an SNP report is its version
)

// ReportType says which hardware report the wrapper holds.
type ReportType uint32

// The report types that a Confidential VM has. (1 is VBS, 3 is a trusted VM without hardware
// report, 5 is Arm CCA.)
const (
	TypeSNP ReportType = 2
	TypeTDX ReportType = 4
)

func (t ReportType) String() string {
	switch t {
	case TypeSNP:
		return "SEV-SNP"
	case TypeTDX:
		return "TDX"
	}
	return fmt.Sprintf("type %d", uint32(t))
}

// HashSHA256 is the one hash type that has been seen in a report, and the one that is supported.
const HashSHA256 = 1

// Report is a parsed wrapper. Nothing in it is proven yet.
type Report struct {
	Version  uint32 // of the header, 1 or 2
	Type     ReportType
	HashType uint32 // 1 SHA-256, 2 SHA-384, 3 SHA-512, by the header; the hash in use may differ
	Hardware []byte // the SNP report (1184 bytes) or TDREPORT (1024 bytes)
	Claims   []byte // the runtime claims, exactly as hashed

	// ReportData are the 64 bytes that the hardware vouches for, of a report that is not one of the
	// wrapper's two. Nil: they are in Hardware, where its type has them.
	ReportData []byte
}

// Parse parses a wrapper. b is the content of the NV index, padding included; it is not retained.
func Parse(b []byte) (*Report, error) {
	if len(b) < claimsOffset || len(b) > MaxSize {
		return nil, fmt.Errorf("HCL report of %d bytes, want %d to %d", len(b), claimsOffset, MaxSize)
	}
	if err := checkHeader(b[:headerSize]); err != nil {
		return nil, err
	}
	claims, err := claimsOf(b)
	if err != nil {
		return nil, err
	}
	r := &Report{
		Version:  binary.LittleEndian.Uint32(b[4:]),
		Type:     ReportType(binary.LittleEndian.Uint32(b[dataOffset+8:])),
		HashType: binary.LittleEndian.Uint32(b[dataOffset+12:]),
		Claims:   append([]byte(nil), claims...),
	}
	if r.HashType < 1 || r.HashType > 3 {
		return nil, fmt.Errorf("unknown hash type %d", r.HashType)
	}
	r.Hardware, err = hardwareOf(b[headerSize:dataOffset], r.Type)
	return r, err
}

func checkHeader(h []byte) error {
	u32 := binary.LittleEndian.Uint32
	if string(h[:4]) != "HCLA" {
		return errors.New("no HCL report: signature is not HCLA")
	}
	if v := u32(h[4:]); v != 1 && v != 2 {
		return fmt.Errorf("HCL report version %d is not supported", v)
	}
	if v := u32(h[12:]); v != 2 {
		return fmt.Errorf("request type %d, want 2 (AK certificate request)", v)
	}
	if v := u32(h[16:]); v != 0 {
		return fmt.Errorf("paravisor reports status %d", v)
	}
	if !zero(h[20:headerSize]) {
		return errors.New("reserved header bytes are not zero")
	}
	return nil
}

// claimsOf finds the claims. All arithmetic is in 64 bits: the lengths come from the outside and
// may be 0xFFFFFFFF.
func claimsOf(b []byte) ([]byte, error) {
	u32 := func(at int) uint64 { return uint64(binary.LittleEndian.Uint32(b[at:])) }
	dataSize, claimsSize := u32(dataOffset), u32(dataOffset+16)
	if v := u32(dataOffset + 4); v != 1 {
		return nil, fmt.Errorf("request data version %d is not supported", v)
	}
	if dataSize != dataHeaderSize+claimsSize {
		return nil, fmt.Errorf("data size %d does not fit claims of %d bytes", dataSize, claimsSize)
	}
	if v := u32(8); v != dataOffset+dataSize {
		return nil, fmt.Errorf("report size %d, want %d", v, dataOffset+dataSize)
	}
	if claimsOffset+claimsSize > uint64(len(b)) {
		return nil, fmt.Errorf("claims of %d bytes do not fit into %d", claimsSize, len(b))
	}
	end := claimsOffset + int(claimsSize) //nolint:gosec // not more than len(b), see above
	if !zero(b[end:]) {
		return nil, errors.New("padding after the claims is not zero")
	}
	return b[claimsOffset:end], nil
}

// hardwareOf checks that the hardware report is of the kind that the header says, so that no report
// is verified by the rules of another kind.
func hardwareOf(b []byte, t ReportType) ([]byte, error) {
	switch t {
	case TypeSNP:
		if b[0] == tdReportTag {
			return nil, errors.New("header says SEV-SNP, but the report is a TDREPORT")
		}
		return append([]byte(nil), b...), nil
	case TypeTDX:
		if b[0] != tdReportTag {
			return nil, errors.New("header says TDX, but the report is no TDREPORT")
		}
		if !zero(b[tdReportSize:]) {
			return nil, errors.New("bytes after the TDREPORT are not zero")
		}
		return append([]byte(nil), b[:tdReportSize]...), nil
	}
	return nil, fmt.Errorf("report of %v is not supported", t)
}

// CheckBinding checks that the hardware report vouches for the claims: report_data is their SHA-256
// and 32 zero bytes.
func (r *Report) CheckBinding() error {
	if r.HashType != HashSHA256 {
		return fmt.Errorf("hash type %d is not supported, want %d (SHA-256)", r.HashType, HashSHA256)
	}
	if r.ReportData != nil {
		return CheckReportData(r.ReportData, r.Claims)
	}
	at := snpReportDataAt
	if r.Type == TypeTDX {
		at = tdReportDataAt
	}
	if len(r.Hardware) < at+reportDataSize {
		return fmt.Errorf("hardware report of %d bytes has no report_data", len(r.Hardware))
	}
	return CheckReportData(r.Hardware[at:at+reportDataSize], r.Claims)
}

// CheckReportData checks that the 64 bytes of reportData are SHA-256(claims) and 32 zero bytes.
func CheckReportData(reportData, claims []byte) error {
	var want [reportDataSize]byte
	sum := sha256.Sum256(claims)
	copy(want[:], sum[:])
	if subtle.ConstantTimeCompare(reportData, want[:]) != 1 {
		return errors.New("report_data of the hardware report is not the SHA-256 of the runtime claims")
	}
	return nil
}

func zero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
