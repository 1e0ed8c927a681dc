package forms

import (
	"cmp"
	"errors"
	"slices"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/acquire/binding"
	"github.com/keyagent/keyagent/acquire/entra"
	"github.com/keyagent/keyagent/acquire/imds"
	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/tlsbridge"
)

// V2 is about binding certificates of managed identities.
func (s *Survey) V2() wire.Capability {
	switch {
	case s.Silent:
		return capable(false, string(acquire.StrengthNone), silent)
	case slices.Contains(s.issued, acquire.StrengthAttested):
		return capable(true, string(acquire.StrengthAttested), "a binding certificate was issued on attestation")
	case s.Key == "":
		return capable(false, string(acquire.StrengthNone), "the binding key lives in a TPM, and none can be used here")
	case s.Host.V2 == imds.Unknown:
		return wire.Capability{Strength: string(s.Key), Reason: s.WhyHost}
	case s.Host.V2 == imds.Absent:
		return capable(false, string(acquire.StrengthNone), noV2)
	case s.refusedV2 != "":
		return capable(false, string(acquire.StrengthNone), s.refusedV2)
	}
	return capable(true, string(s.Key), "the host offers binding certificates; none has been issued on attestation since the start")
}

// refusedV2 is why binding certificates cannot be used here, if the last attempts to obtain a token
// with one were refused for good; "" otherwise. What Entra says to an application is about that
// application.
func refusedV2(identities []acquire.IdentityStatus) string {
	var refused string
	for _, id := range identities {
		for _, c := range id.Credentials {
			if c.Source != acquire.SourceManagedIdentity || !c.Bound || !c.Tried {
				continue
			}
			if c.LastError == nil {
				return ""
			}
			refused = cmp.Or(refused, refusedIssuance(c.LastError))
			if id.Application == nil {
				refused = cmp.Or(refused, refusedCertificate(c.LastError))
			}
		}
	}
	return refused
}

// refusedIssuance says in fixed words why the host gives no binding certificate; "" if the error
// does not say so, or may pass.
func refusedIssuance(err error) string {
	if !acquire.CannotBeBound(err) {
		return ""
	}
	fromIMDS, byIMDS := errors.AsType[*imds.Error](err)
	switch {
	case errors.Is(err, imds.ErrNotSupported):
		return "the host's IMDS has no endpoints for binding certificates (MSI v2)"
	case errors.Is(err, binding.ErrAttestation):
		return "the host offers binding certificates, and the attestation service does not accept this machine's evidence for one"
	case byIMDS && fromIMDS.RefusesIssuance():
		return "the host offers binding certificates, and its IMDS refused to issue one"
	}
	return ""
}

// refusedCertificate says in fixed words why Entra takes no binding certificate; "" if the error
// does not say so: it may be about the resource that one caller asked for.
func refusedCertificate(err error) string {
	const rejected = "the host offers binding certificates, and Entra rejected the last one"
	switch entra.ReactionTo(err) {
	case entra.ReactionFeature:
		return "the host offers binding certificates, and sign-in with them is switched off at Entra"
	case entra.ReactionReattest, entra.ReactionReissue, entra.ReactionCertificate:
		return rejected
	}
	if tlsbridge.RefusalProven(err) {
		return rejected
	}
	return ""
}

// WhyUnknown says in fixed words why a probe left something unknown.
func WhyUnknown(err error) string {
	if said, byIMDS := errors.AsType[*imds.Error](err); byIMDS && said.Temporary() || errors.Is(err, imds.ErrUnreachable) {
		return "IMDS does not answer, or not now"
	}
	return "something answers at the address of IMDS that is not IMDS, or not as IMDS does: a proxy, a container engine, or the guest agent of the " +
		"Metadata Security Protocol (azure-proxy-agent), which in enforce mode has to allow the agent's user"
}

// Certificate is about keys of applications.
func (s *Survey) Certificate() wire.Capability {
	const inTPM = "keys live in the TPM; they are not attested to Entra"
	if known, so := s.withoutTPM(); so {
		return known
	}
	if bound, ok := s.seen(usedBy(true, acquire.SourceCertificate, true)); ok && !*bound.Available {
		return capable(true, string(acquire.StrengthTPMSigned), inTPM+", which takes their assertions alone: "+bound.Reason)
	}
	if !slices.ContainsFunc(s.ways, func(w way) bool { return w.application }) {
		return capable(true, string(acquire.StrengthTPM), inTPM+onlyTrusted+"; no application is configured")
	}
	return capable(true, string(acquire.StrengthTPM), inTPM+onlyTrusted)
}

// onlyTrusted is the remark on applications' certificates over mutual TLS.
const onlyTrusted = "; over mutual TLS it takes certificates that the app registration trusts by subject name and issuer"

func capable(available bool, strength, reason string) wire.Capability {
	return wire.Capability{Available: &available, Strength: strength, Reason: reason}
}
