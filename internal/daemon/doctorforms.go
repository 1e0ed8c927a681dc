package daemon

import (
	"cmp"
	"slices"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/config"
)

// checkForms says which forms of credentials this machine and tenant reach: in the words of the
// running agent, which has tried them, or else what follows from the machine and the configuration
// alone. One that is not within reach is a warning if a credential of the configuration has no
// other form.
func (d *doctor) checkForms() {
	ways, forms := waysOf(d.cfg.Identities), d.opts.Forms
	if forms == nil {
		forms = d.survey(ways).forms()
	}
	var stuck []string
	for _, w := range ways {
		stuck = append(stuck, outOfReach(w, forms)...)
	}
	for _, f := range forms {
		verdict, action := VerdictOK, ""
		if slices.Contains(stuck, f.Name) {
			verdict, action = VerdictWarn, "a credential of the configuration is written so ("+f.Configuration+"): choose a form that works here, see What works today in docs/credentials.md"
		}
		d.add("form "+f.Name, verdict, action, "%s", reachText(f))
	}
}

// survey is what is known of this machine where no agent has tried anything.
func (d *doctor) survey(ways []way) *survey {
	s := &survey{
		ways: ways, attests: d.cfg.Attestation.Provider != config.ProviderNone,
		whyHost: "IMDS is not asked by doctor, and no running agent answers this user", untried: "only an attempt shows it, and no running agent answers this user",
	}
	switch {
	case d.cfg.BindingKey.InsecureSoftware:
		s.key = acquire.StrengthSoftware
	case d.tpm != nil:
		s.keys, s.key = true, acquire.StrengthTPM
	}
	return s
}

// outOfReach returns the forms that a credential can have if none of them is within reach.
func outOfReach(w way, forms []wire.Form) []string {
	var names []string
	for _, form := range CredentialForms() {
		if !form.uses(w) {
			continue
		}
		at := slices.IndexFunc(forms, func(f wire.Form) bool { return f.Name == form.Name })
		if at < 0 || forms[at].Available == nil || *forms[at].Available {
			return nil
		}
		names = append(names, form.Name)
	}
	return names
}

func reachText(f wire.Form) string {
	text := f.Reached()
	if f.Strength != "" && text != "no" {
		text += ", strength " + f.Strength
	}
	return text + ": " + cmp.Or(f.Reason, f.Configuration)
}
