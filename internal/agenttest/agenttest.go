// Package agenttest sets the stage for tests of what the agent and its commands do on a machine: a
// simulated platform, and the configuration of an agent on it.
package agenttest

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/advice"
	"github.com/keyagent/keyagent/internal/daemon"
	"github.com/keyagent/keyagent/internal/doctor"
	"github.com/keyagent/keyagent/internal/keyring"
	"github.com/keyagent/keyagent/internal/statedir"
	"github.com/keyagent/keyagent/simulator"
)

// Stage is a simulated platform and the configuration of an agent on it. Its methods fail the test
// where they cannot do what they say.
type Stage struct {
	T        testing.TB
	Platform *simulator.Platform
	Config   *config.Config
	Log      Log // of the agents that TryOpen opens
}

// New starts a platform, which the test's end closes.
func New(t testing.TB) *Stage {
	t.Helper()
	return NewOn(t, simulator.Config{Dir: t.TempDir()})
}

// NewOn is New with another platform.
func NewOn(t testing.TB, platformConfig simulator.Config) *Stage {
	t.Helper()
	if platformConfig.Keys == nil {
		platformConfig.Keys = Keys(t)
	}
	platform, err := simulator.Start(t.Context(), platformConfig)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := platform.Close(); err != nil {
			t.Error(err)
		}
	})
	cfg, err := config.Load(platform.Info().ConfigFile)
	if err != nil {
		t.Fatal(err)
	}
	return &Stage{T: t, Platform: platform, Config: cfg}
}

// Log is a log that the agent's goroutines may write. The zero value is empty and ready for use.
type Log struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write appends to the log.
func (b *Log) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *Log) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// StateFile is the path of a file in the state directory.
func (s *Stage) StateFile(elements ...string) string {
	return filepath.Join(append([]string{s.Config.StateDir}, elements...)...)
}

// TryOpen opens the agent, closes it again and returns what it says.
func (s *Stage) TryOpen() error {
	s.T.Helper()
	d, err := daemon.Open(s.T.Context(), s.Config, daemon.Options{
		Audit: slog.New(slog.DiscardHandler), Logger: slog.New(slog.NewTextHandler(&s.Log, nil)),
	})
	if err != nil {
		return err
	}
	return d.Close()
}

// Keyring opens the keys of the stage, with a clock.
func (s *Stage) Keyring(now func() time.Time) *keyring.Keyring {
	s.T.Helper()
	k, err := keyring.Open(s.Config, statedir.Options{Now: now})
	if err != nil {
		s.T.Fatal(err)
	}
	s.T.Cleanup(func() { _ = k.Close() })
	return k
}

// Diagnose has the doctor look at the stage, with a clock.
func (s *Stage) Diagnose(now func() time.Time) doctor.Diagnosis {
	s.T.Helper()
	return doctor.Diagnose(s.T.Context(), s.Config, doctor.Options{Options: statedir.Options{Now: now}, ConfigPath: "config.yaml"})
}

// Verdict returns that of a check, "" if it was not made.
func Verdict(d doctor.Diagnosis, check string) string {
	i := slices.IndexFunc(d.Findings, func(f doctor.Finding) bool { return f.Check == check })
	if i < 0 {
		return ""
	}
	return d.Findings[i].Verdict
}

// WithoutApplications leaves the identities that need no key but the agent's own.
func (s *Stage) WithoutApplications() {
	s.Config.Identities = slices.DeleteFunc(s.Config.Identities, func(id config.Identity) bool { return id.Application != nil })
	s.Config.Rules[0].Identities = []string{"vm", "vm-user"}
}

// Subject asks for a certificate with a common name.
func Subject(name string) keyring.NameRequest { return keyring.NameRequest{Subject: "CN=" + name} }

// Certify gets the key "app" a certificate that app-cert trusts by subject and issuer.
func (s *Stage) Certify(k *keyring.Keyring) {
	s.T.Helper()
	request, err := k.Request(s.T.Context(), "app", keyring.RequestOptions{NameRequest: Subject("app")})
	if err != nil {
		s.T.Fatal(err)
	}
	chain, err := s.Platform.Certify("app-cert", request)
	if err != nil {
		s.T.Fatal(err)
	}
	file := filepath.Join(s.T.TempDir(), "app.cer")
	if err := os.WriteFile(file, chain, 0o600); err != nil {
		s.T.Fatal(err)
	}
	if _, err := k.Import(s.T.Context(), "app", keyring.ImportOptions{File: file, Replace: true}); err != nil {
		s.T.Fatal(err)
	}
}

// Advice is what an error says is to be done next, in no program's words; "" if it says nothing.
func Advice(err error) string {
	todo, _ := advice.Of(err)
	return todo.Text(nil)
}
