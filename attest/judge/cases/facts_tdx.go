package cases

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/attest/tee"
)

func tdxFacts(p *parts, r *attest.Result) (group, error) {
	raw, q := p.evidence.TDQuote, r.TDX
	if raw == nil {
		return nil, errNoPart
	}
	if q == nil {
		var err error
		if q, err = tee.ParseTDQuote(raw); err != nil {
			return nil, err
		}
	}
	g := group{
		"version": q.Version, "size": len(raw), "padding_after_signature_data": padding(raw),
		"mrseam": q.MRSEAM, "mrtd": q.MRTD, "report_data": q.ReportData,
		"mrsignerseam": q.MRSignerSEAM, "mrconfigid": q.MRConfigID, "mrowner": q.MROwner, "mrownerconfig": q.MROwnerConfig,
		"td_attributes": littleEndian(q.Attributes), "xfam": littleEndian(q.XFAM), "seam_attributes": littleEndian(q.SEAMAttributes),
		"tee_tcb_svn": q.TEETCBSVN, "rtmrs_all_zero": rtmrsZero(q),
	}
	for i, rtmr := range q.RTMRs {
		g[fmt.Sprintf("rtmr%d", i)] = rtmr
	}
	if q.Version == 5 {
		g["body_type"] = binary.LittleEndian.Uint16(raw[48:])
	}
	if q.TEETCBSVN2 != nil {
		g["tee_tcb_svn_2"], g["tee_tcb_svn2"], g["mrservicetd"] = q.TEETCBSVN2, q.TEETCBSVN2, q.MRServiceTD
	}
	addPCK(g, q, r)
	return g, nil
}

// addPCK adds what Intel's certificate for the platform says, and what its statements make of it.
func addPCK(g group, q *tee.TDQuote, r *attest.Result) {
	chain, err := tee.ParseChain(q.PCKChain)
	if err == nil && len(chain) > 0 {
		g["pck_not_before"], g["pck_not_after"] = chain[0].NotBefore, chain[0].NotAfter
	}
	if r.PCK != nil {
		g["fmspc"], g["pceid"], g["pce_svn"] = r.PCK.FMSPC[:], r.PCK.PCEID[:], r.PCK.PCESVN
		g["pck_components"] = r.PCK.Components[:]
	}
	if r.TCB != nil {
		g["tcb_status"] = string(r.TCB.Status)
	}
}

func littleEndian(v uint64) []byte { return binary.LittleEndian.AppendUint64(nil, v) }

// padding counts the zeros after the signature data.
func padding(raw []byte) int {
	at := len(raw)
	for at > 0 && raw[at-1] == 0 {
		at--
	}
	// The certification data may end in a NUL of its own, which is counted in its size.
	if end, ok := signatureDataEnd(raw); ok {
		at = max(at, end)
	}
	return len(raw) - at
}

// signatureDataEnd reads where the signature data end: their length stands behind the body.
func signatureDataEnd(raw []byte) (int, bool) {
	const header, descriptor, bodyV4 = 48, 6, 584
	at := header + bodyV4
	if len(raw) >= header+descriptor && binary.LittleEndian.Uint16(raw) == 5 {
		at = header + descriptor + int(min(binary.LittleEndian.Uint32(raw[50:]), 1<<16))
	}
	if len(raw) < at+4 {
		return 0, false
	}
	end := uint64(at) + 4 + uint64(binary.LittleEndian.Uint32(raw[at:]))
	return int(min(end, uint64(len(raw)))), true //nolint:gosec // not more than len
}

func rtmrsZero(q *tee.TDQuote) bool {
	for _, rtmr := range q.RTMRs {
		if slices.ContainsFunc(rtmr, func(b byte) bool { return b != 0 }) {
			return false
		}
	}
	return true
}
