package tpm

import (
	"context"
	"crypto"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/keyagent/keyagent/internal/tcg"
)

// Properties are what a TPM says about itself. None of it is proven.
type Properties struct {
	Manufacturer    string // four letters of the TCG vendor ID registry, such as "MSFT"
	VendorString    string
	FirmwareVersion string // as TPMS_ATTEST.firmwareVersion has it, such as "0x2020031200120003"
	Hashes          []crypto.Hash
	RSAPSS          bool // RSASSA-PSS is implemented, with whatever salt
}

// Properties asks the TPM what it is (TPM 2.0 Part 3, 30.2).
func (t *TPM) Properties(ctx context.Context) (Properties, error) {
	var p Properties
	err := t.again(ctx, func(turn *turn) error {
		fixed, err := properties(turn, tpm2.TPMPTFamilyIndicator, 64)
		if err != nil {
			return err
		}
		algs, err := algorithms(turn)
		if err != nil {
			return err
		}
		p = describe(fixed, algs)
		return nil
	})
	if err != nil {
		return Properties{}, fmt.Errorf("reading the TPM's properties: %w", err)
	}
	return p, nil
}

func describe(fixed map[tpm2.TPMPT]uint32, algs map[tpm2.TPMAlgID]bool) Properties {
	p := Properties{
		Manufacturer: letters(fixed[tpm2.TPMPTManufacturer]),
		VendorString: letters(fixed[tpm2.TPMPTVendorString1], fixed[tpm2.TPMPTVendorString2],
			fixed[tpm2.TPMPTVendorString3], fixed[tpm2.TPMPTVendorString4]),
		FirmwareVersion: fmt.Sprintf("0x%08x%08x", fixed[tpm2.TPMPTFirmwareVersion1], fixed[tpm2.TPMPTFirmwareVersion2]),
		RSAPSS:          algs[tpm2.TPMAlgRSAPSS],
	}
	for _, alg := range []tpm2.TPMAlgID{tpm2.TPMAlgSHA256, tpm2.TPMAlgSHA384, tpm2.TPMAlgSHA512} {
		if h, err := alg.Hash(); err == nil && algs[alg] {
			p.Hashes = append(p.Hashes, h)
		}
	}
	return p
}

// letters reads properties that hold four characters each (TPM 2.0 Part 2, 6.13). Anything unprintable is dropped: it would
// end in logs.
func letters(words ...uint32) string {
	var b []byte
	for _, w := range words {
		b = binary.BigEndian.AppendUint32(b, w)
	}
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, string(b)))
}

// properties reads up to count TPM properties, beginning with first.
func properties(t transport.TPM, first tpm2.TPMPT, count uint32) (map[tpm2.TPMPT]uint32, error) {
	data, err := capability(t, tpm2.TPMCapTPMProperties, uint32(first), count)
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

// algorithms reads which algorithms the TPM implements.
func algorithms(t transport.TPM) (map[tpm2.TPMAlgID]bool, error) {
	data, err := capability(t, tpm2.TPMCapAlgs, 0, 128)
	if err != nil {
		return nil, err
	}
	list, err := data.Algorithms()
	if err != nil {
		return nil, err
	}
	m := make(map[tpm2.TPMAlgID]bool, len(list.AlgProperties))
	for _, p := range list.AlgProperties {
		m[p.Alg] = true
	}
	return m, nil
}

// capability asks for one kind of capability. A success without content, which only a broken TPM answers, leaves go-tpm with
// a union of nothing that panics when it is opened: it is told apart here.
func capability(t transport.TPM, kind tpm2.TPMCap, first, count uint32) (*tpm2.TPMUCapabilities, error) {
	rsp, err := tpm2.GetCapability{Capability: kind, Property: first, PropertyCount: count}.Execute(t)
	if err != nil {
		return nil, err
	}
	if rsp.CapabilityData == (tpm2.TPMSCapabilityData{}) || rsp.CapabilityData.Capability != kind {
		return nil, fmt.Errorf("the answer to TPM2_GetCapability does not hold capability %s", tcg.Capability(uint32(kind)))
	}
	return &rsp.CapabilityData.Data, nil
}

// family2 is TPM_PT_FAMILY_INDICATOR of a TPM 2.0: "2.0" and a zero byte.
const family2 = 0x322e3000

// greet checks that what answers on a fresh connection is a TPM 2.0 that works. One that was powered on and not started,
// such as a bare emulator, is started; the kernel does that for its devices.
func (s *scheduler) greet(ctx context.Context) error {
	t := &greeting{ctx: ctx, scheduler: s}
	fixed, err := properties(t, tpm2.TPMPTFamilyIndicator, 1)
	if errors.Is(err, tpm2.TPMRCInitialize) {
		if _, err = (tpm2.Startup{StartupType: tpm2.TPMSUClear}).Execute(t); err == nil {
			fixed, err = properties(t, tpm2.TPMPTFamilyIndicator, 1)
		}
	}
	switch {
	case errors.Is(err, tpm2.TPMRCFailure):
		return fmt.Errorf("it is in failure mode and needs a power cycle: %w", err)
	case err != nil:
		return fmt.Errorf("asking whether it is a TPM 2.0: %w", err)
	case fixed[tpm2.TPMPTFamilyIndicator] != family2:
		return errors.New("it is not a TPM 2.0")
	}
	return nil
}

// greeting is the transport for asking a TPM on a connection that is not used by a turn yet.
type greeting struct {
	ctx       context.Context
	scheduler *scheduler
}

func (g *greeting) Send(input []byte) ([]byte, error) {
	return g.scheduler.patiently(g.ctx, g.scheduler.timeout, func() ([]byte, error) { return g.scheduler.roundTrip(g.ctx, input) })
}
