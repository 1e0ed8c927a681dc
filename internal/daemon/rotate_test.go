package daemon_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/client"
	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/agenttest"
	"github.com/keyagent/keyagent/internal/doctor"
	"github.com/keyagent/keyagent/internal/engine"
	"github.com/keyagent/keyagent/internal/keyring"
	"github.com/keyagent/keyagent/simulator/fault"
	"github.com/keyagent/keyagent/tpm"
)

func (s *stage) rotate() error {
	s.t.Helper()
	_, err := keyring.RotateBindingKey(s.t.Context(), s.cfg, engine.Options{Now: s.platform.Clock().Now})
	return err
}

// keyName is the Name of the binding key that a start would use.
func (s *stage) keyName() string {
	s.t.Helper()
	generation := "1"
	if current, err := os.ReadFile(s.stateFile("keys", "binding", "current")); err == nil {
		generation = strings.TrimSpace(string(current))
	}
	text, err := os.ReadFile(s.stateFile("keys", "binding", generation+".key.pem"))
	if err != nil {
		s.t.Fatal(err)
	}
	file, err := tpm.DecodeKeyFile(text)
	if err != nil {
		s.t.Fatal(err)
	}
	name, err := file.Name()
	if err != nil {
		s.t.Fatal(err)
	}
	return hex.EncodeToString(name)
}

func TestRotatingTheBindingKeyBesideTheAgent(t *testing.T) {
	s := newStage(t)
	s.start()
	first := s.mustToken()
	old := s.keyName()
	if err := s.rotate(); err != nil {
		t.Fatal(err)
	}
	if s.keyName() == old {
		t.Error("the key is the old one")
	}
	s.mustToken() // the agent that runs goes on with what it has
	if _, err := s.client.Token(t.Context(), client.TokenRequest{Identity: "vm-user", Resource: resource}); err != nil {
		t.Error(err) // and obtains certificates for the old key
	}
	s.stop()
	issued := len(s.platform.Journal().Operation("imds.issuecredential"))
	s.start()
	second := s.mustToken()
	if _, err := s.client.Token(t.Context(), client.TokenRequest{Identity: "vm-user", Resource: resource}); err != nil {
		t.Error(err)
	}
	if second.Binding.Thumbprint == first.Binding.Thumbprint {
		t.Error("after the new start, the certificate is the old one")
	}
	if n := len(s.platform.Journal().Operation("imds.issuecredential")); n != issued {
		t.Errorf("the new start issued %d certificates, though the rotation had obtained them", n-issued)
	}
	status, err := s.client.Status(t.Context())
	if err != nil || status.Key.Name != s.keyName() || status.Key.Generation != 2 {
		t.Errorf("the agent has key %+v, %v", status.Key, err)
	}
}

// A handle that was configured after the key was made: it works without, and an operator who wants
// the speed is told how to get it.
func TestAHandleThatIsConfiguredLater(t *testing.T) {
	s := newStage(t)
	const check, advice = "key binding: as configured", "[rotate key binding] makes a key that is at binding_key.persistent_handle, 0x81010001"
	if err := s.tryOpen(); err != nil || strings.Contains(s.log.String(), "persistent_handle") {
		t.Fatal(err, s.log.String())
	}
	s.cfg.BindingKey.PersistentHandle = 0x81010001
	if err := s.tryOpen(); err != nil || !strings.Contains(s.log.String(), advice) {
		t.Errorf("%v, told was %s", err, s.log.String())
	}
	if d := s.machine().Diagnose(nil); agenttest.Verdict(d, check) != doctor.VerdictWarn {
		t.Errorf("before the rotation: %+v", d)
	}
	if err := s.rotate(); err != nil {
		t.Fatal(err)
	}
	if d := s.machine().Diagnose(nil); agenttest.Verdict(d, check) != doctor.VerdictOK || agenttest.Verdict(d, "key binding: persistent handle") != doctor.VerdictOK {
		t.Errorf("after the rotation: %+v", d)
	}
}

// Whatever part of the way does not take the new key: the old one stays, and another attempt goes
// on where this one ended.
func TestARotationThatIsNotProvenChangesNothing(t *testing.T) {
	bad := func(operation, body string) fault.Fault {
		return fault.Fault{Operation: operation, Kind: fault.Status, Status: 400, Body: body}
	}
	for name, f := range map[string]fault.Fault{
		"imds.getplatformmetadata": bad("imds.getplatformmetadata", ""),
		"maa.attest":               bad("maa.attest", ""),
		"imds.issuecredential":     bad("imds.issuecredential", ""),
		"entra.mtls.token":         bad("entra.mtls.token", ""),
		"IMDS speaks of a resource before any credential is there":  bad("imds.getplatformmetadata", `{"error":"invalid_resource"}`),
		"IMDS speaks of a resource instead of giving a certificate": bad("imds.issuecredential", `{"error":"invalid_resource"}`),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStage(t)
			s.start()
			s.mustToken()
			old := s.keyName()
			if err := s.platform.Faults().Add(f); err != nil {
				t.Fatal(err)
			}
			err := s.rotate()
			if err == nil || !strings.Contains(err.Error(), "stays as it is") {
				t.Errorf("got %v", err)
			}
			if s.keyName() != old {
				t.Fatal("the key was switched")
			}
			s.platform.Faults().Clear()
			s.stop()
			s.start()
			s.mustToken()
			begun, err := os.ReadFile(s.stateFile("keys", "binding", "2.key.pem"))
			if err != nil {
				t.Fatal(err)
			}
			if err := s.rotate(); err != nil {
				t.Fatal(err)
			}
			if now, err := os.ReadFile(s.stateFile("keys", "binding", "2.key.pem")); err != nil || !bytes.Equal(begun, now) {
				t.Errorf("another key was made: %v", err)
			}
		})
	}
}

// Entra says so after it has taken the certificate, and the tenant need not have the resource that
// the rules name.
func TestARotationIsProvenByARefusalOfTheResource(t *testing.T) {
	s := newStage(t)
	s.start()
	s.mustToken()
	old := s.keyName()
	f := status(400, codes(500011))
	f.Operation = "entra.mtls.token"
	if err := s.platform.Faults().Add(f); err != nil {
		t.Fatal(err)
	}
	if err := s.rotate(); err != nil || s.keyName() == old {
		t.Errorf("got %v, and the key was switched: %v", err, s.keyName() != old)
	}
}

// Without identities there is nothing to obtain with the next key, and no configuration that says
// what it is to be like: that must not pass for a proof.
func TestARotationWithoutAConfigurationProvesNothing(t *testing.T) {
	s := newStage(t)
	s.start()
	s.mustToken()
	old := s.keyName()
	none := config.Default()
	none.TPM, none.StateDir = s.cfg.TPM, s.cfg.StateDir
	_, err := keyring.RotateBindingKey(t.Context(), none, engine.Options{Now: s.platform.Clock().Now})
	if _, usage := errors.AsType[keyring.RequestError](err); !usage || !strings.Contains(err.Error(), "configuration") {
		t.Errorf("got %v, want a refusal that names the configuration", err)
	}
	if s.keyName() != old {
		t.Error("the key was switched")
	}
	if _, err := os.Stat(s.stateFile("keys", "binding", "2.key.pem")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a rotation was begun: %v", err)
	}
}
