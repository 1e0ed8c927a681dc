package collect_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/attest/collect"
	"github.com/keyagent/keyagent/simulator/bootlog"
)

// A quote of the SHA-384 bank, and the log that explains it, convince a verifier whose policy names
// that bank, and no other.
func TestAQuoteOfTheSHA384Bank(t *testing.T) {
	m := newVM(t)
	boot := bootlog.Boot(bootlog.Machine{SecureBoot: true, CommandLine: "/boot/vmlinuz root=LABEL=root ro"})
	measure(t, m.tpm, boot)
	m.config.EventLogFile = filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(m.config.EventLogFile, boot.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	e, err := collect.New(m.config).CollectFor(t.Context(), collect.Request{Challenge: challenge(), PCRBank: attest.BankSHA384, EventLog: true})
	if err != nil {
		t.Fatal(err)
	}
	policy := m.config.Policy
	policy.EventLog.SecureBoot = true
	for bank, ok := range map[attest.PCRBank]bool{attest.BankSHA384: true, attest.BankSHA256: false, "": false} {
		policy.PCRBank = bank
		r := attest.Verify(e, challenge(), m.config.Anchors, policy, m.config.Now())
		if r.Verified() != ok {
			t.Errorf("bank %q: %v", bank, r.Err())
		}
		if !ok && r.Status(attest.CheckQuoteSelection) != attest.Fail {
			t.Errorf("bank %q: %s is %s", bank, attest.CheckQuoteSelection, r.Status(attest.CheckQuoteSelection))
		}
	}
	if len(e.PCRs[7]) != 48 || e.EventLog == nil {
		t.Errorf("values of %d bytes, log of %d", len(e.PCRs[7]), len(e.EventLog))
	}
	_, err = collect.New(m.config).CollectFor(t.Context(), collect.Request{Challenge: challenge(), PCRBank: "sha1"})
	if err == nil || !strings.Contains(err.Error(), `"sha1"`) {
		t.Errorf("a bank that proves nothing: %v", err)
	}
}
