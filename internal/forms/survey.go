package forms

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

// Survey has the facts about this machine and its tenants that are known without asking Entra.
type Survey struct {
	Keys    bool             // a TPM is used, in which applications can have keys
	Key     acquire.Strength // of the binding key; "" if there can be none
	Silent  bool             // the TPM does not answer now
	Attests bool             // binding certificates are asked for with attestation
	Host    imds.Support
	WhyHost string // why something of Host is not known
	Untried string // why nothing is known of a form that is configured

	ways      []way
	issued    []acquire.Strength // of the binding certificates in use
	refusedV2 string             // why binding certificates cannot be used here; "" if that is not known
}

// Observe adds what attempts have shown.
func (s *Survey) Observe(identities []acquire.IdentityStatus) {
	s.refusedV2 = refusedV2(identities)
	for _, id := range identities {
		for _, c := range id.Credentials {
			s.ways = append(s.ways, way{id.Application != nil, c})
		}
		if id.Certificate != nil {
			s.issued = append(s.issued, id.Strength)
		}
	}
}

// Expect adds the credentials of a configuration that were not tried.
func (s *Survey) Expect(identities []config.Identity) { s.ways = append(s.ways, waysOf(identities)...) }

// waysOf lists the forms that the credentials of a configuration can take.
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
func (s *Survey) seen(uses func(way) bool) (known wire.Capability, ok bool) {
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

// open is the answer where only an attempt can show whether a form works.
func (s *Survey) open(form *Form, strength acquire.Strength) wire.Capability {
	why := s.Untried
	if !slices.ContainsFunc(s.ways, form.uses) {
		why = "nothing is configured so, and only an attempt shows it"
	}
	return wire.Capability{Strength: string(strength), Reason: why}
}

// refusedForm says in fixed words why a form of a credential does not work for an application; ""
// if the error may pass.
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

// silent is what holds for all that the TPM signs while it does not answer.
const silent = "the TPM does not answer now"

// withoutTPM is why nothing that the TPM signs works now, if so.
func (s *Survey) withoutTPM() (known wire.Capability, so bool) {
	switch {
	case s.Silent:
		return capable(false, string(acquire.StrengthNone), silent), true
	case !s.Keys:
		return capable(false, string(acquire.StrengthNone), noKeys), true
	}
	return wire.Capability{}, false
}

func (s *Survey) certificateSigned(form *Form) wire.Capability {
	if known, so := s.withoutTPM(); so {
		return known
	}
	if known, ok := s.seen(form.uses); ok {
		return known
	}
	return capable(true, string(acquire.StrengthTPMSigned), "keys live in the TPM, and Entra takes their assertions wherever the certificate is registered")
}

func (s *Survey) certificateMTLS(form *Form) wire.Capability {
	if known, so := s.withoutTPM(); so {
		return known
	}
	if known, ok := s.seen(form.uses); ok {
		return known
	}
	return s.open(form, acquire.StrengthTPM)
}

func (s *Survey) managedIdentityV1(form *Form) wire.Capability {
	if known, ok := s.seen(form.uses); ok {
		return known
	}
	return s.V1()
}

// V1 is about tokens that IMDS gets.
func (s *Survey) V1() wire.Capability {
	if s.Host.V1 == imds.Unknown {
		return wire.Capability{Strength: string(acquire.StrengthNone), Reason: s.WhyHost}
	}
	return capable(s.Host.V1 == imds.Present, string(acquire.StrengthNone),
		"tokens of IMDS are bound to nothing; an identity has to allow them (bound: prefer or never)")
}

const noV2 = "this host's IMDS offers no binding certificates (MSI v2), or they are switched off here"

func (s *Survey) managedIdentityAttested(*Form) wire.Capability {
	const attested = string(acquire.StrengthAttested)
	known := s.V2()
	switch {
	case known.Strength == attested:
		return known
	case s.Key == acquire.StrengthSoftware:
		return capable(false, string(acquire.StrengthNone), "the binding key is in software (binding_key.insecure_software), and nothing attests that")
	case !s.Attests:
		return capable(false, string(acquire.StrengthNone), "attestation is switched off (attestation.provider: none)")
	case known.Available != nil && !*known.Available:
		return known
	}
	return wire.Capability{Strength: attested, Reason: known.Reason} // that certificates are offered does not say that one is issued
}

func (s *Survey) managedIdentityV2(*Form) wire.Capability {
	issued := slices.IndexFunc(s.issued, func(have acquire.Strength) bool { return have != acquire.StrengthAttested })
	switch {
	case s.Silent:
		return s.V2()
	case issued >= 0:
		return capable(true, string(s.issued[issued]), "a binding certificate was issued without attestation")
	case s.Key == "", s.Host.V2 == imds.Absent:
		return s.V2()
	case s.Attests:
		return wire.Capability{Strength: string(s.Key), Reason: "certificates are asked for with attestation here (attestation.provider); none was issued without"}
	case s.refusedV2 != "":
		return capable(false, string(acquire.StrengthNone), s.refusedV2)
	case s.Host.V2 == imds.Unknown:
		return wire.Capability{Strength: string(s.Key), Reason: s.WhyHost}
	}
	return wire.Capability{Strength: string(s.Key), Reason: "the host offers binding certificates; none has been issued since the start"}
}

func (s *Survey) federatedV2(form *Form) wire.Capability {
	if s.Silent {
		return s.V2()
	}
	if known, ok := s.seen(form.uses); ok {
		return known
	}
	if known := s.V2(); known.Available != nil && !*known.Available {
		return known
	}
	return s.open(form, s.Key)
}

func (s *Survey) otherIdentity(form *Form) wire.Capability {
	if known, ok := s.seen(form.uses); ok {
		return known
	}
	return s.open(form, "")
}

func (s *Survey) assertionFile(form *Form) wire.Capability {
	if known, ok := s.seen(form.uses); ok {
		return known
	}
	return capable(true, string(acquire.StrengthNone), "nothing of this machine is needed; anyone who can read the file can use it elsewhere")
}

// configured is the form's configuration without Markdown.
func (form *Form) configured() string {
	return strings.ReplaceAll(form.Configuration, "`", "")
}

// OutOfReach returns the forms of those credentials of a configuration for which no form works.
func OutOfReach(identities []config.Identity, reached []wire.Form) []string {
	var stuck []string
	for _, w := range waysOf(identities) {
		stuck = append(stuck, outOfReach(w, reached)...)
	}
	return stuck
}

// outOfReach returns the forms that a credential can take if none of them works.
func outOfReach(w way, reached []wire.Form) []string {
	var names []string
	for _, form := range All() {
		if !form.uses(w) {
			continue
		}
		at := slices.IndexFunc(reached, func(f wire.Form) bool { return f.Name == form.Name })
		if at < 0 || reached[at].Available == nil || *reached[at].Available {
			return nil
		}
		names = append(names, form.Name)
	}
	return names
}
