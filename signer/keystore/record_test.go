package keystore

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/keyagent/keyagent/tpm"
)

// Notes that are damaged are none, and notes that are read can be written and read again to the
// same.
func FuzzRecord(f *testing.F) {
	whole, err := json.Marshal(newRecord(time.Unix(1e9, 0), 0x81010001, &tpm.KeyFile{
		PCRValues: tpm.PCRValues{Bank: 5, Values: map[int][]byte{7: {1, 2}}}, ParentName: []byte{0, 0x0b, 1},
	}))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add(whole[:len(whole)/2])
	f.Add([]byte(`{"persistent_handle":"-1","pcr_values":{"x":"zz","99999999999999999999":"00"}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		path := filepath.Join(t.TempDir(), "1.json")
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := readRecord(path)
		if err != nil {
			return
		}
		if err := newRecord(r.Created, r.persistent(), &tpm.KeyFile{PCRValues: r.pcrValues(), ParentName: r.parentName()}).write(path); err != nil {
			return // a time that JSON cannot hold
		}
		again, err := readRecord(path)
		if err != nil || again.persistent() != r.persistent() || !bytes.Equal(again.parentName(), r.parentName()) || len(again.pcrValues().Values) != len(r.pcrValues().Values) {
			t.Errorf("%+v became %+v, %v", r, again, err)
		}
	})
}
