package attest_test

import (
	"bytes"
	"encoding/base64"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/attest/eventlog"
)

// bundle is the encoded evidence of a good machine.
func bundle(t testing.TB) ([]byte, *attest.Evidence) {
	t.Helper()
	x := newTrial(t)
	e := x.Evidence(t, x.challenge)
	e.AKIntermediates = [][]byte{{1, 2, 3}}
	data, err := e.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return data, e
}

func TestEvidenceSurvivesItsEncoding(t *testing.T) {
	t.Parallel()
	data, want := bundle(t)
	got, err := attest.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if len(data) > attest.MaxEvidenceSize/2 {
		t.Errorf("ordinary evidence has %d bytes of at most %d", len(data), attest.MaxEvidenceSize)
	}
}

func TestRealTDXEvidenceFitsAndSurvivesItsEncoding(t *testing.T) {
	t.Parallel()
	want := vectorNamed(t, "tdx-2026").evidence(t)
	data, err := want.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := attest.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if len(data) > attest.MaxEvidenceSize*3/4 {
		t.Errorf("ordinary evidence has %d bytes of at most %d", len(data), attest.MaxEvidenceSize)
	}
}

// The event log has room of its own. All the rest is held to the limit of a bundle without one.
func TestAnEventLogHasRoomOfItsOwn(t *testing.T) {
	t.Parallel()
	_, e := bundle(t)
	e.EventLog = bytes.Repeat([]byte{1}, eventlog.MaxSize)
	data, err := e.Encode()
	if err != nil {
		t.Fatal(err)
	}
	again, err := attest.Parse(data)
	if err != nil || !bytes.Equal(again.EventLog, e.EventLog) {
		t.Errorf("a log of the largest size: %v", err)
	}
	e.EventLog = e.EventLog[:eventlog.MaxSize/2]
	if data, err = e.Encode(); err != nil {
		t.Fatal(err)
	}
	spaces := func(n int) []byte { return append(bytes.Repeat([]byte(" "), n), data...) }
	room := attest.MaxSizeWithoutLog - (len(data) - base64.RawURLEncoding.EncodedLen(len(e.EventLog)))
	if _, err := attest.Parse(spaces(room)); err != nil {
		t.Errorf("as large as a bundle may be: %v", err)
	}
	if _, err := attest.Parse(spaces(room + 1)); err == nil || !strings.Contains(err.Error(), "without the event log") {
		t.Errorf("a byte more: %v", err)
	}
	e.EventLog = make([]byte, eventlog.MaxSize+1)
	if _, err := e.Encode(); err == nil || !strings.Contains(err.Error(), "event log of") {
		t.Errorf("a log beyond the largest size: %v", err)
	}
}

func TestSpaceAndOrderMeanNothing(t *testing.T) {
	t.Parallel()
	const text = "{\n \"nonce\": \"AAAA\",\n \"format\": \"keyagent-evidence/1\"\n}\n"
	e, err := attest.Parse([]byte(text))
	if err != nil || !bytes.Equal(e.Nonce, []byte{0, 0, 0}) {
		t.Errorf("%+v, %v", e, err)
	}
}

func TestParseRefusesWhatCouldBeReadTwoWays(t *testing.T) {
	t.Parallel()
	const head = `{"format":"keyagent-evidence/1"`
	digest := strings.Repeat("A", 43)
	tests := []struct{ name, text string }{
		{"nothing", ""},
		{"another format", `{"format":"keyagent-evidence/2"}`},
		{"no format", `{"nonce":"AAAA"}`},
		{"an array", `["keyagent-evidence/1"]`},
		{"bytes after the document", head + `}{}`},
		{"cut off", head},
		{"a member twice", head + `,"nonce":"AAAA","nonce":"AAAA"}`},
		{"a member twice, by escape", head + `,"nonce":"AAAA","\u006eonce":"AAAA"}`},
		{"a member in another case", head + `,"Nonce":"AAAA"}`},
		{"an unknown member", head + `,"comment":"hello"}`},
		{"invalid UTF-8", head + ",\"audience\":\"\xff\"}"},
		{"half a surrogate pair", head + `,"audience":"\ud800"}`},
		{"null", head + `,"nonce":null}`},
		{"a number for bytes", head + `,"nonce":7}`},
		{"an empty value", head + `,"nonce":""}`},
		{"base64 with padding", head + `,"nonce":"AAA="}`},
		{"base64 of the other alphabet", head + `,"nonce":"++//"}`},
		{"base64 with a line break", head + `,"nonce":"AA\nAA"}`},
		{"base64 with stray bits", head + `,"nonce":"AAB"}`},
		{"a nonce too long", head + `,"nonce":"` + strings.Repeat("AAAA", 22) + `"}`},
		{"an audience too long", head + `,"audience":"` + strings.Repeat("a", 1025) + `"}`},
		{"an SNP report of another size", head + `,"snp_report":"AAAA"}`},
		{"hardware in both forms", head + `,"hcl_report":"AAAA","runtime_claims":"AAAA"}`},
		{"a TD quote too long", head + `,"td_quote":"` + strings.Repeat("A", 24<<10) + `"}`},
		{"a signature of collateral too long", head + `,"tdx_collateral":{"tcb_info_signature":"` + strings.Repeat("A", 88) + `"}}`},
		{"an unknown member of collateral", head + `,"tdx_collateral":{"tcbInfo":"AAAA"}}`},
		{"no collateral", head + `,"tdx_collateral":null}`},
		{"seven certificates", head + `,"vcek_chain":["AAAA","AAAA","AAAA","AAAA","AAAA","AAAA","AAAA"]}`},
		{"a statement too long", head + `,"quote":"` + strings.Repeat("A", 1400) + `"}`},
		{"a PCR that is not a number", head + `,"pcrs":{"x":"` + digest + `"}}`},
		{"a PCR number written otherwise", head + `,"pcrs":{"07":"` + digest + `"}}`},
		{"a PCR twice", head + `,"pcrs":{"7":"` + digest + `","7":"` + digest + `"}}`},
		{"a PCR that does not exist", head + `,"pcrs":{"24":"` + digest + `"}}`},
		{"a PCR digest of another size", head + `,"pcrs":{"7":"AAAA"}}`},
		{"an empty list of PCRs", head + `,"pcrs":{}}`},
		{"spaces beyond the limit", head + strings.Repeat(" ", attest.MaxEvidenceSize) + `}`},
		{"spaces beyond the limit without a log", head + strings.Repeat(" ", attest.MaxSizeWithoutLog) + `}`},
		{"more than the limit", head + `,"audience":"` + strings.Repeat("a", attest.MaxEvidenceSize) + `"}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if e, err := attest.Parse([]byte(tt.text)); err == nil {
				t.Errorf("accepted: %+v", e)
			}
		})
	}
}

func TestEncodeRefusesWhatParseWould(t *testing.T) {
	t.Parallel()
	for name, e := range map[string]*attest.Evidence{
		"hardware in both forms": {HCLReport: []byte{1}, RuntimeClaims: []byte{1}},
		"a PCR of no digest":     {PCRs: map[int][]byte{0: {1}}},
		"certificates that make it too long": {
			HardwareEvidence: attest.HardwareEvidence{SNPEvidence: attest.SNPEvidence{
				VCEKChain: [][]byte{make([]byte, 8<<10), make([]byte, 8<<10), make([]byte, 8<<10), make([]byte, 8<<10)},
			}},
			AKIntermediates: [][]byte{make([]byte, 8<<10), make([]byte, 8<<10), make([]byte, 8<<10), make([]byte, 8<<10)},
		},
	} {
		if _, err := e.Encode(); err == nil {
			t.Errorf("%s: encoded", name)
		}
	}
}

// FuzzParse: accepted input, encoded again, is accepted and means the same; encoding is a fixed
// point.
func FuzzParse(f *testing.F) {
	data, _ := bundle(f)
	f.Add(data)
	tdx, err := newTDXTrial(f).Evidence(f, attest.Challenge{Nonce: bytes.Repeat([]byte{7}, 32), Audience: "a"}).Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(tdx)
	f.Add([]byte(`{"format":"keyagent-evidence/1","tdx_collateral":{}}`))
	f.Add([]byte(`{"format":"keyagent-evidence/1","nonce":"AAAA","pcrs":{"0":"` + strings.Repeat("A", 43) + `"}}`))
	f.Add([]byte(`{"format":"keyagent-evidence/1","vcek_chain":[],"audience":"a"}`))
	f.Add([]byte(`{"format":"keyagent-evidence/1","Nonce":"AAAA"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := attest.Parse(data)
		if err != nil {
			return
		}
		encoded, err := e.Encode()
		if err != nil {
			t.Fatalf("accepted, but not encoded: %v", err)
		}
		again, err := attest.Parse(encoded)
		if err != nil {
			t.Fatalf("its own encoding is refused: %v", err)
		}
		if diff := cmp.Diff(e, again); diff != "" {
			t.Error(diff)
		}
	})
}
