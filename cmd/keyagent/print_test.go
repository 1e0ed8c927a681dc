package main

import (
	"bytes"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/client"
	"github.com/keyagent/keyagent/internal/keyring"
)

func TestHeaderOfEachTokenType(t *testing.T) {
	for tokenType, want := range map[string]string{
		"Bearer": "Authorization: Bearer eyJ0\n", wire.TypePoP: "Authorization: mtls_pop eyJ0\n",
	} {
		var out bytes.Buffer
		a := &app{streams: streams{out: &out}}
		if err := tokenWriters["header"](a, client.Token{AccessToken: wire.NewSecret("eyJ0"), TokenType: tokenType}); err != nil || out.String() != want {
			t.Errorf("got %q, %v, want %q", out.String(), err, want)
		}
	}
}

func TestStatusOfAnApplicationListsItsCredentials(t *testing.T) {
	var out bytes.Buffer
	err := printStatus(&out, wire.Status{Started: time.Unix(0, 0), Identities: []wire.IdentityStatus{{
		Name: "app", Kind: wire.KindApplication, State: "ready", ClientID: "c0ffee00-0000-4000-8000-0000000000aa",
		Credentials: []wire.CredentialStatus{
			{Name: "managed_identity", Source: "managed_identity", Bound: true, State: "unavailable", LastError: "IMDS is down"},
			{Name: "mine", Source: "certificate", Bound: false, State: "ready", Strength: "tpm"},
		},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Join(strings.Fields(out.String()), " ")
	for _, want := range []string{
		"identity app application, ready client id c0ffee00",
		"credential managed_identity managed_identity, bound, unavailable last error IMDS is down",
		"credential mine certificate, unbound, ready strength tpm",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}

func TestStatusSaysAnErrorOnceAndCountsRotations(t *testing.T) {
	for _, tt := range []struct {
		name   string
		status wire.Status
		want   string
		times  int
	}{
		{"an application's only credential has failed", wire.Status{Identities: []wire.IdentityStatus{{
			Name: "app", Kind: wire.KindApplication, LastError: "credential mine: no certificate",
			Credentials: []wire.CredentialStatus{{Name: "mine", LastError: "no certificate"}},
		}}}, "no certificate", 1},
		{"two have failed, one with the beginning of what the other says", wire.Status{Identities: []wire.IdentityStatus{{
			Name: "app", Kind: wire.KindApplication, LastError: "credential mine: not reachable: EOF",
			Credentials: []wire.CredentialStatus{{Name: "mine", LastError: "not reachable: EOF"}, {Name: "other", LastError: "not reachable"}},
		}}}, "not reachable", 2},
		{"one of two has failed", wire.Status{Identities: []wire.IdentityStatus{{
			Name: "app", Kind: wire.KindApplication,
			Credentials: []wire.CredentialStatus{{Name: "mine", LastError: "no certificate"}, {Name: "other", State: "ready"}},
		}}}, "no certificate", 1},
		{"a name in a server's certificate", wire.Status{Identities: []wire.IdentityStatus{{
			Name: "app", LastError: "certificate is valid for \x1b[2J\ntpm  not yours", Credentials: []wire.CredentialStatus{{Name: "mine", LastError: "\x1b[2J"}},
		}}}, "\x1b", 0},
		{"the same, as it is printed", wire.Status{Identities: []wire.IdentityStatus{{LastError: "valid for \x1b[2J\ntpm  not yours"}}}, `valid for \x1b[2J tpm  not yours`, 1},
		{"a rotated key", wire.Status{Key: wire.KeyStatus{Strength: "attested", Generation: 3}}, "strength attested, generation 3\n", 1},
		{"an audit that nothing is wrong with", wire.Status{}, "audit          not required\n", 1},
		{"a required audit that cannot be written", wire.Status{Audit: wire.AuditStatus{Required: true, Lost: 7, LastError: "write: broken\npipe"}},
			"required, records cannot be written: write: broken pipe, lost so far: 7\n", 1},
		{"a key in software", wire.Status{Key: wire.KeyStatus{Strength: "software"}}, "generation", 0},
	} {
		var out bytes.Buffer
		if err := printStatus(&out, tt.status); err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(out.String(), tt.want); n != tt.times {
			t.Errorf("%s: %d times %q in\n%s", tt.name, n, tt.want, out.String())
		}
	}
}

func TestCapabilitiesThatAreNotKnownAreSaidSo(t *testing.T) {
	var out bytes.Buffer
	no := false
	err := printCapabilities(&out, wire.Capabilities{
		StrongestBinding: "tpm", Reason: "where the key\nis", ManagedIdentityV2: wire.Capability{Strength: "tpm"},
		ManagedIdentityV1: wire.Capability{Available: &no, Reason: "not used"}, TokenTypes: []string{"bearer", "mtls_pop"},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"strongest binding     tpm, where the key\\nis\n", "managed identity, v2  unknown, strength tpm\n", "managed identity, v1  no, not used\n", "token types           bearer, mtls_pop\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}

func TestHowCallersAreKnownIsPrinted(t *testing.T) {
	var out bytes.Buffer
	err := printCapabilities(&out, wire.Capabilities{CallerIdentity: &wire.CallerIdentity{
		Required: "available", Process: wire.ProcessByNumber, Reason: "an old\nkernel",
		Units: wire.CallerProof{Reason: "cgroups of version 1"}, Loopback: wire.CallerProof{Available: true},
	}})
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Join(strings.Fields(out.String()), " ")
	for _, want := range []string{
		`callers' processes known by number, an old\nkernel`, "callers' units unknown: cgroups of version 1", "callers over loopback known",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestClaimsThatEntraDemandsArePrinted(t *testing.T) {
	var out bytes.Buffer
	a := &app{streams: streams{err: &out}}
	problem := wire.NewProblem(wire.CodeClaimsRequired, "interaction_required")
	problem.Claims = `{"a":"\u001b"}` + "\x1b"
	if code := a.exit(&client.Error{Problem: problem, Status: problem.Status}, &cobra.Command{Use: "token"}); code != exitFailed {
		t.Errorf("exit code %d", code)
	}
	if want := `keyagent: claims: {"a":"\u001b"}\x1b` + "\n"; !strings.Contains(out.String(), want) {
		t.Errorf("no %q in %q", want, out.String())
	}
}

func TestWhenToTryAgainIsPrinted(t *testing.T) {
	const line = "keyagent: retry after: 30 s\n"
	for seconds, want := range map[int64]bool{30: true, 0: false} {
		var out bytes.Buffer
		a := &app{streams: streams{err: &out}}
		problem := wire.NewProblem(wire.CodeClaimsRequired, "slow down")
		problem.RetryAfter = seconds
		a.exit(&client.Error{Problem: problem, Status: problem.Status}, &cobra.Command{Use: "token"})
		if strings.Contains(out.String(), line) != want {
			t.Errorf("%d s: %q", seconds, out.String())
		}
	}
}

func TestACapabilitySaysWhatItsWordsMean(t *testing.T) {
	yes := true
	var out bytes.Buffer
	err := printCapabilities(&out, wire.Capabilities{
		ManagedIdentityV2: wire.Capability{Reason: "not asked yet"},
		ManagedIdentityV1: wire.Capability{Available: &yes, Strength: "none", Reason: "tokens of IMDS are not bound"},
		Certificate:       wire.Capability{Available: &yes, Strength: "tpm"},
	})
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Join(strings.Fields(out.String()), " ")
	for _, want := range []string{
		"managed identity, v2 unknown, not asked yet", "managed identity, v1 yes, strength none: tokens of IMDS are not bound certificate yes, strength tpm attestation",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestFormsOfCredentialsSayWhetherTheyWork(t *testing.T) {
	yes, no := true, false
	var out bytes.Buffer
	err := printCapabilities(&out, wire.Capabilities{Forms: []wire.Form{
		{Name: "a", Available: &yes, Strength: "tpm-signed", Reason: "obtained"}, {Name: "b", Available: &no, Strength: "none", Reason: "refused\x1b"},
		{Name: "c", Strength: "tpm"}, {Name: "d", Reason: "not asked"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Join(strings.Fields(out.String()), " ")
	for _, want := range []string{"form a yes, strength tpm-signed: obtained ", `form b no, strength none: refused\x1b `, "form c not known yet, strength tpm ", "form d not known yet, not asked "} {
		if !strings.Contains(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestRemainingStepsForACertificate(t *testing.T) {
	entra, inUse := keyring.CertificateReport{ForEntra: true}, keyring.CertificateReport{ForEntra: true, NeedsReplace: true}
	for _, tc := range []struct {
		name   string
		report keyring.CertificateReport
		req    keyring.SelfSignOptions
		want   string
	}{
		{"beside its key, it waits for nobody", entra, keyring.SelfSignOptions{}, ""},
		{"not beside its key yet", entra, keyring.SelfSignOptions{NoImport: true}, "After that:\n  keyagent cert import app --file app.cer\n"},
		{"of the next generation", entra, keyring.SelfSignOptions{Next: true}, "After that:\n  keyagent key rotate app --finish\n"},
		{"not for Entra", keyring.CertificateReport{}, keyring.SelfSignOptions{Next: true}, "Once the servers it is for know it:\n  keyagent key rotate app --finish\n"},
		{"not beside its key yet, where another is in use", inUse, keyring.SelfSignOptions{NoImport: true}, "After that:\n  keyagent cert import app --file app.cer --replace\n"},
		{"both", entra, keyring.SelfSignOptions{NoImport: true, Next: true}, "After that:\n  keyagent cert import app --next --file app.cer\n  keyagent key rotate app --finish\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var out bytes.Buffer
			a := &app{streams: streams{out: &out}}
			if err := a.printSteps("app", "app.cer", tc.report, tc.req); err != nil || out.String() != tc.want {
				t.Errorf("got %q, %v, want %q", out.String(), err, tc.want)
			}
		})
	}
}

func TestNoticesAreNotRepeatedOnATerminal(t *testing.T) {
	notices := []string{"one", "two"}
	for _, tc := range []struct {
		name string
		out  io.Writer
		told []string
		want string
	}{
		{"a terminal has the comments", terminal(t), notices, "keyagent: notices: 2, see the comments\n"},
		{"a terminal without any", terminal(t), nil, ""},
		{"a file has them, and the terminal is told", new(bytes.Buffer), notices, "keyagent: notice: one\nkeyagent: notice: two\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var complaint bytes.Buffer
			a := &app{streams: streams{out: tc.out, err: &complaint}}
			if a.printNotices(tc.told); complaint.String() != tc.want {
				t.Errorf("got %q, want %q", complaint.String(), tc.want)
			}
		})
	}
}

// terminal is one side of a new pseudo-terminal. Linux takes the ioctl of either side.
func terminal(t *testing.T) *os.File {
	t.Helper()
	f, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no pseudo-terminals: %v", err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func TestStatusSaysWhichRuleIsOff(t *testing.T) {
	until := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	for _, tc := range []struct {
		name, want string
		status     wire.Status
	}{
		{"nothing is off", "", wire.Status{}},
		{"a rule", "rule web is not in force: user \"a\" is not known; group \"b\" is not known", wire.Status{RulesOff: []wire.RuleStatus{{Name: "web", Reason: "user \"a\" is not known\ngroup \"b\" is not known"}}}},
		{"a rule with a name that would feign another line", `rule w\x1b[2J is not in force: x`, wire.Status{RulesOff: []wire.RuleStatus{{Name: "w\x1b[2J", Reason: "x"}}}},
		{"a number that nobody confirms", "user bob has the number 1000 of the configuration before: it sleeps", wire.Status{Unconfirmed: []wire.UnconfirmedAccount{{Kind: "user", Name: "bob", Number: 1000, Reason: "it sleeps"}}}},
		{"one with an end", "group web has the number 1000 of the configuration before, until 2026-11-30T12:00:00Z unless it is confirmed: gone or down",
			wire.Status{Unconfirmed: []wire.UnconfirmedAccount{{Kind: "group", Name: "web", Number: 1000, Reason: "gone\nor down", Until: &until}}}},
		{"an administrator", "admins not all were found: user \"a\"", wire.Status{AdminsUnknown: "user \"a\""}},
	} {
		var out bytes.Buffer
		if err := printStatus(&out, tc.status); err != nil {
			t.Fatal(err)
		}
		got := strings.Join(strings.Fields(out.String()), " ")
		if tc.want == "" && strings.Contains(got, "not in force") || !strings.Contains(got, tc.want) {
			t.Errorf("%s: no %q in\n%s", tc.name, tc.want, out.String())
		}
	}
}

func TestStatusSaysWhichConfigurationIsInForce(t *testing.T) {
	at := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	for _, tc := range []struct {
		name, want string
		status     wire.Status
	}{
		{"never reloaded", "configuration c.yaml, in force since 2026-11-30T12:00:00Z, reloads: 0, refused: 0 sha256 5e7e",
			wire.Status{Configuration: wire.ConfigurationStatus{File: "c.yaml", SHA256: "5e7e", Since: at}}},
		{"reloaded", "reloads: 2, refused: 1 sha256 last reload 2026-11-30T12:00:00Z (SIGHUP)",
			wire.Status{Configuration: wire.ConfigurationStatus{Since: at, Reloads: 2, Refused: 1, LastReload: &wire.ReloadStatus{At: at, Cause: "SIGHUP"}}}},
		{"refused, for two reasons", "last reload refused at 2026-11-30T12:00:00Z (SIGHUP), the configuration before stays in force: one; two",
			wire.Status{Configuration: wire.ConfigurationStatus{LastReload: &wire.ReloadStatus{At: at, Cause: "SIGHUP", Error: "one\ntwo"}}}},
		{"a reason that would feign another line", `stays in force: x\x1b[2J`,
			wire.Status{Configuration: wire.ConfigurationStatus{LastReload: &wire.ReloadStatus{At: at, Cause: "SIGHUP", Error: "x\x1b[2J"}}}},
		{"something takes long", "waiting for the TPM, since 2026-11-30T12:00:00Z (3)",
			wire.Status{Waiting: []wire.WaitStatus{{What: "the TPM", Since: at, Count: 3}}}},
	} {
		var out bytes.Buffer
		if err := printStatus(&out, tc.status); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(strings.Fields(out.String()), " "); !strings.Contains(got, tc.want) {
			t.Errorf("%s: no %q in\n%s", tc.name, tc.want, out.String())
		}
	}
}
