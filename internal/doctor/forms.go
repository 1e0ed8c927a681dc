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
	if known == nil {
		known = d.survey().Forms()
	}
	stuck := forms.OutOfReach(d.cfg.Identities, known)
	for _, f := range known {
		verdict, action := VerdictOK, ""
		if slices.Contains(stuck, f.Name) {
			verdict, action = VerdictWarn, "a credential of the configuration is written so ("+f.Configuration+"): choose a form that works here, see What works today in docs/credentials.md"
		}
		d.add("form "+f.Name, verdict, action, "%s", reachText(f))
	}
}

// survey is what is known of this machine where no agent has tried anything.
func (d *doctor) survey() *forms.Survey {
	s := &forms.Survey{
		Attests: d.cfg.Attestation.Provider != config.ProviderNone,
		WhyHost: "IMDS is not asked by doctor, and no running agent answers this user", Untried: "only an attempt shows it, and no running agent answers this user",
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
