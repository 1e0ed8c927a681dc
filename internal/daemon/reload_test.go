package daemon_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/client"
	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/daemon"
	"github.com/keyagent/keyagent/internal/keyring"
	"github.com/keyagent/keyagent/internal/statedir"
	"github.com/keyagent/keyagent/simulator"
)

const otherResource = "https://storage.azure.com"

// reload puts a changed copy of the stage's configuration in force.
func (s *stage) reload(change func(*config.Config)) error {
	s.t.Helper()
	next := s.changed(change)
	return s.daemon.Reload(s.t.Context(), "test", func(context.Context) (*config.Config, config.Origin, error) {
		return next, config.Origin{File: "next.yaml", SHA256: "5e7e"}, nil
	})
}

// changed returns a changed copy of the stage's configuration.
func (s *stage) changed(change func(*config.Config)) *config.Config {
	s.t.Helper()
	text, err := s.cfg.YAML()
	if err != nil {
		s.t.Fatal(err)
	}
	next, err := config.Parse("next.yaml", text)
	if err != nil {
		s.t.Fatal(err)
	}
	change(next)
	return next
}

func (s *stage) mustReload(change func(*config.Config)) {
	s.t.Helper()
	if err := s.reload(change); err != nil {
		s.t.Fatal(err)
	}
}

func (s *stage) status() wire.Status {
	s.t.Helper()
	status, err := s.client.Status(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	return status
}

func nothing(*config.Config) {}

// userAssigned is the platform's user-assigned identity.
func (s *stage) userAssigned() simulator.Identity {
	s.t.Helper()
	for _, id := range s.platform.Info().Identities {
		if id.Kind == simulator.UserAssigned {
			return id
		}
	}
	s.t.Fatal("the platform has none")
	return simulator.Identity{}
}

// TestEverySettingEitherReloadsOrIsRefused goes by the file format, so that a new setting has to be
// decided on.
func TestEverySettingEitherReloadsOrIsRefused(t *testing.T) {
	var all []string
	for i := range reflect.TypeFor[config.Config]().NumField() {
		name, _, _ := strings.Cut(reflect.TypeFor[config.Config]().Field(i).Tag.Get("yaml"), ",")
		all = append(all, name)
	}
	decided := append(daemon.Fixed(), daemon.Reloaded()...)
	if !slices.Equal(slices.Sorted(slices.Values(all)), slices.Sorted(slices.Values(decided))) {
		t.Errorf("the file has %v\ndecided is on %v", slices.Sorted(slices.Values(all)), slices.Sorted(slices.Values(decided)))
	}
}

func TestSettingsThatNeedARestart(t *testing.T) {
	s := newStage(t)
	s.start()
	first := s.mustToken()
	for name, change := range map[string]func(*config.Config){
		"tpm":                  func(c *config.Config) { c.TPM = "unix:/elsewhere" },
		"tpm_owner_credential": func(c *config.Config) { c.TPMOwnerCredential = "owner" },
		"state_dir":            func(c *config.Config) { c.StateDir = "/elsewhere" },
		"socket":               func(c *config.Config) { c.Socket = "/elsewhere.sock" },
		"imds_endpoint":        func(c *config.Config) { c.IMDSEndpoint = "http://127.0.0.1:1" },
		"binding_key":          func(c *config.Config) { c.BindingKey.PCRs = []int{7} },
		"audit":                func(c *config.Config) { c.Audit.Required = true },
		"activated":            func(c *config.Config) { c.Activated = true },
		"endpoints": func(c *config.Config) {
			c.Endpoints.Takeover = &config.Takeover{Listen: "127.0.0.1:842", Users: []string{"4101"}}
		},
	} {
		err := s.reload(func(c *config.Config) {
			c.Rules, c.Identities = nil, nil // which would be in force at once
			change(c)
		})
		if err == nil || !strings.HasPrefix(err.Error(), name+" cannot change") || !strings.Contains(err.Error(), "restart the agent") {
			t.Errorf("%s: got %v", name, err)
		}
		if got := s.mustToken(); got.AccessToken.Reveal() != first.AccessToken.Reveal() {
			t.Errorf("%s: the token is another one", name)
		}
	}
	if n := len(daemon.Fixed()); n != 9 {
		t.Errorf("this test tries 9 settings, there are %d", n)
	}
	status := s.status().Configuration
	if status.Reloads != 0 || status.Refused != 9 || status.File != "" {
		t.Errorf("status has %+v", status)
	}
}

// TestAWrongConfigurationLeavesTheOneBeforeInForce tries what is found to be wrong at each stage of
// a reload.
func TestAWrongConfigurationLeavesTheOneBeforeInForce(t *testing.T) {
	s := newStage(t)
	s.start()
	first := s.mustToken()
	since := s.status().Configuration.Since
	torn := filepath.Join(t.TempDir(), "torn.pem")
	if err := os.WriteFile(torn, []byte("-----BEGIN CERTIFICATE-----\nAAAA\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	wrong := map[string]func(*config.Config){
		"a file that is not there":        func(c *config.Config) { c.CAFile = "/no/such.pem" },
		"a file that is torn":             func(c *config.Config) { c.CAFile = torn },
		"a file of the attestation":       func(c *config.Config) { c.Attestation.AMDRoots = torn },
		"a proxy's credential":            func(c *config.Config) { c.Proxy = config.Proxy{URL: "http://p:1", Credential: "none"} },
		"a resource":                      func(c *config.Config) { c.Rules[0].Resources = []string{"https://a.example//"} },
		"an identity that is not there":   func(c *config.Config) { c.Rules[0].Identities = []string{"nobody"} },
		"an identity twice":               func(c *config.Config) { c.Identities = append(c.Identities, c.Identities[0]) },
		"a word for the form":             func(c *config.Config) { c.Identities[0].ManagedIdentity.Bound = "maybe" },
		"a digest of the attestation":     func(c *config.Config) { c.Attestation.IDKeyDigests = []string{"zz"} },
		"a setting that needs a restart ": func(c *config.Config) { c.Socket = "/elsewhere.sock" },
	}
	for name, change := range wrong {
		err := s.reload(func(c *config.Config) {
			c.Admins = config.Principals{}
			change(c)
		})
		if err == nil {
			t.Fatalf("%s: it is in force", name)
		}
		if got := s.mustToken(); got.AccessToken.Reveal() != first.AccessToken.Reveal() {
			t.Errorf("%s: the token is another one", name)
		}
		status := s.status().Configuration
		if status.LastReload == nil || status.LastReload.Error != err.Error() || status.LastReload.Cause != "test" || !status.Since.Equal(since) {
			t.Errorf("%s: %v: status has %+v", name, err, status)
		}
	}
	if err := s.daemon.Reload(t.Context(), "test", func(context.Context) (*config.Config, config.Origin, error) {
		_, err := config.Parse("next.yaml", []byte("rules: {"))
		return nil, config.Origin{}, err
	}); err == nil || !strings.Contains(err.Error(), "next.yaml") {
		t.Errorf("got %v", err)
	}
	if got, want := s.status().Configuration.Refused, uint64(len(wrong)+1); got != want {
		t.Errorf("%d refused, want %d", got, want)
	}
	log := s.log.String()
	if n := strings.Count(log, `level=ERROR msg="the configuration was not reloaded; the one before stays in force" cause=test`); n != len(wrong)+1 {
		t.Errorf("%d records in the log:\n%s", n, log)
	}
	s.stop()
	if n := strings.Count(s.audit.String(), `"msg":"configuration refused","cause":"test","error":`); n != len(wrong)+1 {
		t.Errorf("%d records in the audit:\n%s", n, s.audit.String())
	}
}

// TestAReloadKeepsUnchangedIdentities: neither a certificate, nor a handshake, nor a token is
// obtained again.
func TestAReloadKeepsUnchangedIdentities(t *testing.T) {
	s := newStage(t)
	s.start()
	first := s.mustToken()
	before := s.status().Identities
	s.mustReload(func(c *config.Config) {
		c.Rules[0].Name = "renamed"
		c.Rules[0].Resources = append(c.Rules[0].Resources, otherResource)
		c.Identities = append(c.Identities, config.Identity{
			Name: "second", ManagedIdentity: &config.ManagedIdentity{ManagedIdentitySelector: config.ManagedIdentitySelector{ClientID: s.userAssigned().ClientID}, Bound: config.BoundNever},
		})
		c.Admins = config.Principals{Users: []string{"0"}}
	})
	if got := s.mustToken(); got.AccessToken.Reveal() != first.AccessToken.Reveal() {
		t.Error("the token is another one")
	}
	if _, err := s.client.Token(t.Context(), client.TokenRequest{Identity: "vm", Resource: otherResource}); err != nil {
		t.Errorf("what the new rule gives: %v", err)
	}
	status := s.status()
	if got := status.Identities[0]; got.TLS.Handshakes != before[0].TLS.Handshakes || len(status.Identities) != len(before)+1 {
		t.Errorf("%d handshakes, want %d; identities: %d", got.TLS.Handshakes, before[0].TLS.Handshakes, len(status.Identities))
	}
	c := status.Configuration
	if c.Reloads != 1 || c.Refused != 0 || c.File != "next.yaml" || c.SHA256 != "5e7e" || c.LastReload == nil || c.LastReload.Error != "" {
		t.Errorf("status has %+v", c)
	}
	if log := s.log.String(); !strings.Contains(log, `msg="configuration reloaded" cause=test file=next.yaml sha256=5e7e identities=5 rules=1 tokens_dropped_of="" trust_or_proxy_changed=false`) {
		t.Errorf("the log has\n%s", log)
	}
	s.stop()
	if audit := s.audit.String(); !strings.Contains(audit, `"msg":"configuration reloaded","cause":"test"`) {
		t.Errorf("the audit has\n%s", audit)
	}
}

// TestAReloadTakesTokensAway: from the moment that the reload has returned, no caller gets it any
// more.
func TestAReloadTakesTokensAway(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*config.Config)
		is     error
	}{
		{"the rule", func(c *config.Config) { c.Rules = nil }, client.ErrRefused},
		{"the resource", func(c *config.Config) { c.Rules[0].Resources = []string{otherResource} }, client.ErrRefused},
		{"the user", func(c *config.Config) { c.Rules[0].Principals = config.Principals{Users: []string{"1234567"}} }, client.ErrRefused},
		{"the identity", func(c *config.Config) {
			c.Identities = []config.Identity{{Name: "other", ManagedIdentity: &config.ManagedIdentity{Bound: config.BoundNever}}}
			c.Rules[0].Identities = []string{"other"}
		}, client.ErrRefused},
		{"all hosts of Entra", func(c *config.Config) { c.TrustedHosts.MTLS = []string{} }, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newStage(t)
			s.start()
			s.mustToken()
			s.mustReload(tt.change)
			s.client.Close()
			_, err := s.client.Token(t.Context(), client.TokenRequest{Identity: "vm", Resource: resource, ForceRefresh: tt.is == nil})
			if err == nil || tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("got %v", err)
			}
			s.mustReload(nothing)
			s.client.Close()
			s.mustToken()
		})
	}
}

// Connections to servers that are not believed any more end, and what is believed again works
// again.
func TestTrustChangesWithAReload(t *testing.T) {
	s := newStage(t)
	s.cfg.Rules[0].Fresh = true
	s.start()
	s.mustToken()
	fresh := func() error {
		_, err := s.client.Token(t.Context(), client.TokenRequest{Identity: "vm", Resource: resource, ForceRefresh: true})
		return err
	}
	if err := fresh(); err != nil {
		t.Fatal(err)
	}
	s.mustReload(func(c *config.Config) { c.CAFile = "" })
	if err := fresh(); err == nil || !strings.Contains(err.Error(), "unknown authority") {
		t.Errorf("without the authority: %v", err)
	}
	s.mustReload(nothing)
	if err := fresh(); err != nil {
		t.Errorf("with the authority again: %v", err)
	}
	s.mustReload(func(c *config.Config) { c.Proxy.URL = "http://127.0.0.1:1" })
	if n := strings.Count(s.log.String(), "trust_or_proxy_changed=true"); n != 3 { // the platform's hosts are on this machine, where no proxy is asked
		t.Errorf("%d reloads are said to have changed who is believed, want 3", n)
	}
}

// TestARequestIsAnsweredByOneConfiguration exchanges what a name means together with what rules
// give of it, while it is asked for. A token of the one identity for what only the other's rule
// gives would be a mixture that no file configures.
func TestARequestIsAnsweredByOneConfiguration(t *testing.T) {
	s := newStage(t)
	clients := map[string]string{resource: s.platform.Info().Identities[0].ClientID, otherResource: s.userAssigned().ClientID}
	forms := []func(*config.Config){
		func(c *config.Config) { c.Rules[0].Resources = []string{resource} },
		func(c *config.Config) {
			c.Rules[0].Resources = []string{otherResource}
			c.Identities[0].ManagedIdentity.ClientID = clients[otherResource]
		},
		func(c *config.Config) { c.Rules[0].Principals = config.Principals{Users: []string{"1234567"}} },
	}
	forms[0](s.cfg)
	s.start()
	ctx, cancel := context.WithCancel(t.Context())
	var askers sync.WaitGroup
	var mu sync.Mutex
	got := map[string]int{}
	for name, want := range clients {
		for range 2 {
			askers.Go(func() {
				for ctx.Err() == nil {
					token, err := s.client.Token(ctx, client.TokenRequest{Identity: "vm", Resource: name})
					problem, _ := errors.AsType[*client.Error](err)
					mu.Lock()
					switch {
					case err == nil:
						got["a token for "+name]++
						if token.ClientID != want {
							t.Errorf("for %s: a token of %s, whose rule gives none", name, token.ClientID)
						}
					case errors.Is(err, client.ErrRefused):
						got["a refusal"]++
					case ctx.Err() == nil && (problem == nil || problem.Status != 503 && problem.Status != 429): // or come again: another configuration came between
						t.Error(err)
					}
					mu.Unlock()
				}
			})
		}
	}
	enough := func() bool {
		mu.Lock()
		defer mu.Unlock()
		return got["a refusal"] > 20 && got["a token for "+resource] > 20 && got["a token for "+otherResource] > 20
	}
	for n := 0; n < 30 || !enough(); n++ {
		if n > 5000 {
			t.Fatalf("got %v only", got)
		}
		s.mustReload(func(c *config.Config) {
			c.Rules[0].Resources = nil
			forms[n%len(forms)](c)
			if len(c.Rules[0].Resources) == 0 {
				c.Rules[0].Resources = []string{resource, otherResource}
			}
		})
		s.status()
	}
	cancel()
	askers.Wait()
}

// The log says why the agent ends.
func TestTheEndIsLoggedWithItsCause(t *testing.T) {
	s := newStage(t)
	s.start()
	s.stop()
	if log := s.log.String(); !strings.Contains(log, `msg="keyagent ends: requests under way are finished first" cause="context canceled"`) || !strings.Contains(log, "keyagent has ended") {
		t.Errorf("the log has\n%s", log)
	}
}

// A second agent would write the first one's files.
func TestASecondAgentOnTheSameStateIsRefused(t *testing.T) {
	s := newStage(t)
	s.start()
	link := filepath.Join(t.TempDir(), "vm")
	if err := os.Symlink(filepath.Dir(s.cfg.StateDir), link); err != nil {
		t.Fatal(err)
	}
	for name, dir := range map[string]string{"the same path": s.cfg.StateDir, "another path": filepath.Join(link, filepath.Base(s.cfg.StateDir))} {
		second := s.changed(func(c *config.Config) { c.Socket, c.StateDir = filepath.Join(t.TempDir(), "second.sock"), dir })
		_, err := daemon.Open(t.Context(), second, daemon.Options{})
		if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("process %d, uses the state directory", os.Getpid())) {
			t.Errorf("by %s: got %v", name, err)
		}
	}
	s.mustToken()
	keys, err := keyring.Open(s.cfg, statedir.Options{}) // commands are not kept out
	if err != nil {
		t.Fatal(err)
	}
	defer keys.Close()
	if _, err := keys.Create(t.Context(), "app", keyring.KeyRequest{Algorithm: "ecdsa-p256"}); err != nil {
		t.Error(err)
	}
	s.stop()
	d, err := daemon.Open(t.Context(), s.cfg, daemon.Options{Audit: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatalf("after the first has ended: %v", err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

// TestStatusOfTheConfigurationIsJSON holds the names that others read.
func TestStatusOfTheConfigurationIsJSON(t *testing.T) {
	s := newStage(t)
	s.start()
	_ = s.reload(func(c *config.Config) { c.Socket = "/elsewhere" })
	var got map[string]any
	if err := json.Unmarshal(asJSON(t, s.status().Configuration), &got); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"since", "reloads", "reloads_refused", "last_reload"} {
		if _, there := got[name]; !there {
			t.Errorf("no %s in %v", name, got)
		}
	}
}
