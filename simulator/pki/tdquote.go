package pki

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"encoding/hex"
	"fmt"
)

// Sizes and offsets, in bytes (Intel TDX Module ABI, "TDREPORT"; Intel TDX DCAP Quoting Library
// API, "TD Quote Format").
const (
	tdReportSize  = 1024
	tdTEETCB      = 256 // TEE_TCB_INFO, 239 bytes
	tdInfo        = 512 // TDINFO, 512 bytes
	quotePadding  = 70  // zeros that Azure's hosts add to quotes of version 4
	qeReportBytes = 384
)

// Ids of Intel's quoting enclave.
const (
	qeVendor = "939a7233f79c4ca9940a0db3957f0607"
	qeSigner = "dc9e2a7c6f948f17474e34a7fc43ed030f7c1563f1babddf6340c82e0e54a8c5"
)

// TDReport returns a TDREPORT of a guest that was launched with this measurement. Its MAC is
// random: only the processor could check it.
func (p *TDXPlatform) TDReport(mrtd [48]byte, reportData [64]byte) ([]byte, error) {
	b := make([]byte, tdReportSize)
	le := binary.LittleEndian
	b[0] = 0x81
	copy(b[128:], reportData[:])
	tcb, guest := b[tdTEETCB:], b[tdInfo:]
	copy(tcb, []byte{0xff, 0x01, 0x03}) // which of the fields are valid
	copy(tcb[8:], []byte{moduleMinor, moduleMajor, moduleUpdate})
	module := sha512.Sum384([]byte("the simulated TDX module"))
	copy(tcb[24:], module[:])
	copy(tcb[128:], tcb[8:24])
	le.PutUint64(guest, 1<<28) // SEPT_VE_DISABLE
	le.PutUint64(guest[8:], 0x618e7)
	copy(guest[16:], mrtd[:])
	for at, part := range map[int][]byte{32: tcb[:239], 80: guest} {
		sum := sha512.Sum384(part)
		copy(b[at:], sum[:])
	}
	if _, err := rand.Read(b[224:256]); err != nil {
		return nil, fmt.Errorf("MAC of the TDREPORT: %w", err)
	}
	return b, nil
}

// Quote exchanges a TDREPORT for a quote of version 4.
func (p *TDXPlatform) Quote(report []byte) ([]byte, error) {
	if len(report) != tdReportSize || report[0] != 0x81 {
		return nil, fmt.Errorf("a TDREPORT of %d bytes, want %d", len(report), tdReportSize)
	}
	le := binary.LittleEndian
	q := make([]byte, 48)
	q[0], q[2], q[4] = 4, 2, 0x81
	vendor, err := hex.DecodeString(qeVendor)
	if err != nil {
		return nil, err
	}
	copy(q[12:], vendor)
	tcb, guest := report[tdTEETCB:], report[tdInfo:]
	q = append(q, tcb[8:128]...)  // versions, measurement, signer and attributes of the module
	q = append(q, guest[:400]...) // attributes to RTMRs
	q = append(q, report[128:192]...)
	signature, err := signP256(p.attestationKey, q)
	if err != nil {
		return nil, err
	}
	key, err := p.attestationPoint()
	if err != nil {
		return nil, err
	}
	certification, err := p.certification(key)
	if err != nil {
		return nil, err
	}
	data := append(append(signature, key...), certification...)
	q = append(le.AppendUint32(q, uint32(len(data))), data...)
	return append(q, make([]byte, quotePadding)...), nil
}

// certification is what vouches for the attestation key: the quoting enclave's report, signed by
// the platform's PCK key, and the chain of that key.
func (p *TDXPlatform) certification(key []byte) ([]byte, error) {
	le := binary.LittleEndian
	auth := make([]byte, 32)
	for i := range auth {
		auth[i] = byte(i)
	}
	qe := make([]byte, qeReportBytes)
	copy(qe[48:], []byte{0x15, 0, 0, 0, 0, 0, 0, 0, 0xe7})
	signer, err := hex.DecodeString(qeSigner)
	if err != nil {
		return nil, err
	}
	copy(qe[128:], signer)
	le.PutUint16(qe[256:], 2) // product: the TD quoting enclave
	le.PutUint16(qe[258:], qeVersion)
	sum := sha256.Sum256(append(append([]byte{}, key...), auth...))
	copy(qe[320:], sum[:])
	signature, err := signP256(p.pckKey, qe)
	if err != nil {
		return nil, err
	}
	b := append(append([]byte{}, qe...), signature...)
	b = append(le.AppendUint16(b, uint16(len(auth))), auth...)
	chain := append(EncodePEM(p.pck, p.platformCA.certificate, p.Root), 0)
	return certificationData(6, append(b, certificationData(5, chain)...)), nil
}

// certificationData is a type and a size before the data.
func certificationData(kind uint16, data []byte) []byte {
	le := binary.LittleEndian
	return append(le.AppendUint32(le.AppendUint16(nil, kind), uint32(len(data))), data...)
}

// attestationPoint is the public attestation key, x and y.
func (p *TDXPlatform) attestationPoint() ([]byte, error) {
	b, err := p.attestationKey.PublicKey.Bytes()
	if err != nil {
		return nil, err
	}
	return b[1:], nil // without the mark of an uncompressed point
}

// signP256 returns r and s of 32 bytes each.
func signP256(key *ecdsa.PrivateKey, message []byte) ([]byte, error) {
	sum := sha256.Sum256(message)
	r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
	if err != nil {
		return nil, err
	}
	return append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...), nil
}
