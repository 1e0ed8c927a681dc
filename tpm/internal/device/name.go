package device

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/keyagent/keyagent/internal/tcg"
)

// ObjectName computes the Name of an object: nameAlg ‖ H(TPMT_PUBLIC) (TPM 2.0 Part 1, 16). Area is
// the TPMT_PUBLIC.
func ObjectName(area []byte) ([]byte, error) {
	if len(area) < 4 {
		return nil, errors.New("a public area that is cut short")
	}
	alg := binary.BigEndian.Uint16(area[2:]) // after the type
	hash, err := tpm2.TPMAlgID(alg).Hash()
	if err != nil {
		return nil, fmt.Errorf("name algorithm %s is not one that is known here", tcg.Algorithm(alg)) // err has the number alone
	}
	h := hash.New()
	h.Write(area)
	return h.Sum(binary.BigEndian.AppendUint16(nil, alg)), nil
}

// readName asks the TPM for the Name of an object (TPM 2.0 Part 3, 12.4), and checks that it is the
// digest of the public area.
func readName(t transport.TPM, h tpm2.TPMHandle) ([]byte, error) {
	rsp, err := tpm2.ReadPublic{ObjectHandle: h}.Execute(t)
	if err != nil {
		return nil, err
	}
	name, err := ObjectName(rsp.OutPublic.Bytes())
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(name, rsp.Name.Buffer) {
		return nil, fmt.Errorf("the TPM gives a name for %s that is not its public area's", hexHandle(h))
	}
	return name, nil
}
