package doctor

import (
	"cmp"
	"slices"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/forms"
)

// checkForms says which forms of credentials work here: what the running agent has found, or else
// what follows from the machine and the configuration alone. A form that does not work is a warning
// if a credential of the configuration has no other form.
func (d *doctor) checkForms() {
	known := d.opts.Forms
	if known == nil && d.unread() {
		return // the configured identities are not known
	}
	if known == nil {
		known = d.survey().Forms()
	}
	stuck := d.configured(forms.OutOfReach(d.cfg.Identities, known))
	for _, f := range known {
		verdict, action := VerdictOK, ""
		switch {
		case !slices.Contains(stuck, f.Name):
		case d.tpm == nil && !d.cfg.BindingKey.InsecureSoftware, d.opts.Forms == nil: // it may work, once that is repaired
			verdict, action = VerdictWarn, "a credential of the configuration is written so ("+f.Configuration+"): see what is said above of the TPM and the agent"
		default:
			verdict, action = VerdictWarn, "a credential of the configuration is written so ("+f.Configuration+"): choose a form that works here, see What works today in docs/credentials.md"
		}
		d.add("form "+f.Name, verdict, action, "%s", reachText(f))
	}
}

// configured leaves of the two forms of a managed identity's binding certificate the one that the
// configuration asks for.
func (d *doctor) configured(stuck []string) []string {
	other := "managed-identity-v2"
	if d.cfg.Attestation.Provider == config.ProviderNone {
		other = "managed-identity-v2-attested"
	}
	return slices.DeleteFunc(stuck, func(name string) bool { return name == other })
}

// survey has the facts about this machine that are known before an agent has tried anything.
func (d *doctor) survey() *forms.Survey {
	s := &forms.Survey{
		Attests: d.cfg.Attestation.Provider != config.ProviderNone,
		WhyHost: "IMDS is not asked by doctor, and no running agent answers here", Untried: "only an attempt shows it, and no running agent answers here",
	}
	s.Expect(d.cfg.Identities)
	switch {
	case d.cfg.BindingKey.InsecureSoftware:
		s.Key = acquire.StrengthSoftware
	case d.tpm != nil:
		s.Keys, s.Key = true, acquire.StrengthTPM
	}
	return s
}

func reachText(f wire.Form) string {
	text := f.Reached()
	if f.Strength != "" && text != "no" {
		text += ", strength " + f.Strength
	}
	return text + ": " + cmp.Or(f.Reason, f.Configuration)
}
