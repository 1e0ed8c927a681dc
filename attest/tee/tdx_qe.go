package tee

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
)

// sgxDebug is the bit of an enclave's attributes with which the host can look into it.
const sgxDebug = 1 << 1

// QEReport is the SGX report of the enclave that holds the attestation key (Intel SDM volume 3D,
// "REPORT").
type QEReport struct {
	MiscSelect []byte // 4
	Attributes []byte // 16
	MRSigner   []byte // 32
	ProductID  uint16
	SVN        uint16
	ReportData []byte // 64

	reserved [][]byte
}

func parseQEReport(b []byte) QEReport {
	le := binary.LittleEndian
	return QEReport{
		MiscSelect: b[16:20], Attributes: b[48:64], MRSigner: b[128:160],
		ProductID: le.Uint16(b[256:]), SVN: le.Uint16(b[258:]), ReportData: b[320:384],
		reserved: [][]byte{b[20:48], b[96:128], b[160:256], b[260:320]},
	}
}

// QEIdentity says which quoting enclave is Intel's, and which versions of it are in order.
type QEIdentity struct {
	statement
	MiscSelect     []byte // 4
	MiscMask       []byte // 4
	Attributes     []byte // 16
	AttributesMask []byte // 16
	MRSigner       []byte // 32
	ProductID      uint16
	levels         []svnLevel
}

// DefaultQEIdentity is Intel's TD quoting enclave, in any version and not in debug mode, for quotes
// that come without Intel's own word on it. Without it any enclave that a platform's owner may run
// with the provisioning attribute could have an attestation key certified.
func DefaultQEIdentity() *QEIdentity {
	signer, err := hex.DecodeString("dc9e2a7c6f948f17474e34a7fc43ed030f7c1563f1babddf6340c82e0e54a8c5")
	if err != nil || len(signer) != sha256.Size {
		panic("tee: built-in signer of Intel's quoting enclave") // impossible: a test calls this
	}
	return &QEIdentity{
		MiscSelect: make([]byte, 4), MiscMask: bytes.Repeat([]byte{0xff}, 4),
		// Of the attributes: initialised, provisioning key, nothing else but 64-bit mode.
		Attributes:     append([]byte{0x11}, make([]byte, 15)...),
		AttributesMask: append([]byte{0xfb, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, make([]byte, 8)...),
		MRSigner:       signer, ProductID: 2,
	}
}

// CheckQE checks that the enclave is the one that the identity describes. Whether its version is in
// order is a question of the TCB, see [TCBInfo.Evaluate].
func (q *TDQuote) CheckQE(id *QEIdentity) error {
	qe := &q.QE
	for _, reserved := range qe.reserved {
		if !allZero(reserved) {
			return errors.New("report of the quoting enclave: reserved bytes are not zero")
		}
	}
	switch {
	case !bytes.Equal(qe.MRSigner, id.MRSigner):
		return fmt.Errorf("quoting enclave: signed by %x, which is not Intel's signer of quoting enclaves", qe.MRSigner)
	case qe.ProductID != id.ProductID:
		return fmt.Errorf("quoting enclave: product %d, want %d", qe.ProductID, id.ProductID)
	case qe.Attributes[0]&sgxDebug != 0:
		return errors.New("quoting enclave: it runs in debug mode")
	case !maskedEqual(qe.Attributes, id.Attributes, id.AttributesMask):
		return fmt.Errorf("quoting enclave: attributes %x, want %x where the mask is %x", qe.Attributes, id.Attributes, id.AttributesMask)
	case !maskedEqual(qe.MiscSelect, id.MiscSelect, id.MiscMask):
		return fmt.Errorf("quoting enclave: MISCSELECT %x, want %x where the mask is %x", qe.MiscSelect, id.MiscSelect, id.MiscMask)
	}
	return nil
}

// maskedEqual compares have and want where mask has ones. All three are of one length.
func maskedEqual(have, want, mask []byte) bool {
	for i := range mask {
		if have[i]&mask[i] != want[i]&mask[i] {
			return false
		}
	}
	return true
}
