package binding_test

import (
	"encoding/asn1"
	"testing"
	"time"

	"github.com/keyagent/keyagent/acquire/binding"
)

func TestTokenNotAfterForms(t *testing.T) {
	at := time.Date(2026, 12, 1, 10, 30, 0, 0, time.UTC)
	marshal := func(v any, params string) []byte {
		t.Helper()
		der, err := asn1.MarshalWithParams(v, params)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	sequence := marshal(struct {
		T time.Time `asn1:"generalized"`
	}{at}, "")
	for _, tc := range []struct {
		name string
		der  []byte
		ok   bool
	}{
		{"GeneralizedTime", marshal(at, "generalized"), true},
		{"UTCTime", marshal(at, "utc"), true},
		{"inside a SEQUENCE", sequence, true},
		{"empty", nil, false},
		{"a number", marshal(5, ""), false},
		{"trailing bytes", append(marshal(at, "utc"), 0), false},
		{"trailing bytes after the SEQUENCE", append(sequence, 0), false},
		{"cut short", marshal(at, "utc")[:8], false},
	} {
		got, err := binding.ParseTokenNotAfter(tc.der)
		if (err == nil) != tc.ok || tc.ok && !got.Equal(at) {
			t.Errorf("%s: got %v, %v", tc.name, got, err)
		}
	}
}

func FuzzParseTokenNotAfter(f *testing.F) {
	f.Add([]byte("\x18\x0f20261201103000Z"))
	f.Add([]byte("\x30\x0f\x17\x0d261201103000Z"))
	f.Fuzz(func(t *testing.T, der []byte) {
		at, err := binding.ParseTokenNotAfter(der)
		if err == nil && at.IsZero() {
			t.Errorf("accepted %x as the zero time", der)
		}
	})
}
