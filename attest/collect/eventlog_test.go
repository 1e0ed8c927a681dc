package collect_test

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/attest/collect"
	at "github.com/keyagent/keyagent/attest/internal/attesttest"
	"github.com/keyagent/keyagent/simulator/bootlog"
	"github.com/keyagent/keyagent/tpm"
)

// measure extends the PCRs by what a log says.
func measure(t *testing.T, on *tpm.TPM, log *bootlog.Log) {
	t.Helper()
	err := on.Do(t.Context(), func(dev transport.TPM) error {
		for _, e := range log.Events {
			if e.Type == bootlog.NoAction {
				continue
			}
			digests := tpm2.TPMLDigestValues{}
			for alg, digest := range e.Digests() {
				digests.Digests = append(digests.Digests, tpm2.TPMTHA{HashAlg: tpm2.TPMAlgID(alg), Digest: digest})
			}
			_, err := tpm2.PCRExtend{
				PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(e.PCR), Auth: tpm2.PasswordAuth(nil)}, Digests: digests,
			}.Execute(dev)
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestTheEventLogIsSentIfItIsThatOfTheBoot(t *testing.T) {
	m := newVM(t)
	boot := bootlog.Boot(bootlog.Machine{SecureBoot: true, CommandLine: "/boot/vmlinuz root=LABEL=root ro"})
	other := bootlog.Boot(bootlog.Machine{CommandLine: "/boot/vmlinuz single"})
	measure(t, m.tpm, boot)
	padded := func(log []byte, with byte) []byte {
		return append(bytes.Clone(log), bytes.Repeat([]byte{with}, 100)...)
	}
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		log  []byte // nil: there is no file
		file string // in the place of one with the log
		sent bool
		told string // to the operator
	}{
		{"as it is", boot.Bytes(), "", true, ""},
		{"padded with zeros", padded(boot.Bytes(), 0), "", true, ""},
		{"padded with 0xFF", padded(boot.Bytes(), 0xff), "", true, ""},
		{"of another boot", other.Bytes(), "", false, "not that of this boot"},
		{"cut off", boot.Bytes()[:len(boot.Bytes())-10], "", false, "has no event log"},
		{"larger than any", make([]byte, 1<<20+1), "", false, "more than 1048576 bytes"},
		{"empty", []byte{}, "", false, "the machine has no event log"},
		{"nothing but padding", make([]byte, 100), "", false, "the machine has no event log"},
		{"not there", nil, "", false, "the machine has no event log"},
		{"a directory", nil, dir, false, "is a directory"},
		{"a pipe that nobody writes", nil, fifo, false, "the machine has no event log"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var said bytes.Buffer
			cfg := m.config
			cfg.Logger = slog.New(slog.NewTextHandler(&said, nil))
			if cfg.EventLogFile = tt.file; tt.file == "" {
				cfg.EventLogFile = filepath.Join(t.TempDir(), "log")
			}
			if tt.log != nil {
				if err := os.WriteFile(cfg.EventLogFile, tt.log, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			e, err := collect.New(cfg).CollectFor(t.Context(), collect.Request{Challenge: challenge(), EventLog: true})
			if err != nil {
				t.Fatal(err)
			}
			if bytes.Equal(e.EventLog, boot.Bytes()) != tt.sent || !tt.sent && e.EventLog != nil {
				t.Errorf("a log of %d bytes, of %d", len(e.EventLog), len(boot.Bytes()))
			}
			if !strings.Contains(said.String(), tt.told) || tt.sent && said.Len() > 0 {
				t.Errorf("log: %s", said.String())
			}
			policy := attest.DefaultPolicy()
			policy.EventLog.Require, policy.EventLog.SecureBoot = tt.sent, tt.sent
			if err := attest.Verify(e, challenge(), m.config.Anchors, policy, at.Epoch()).Err(); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("not if nobody asks", func(t *testing.T) {
		cfg := m.config
		cfg.EventLogFile = filepath.Join(t.TempDir(), "log")
		if err := os.WriteFile(cfg.EventLogFile, boot.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		if e, err := collect.New(cfg).Collect(t.Context(), challenge()); err != nil || e.EventLog != nil {
			t.Errorf("%v", err)
		}
	})
}
