package doctor_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/agenttest"
	"github.com/keyagent/keyagent/internal/doctor"
	"github.com/keyagent/keyagent/internal/forms"
)

// Doctor says the same in the words of the agent, and less where none answers. It warns of a
// credential no form of which is within reach.
func TestDoctorSaysWhichFormsWork(t *testing.T) {
	no := false
	reached := func(names ...string) (list []wire.Form) { // all others are not
		for _, f := range forms.All() {
			form := wire.Form{Name: f.Name, Available: &no, Reason: "as the agent says"}
			if slices.Contains(names, f.Name) {
				form.Available = nil
			}
			list = append(list, form)
		}
		return list
	}
	for _, tt := range []struct {
		name   string
		change func(s *agenttest.Stage)
		agent  []wire.Form
		form   string
		want   doctor.Finding // Detail: its beginning
	}{
		{"no agent: the TPM is there", nil, nil, "certificate-signed", doctor.Finding{Verdict: doctor.VerdictOK, Detail: "yes, strength tpm-signed: "}},
		{"no agent: Entra is not asked", nil, nil, "certificate-mtls", doctor.Finding{Verdict: doctor.VerdictOK, Detail: "not known yet, strength tpm: only an attempt"}},
		{"no agent: nor is IMDS", nil, nil, "managed-identity-v2-attested", doctor.Finding{Verdict: doctor.VerdictOK, Detail: "not known yet, strength attested: IMDS is not asked"}},
		{"no agent: attestation is off, and the other form may do", func(s *agenttest.Stage) { s.Config.Attestation.Provider = config.ProviderNone }, nil,
			"managed-identity-v2-attested", doctor.Finding{Verdict: doctor.VerdictOK, Detail: "no: attestation is switched off"}},
		{"no agent: a TPM that is not there", func(s *agenttest.Stage) { s.Config.TPM = "unix:/nonexistent" }, nil,
			"certificate-signed", doctor.Finding{Verdict: doctor.VerdictOK, Detail: "no: keys of applications live in a TPM"}},
		{"no agent: a TPM that is not there, and a credential that needs one", func(s *agenttest.Stage) { s.Config.TPM = "unix:/nonexistent" }, nil,
			"certificate-mtls", doctor.Finding{Verdict: doctor.VerdictWarn, Detail: "no: keys of applications live in a TPM"}},
		{"an agent: a form that is used and not within reach", nil, reached(), "certificate-mtls", doctor.Finding{Verdict: doctor.VerdictWarn, Detail: "no: as the agent says"}},
		{"an agent: one that nobody uses", nil, reached(), "assertion-file", doctor.Finding{Verdict: doctor.VerdictOK, Detail: "no: as the agent says"}},
		{"an agent: both forms of a binding certificate", nil, reached(), "managed-identity-v2-attested", doctor.Finding{Verdict: doctor.VerdictWarn, Detail: "no: as the agent says"}},
		{"an agent: the other form is not what is configured", nil, reached(), "managed-identity-v2", doctor.Finding{Verdict: doctor.VerdictOK, Detail: "no: as the agent says"}},
		{"an agent: the other form is what is configured", func(s *agenttest.Stage) { s.Config.Attestation.Provider = config.ProviderNone }, reached(),
			"managed-identity-v2", doctor.Finding{Verdict: doctor.VerdictWarn, Detail: "no: as the agent says"}},
		{"an agent: one of them", nil, reached("managed-identity-v2"), "managed-identity-v2-attested", doctor.Finding{Verdict: doctor.VerdictOK, Detail: "no: as the agent says"}},
		{"an agent: what is not known", nil, reached("certificate-mtls"), "certificate-mtls", doctor.Finding{Verdict: doctor.VerdictOK, Detail: "not known yet: as the agent says"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := agenttest.New(t)
			if tt.change != nil {
				tt.change(s)
			}
			found := doctor.Diagnose(t.Context(), s.Config, doctor.Options{ConfigPath: "config.yaml", Forms: tt.agent}).Findings
			at := slices.IndexFunc(found, func(f doctor.Finding) bool { return f.Check == "form "+tt.form })
			if at < 0 {
				t.Fatalf("nothing is said of it: %+v", found)
			}
			if tt.agent == nil && strings.Contains(found[at].Action, "choose a form") {
				t.Errorf("nobody has tried it, and the advice is %q", found[at].Action)
			}
			if got := found[at]; got.Verdict != tt.want.Verdict || !strings.HasPrefix(got.Detail, tt.want.Detail) || (got.Action != "") != (got.Verdict == doctor.VerdictWarn) {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}
