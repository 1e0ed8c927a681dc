package engine

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keyagent/keyagent/acquire/binding"
	"github.com/keyagent/keyagent/attest/maa"
	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/secret"
	"github.com/keyagent/keyagent/internal/statefile"
	"github.com/keyagent/keyagent/signer"
)

// countedKey counts how often it is closed.
type countedKey struct {
	bindingKey
	closed int
}

func (k *countedKey) Close() error {
	k.closed++
	return k.bindingKey.Close()
}

func software(t *testing.T) (*countedKey, *config.Config) {
	t.Helper()
	cfg := config.Default()
	cfg.StateDir = filepath.Join(t.TempDir(), "state")
	cfg.Attestation.Provider = config.ProviderNone
	if err := statefile.EnsureDir(cfg.StateDir); err != nil {
		t.Fatal(err)
	}
	key, err := signer.OpenSoftware(filepath.Join(cfg.StateDir, softwareKeyFile))
	if err != nil {
		t.Fatal(err)
	}
	return &countedKey{bindingKey: key}, cfg
}

func TestAnEngineOwnsItsKey(t *testing.T) {
	for name, tt := range map[string]struct {
		endpoint string
		fails    bool
	}{
		"it is built":     {"", false},
		"it is not built": {"no URL", true},
	} {
		key, cfg := software(t)
		cfg.IMDSEndpoint = tt.endpoint
		plan, err := Resolve(cfg)
		if err != nil {
			t.Fatal(err)
		}
		e, err := New(cfg, plan, &Key{bindingKey: key}, statefile.In(cfg.StateDir), Options{})
		if (err != nil) != tt.fails {
			t.Fatalf("%s: %v", name, err)
		}
		if err == nil {
			if key.closed != 0 {
				t.Errorf("%s: the key is closed already", name)
			}
			err = errors.Join(e.Close(), e.Close())
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		if key.closed != 1 {
			t.Errorf("%s: the key was closed %d times", name, key.closed)
		}
	}
}

func TestAPlanHasThePartsThatCouldBeResolved(t *testing.T) {
	cfg := config.Default()
	cfg.CAFile = "/nonexistent"
	cfg.Identities = []config.Identity{
		{Name: "vm", ManagedIdentity: &config.ManagedIdentity{}},
		{Name: "app", Application: &config.Application{Cloud: "no cloud"}},
	}
	p, err := Resolve(cfg)
	if err == nil || !strings.Contains(err.Error(), "ca_file: ") || !strings.Contains(err.Error(), `identity "app": cloud "no cloud"`) {
		t.Errorf("got %v, want both problems", err)
	}
	if len(p.Identities) != 2 || p.Identities[0].Name != "vm" || len(p.mtlsHosts) == 0 || len(p.attestHosts) == 0 {
		t.Errorf("got %+v", p)
	}
}

// issuer gives tokens that expire at a time.
type issuer struct{ until time.Time }

func (i issuer) Attest(context.Context, string) (secret.String, time.Time, error) {
	return secret.New("token"), i.until, nil
}
func (issuer) Discard(string) {}

func TestTheExpiryIsThatOfTheLastAttestation(t *testing.T) {
	until := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	e := &Engine{}
	for _, step := range []struct {
		name string
		do   func()
		want *time.Time
	}{
		{"before any", func() { e.attested.use(issuer{until}) }, nil},
		{"obtained", func() { _, _, _ = e.attested.Attest(t.Context(), "") }, &until},
		{"discarded", func() { e.attested.Discard("") }, nil},
		{"obtained again", func() { _, _, _ = e.attested.Attest(t.Context(), "") }, &until},
		{"another source", func() { e.attested.use(binding.Attestor(issuer{})) }, nil},
		{"a source whose tokens do not expire", func() { _, _, _ = e.attested.Attest(t.Context(), "") }, nil},
	} {
		step.do()
		got := e.AttestedUntil()
		if (got == nil) != (step.want == nil) || got != nil && !got.Equal(*step.want) {
			t.Errorf("%s: got %v, want %v", step.name, got, step.want)
		}
	}
}

func TestTheSystemIsDescribedByItsOSRelease(t *testing.T) {
	for text, want := range map[string]maa.OS{
		"NAME=\"Debian GNU/Linux\"\nVERSION_ID=\"12\"\n": {Distro: "Debian GNU/Linux", Major: 12},
		"NAME=Ubuntu\nVERSION_ID='24.04'\n":              {Distro: "Ubuntu", Major: 24, Minor: 4},
		"VERSION_ID=rolling\n":                           {Distro: "Linux"},
		"":                                               {Distro: "Linux"},
	} {
		if got := parseOSRelease(strings.NewReader(text)); got != want {
			t.Errorf("%q: got %+v, want %+v", text, got, want)
		}
	}
}
