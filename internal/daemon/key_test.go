package daemon_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/keyagent/keyagent/client"
	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/agenttest"
	"github.com/keyagent/keyagent/tpm"
)

// A setting that the key does not have would be protection that is believed in and not there.
func TestAKeyThatIsNotAsConfiguredStopsTheAgent(t *testing.T) {
	credentials := t.TempDir()
	if err := os.WriteFile(filepath.Join(credentials, "key-auth"), []byte("a value\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("CREDENTIALS_DIRECTORY", credentials)
	for _, tt := range []struct {
		name   string
		change func(*config.BindingKey)
		want   string
	}{
		{"PCRs", func(k *config.BindingKey) { k.PCRs = []int{7} }, "bound to PCRs"},
		{"an authorization value", func(k *config.BindingKey) { k.AuthCredential = "key-auth" }, "made without one"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newStage(t)
			if err := s.tryOpen(); err != nil {
				t.Fatal(err)
			}
			tt.change(&s.cfg.BindingKey)
			err := s.tryOpen()
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(agenttest.Advice(err), "[rotate key binding]") {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestAKeyBoundToPCRsAndACredential(t *testing.T) {
	credentials := t.TempDir()
	value := filepath.Join(credentials, "key-auth")
	if err := os.WriteFile(value, []byte("first value\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("CREDENTIALS_DIRECTORY", credentials)
	s := newStage(t)
	s.cfg.BindingKey = config.BindingKey{PCRs: []int{7, 4}, PCRBank: config.BankSHA256, AuthCredential: "key-auth", PersistentHandle: 0x81010001}
	for range 2 {
		if err := s.tryOpen(); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(value, []byte("second value\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	err := s.tryOpen()
	if !errors.Is(err, tpm.ErrAuthValue) || strings.Contains(err.Error(), "value\n") {
		t.Errorf("with another value: %v", err)
	}
	if err := os.WriteFile(value, []byte("first value\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	extend(t, s.cfg.TPM, 7)
	err = s.tryOpen()
	if !errors.Is(err, tpm.ErrPCRsChanged) || !strings.Contains(err.Error(), "PCR 7 was") || strings.Contains(err.Error(), "PCR 4 was") {
		t.Errorf("after PCR 7 changed: %v", err)
	}
	for _, text := range []string{s.log.String(), err.Error()} {
		if strings.Contains(text, "first value") {
			t.Error("the authorization value was told")
		}
	}
}

func extend(t *testing.T, device string, pcr uint32) {
	t.Helper()
	on, err := tpm.Open(t.Context(), tpm.Config{Device: device})
	if err != nil {
		t.Fatal(err)
	}
	defer on.Close()
	if err := on.Do(t.Context(), func(c transport.TPM) error {
		_, err := tpm2.PCRExtend{
			PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(pcr), Auth: tpm2.PasswordAuth(nil)},
			Digests:   tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{{HashAlg: tpm2.TPMAlgSHA256, Digest: make([]byte, 32)}}},
		}.Execute(c)
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

// A key in software works, says what it is in log and status, and satisfies no floor.
func TestASoftwareKeyIsMarkedAndReachesNoFloor(t *testing.T) {
	s := newStage(t)
	s.cfg.Attestation.Provider = config.ProviderNone
	s.cfg.BindingKey.InsecureSoftware = true
	s.cfg.TPM = "unix:/nonexistent"
	s.start()
	status, err := s.client.Status(t.Context())
	if err != nil || status.Key.Strength != "software" {
		t.Errorf("status says %q, %v", status.Key.Strength, err)
	}
	if !strings.Contains(s.log.String(), "for development only") {
		t.Error("the log does not say it")
	}
	if _, err := s.token(); err == nil {
		t.Error("the issuer gave a certificate to a key that nobody attested")
	} else if e, ok := errors.AsType[*client.Error](err); !ok || e.Status == 200 {
		t.Error(err)
	}
}
