package daemon_test

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/client"
	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/daemon"
	"github.com/keyagent/keyagent/simulator/fault"
)

var update = flag.Bool("update", false, "rewrite what the documentation shows of the code")

// README.md and docs/credentials.md show the list as the code has it: go test ./internal/daemon
// -run Documentation -update writes it there.
func TestTheDocumentationShowsTheForms(t *testing.T) {
	const begin, end = "<!-- forms: made by go test ./internal/daemon -run Documentation -update -->\n", "<!-- /forms -->\n"
	want := formTable()
	for _, path := range []string{"../../README.md", "../../docs/credentials.md"} {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		before, rest, ok := strings.Cut(string(text), begin)
		shown, after, closed := strings.Cut(rest, end)
		if !ok || !closed {
			t.Fatalf("%s has no place for the table", path)
		}
		if *update {
			if err := os.WriteFile(path, []byte(before+begin+want+end+after), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if shown != want {
			t.Errorf("the table in %s is not the code's; got\n%s\nwant\n%s", path, shown, want)
		}
	}
}

func formTable() string {
	var out strings.Builder
	out.WriteString("| Form | Entra is shown | Configured | Works | Strength | Rests on |\n|---|---|---|---|---|---|\n")
	for _, f := range daemon.CredentialForms() {
		fmt.Fprintf(&out, "| %s | %s | %s | %s | %s | %s |\n", f.Name, f.What, f.Configuration, f.Works, f.Strength, f.RestsOn)
	}
	return out.String()
}

// form is what the running agent says of a form: verdict and strength.
func (c *chaos) form(name string) string {
	c.t.Helper()
	known, err := c.client.Capabilities(c.t.Context())
	if err != nil {
		c.t.Fatal(err)
	}
	at := slices.IndexFunc(known.Forms, func(f wire.Form) bool { return f.Name == name })
	if at < 0 {
		c.t.Fatalf("nothing is said of %s: %+v", name, known.Forms)
	}
	return known.Forms[at].Reached() + " " + known.Forms[at].Strength
}

// What the agent obtains, and what it is refused for good, changes what capabilities say; what
// passes does not.
func TestCapabilitiesFollowWhatIsObtained(t *testing.T) {
	c := newDuel(t, "")
	ask := func(identity string) { // how it ends is what the steps are about
		_, _ = c.client.Token(t.Context(), client.TokenRequest{Identity: identity, Resource: resource})
	}
	for _, step := range []struct {
		name  string
		fault fault.Fault
		asks  string
		form  string
		want  string
	}{
		{"nobody has asked", fault.Fault{}, "", "certificate-mtls", "not known yet tpm"},
		{"nor for an assertion", fault.Fault{}, "", "certificate-signed", "yes tpm-signed"},
		{"nor for a binding certificate", fault.Fault{}, "", "managed-identity-v2-attested", "not known yet attested"},
		{"an outage", status(503, codes(51000)), "app-cert", "certificate-mtls", "not known yet tpm"},
		{"not enabled", status(412, codes(51000)), "app-cert", "certificate-mtls", "no none"},
		{"not enabled, and the assertion alone is taken", status(412, codes(51000)), "app-prefer", "certificate-signed", "yes tpm-signed"},
		{"it is enabled", fault.Fault{}, "app-cert", "certificate-mtls", "yes tpm"},
		{"an outage afterwards", status(503, ""), "app-cert", "certificate-mtls", "yes tpm"},
		{"not trusted by subject name and issuer", status(400, codes(392189)), "app-cert", "certificate-mtls", "no none"},
		{"a managed identity has got one", fault.Fault{}, "vm", "managed-identity-v2-attested", "yes attested"},
		{"its assertion has not been tried", fault.Fault{}, "vm", "federated-v2", "not known yet tpm"},
		{"it has", fault.Fault{}, "app-fic", "federated-v2", "yes attested"},
		{"IMDS gives tokens", fault.Fault{}, "", "managed-identity-v1", "yes none"},
	} {
		c.platform.Faults().Clear()
		c.advance(8 * 24 * time.Hour) // what was obtained before is over
		if step.fault.Kind != "" {
			step.fault.Leg = "entra.mtls.token"
			c.add(step.fault)
		}
		if step.asks != "" {
			ask(step.asks)
		}
		if got := c.form(step.form); got != step.want {
			t.Errorf("%s: %s is %q, want %q", step.name, step.form, got, step.want)
		}
	}
}

// Where Entra takes an application's certificate in no bound form, its assertions are the strongest
// that it has.
func TestTheCertificateOfAnApplicationSaysWhenItCannotBeBound(t *testing.T) {
	c := newDuel(t, "")
	for _, code := range []int{51000, 392189, 3921996} {
		c.advance(8 * 24 * time.Hour)
		c.platform.Faults().Clear()
		c.add(fault.Fault{Leg: "entra.mtls.token", Kind: fault.Status, Status: 400, Body: codes(code)})
		if token, err := c.client.Token(t.Context(), client.TokenRequest{Identity: "app-cert", Resource: resource}); err == nil {
			t.Fatalf("%d: got a token, bound: %v", code, token.Bound)
		}
		known, err := c.client.Capabilities(t.Context())
		if err != nil || known.Certificate.Strength != wire.StrengthTPMSigned || !strings.Contains(known.Certificate.Reason, "assertions alone") {
			t.Errorf("%d: got %+v, %v", code, known.Certificate, err)
		}
	}
}

// Doctor says the same in the words of the agent, and less where none answers. It warns of a
// credential no form of which is within reach.
func TestDoctorSaysWhichFormsAreWithinReach(t *testing.T) {
	no := false
	reached := func(names ...string) (forms []wire.Form) { // all others are not
		for _, f := range daemon.CredentialForms() {
			form := wire.Form{Name: f.Name, Available: &no, Reason: "as the agent says"}
			if slices.Contains(names, f.Name) {
				form.Available = nil
			}
			forms = append(forms, form)
		}
		return forms
	}
	for _, tt := range []struct {
		name   string
		change func(s *stage)
		agent  []wire.Form
		form   string
		want   daemon.Finding // Detail: its beginning
	}{
		{"no agent: the TPM is there", nil, nil, "certificate-signed", daemon.Finding{Verdict: daemon.VerdictOK, Detail: "yes, strength tpm-signed: "}},
		{"no agent: Entra is not asked", nil, nil, "certificate-mtls", daemon.Finding{Verdict: daemon.VerdictOK, Detail: "not known yet, strength tpm: only an attempt"}},
		{"no agent: nor is IMDS", nil, nil, "managed-identity-v2-attested", daemon.Finding{Verdict: daemon.VerdictOK, Detail: "not known yet, strength attested: IMDS is not asked"}},
		{"no agent: attestation is off, and the other form may do", func(s *stage) { s.cfg.Attestation.Provider = config.ProviderNone }, nil,
			"managed-identity-v2-attested", daemon.Finding{Verdict: daemon.VerdictOK, Detail: "no: attestation is switched off"}},
		{"no agent: a TPM that is not there", func(s *stage) { s.cfg.TPM = "unix:/nonexistent" }, nil,
			"certificate-signed", daemon.Finding{Verdict: daemon.VerdictOK, Detail: "no: keys of applications live in a TPM"}},
		{"no agent: a TPM that is not there, and a credential that needs one", func(s *stage) { s.cfg.TPM = "unix:/nonexistent" }, nil,
			"certificate-mtls", daemon.Finding{Verdict: daemon.VerdictWarn, Detail: "no: keys of applications live in a TPM"}},
		{"an agent: a form that is used and not within reach", nil, reached(), "certificate-mtls", daemon.Finding{Verdict: daemon.VerdictWarn, Detail: "no: as the agent says"}},
		{"an agent: one that nobody uses", nil, reached(), "assertion-file", daemon.Finding{Verdict: daemon.VerdictOK, Detail: "no: as the agent says"}},
		{"an agent: both forms of a binding certificate", nil, reached(), "managed-identity-v2", daemon.Finding{Verdict: daemon.VerdictWarn, Detail: "no: as the agent says"}},
		{"an agent: one of them", nil, reached("managed-identity-v2"), "managed-identity-v2-attested", daemon.Finding{Verdict: daemon.VerdictOK, Detail: "no: as the agent says"}},
		{"an agent: what is not known", nil, reached("certificate-mtls"), "certificate-mtls", daemon.Finding{Verdict: daemon.VerdictOK, Detail: "not known yet: as the agent says"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newStage(t)
			if tt.change != nil {
				tt.change(s)
			}
			found := daemon.Diagnose(t.Context(), s.cfg, daemon.DiagnoseOptions{ConfigPath: "config.yaml", Forms: tt.agent}).Findings
			at := slices.IndexFunc(found, func(f daemon.Finding) bool { return f.Check == "form "+tt.form })
			if at < 0 {
				t.Fatalf("nothing is said of it: %+v", found)
			}
			if got := found[at]; got.Verdict != tt.want.Verdict || !strings.HasPrefix(got.Detail, tt.want.Detail) || (got.Action != "") != (got.Verdict == daemon.VerdictWarn) {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}
