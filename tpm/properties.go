package tpm

import (
	"context"
	"crypto"
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/keyagent/keyagent/tpm/internal/device"
)

// Properties are what a TPM says about itself. None of it is proven.
type Properties struct {
	Identity
	Hashes []crypto.Hash
	RSAPSS bool // RSASSA-PSS is implemented, with whatever salt
}

// Identity is what a TPM says of its maker and firmware. None of it is proven.
type Identity struct {
	Manufacturer    string // four letters of the TCG vendor ID registry, such as "MSFT"
	VendorString    string
	FirmwareVersion string // as TPMS_ATTEST.firmwareVersion has it, such as "0x2020031200120003"
}

// Identity says whose the TPM is. It sends a command only where there is no connection yet.
func (t *TPM) Identity(ctx context.Context) (Identity, error) {
	var i Identity
	err := t.again(ctx, func(turn *turn) error {
		fixed, err := turn.Fixed()
		i = identify(fixed)
		return err
	})
	if err != nil {
		return Identity{}, fmt.Errorf("connecting to the TPM: %w", err)
	}
	return i, nil
}

// Answers sends a command, the least that there is. Its error says why the TPM does not answer.
func (t *TPM) Answers(ctx context.Context) error {
	err := t.again(ctx, func(turn *turn) error {
		_, err := device.Properties(turn, tpm2.TPMPTFamilyIndicator, 1)
		return err
	})
	if err != nil {
		return fmt.Errorf("asking whether the TPM answers: %w", err)
	}
	return nil
}

func identify(fixed map[tpm2.TPMPT]uint32) Identity {
	return Identity{
		Manufacturer: letters(fixed[tpm2.TPMPTManufacturer]),
		VendorString: letters(fixed[tpm2.TPMPTVendorString1], fixed[tpm2.TPMPTVendorString2],
			fixed[tpm2.TPMPTVendorString3], fixed[tpm2.TPMPTVendorString4]),
		FirmwareVersion: fmt.Sprintf("0x%08x%08x", fixed[tpm2.TPMPTFirmwareVersion1], fixed[tpm2.TPMPTFirmwareVersion2]),
	}
}

// Properties says what the TPM is (TPM 2.0 Part 3, 30.2). It is asked once for each connection;
// nothing of it changes before a TPM restarts.
func (t *TPM) Properties(ctx context.Context) (Properties, error) {
	var p Properties
	err := t.again(ctx, func(turn *turn) error {
		fixed, err := turn.Fixed()
		if err != nil {
			return err
		}
		algs, err := turn.algorithms()
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
	p := Properties{Identity: identify(fixed), RSAPSS: algs[tpm2.TPMAlgRSAPSS]}
	for _, alg := range []tpm2.TPMAlgID{tpm2.TPMAlgSHA256, tpm2.TPMAlgSHA384, tpm2.TPMAlgSHA512} {
		if h, err := alg.Hash(); err == nil && algs[alg] {
			p.Hashes = append(p.Hashes, h)
		}
	}
	return p
}

// letters reads properties that hold four characters each (TPM 2.0 Part 2, 6.13). Anything
// unprintable is dropped: it would end in logs.
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

// implemented is what a TPM said it implements.
type implemented struct {
	algorithms map[tpm2.TPMAlgID]bool
	over       device.Connection // where it said so
}

// algorithms is [algorithms], asked once for each connection.
func (t *turn) algorithms() (map[tpm2.TPMAlgID]bool, error) {
	known := &t.tpm.implemented
	if known.algorithms != nil && known.over == t.Connection() {
		return known.algorithms, nil
	}
	algs, err := algorithms(t)
	if err != nil {
		return nil, err
	}
	*known = implemented{algs, t.Connection()}
	return algs, nil
}

// algorithms reads which algorithms the TPM implements.
func algorithms(t transport.TPM) (map[tpm2.TPMAlgID]bool, error) {
	data, err := device.Capability(t, tpm2.TPMCapAlgs, 0, 128)
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
