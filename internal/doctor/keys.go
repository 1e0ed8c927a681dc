package doctor

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/keyagent/keyagent/internal/advice"
	"github.com/keyagent/keyagent/internal/engine"
	"github.com/keyagent/keyagent/internal/keyring"
	"github.com/keyagent/keyagent/internal/statedir"
	"github.com/keyagent/keyagent/signer"
	"github.com/keyagent/keyagent/signer/keystore"
	"github.com/keyagent/keyagent/tpm"
)

// checkKey reports on one generation of a key.
func (d *doctor) checkKey(r keyring.KeyReport) {
	if r.State == keyring.StateOld {
		return // it is not used any more
	}
	check := "key " + r.Name
	if r.State == keyring.StateNext {
		check += ", next generation"
	}
	if r.Problem != "" {
		d.addError(check, r.Err, d.opts.Say("look at it with: %s", advice.Run(advice.ShowKey, r.Name)))
		return
	}
	if !r.Tested {
		d.add(check, VerdictWarn, d.opts.Say("look at it with: %s; if the agent has the value, it has tried the key at its start", advice.Run(advice.ShowKey, r.Name, advice.AuthFile)),
			"%s, loads; it was not tried: it needs its authorization value", r.Algorithm)
	} else {
		d.add(check, VerdictOK, "", "%s, loads and signs%s", r.Algorithm, boundTo(r))
	}
	d.checkTLS(check, r)
	d.checkDeviations(check, r)
	d.checkPlace(check, r)
	d.checkCertificate(check, r)
}

// boundTo names the PCRs of a key that has signed, which shows that their values are those that it
// was bound to.
func boundTo(r keyring.KeyReport) string {
	if len(r.PCRs) == 0 {
		return ""
	}
	return fmt.Sprintf("; PCRs %v of bank %s are as it wants them", r.PCRs, r.PCRBank)
}

func (d *doctor) checkTLS(check string, r keyring.KeyReport) {
	if r.PSSSaltLength == nil {
		return
	}
	if len(r.TLSVersions) == 1 {
		d.add(check+": tls", VerdictWarn, "nothing, if its servers take TLS 1.2; else make an ecdsa-p256 key where they take one", "%s", keyring.WithoutTLS13(*r.PSSSaltLength))
		return
	}
	d.add(check+": tls", VerdictOK, "", "%s; PSS with a salt of %d bytes", strings.Join(r.TLSVersions, " and "), *r.PSSSaltLength)
}

// checkDeviations reports attributes that a key made here does not have: the agent itself does not
// start with such a key.
func (d *doctor) checkDeviations(check string, r keyring.KeyReport) {
	if len(r.Deviations) == 0 {
		return
	}
	verdict := VerdictWarn
	if r.Name == statedir.BindingKeyName {
		verdict = VerdictFail
	}
	d.add(check+": attributes", verdict, d.opts.Say("if you did not adopt it from another program knowingly, make another: %s", advice.Run(advice.RotateKey, r.Name)),
		"%s", strings.Join(r.Deviations, "; "))
}

func (d *doctor) checkPlace(check string, r keyring.KeyReport) {
	switch {
	case r.PersistentHandle == "" || r.State != keyring.StateCurrent:
	case r.AtHandle:
		d.add(check+": persistent handle", VerdictOK, "", "it is at %s", r.PersistentHandle)
	default:
		d.add(check+": persistent handle", VerdictWarn, d.opts.Say("nothing is lost but time; %s makes one that is there", advice.Run(advice.RotateKey, r.Name)),
			"it is not at %s, and is loaded from its file", r.PersistentHandle)
	}
}

// checkCertificate reports on the certificate of a key in use. A next generation may have none yet.
func (d *doctor) checkCertificate(check string, r keyring.KeyReport) {
	check += ": certificate"
	subject := advice.Subject.Is("CN=" + r.Name)
	c := r.Certificate
	switch {
	case c == nil && r.Name == statedir.BindingKeyName: // its certificates are elsewhere
	case c == nil && r.State == keyring.StateCurrent:
		d.add(check, VerdictWarn, d.opts.Say("%s and then %s; or, where signed assertions are enough, %s",
			advice.Run(advice.RequestCertificate, r.Name, subject), advice.Run(advice.ImportCertificate, ""), advice.Run(advice.SelfSign, r.Name, subject)), "there is none")
	case c == nil:
	case c.Problem != "":
		d.add(check, VerdictFail, d.opts.Say("get another one: %s, then %s", advice.Run(advice.RequestCertificate, r.Name), advice.Run(advice.ImportCertificate, "")),
			"%s", strings.ReplaceAll(c.Problem, "\n", ""))
	case c.ExpiresSoon:
		d.add(check, VerdictWarn, d.opts.Say("get the next one: %s", advice.Run(advice.RotateKey, r.Name)),
			"%s expires soon, at %s", onALine(c.Subject), c.NotAfter.UTC().Format(time.RFC3339))
	default:
		d.add(check, VerdictOK, "", "%s, valid until %s", onALine(c.Subject), c.NotAfter.UTC().Format(time.RFC3339))
	}
}

// onALine keeps a name with a line break in it from looking like a finding of its own.
func onALine(name string) string { return strings.ReplaceAll(name, "\n", " ") }

// adviseOnBinding says to make another key only where it is the key that is at fault.
func (d *doctor) adviseOnBinding(err error) string {
	if errors.Is(err, tpm.ErrExportable) || errors.Is(err, tpm.ErrAttributes) {
		return d.opts.Say("the agent does not start with it: %s", advice.Run(advice.RotateKey, statedir.BindingKeyName))
	}
	return "correct what it says first; the agent does not start before, and nothing says that another key would help"
}

// checkBindingKey compares the agent's own key with the configuration, as its start does.
func (d *doctor) checkBindingKey(ctx context.Context, store *keystore.Store) {
	const check = "key " + statedir.BindingKeyName + ": as configured"
	if d.opts.ConfigError != nil || d.cfg.BindingKey.InsecureSoftware {
		return
	}
	want, err := engine.BindingKeyOptions(d.cfg)
	if err != nil {
		d.add(check, VerdictWarn, d.withCredentials(), "%v", err)
		return
	}
	e, err := store.Current(statedir.BindingKeyName)
	if err != nil {
		return // it was said
	}
	key, err := store.Open(ctx, e, signer.Config{TPM: d.tpm, Options: want.KeyOptions})
	if err != nil {
		d.addError(check, statedir.Explain(err, statedir.BindingKeyName), d.adviseOnBinding(err))
		return
	}
	defer key.Close()
	if err := engine.CheckAsConfigured(key.TPMKey(), want); err != nil {
		d.add(check, VerdictFail, engine.AsConfiguredAdvice().Text(d.opts.Words), "%v", err)
		return
	}
	if todo := engine.PlaceAdvice(e, want); !todo.IsZero() {
		d.add(check, VerdictWarn, d.opts.Say("nothing is lost but time; %s", todo), "the agent's own key is not at the persistent handle that the configuration names")
		return
	}
	d.add(check, VerdictOK, "", "the agent's own key is what the configuration asks for")
}
