package acquire

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/keyagent/keyagent/acquire/entra"
	"github.com/keyagent/keyagent/acquire/imds"
	"github.com/keyagent/keyagent/internal/cloud"
	"github.com/keyagent/keyagent/internal/errinfo"
)

// explanation is the part of an error that a caller gets besides its text: the members of [Error].
type explanation struct {
	kind       Kind
	hint       string
	retryAfter time.Duration
	claims     string
}

const (
	hintLater    = "try again later; tokens that are in memory are served meanwhile"
	hintResource = "check the resource URI"
	hintStranger = "check that nothing stands between this VM and IMDS: a proxy, a container engine, or the guest agent of the Metadata Security Protocol " +
		"(azure-proxy-agent), which in enforce mode has to allow the agent's user"
)

func refused(hint string) explanation     { return explanation{kind: KindRefused, hint: hint} }
func unavailable(hint string) explanation { return explanation{kind: KindUnavailable, hint: hint} }

// asError is the caller's error for whatever stopped a request.
func (e explanation) asError(identity string, err error) *Error {
	return &Error{Kind: e.kind, Identity: identity, Hint: e.hint, RetryAfter: e.retryAfter, Claims: e.claims, Err: err}
}

// hope orders kinds by the chance that a later request succeeds.
func (e explanation) hope() int {
	return slices.Index([]Kind{KindRefused, KindUnknownIdentity, KindInvalidResource, KindUnavailable, KindThrottled}, e.kind)
}

// explain goes by the first fact that says why a request was stopped.
func explain(f facts) explanation {
	is := func(target error) bool { return errors.Is(f.err, target) }
	switch {
	case f.tooWeak:
		return refused("keyagent capabilities says what this machine can reach and why it is not more; or lower min_strength")
	case is(errNoPoP):
		return refused("")
	case f.untrusted != nil:
		return unavailable(f.untrusted.Hint())
	case f.paused != nil:
		return explanation{
			kind: KindUnavailable, retryAfter: f.paused.RetryAfter, hint: "Entra rejects the certificates that are issued: see the cause in the agent's log",
		}
	case f.fromEntra != nil:
		return explainEntra(f.fromEntra)
	case f.attestation:
		return explainAttestation(f)
	case f.fromIMDS != nil:
		return explainIMDS(f.fromIMDS)
	case is(imds.ErrNotSupported): // switched off on this machine
		return refused("switch binding certificates on again, or let the credential be unbound (bound: prefer)")
	case is(imds.ErrUnreachable):
		return unavailable("check that this is an Azure VM and that nothing blocks " + cloud.MetadataAddress + "; " + hintStranger)
	case is(imds.ErrBadAnswer):
		return refused(cmp.Or(errinfo.Hint(f.err), hintStranger))
	case is(entra.ErrBadAnswer):
		return refused("check that it is Entra that answers: DNS, proxy, and the endpoints in the configuration")
	case is(entra.ErrUnreachable):
		return unavailable("check network, DNS, proxy and firewall towards the token endpoint")
	case is(context.Canceled):
		return unavailable("the agent is stopping")
	case is(context.DeadlineExceeded):
		return unavailable(hintLater)
	}
	return explainOther(f)
}

// explainOther relies on the errors of this machine: each can say whether it lasts, and what to do.
func explainOther(f facts) explanation {
	e := unavailable(cmp.Or(errinfo.Hint(f.err), "see the cause; keyagent doctor checks the TPM and the keys"))
	if f.refuses {
		e.kind = KindRefused
	}
	return e
}

func explainEntra(said *entra.Error) explanation {
	e := explanation{hint: said.Hint(), retryAfter: said.RetryAfter, claims: said.Claims}
	switch {
	case said.Status == http.StatusTooManyRequests:
		e.kind = KindThrottled
		e.hint = cmp.Or(e.hint, hintLater)
	case said.Temporary():
		e.kind = KindUnavailable
		e.hint = cmp.Or(e.hint, hintLater)
	case said.Code == "invalid_resource" || said.Has(entra.CodeInvalidResource) || said.Has(entra.CodeInvalidResourceURI):
		e.kind = KindInvalidResource
		e.hint = cmp.Or(e.hint, hintResource)
	default:
		e.kind = KindRefused
		e.hint = cmp.Or(e.hint, "https://login.microsoftonline.com/error explains Entra's AADSTS codes")
	}
	return e
}

func explainIMDS(said *imds.Error) explanation {
	switch {
	case said.Status == http.StatusTooManyRequests:
		return explanation{kind: KindThrottled, hint: hintLater}
	case errors.Is(said, imds.ErrNotSupported):
		return refused("binding certificates are not offered on this host: check the VM's region and type; without them there are Bearer tokens only, and only for an identity with bound: prefer or never and without min_strength")
	case said.Temporary():
		return unavailable(hintLater)
	case said.Code == imds.CodeIdentityNotFound:
		return explanation{kind: KindUnknownIdentity, hint: "assign the managed identity to this VM, or correct its id in the configuration"}
	case said.Code == "invalid_resource":
		return explanation{kind: KindInvalidResource, hint: hintResource}
	case said.Status == http.StatusUnauthorized || said.Status == http.StatusForbidden || said.Status == http.StatusProxyAuthRequired:
		return refused(hintStranger)
	case said.RefusesIssuance():
		return refused("see what IMDS says of the request; keyagent doctor checks the key, and a wrong clock is another cause")
	}
	return refused("see what IMDS says; where the configuration selects the identity by an id, check that it is the VM's")
}

// explainAttestation goes by the properties of the provider's error.
func explainAttestation(f facts) explanation {
	switch {
	case f.refusesEvidence():
		return refused("the attestation service does not accept this machine's evidence; see its message")
	case f.refuses:
		return refused("this machine cannot make evidence; attestation: {provider: none} does without, where the issuer takes that, and bound: never asks for unbound tokens")
	}
	return unavailable("see what attestation says above; the agent tries it again, and tokens that are in memory are served meanwhile")
}
