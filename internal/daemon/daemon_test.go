package daemon_test

import (
	"bytes"
	"context"
	"crypto/rsa"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyagent/keyagent/client"
	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/agenttest"
	"github.com/keyagent/keyagent/internal/daemon"
	"github.com/keyagent/keyagent/internal/keyring"
	"github.com/keyagent/keyagent/internal/rulebook"
	"github.com/keyagent/keyagent/internal/waiting"
	"github.com/keyagent/keyagent/simulator"
	"github.com/keyagent/keyagent/simulator/fault"
	"github.com/keyagent/keyagent/tpm"
)

const resource = "https://vault.azure.net"

// stage is a simulated platform and one agent on it, in this process.
type stage struct {
	t          testing.TB
	platform   *simulator.Platform
	cfg        *config.Config
	log        agenttest.Log
	audit      agenttest.Log
	sleep      func(context.Context, time.Duration) error // nil: real time
	wait       func(context.Context, time.Duration) error
	accounts   rulebook.Accounts // nil: this machine's
	now        func() time.Time  // the agent's clock; nil: the platform's
	sdkTimeout time.Duration     // 0: 8 s
	waits      *waiting.Board    // nil: one of the agent's own
	cgroups    string            // root of the tree; "": this machine's

	waitForAccounts func(context.Context, time.Duration) error
	client          *client.Client
	daemon          *daemon.Daemon // that runs
	stop            func()
}

func newStage(t testing.TB) *stage {
	t.Helper()
	return newStageOn(t, simulator.Config{Dir: t.TempDir()})
}

// newStageOn is newStage with another platform.
func newStageOn(t testing.TB, platformConfig simulator.Config) *stage {
	t.Helper()
	on := agenttest.NewOn(t, platformConfig)
	return &stage{t: t, platform: on.Platform, cfg: on.Config}
}

// machine is the stage without the agent that runs on it.
func (s *stage) machine() *agenttest.Stage {
	return &agenttest.Stage{T: s.t, Platform: s.platform, Config: s.cfg}
}

func (s *stage) keyring(now func() time.Time) *keyring.Keyring {
	s.t.Helper()
	return s.machine().Keyring(now)
}

func (s *stage) stateFile(elements ...string) string { return s.machine().StateFile(elements...) }

func (s *stage) certify(k *keyring.Keyring) {
	s.t.Helper()
	s.machine().Certify(k)
}

// tryOpen opens the agent once more on the stage and returns what it says.
func (s *stage) tryOpen() error {
	s.t.Helper()
	machine := s.machine()
	err := machine.TryOpen()
	_, _ = s.log.Write([]byte(machine.Log.String()))
	return err
}

// start opens and runs the agent; the test's end, or stop, ends it.
func (s *stage) clock() func() time.Time {
	if s.now != nil {
		return s.now
	}
	return s.platform.Clock().Now
}

func (s *stage) start() {
	s.t.Helper()
	ctx, cancel := context.WithCancel(s.t.Context())
	// A copy, so that a test may set fields for the next start or reload while
	// this agent reads its own.
	cfg := *s.cfg
	d, err := daemon.Open(ctx, &cfg, daemon.Options{
		Version:    "test",
		Logger:     slog.New(slog.NewTextHandler(&s.log, nil)),
		Audit:      slog.New(slog.NewJSONHandler(&s.audit, nil)),
		Now:        s.clock(),
		Sleep:      s.sleep,
		Wait:       s.wait,
		Waits:      s.waits,
		SDKTimeout: s.sdkTimeout,
		Cgroups:    s.cgroups,

		Accounts: s.accounts, WaitForAccounts: s.waitForAccounts,
	})
	if err != nil {
		cancel()
		s.t.Fatal(err)
	}
	s.daemon = d
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx) }()
	s.client = client.New(client.Config{Socket: s.cfg.Socket})
	s.stop = sync.OnceFunc(func() {
		s.client.Close()
		cancel()
		if err := errors.Join(<-ended, d.Close(), d.Close()); err != nil {
			s.t.Errorf("stopping: %v", err)
		}
	})
	s.t.Cleanup(s.stop)
	for {
		if _, err := s.client.Status(ctx); err == nil {
			return
		} else if !errors.Is(err, client.ErrNotReachable) {
			s.t.Fatal(err)
		}
	}
}

func (s *stage) token() (client.Token, error) {
	s.t.Helper()
	return s.client.Token(s.t.Context(), client.TokenRequest{Identity: "vm", Resource: resource})
}

func (s *stage) mustToken() client.Token {
	s.t.Helper()
	token, err := s.token()
	if err != nil {
		s.t.Fatalf("%v\n%s", err, s.log.String())
	}
	return token
}

// TestNoPrivateKeyLeavesTheTPM looks for the binding key's private part in
// everything that the agent writes and answers.
func TestNoPrivateKeyLeavesTheTPM(t *testing.T) {
	s := newStage(t)
	s.start()
	token := s.mustToken()
	status, err := s.client.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	public := s.bindingKey()
	texts := map[string][]byte{"log": []byte(s.log.String()), "audit": []byte(s.audit.String()), "token": asJSON(t, token), "status": asJSON(t, status)}
	err = filepath.WalkDir(s.cfg.StateDir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err == nil && info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v, want 0600", path, info.Mode())
		}
		texts[path], err = os.ReadFile(path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(texts) < 6 {
		t.Errorf("only %d texts were searched; key file and certificate are missing", len(texts))
	}
	for name, text := range texts {
		if where := findPrivateKey(text, public); where != "" {
			t.Errorf("%s holds the private key: %s", name, where)
		}
	}
}

// bindingKey returns the public key that the TPM reports for the key file.
func (s *stage) bindingKey() *rsa.PublicKey {
	s.t.Helper()
	data, err := os.ReadFile(filepath.Join(s.cfg.StateDir, "keys", "binding", "1.key.pem"))
	if err != nil {
		s.t.Fatal(err)
	}
	file, err := tpm.DecodeKeyFile(data)
	if err != nil {
		s.t.Fatal(err)
	}
	t, err := tpm.Open(s.t.Context(), tpm.Config{Device: s.cfg.TPM})
	if err != nil {
		s.t.Fatal(err)
	}
	defer t.Close()
	key, err := t.LoadKey(s.t.Context(), file, tpm.LoadOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	defer key.Close()
	return key.PublicKey().(*rsa.PublicKey)
}

func asJSON(t *testing.T, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

var (
	base64Run = regexp.MustCompile(`[A-Za-z0-9+/_-]{64,}`)
	hexRun    = regexp.MustCompile(`[0-9a-fA-F]{64,}`)
)

// findPrivateKey reports where data, or a base64 or hex run in it, holds a prime
// factor of the modulus, in either byte order: one of them is enough to compute the key.
func findPrivateKey(data []byte, public *rsa.PublicKey) string {
	joined := bytes.ReplaceAll(data, []byte("\n"), nil) // PEM breaks its base64 into lines
	layers := map[string][]byte{"as it is": data}
	for i, run := range base64Run.FindAll(joined, -1) {
		clean := strings.NewReplacer("-", "+", "_", "/").Replace(string(run))
		for shift := range 4 { // where a run begins depends on what precedes it
			if decoded, err := base64.RawStdEncoding.DecodeString(clean[shift : shift+(len(clean)-shift)/4*4]); err == nil {
				layers[fmt.Sprintf("base64 run %d+%d", i, shift)] = decoded
			}
		}
	}
	for i, run := range hexRun.FindAll(joined, -1) {
		if decoded, err := hex.DecodeString(string(run[:len(run)/2*2])); err == nil {
			layers[fmt.Sprintf("hex run %d", i)] = decoded
		}
	}
	size := public.Size() / 2
	for layer, text := range layers {
		for at := 0; at+size <= len(text); at++ {
			window := text[at : at+size]
			if dividesModulus(window, public.N) || dividesModulus(reversed(window), public.N) {
				return fmt.Sprintf("%s, offset %d", layer, at)
			}
		}
	}
	return ""
}

func dividesModulus(window []byte, n *big.Int) bool {
	p := new(big.Int).SetBytes(window)
	return p.Cmp(big.NewInt(1)) > 0 && p.Cmp(n) < 0 && new(big.Int).Mod(n, p).Sign() == 0
}

func reversed(b []byte) []byte {
	out := make([]byte, len(b))
	for i := range b {
		out[len(b)-1-i] = b[i]
	}
	return out
}

func TestRestartIssuesNothing(t *testing.T) {
	s := newStage(t)
	s.start()
	first := s.mustToken()
	s.stop()
	s.start()
	second := s.mustToken()
	if n := len(s.platform.Journal().Operation("imds.issuecredential")); n != 1 || first.Binding.Thumbprint != second.Binding.Thumbprint {
		t.Errorf("got %d issuances and thumbprints %s, %s; want one certificate", n, first.Binding.Thumbprint, second.Binding.Thumbprint)
	}
}

// What an attestation token was needed for is kept; a restart needs none, and then has none to
// speak of.
func TestStatusSaysUntilWhenTheKeyIsAttested(t *testing.T) {
	s := newStage(t)
	until := func() *time.Time {
		s.t.Helper()
		for _, id := range s.status().Identities {
			if id.Name == "vm" {
				return id.Attestation.Expires
			}
		}
		t.Fatal("the identity is not in the status")
		return nil
	}
	s.start()
	if got := until(); got != nil {
		t.Errorf("before it was attested: %v", got)
	}
	s.mustToken()
	if got := until(); got == nil || !got.After(s.clock()()) {
		t.Errorf("after it was: %v", got)
	}
	s.stop()
	s.start()
	s.mustToken()
	if got := until(); got != nil {
		t.Errorf("after a restart: %v", got)
	}
}

func TestIMDSDownIsA503AndTheAgentRecovers(t *testing.T) {
	s := newStage(t)
	s.start()
	if err := s.platform.Faults().Add(fault.Fault{Operation: "imds.getplatformmetadata", Kind: fault.Reset}); err != nil {
		t.Fatal(err)
	}
	_, err := s.token()
	e, ok := errors.AsType[*client.Error](err)
	if !ok || e.Status != 503 || e.RetryAfter <= 0 || !strings.Contains(e.Problem.Detail, "instance metadata service not reachable") {
		t.Errorf("got %+v, want a 503 with Retry-After that names IMDS", err)
	}
	s.platform.Faults().Clear()
	s.mustToken()
}

func TestTPMResetIsSurvived(t *testing.T) {
	s := newStage(t)
	s.start()
	first := s.mustToken()
	if err := s.platform.ResetTPM(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.platform.Clock().Advance(8 * 24 * time.Hour) // past token_not_after: the key must attest and sign again
	second := s.mustToken()
	if first.Binding.Thumbprint == second.Binding.Thumbprint {
		t.Error("the certificate was not replaced")
	}
}

func TestExpiredCertificateIsReplaced(t *testing.T) {
	s := newStage(t)
	s.start()
	s.mustToken()
	s.stop()
	s.platform.Clock().Advance(8 * 24 * time.Hour) // past token_not_after, before notAfter
	s.start()
	s.mustToken()
	if n := len(s.platform.Journal().Operation("imds.issuecredential")); n != 2 {
		t.Errorf("got %d issuances, want 2", n)
	}
}

func TestAgentRefusesToTrustStrangers(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*config.Config)
		want   string
		final  bool
	}{
		{"an attestation host that is not on the list", func(c *config.Config) { c.TrustedHosts.Attestation = nil }, "not a trusted host", true},
		{"a token endpoint that is not on the list", func(c *config.Config) { c.TrustedHosts.MTLS = nil }, "not a trusted host", true},
		{"a server whose certificate authority is unknown", func(c *config.Config) { c.CAFile = "" }, "unknown authority: 127.0.0.1:", false},
		{"its own evidence under a launch identity that is not on the list", func(c *config.Config) { c.Attestation.IDKeyDigests = nil }, "snp.launch", false},
		{"its own evidence under an unknown processor root", func(c *config.Config) { c.Attestation.AMDRoots = "" }, "snp.chain", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newStage(t)
			tc.change(s.cfg)
			s.start()
			_, err := s.token()
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want a refusal with %q", err, tc.want)
			}
			if e, ok := errors.AsType[*client.Error](err); !ok || (e.Status == 503) == tc.final {
				t.Errorf("got status of %v, want one that says whether a retry helps (final: %v)", err, tc.final)
			}
			if n := len(s.platform.Journal().Operation("entra.mtls.token")); n != 0 {
				t.Errorf("Entra saw %d requests", n)
			}
		})
	}
}

func TestWithoutAttestationTheIssuerDecides(t *testing.T) {
	s := newStage(t)
	s.cfg.Attestation.Provider = config.ProviderNone
	s.start()
	_, err := s.token()
	if err == nil || !strings.Contains(err.Error(), "Attestation Token is missing") {
		t.Errorf("got %v, want the issuer's refusal: it demands attestation", err)
	}
}

func TestStateDirectoryOfAnotherTPMIsLeftAlone(t *testing.T) {
	s := newStage(t)
	s.start()
	s.stop()
	key := filepath.Join(s.cfg.StateDir, "keys", "binding", "1.key.pem")
	before, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	spoiled := bytes.Replace(before, []byte("A"), []byte("B"), 1)
	if err := os.WriteFile(key, spoiled, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := daemon.Open(t.Context(), s.cfg, daemon.Options{Audit: slog.New(slog.DiscardHandler)}); err == nil {
		t.Error("the agent started with a key file that is not this TPM's")
	}
	after, err := os.ReadFile(key)
	if err != nil || !bytes.Equal(after, spoiled) {
		t.Errorf("the key file was changed: %v", err)
	}
}
