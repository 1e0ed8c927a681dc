package device

import (
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/keyagent/keyagent/internal/tcg"
)

// Properties reads up to count TPM properties, beginning with first.
func Properties(t transport.TPM, first tpm2.TPMPT, count uint32) (map[tpm2.TPMPT]uint32, error) {
	data, err := Capability(t, tpm2.TPMCapTPMProperties, uint32(first), count)
	if err != nil {
		return nil, err
	}
	list, err := data.TPMProperties()
	if err != nil {
		return nil, err
	}
	m := make(map[tpm2.TPMPT]uint32, len(list.TPMProperty))
	for _, p := range list.TPMProperty {
		m[p.Property] = p.Value
	}
	return m, nil
}

// Capability asks for one kind of capability. A success without content, which only a broken TPM
// answers, leaves go-tpm with a union of nothing that panics when it is opened: it is told apart
// here.
func Capability(t transport.TPM, kind tpm2.TPMCap, first, count uint32) (*tpm2.TPMUCapabilities, error) {
	rsp, err := tpm2.GetCapability{Capability: kind, Property: first, PropertyCount: count}.Execute(t)
	if err != nil {
		return nil, err
	}
	if rsp.CapabilityData == (tpm2.TPMSCapabilityData{}) || rsp.CapabilityData.Capability != kind {
		return nil, fmt.Errorf("the answer to TPM2_GetCapability does not hold capability %s", tcg.Capability(uint32(kind)))
	}
	return &rsp.CapabilityData.Data, nil
}
