package pki

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha512"
	"encoding/binary"
	"fmt"
	"math/big"
)

// Sizes in the SNP report, in bytes (AMD 56860, "ATTESTATION_REPORT Structure").
const (
	snpReportSize    = 1184
	signedSize       = 0x2A0 // what the signature covers
	signatureIntSize = 72    // each of R and S, little-endian
	signatureIntUsed = 48    // of which a P-384 number fills so many
)

// Launch is what the processor measured when the guest started.
type Launch struct {
	IDKeyDigest [48]byte // SHA-384 of the key that signed the ID block
	Measurement [48]byte // launch digest of the firmware
	GuestSVN    uint32
	Policy      uint64 // guest policy; 0 means 0x3001f: ABI 0.31, SMT allowed, no debugging, no migration
	VMPL        uint32
}

// Report returns a signed attestation report, version 3, that carries reportData.
func (c *Processor) Report(launch Launch, reportData [64]byte) ([]byte, error) {
	b := make([]byte, snpReportSize)
	le := binary.LittleEndian
	if launch.Policy == 0 {
		launch.Policy = 0x3001f
	}
	le.PutUint32(b[0x000:], 3)
	le.PutUint32(b[0x004:], launch.GuestSVN)
	le.PutUint64(b[0x008:], launch.Policy)
	copy(b[0x010:], []byte{0x02, 0x21, 0x20}) // family_id, image_id: as Azure's firmware had them in 2025
	b[0x020] = 0x02
	le.PutUint32(b[0x030:], launch.VMPL)
	le.PutUint32(b[0x034:], 1)    // signature_algo: ECDSA P-384 with SHA-384
	le.PutUint64(b[0x040:], 0x25) // platform_info: SMT, ECC, alias check complete
	copy(b[0x050:], reportData[:])
	copy(b[0x090:], launch.Measurement[:])
	copy(b[0x0E0:], launch.IDKeyDigest[:])
	if _, err := rand.Read(b[0x140:0x160]); err != nil { // report_id
		return nil, fmt.Errorf("report id: %w", err)
	}
	for i := 0x160; i < 0x180; i++ { // report_id_ma: no migration agent
		b[i] = 0xff
	}
	c.putPlatform(b)
	return b, c.sign(b)
}

// putPlatform writes the fields that are the same in every report of this chip: its firmware
// levels, model and id.
func (c *Processor) putPlatform(b []byte) {
	for _, at := range []int{0x038, 0x180, 0x1E0, 0x1F0} { // current, reported, committed and launch TCB
		binary.LittleEndian.PutUint64(b[at:], TCB())
	}
	copy(b[0x188:], []byte{c.Product.family, c.Product.model, c.Product.stepping})
	copy(b[0x1A0:], c.ChipID[:])
	copy(b[0x1E8:], []byte{0x1d, 0x37, 0x01, 0x00, 0x1d, 0x37, 0x01}) // current and committed firmware: build, minor, major
}

// sign fills in the signature of b.
func (c *Processor) sign(b []byte) error {
	digest := sha512.Sum384(b[:signedSize])
	r, s, err := ecdsa.Sign(rand.Reader, c.vcek, digest[:])
	if err != nil {
		return fmt.Errorf("signing the SNP report: %w", err)
	}
	putLittleEndian(b[signedSize:], r)
	putLittleEndian(b[signedSize+signatureIntSize:], s)
	return nil
}

func putLittleEndian(b []byte, n *big.Int) {
	var big [signatureIntUsed]byte
	n.FillBytes(big[:])
	for i, v := range big {
		b[len(big)-1-i] = v
	}
}
