package eventlog_test

import (
	"crypto"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	gattest "github.com/google/go-attestation/attest"

	"github.com/keyagent/keyagent/attest/eventlog"
	"github.com/keyagent/keyagent/simulator/bootlog"
)

const logDir = "../../testdata/eventlog"

// recorded is a log of a real machine with the registers that were read from it.
type recorded struct {
	File        string                       `json:"file"`
	SecureBoot  eventlog.SecureBoot          `json:"secure_boot"`
	PCRs        map[string]eventlog.HexBytes `json:"pcrs"`
	BootLoaders []eventlog.HexBytes          `json:"boot_loaders"`
	CommandLine string                       `json:"command_line"`
	log         []byte
}

func (r recorded) values(t testing.TB) map[int][]byte {
	t.Helper()
	out := map[int][]byte{}
	for name, value := range r.PCRs {
		index, err := strconv.Atoi(name)
		if err != nil {
			t.Fatal(err)
		}
		out[index] = value
	}
	return out
}

func recordings(t testing.TB) []recorded {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(logDir, "logs.json"))
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Logs []recorded `json:"logs"`
	}
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	for i := range file.Logs {
		if file.Logs[i].log, err = os.ReadFile(filepath.Join(logDir, file.Logs[i].File)); err != nil {
			t.Fatal(err)
		}
	}
	if len(file.Logs) < 2 {
		t.Fatalf("%d recordings", len(file.Logs))
	}
	return file.Logs
}

func TestLogsOfRealMachinesAreRead(t *testing.T) {
	t.Parallel()
	for _, r := range recordings(t) {
		values := r.values(t)
		values[12] = make([]byte, 32) // nothing was measured into it
		f, err := eventlog.Read(r.log, values)
		if err != nil {
			t.Fatal(err)
		}
		if len(f.NotReplayed) != 0 || f.SecureBoot != r.SecureBoot || f.SecureBootReason != "" || f.DBX == nil {
			t.Errorf("%s: %+v", r.File, f)
		}
		if len(f.CommandLines) != 1 || f.CommandLines[0].Text != r.CommandLine || f.CommandLinesReason != "" {
			t.Errorf("%s: command lines %+v %s", r.File, f.CommandLines, f.CommandLinesReason)
		}
		if !slices.EqualFunc(f.BootLoaders, r.BootLoaders, func(a, b eventlog.HexBytes) bool { return string(a) == string(b) }) {
			t.Errorf("%s: boot loaders %x", r.File, f.BootLoaders)
		}
		values[4][0] ^= 1
		if f, err := eventlog.Read(r.log, values); err != nil || !slices.Equal(f.NotReplayed, []int{4}) {
			t.Errorf("%s with another PCR 4: %+v, %v", r.File, f, err)
		}
	}
}

// theirs lets go-attestation read a log and replay it to values.
func theirs(log []byte, values map[int][]byte) ([]gattest.Event, error) {
	l, err := gattest.ParseEventLog(log)
	if err != nil {
		return nil, err
	}
	var pcrs []gattest.PCR
	for index, value := range values {
		pcrs = append(pcrs, gattest.PCR{Index: index, Digest: value, DigestAlg: crypto.SHA256})
	}
	return l.Verify(pcrs)
}

// Another reader of this format sees the same events, replays to the same values, and says the same
// about Secure Boot, in both of its states.
func TestAnotherReaderAgrees(t *testing.T) {
	t.Parallel()
	for _, r := range recordings(t) {
		values := r.values(t)
		events, err := theirs(r.log, values)
		if err != nil {
			t.Fatalf("%s: %v", r.File, err)
		}
		compare(t, r.File, r.log, events)
		state, err := gattest.ParseSecurebootState(events)
		if err != nil || state.Enabled != (r.SecureBoot == eventlog.SecureBootEnabled) {
			t.Errorf("%s: secure boot %+v, %v", r.File, state, err)
		}
		values[7][0] ^= 1
		if _, err := theirs(r.log, values); err == nil {
			t.Errorf("%s replays to another PCR 7", r.File)
		}
	}
	simulated := bootlog.Boot(machine())
	events, err := theirs(simulated.Bytes(), simulated.PCRs())
	if err != nil {
		t.Fatal(err)
	}
	compare(t, "the simulated machine's log", simulated.Bytes(), events)
}

func compare(t *testing.T, name string, log []byte, events []gattest.Event) {
	t.Helper()
	ours, err := eventlog.Parse(log)
	if err != nil {
		t.Fatal(err)
	}
	if len(ours.Events) != len(events) {
		t.Fatalf("%s: %d events, another reader has %d", name, len(ours.Events), len(events))
	}
	for i, e := range ours.Events {
		other := events[i]
		if e.PCR != other.Index || uint32(e.Type) != uint32(other.Type) || string(e.Digest) != string(other.Digest) || string(e.Data) != string(other.Data) {
			t.Errorf("%s: event %d differs", name, i)
		}
	}
}

// extended are the registers after events, from zero.
func extended(events []eventlog.Event) map[int][]byte {
	values := map[int][]byte{}
	for i := range 16 {
		values[i] = make([]byte, sha256.Size)
	}
	for _, e := range events {
		if e.PCR < len(values) {
			sum := sha256.Sum256(append(values[e.PCR], e.Digest...))
			values[e.PCR] = sum[:]
		}
	}
	return values
}

// FuzzRead holds for any input: what is accepted is read the same way without its padding, and
// go-attestation reads the same events from it.
func FuzzRead(f *testing.F) {
	// Small ones: the engine spends its time on making large ones smaller.
	for _, e := range append(bootlog.Boot(machine()).Events, bootlog.Event{Type: bootlog.NoAction, Data: []byte("StartupLocality\x00\x03")}) {
		if len(e.Data) < 100 {
			f.Add((&bootlog.Log{Events: []bootlog.Event{e}}).Bytes())
		}
	}
	f.Add(append((&bootlog.Log{}).Bytes(), make([]byte, 40)...))
	f.Add(single(bootlog.AlgSHA384, 48))
	f.Fuzz(func(t *testing.T, log []byte) {
		kept, cut, err := eventlog.Trim(log)
		if err != nil || kept == nil {
			return
		}
		ours, err := eventlog.Parse(kept)
		if err != nil && strings.HasSuffix(err.Error(), "no SHA-256 digests") { // but SHA-384
			if f, err := eventlog.Read(kept, map[int][]byte{7: make([]byte, 48)}); err != nil || f.Padding != 0 {
				t.Fatalf("facts %+v, %v", f, err)
			}
			return
		}
		if err != nil || ours.Padding != 0 || cut+len(kept) != len(log) {
			t.Fatalf("without %d bytes of padding: padding %d, %v", cut, ours.Padding, err)
		}
		other, err := gattest.ParseEventLog(kept)
		if err != nil {
			t.Fatalf("another reader refuses it: %v\n%s", err, hex.Dump(kept))
		}
		events := other.Events(gattest.HashSHA256)
		events = slices.DeleteFunc(events, func(e gattest.Event) bool { return e.Type == gattest.EventType(bootlog.NoAction) })
		compare(t, "log", kept, events)
		values := extended(ours.Events)
		facts, err := eventlog.Read(log, values)
		if err != nil || facts.Padding != cut || len(facts.Replayed)+len(facts.NotReplayed) != len(values) {
			t.Fatalf("facts %+v, %v", facts, err)
		}
		for _, pcr := range facts.NotReplayed {
			if pcr != 0 {
				t.Fatalf("PCR %d does not replay to what it was extended with", pcr)
			}
		}
	})
}
