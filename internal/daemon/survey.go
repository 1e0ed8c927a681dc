package daemon

import (
	"cmp"
	"errors"
	"slices"
	"strings"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/acquire/entra"
	"github.com/keyagent/keyagent/acquire/imds"
	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/tlsbridge"
)

// way is one form of a configured credential, and how the last attempt with it ended.
type way struct {
	application bool // of an application; otherwise of a managed identity
	acquire.CredentialStatus
}

// survey is what is known of this machine and its tenants without asking Entra.
type survey struct {
	ways      []way
	issued    []acquire.Strength // of the binding certificates in use
	keys      bool               // a TPM is used, in which applications can have keys
	key       acquire.Strength   // of the binding key; "" if there can be none
	attests   bool               // binding certificates are asked for with attestation
	host      imds.Support
	whyHost   string // why something of host is not known
	refusedV2 string // why binding certificates are of no use here; "" if nobody has said so
	untried   string // why nothing is known of a form that is configured
}

// survey collects what the running agent knows.
func (d *Daemon) survey(host imds.Support, err error) *survey {
	s := &survey{
		keys: d.tpm != nil, key: acquire.Strength(d.key.Info().Strength), attests: d.inForce.Load().plan.provider != config.ProviderNone,
		host: host, whyHost: whyUnknown(err), refusedV2: d.refusedV2(), untried: "since the start, no token was obtained so, nor refused for good",
	}
	for _, id := range d.acquirer.Status() {
		for _, c := range id.Credentials {
			s.ways = append(s.ways, way{id.Application != nil, c})
		}
		if id.Certificate != nil {
			s.issued = append(s.issued, id.Strength)
		}
	}
	return s
}

// waysOf are the forms of the credentials of a configuration that nobody has tried.
func waysOf(identities []config.Identity) []way {
	var ways []way
	add := func(application bool, source acquire.Source, bound string) {
		if bound != config.BoundNever {
			ways = append(ways, way{application, acquire.CredentialStatus{Source: source, Bound: true}})
		}
		if bound != config.BoundRequire {
			ways = append(ways, way{application, acquire.CredentialStatus{Source: source}})
		}
	}
	for _, id := range identities {
		if m := id.ManagedIdentity; m != nil {
			add(false, acquire.SourceManagedIdentity, m.Bound)
		}
		if id.Application == nil {
			continue
		}
		for _, c := range id.Application.Credentials {
			add(true, acquire.Source(c.Source), c.Bound)
		}
	}
	return ways
}

// seen is what the attempts since the start say of a form; ok is false if they say nothing. A token
// that one identity obtained outweighs what another one was refused.
func (s *survey) seen(uses func(way) bool) (known wire.Capability, ok bool) {
	var refused string
	for _, w := range s.ways {
		if !w.Tried || !uses(w) {
			continue
		}
		why := refusedForm(w.LastError)
		if w.Strength != "" && why == "" {
			return capable(true, string(w.Strength), "a token was obtained so since the start"), true
		}
		refused = cmp.Or(refused, why)
	}
	if refused != "" {
		return capable(false, string(acquire.StrengthNone), refused), true
	}
	return wire.Capability{}, false
}

// open is the answer where only an attempt shows more.
func (s *survey) open(form *CredentialForm, strength acquire.Strength) wire.Capability {
	why := s.untried
	if !slices.ContainsFunc(s.ways, form.uses) {
		why = "nothing is configured so, and only an attempt shows it"
	}
	return wire.Capability{Strength: string(strength), Reason: why}
}

// refusedForm says in fixed words why a form of a credential is of no use to an application; "" if
// the error does not say so for good.
func refusedForm(err error) string {
	if !acquire.CannotBeBound(err) { // the same table says what of an unbound form is for good
		return ""
	}
	if why := refusedIssuance(err); why != "" {
		return why
	}
	if e, ok := errors.AsType[*entra.Error](err); ok && e.Has(entra.CodeCertificateTrust) {
		return "Entra takes the application's certificate over mutual TLS only if it is trusted by subject name and issuer"
	}
	switch entra.ReactionTo(err) {
	case entra.ReactionFeature:
		return "Entra has mutual TLS not enabled for the application"
	case entra.ReactionUnboundTenant:
		return "the application's tenant takes no bound form"
	case entra.ReactionReattest, entra.ReactionReissue, entra.ReactionCertificate, entra.ReactionPair, entra.ReactionNextCredential:
		return "Entra rejected the last one that was shown"
	}
	if tlsbridge.RefusalProven(err) {
		return "Entra rejected the last one that was shown"
	}
	return ""
}

const noKeys = "keys of applications live in a TPM, and none is used here"

func (s *survey) certificateSigned(form *CredentialForm) wire.Capability {
	if !s.keys {
		return capable(false, string(acquire.StrengthNone), noKeys)
	}
	if known, ok := s.seen(form.uses); ok {
		return known
	}
	return capable(true, string(acquire.StrengthTPMSigned), "keys live in the TPM, and Entra takes their assertions wherever the certificate is registered")
}

func (s *survey) certificateMTLS(form *CredentialForm) wire.Capability {
	if !s.keys {
		return capable(false, string(acquire.StrengthNone), noKeys)
	}
	if known, ok := s.seen(form.uses); ok {
		return known
	}
	return s.open(form, acquire.StrengthTPM)
}

func (s *survey) managedIdentityV1(form *CredentialForm) wire.Capability {
	if known, ok := s.seen(form.uses); ok {
		return known
	}
	return s.v1()
}

// v1 is about tokens that IMDS gets.
func (s *survey) v1() wire.Capability {
	if s.host.V1 == imds.Unknown {
		return wire.Capability{Strength: string(acquire.StrengthNone), Reason: s.whyHost}
	}
	return capable(s.host.V1 == imds.Present, string(acquire.StrengthNone),
		"tokens of IMDS are bound to nothing; an identity has to allow them (bound: prefer or never)")
}

const noV2 = "this host's IMDS offers no binding certificates (MSI v2), or they are switched off here"

func (s *survey) managedIdentityAttested(*CredentialForm) wire.Capability {
	const attested = string(acquire.StrengthAttested)
	known := s.v2()
	switch {
	case known.Strength == attested:
		return known
	case s.key == acquire.StrengthSoftware:
		return capable(false, string(acquire.StrengthNone), "the binding key is in software (binding_key.insecure_software), and nothing attests that")
	case !s.attests:
		return capable(false, string(acquire.StrengthNone), "attestation is switched off (attestation.provider: none)")
	case known.Available != nil && !*known.Available:
		return known
	}
	return wire.Capability{Strength: attested, Reason: known.Reason} // that certificates are offered does not say that one is issued
}

func (s *survey) managedIdentityV2(*CredentialForm) wire.Capability {
	issued := slices.IndexFunc(s.issued, func(have acquire.Strength) bool { return have != acquire.StrengthAttested })
	switch {
	case issued >= 0:
		return capable(true, string(s.issued[issued]), "a binding certificate was issued without attestation")
	case s.key == "", s.host.V2 == imds.Absent:
		return s.v2()
	case s.attests:
		return wire.Capability{Strength: string(s.key), Reason: "certificates are asked for with attestation here (attestation.provider); none was issued without"}
	case s.refusedV2 != "":
		return capable(false, string(acquire.StrengthNone), s.refusedV2)
	case s.host.V2 == imds.Unknown:
		return wire.Capability{Strength: string(s.key), Reason: s.whyHost}
	}
	return wire.Capability{Strength: string(s.key), Reason: "the host offers binding certificates; none has been issued since the start"}
}

func (s *survey) federatedV2(form *CredentialForm) wire.Capability {
	if known, ok := s.seen(form.uses); ok {
		return known
	}
	if known := s.v2(); known.Available != nil && !*known.Available {
		return known
	}
	return s.open(form, s.key)
}

func (s *survey) otherIdentity(form *CredentialForm) wire.Capability {
	if known, ok := s.seen(form.uses); ok {
		return known
	}
	return s.open(form, "")
}

func (s *survey) assertionFile(form *CredentialForm) wire.Capability {
	if known, ok := s.seen(form.uses); ok {
		return known
	}
	return capable(true, string(acquire.StrengthNone), "nothing of this machine is needed; whoever reads the file can use it elsewhere")
}

// configured is the form's configuration without the marks of the documentation.
func (form *CredentialForm) configured() string {
	return strings.ReplaceAll(form.Configuration, "`", "")
}
