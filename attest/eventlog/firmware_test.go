package eventlog_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keyagent/keyagent/attest/eventlog"
)

// What is left of a real log says the same of the firmware, and nothing of the rest.
func TestFirmwareKeepsWhatTheFirmwareMeasured(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("..", "..", "testdata", "eventlog", "*.bin"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			log, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			whole, err := eventlog.Parse(log)
			if err != nil {
				t.Skip(err) // it is no log of this format
			}
			short, err := eventlog.Firmware(log)
			if err != nil {
				t.Fatal(err)
			}
			left, err := eventlog.Parse(short)
			if err != nil {
				t.Fatal(err)
			}
			var want []eventlog.Event
			for _, e := range whole.Events {
				if e.PCR <= 7 {
					want = append(want, e)
				}
			}
			if diff := cmp.Diff(want, left.Events); diff != "" {
				t.Error(diff)
			}
			if again, err := eventlog.Firmware(short); err != nil || !bytes.Equal(again, short) {
				t.Errorf("what is left becomes something else: %v", err)
			}
			if got := startOf(t, short); got != startOf(t, log) {
				t.Errorf("PCR 0 begins with %x", got)
			}
		})
	}
	if _, err := eventlog.Firmware([]byte("no log")); err == nil {
		t.Error("what is no log is taken")
	}
}

// startOf is the locality that a log says the TPM was started from.
func startOf(t *testing.T, log []byte) byte {
	t.Helper()
	_, after, found := bytes.Cut(log, []byte("StartupLocality\x00"))
	if !found {
		return 0
	}
	return after[0]
}
