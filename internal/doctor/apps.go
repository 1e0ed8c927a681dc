package doctor

import (
	"fmt"
	"os"
	"slices"

	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/advice"
	"github.com/keyagent/keyagent/internal/keyring"
	"github.com/keyagent/keyagent/tpm"
)

// checkCredentials looks at the keys and files that the configuration's applications need on this
// machine. Faults of an existing key were reported with the key.
func (d *doctor) checkCredentials(keys []keyring.KeyReport) {
	for _, id := range d.cfg.Identities {
		if id.Application == nil {
			continue
		}
		for _, c := range id.Application.Credentials {
			check := fmt.Sprintf("identity %s: %s", id.Name, c.Name)
			switch c.Source {
			case config.SourceCertificate:
				d.checkCertificateCredential(check, c, keys)
			case config.SourceAssertionFile:
				d.checkAssertionFile(check, c)
			}
		}
	}
}

func (d *doctor) checkCertificateCredential(check string, c config.Credential, keys []keyring.KeyReport) {
	at := slices.IndexFunc(keys, func(r keyring.KeyReport) bool { return r.Name == c.Key && r.State == keyring.StateCurrent })
	switch {
	case at < 0:
		d.add(check, VerdictFail, d.opts.Say("%s, then have it certified and register the certificate: see docs/keys.md", advice.Run(advice.CreateKey, c.Key)),
			"there is no key %q", c.Key)
	case keys[at].Algorithm != "" && !keyring.ForEntra(tpm.Algorithm(keys[at].Algorithm)):
		d.add(check, VerdictFail, d.opts.Say("put an RSA key in its place: %s", advice.Run(advice.RotateKey, c.Key, advice.Algorithm.Is("rsa-2048"))),
			"key %q is %s, and Entra takes RSA keys only", c.Key, keys[at].Algorithm)
	case keys[at].AuthValue:
		d.add(check, VerdictFail, d.opts.Say("make one without: %s", advice.Run(advice.RotateKey, c.Key, advice.NoAuth)),
			"key %q needs an authorization value, which the agent has only for its own key", c.Key)
	case keys[at].Certificate == nil && keys[at].Problem == "":
		d.add(check, VerdictFail, d.toCertify(c),
			"key %q has no certificate", c.Key)
	case keys[at].Problem == "" && keys[at].Certificate.Problem == "" && keys[at].Certificate.SelfSigned && c.Bound != config.BoundNever:
		d.add(check, VerdictWarn, d.toCertify(c), "key %q has a self-signed certificate, and over mutual TLS Entra takes certificates that the app registration trusts by subject name and issuer, "+
			"by all that is known, unless the app is enabled for others (AADSTS392189)", c.Key)
	case keys[at].Problem == "" && keys[at].Certificate.Problem == "":
		d.add(check, VerdictOK, "", "key %q and its certificate are there", c.Key)
	}
}

// toCertify says how a credential's key gets a certificate that Entra takes in the form that is
// configured.
func (d *doctor) toCertify(c config.Credential) string {
	subject := advice.Subject.Is("CN=" + c.Key)
	if c.Bound == config.BoundNever {
		return d.opts.Say("%s, or %s and %s; register the certificate with the application",
			advice.Run(advice.SelfSign, c.Key, subject), advice.Run(advice.RequestCertificate, ""), advice.Run(advice.ImportCertificate, ""))
	}
	return d.opts.Say("%s, have an authority issue the certificate that the application trusts by subject name and issuer, and %s: see docs/credentials.md",
		advice.Run(advice.RequestCertificate, c.Key, subject, advice.Out.Is("request.pem")), advice.Run(advice.ImportCertificate, c.Key, advice.File.Is("chain.pem")))
}

func (d *doctor) checkAssertionFile(check string, c config.Credential) {
	if _, err := os.Stat(c.Path); err != nil {
		d.add(check, VerdictFail, "see that the program that writes it runs, and that the agent's user may read it", "%v", err)
		return
	}
	d.add(check, VerdictWarn, "nothing, if it is meant: anyone who can read the file can use it elsewhere", "%s is there; such a credential is never bound", c.Path)
}
