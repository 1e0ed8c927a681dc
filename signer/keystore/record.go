package keystore

import (
	"crypto"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"time"

	"github.com/keyagent/keyagent/internal/statefile"
	"github.com/keyagent/keyagent/tpm"
)

// maxRecordBytes bounds the notes on a key: 24 PCR values of 64 bytes in hexadecimal and some more.
const maxRecordBytes = 8 << 10

// record has notes on a key that its key file has no place for. A key works without it.
type record struct {
	Created    time.Time         `json:"created"`
	Persistent string            `json:"persistent_handle,omitempty"` // "0x81010001"
	PCRBank    string            `json:"pcr_bank,omitempty"`          // "SHA-256"
	PCRs       map[string]string `json:"pcr_values,omitempty"`        // number: hexadecimal value
	Parent     string            `json:"parent_name,omitempty"`       // Name of the storage key that wraps it, hexadecimal
}

func newRecord(now time.Time, persistent tpm.Handle, file *tpm.KeyFile) record {
	r, pcrs := record{Created: now.UTC().Truncate(time.Second), Parent: hex.EncodeToString(file.ParentName)}, file.PCRValues
	if persistent != 0 {
		r.Persistent = fmt.Sprintf("0x%08x", uint32(persistent))
	}
	if len(pcrs.Values) > 0 {
		r.PCRBank, r.PCRs = pcrs.Bank.String(), make(map[string]string)
		for pcr, value := range pcrs.Values {
			r.PCRs[strconv.Itoa(pcr)] = hex.EncodeToString(value)
		}
	}
	return r
}

func (r record) write(path string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return statefile.Write(path, append(text, '\n'))
}

// readRecord reads the notes of a key. Missing notes are no error.
func readRecord(path string) (record, error) {
	var r record
	text, err := statefile.Read(path, maxRecordBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(text, &r); err != nil {
		return record{}, err
	}
	return r, nil
}

func (r record) persistent() tpm.Handle {
	h, err := strconv.ParseUint(r.Persistent, 0, 32)
	if err != nil {
		return 0
	}
	return tpm.Handle(h)
}

// parentName returns the Name of the storage key that wraps the key, nil if it was not noted. It
// only helps to find that key.
func (r record) parentName() []byte {
	name, err := hex.DecodeString(r.Parent)
	if err != nil || len(name) == 0 {
		return nil
	}
	return name
}

// pcrValues returns the values that can be read. They only help to say which PCR changed.
func (r record) pcrValues() tpm.PCRValues {
	v := tpm.PCRValues{Values: make(map[int][]byte)}
	for _, bank := range []crypto.Hash{crypto.SHA256, crypto.SHA384} {
		if bank.String() == r.PCRBank {
			v.Bank = bank
		}
	}
	for text, value := range r.PCRs {
		pcr, err := strconv.Atoi(text)
		b, hexErr := hex.DecodeString(value)
		if err == nil && hexErr == nil {
			v.Values[pcr] = b
		}
	}
	return v
}
