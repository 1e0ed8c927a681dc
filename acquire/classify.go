package acquire

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"slices"

	"github.com/keyagent/keyagent/acquire/binding"
	"github.com/keyagent/keyagent/acquire/entra"
	"github.com/keyagent/keyagent/acquire/imds"
	"github.com/keyagent/keyagent/internal/cloud"
	"github.com/keyagent/keyagent/tlsbridge"
)

// classify makes a caller's error of whatever stopped a flight.
func classify(identity string, err error) *Error {
	if chain, ok := errors.AsType[*ChainError](err); ok {
		return classifyChain(identity, chain)
	}
	if e, ok := errors.AsType[*notReplaced](err); ok && !e.rejectsAll() {
		out := classify(identity, e.err) // another certificate may do, and this is what keeps it away
		out.Err = err
		return out
	}
	out := &Error{Kind: KindUnavailable, Identity: identity, Err: err}
	var paused *binding.PausedError
	var fromEntra *entra.Error
	var fromIMDS *imds.Error
	var floor *floorError
	var untrusted *tlsbridge.UntrustedError
	switch {
	case errors.As(err, &floor):
		out.Kind = KindRefused
		out.Hint = "keyagent capabilities says what this machine can reach and why it is not more; or lower min_strength"
	case errors.Is(err, errNoPoP):
		out.Kind = KindRefused
	case errors.As(err, &untrusted):
		out.Hint = untrusted.Hint()
	case errors.As(err, &paused):
		out.RetryAfter = paused.RetryAfter
		out.Hint = "Entra rejects what is issued: see the cause in the agent's log"
	case errors.As(err, &fromEntra):
		classifyEntra(out, fromEntra)
	case errors.Is(err, binding.ErrAttestation):
		classifyAttestation(out, err)
	case errors.As(err, &fromIMDS):
		classifyIMDS(out, fromIMDS)
	case errors.Is(err, imds.ErrNotSupported): // switched off on this machine
		out.Kind = KindRefused
		out.Hint = "switch binding certificates on again, or let the credential be unbound (bound: prefer)"
	case errors.Is(err, imds.ErrUnreachable):
		out.Hint = "check that this is an Azure VM and that nothing blocks " + cloud.MetadataAddress + "; " + hintStranger
	case errors.Is(err, imds.ErrBadAnswer):
		out.Kind = KindRefused
		out.Hint = cmp.Or(hintOf(err), hintStranger)
	case errors.Is(err, entra.ErrBadAnswer):
		out.Kind = KindRefused
		out.Hint = "check that it is Entra that answers: DNS, proxy, and the endpoints in the configuration"
	case errors.Is(err, entra.ErrUnreachable):
		out.Hint = "check network, DNS, proxy and firewall towards the token endpoint"
	case errors.Is(err, context.Canceled):
		out.Hint = "the agent is stopping"
	case errors.Is(err, context.DeadlineExceeded):
		out.Hint = hintLater
	default:
		classifyOther(out, err)
	}
	return out
}

// classifyChain goes by the attempt that gives the most hope, since the next request tries them all again.
func classifyChain(identity string, chain *ChainError) *Error {
	hope := []Kind{KindThrottled, KindUnavailable, KindInvalidResource, KindUnknownIdentity, KindRefused}
	var best *Error
	for _, attempt := range chain.Attempts {
		e := classify(identity, attempt.Err)
		if best == nil || slices.Index(hope, e.Kind) < slices.Index(hope, best.Kind) {
			best = e
		}
	}
	best.Err = chain
	return best
}

// classifyOther takes errors of this machine at their word: whether they last, and what to do.
func classifyOther(out *Error, err error) {
	if refuses(err) {
		out.Kind = KindRefused
	}
	out.Hint = cmp.Or(hintOf(err), "see the cause; keyagent doctor checks the TPM and the keys")
}

// hintOf is what an error says of itself that is to be done next, or nothing.
func hintOf(err error) string {
	var hinted interface{ Hint() string }
	if errors.As(err, &hinted) {
		return hinted.Hint()
	}
	return ""
}

const (
	hintLater    = "try again later; tokens that are in memory are served meanwhile"
	hintResource = "check the resource URI"
	hintStranger = "check that nothing stands between this VM and IMDS: a proxy, a container engine, or the guest agent of the Metadata Security Protocol " +
		"(azure-proxy-agent), which in enforce mode has to allow the agent's user"
)

func classifyEntra(out *Error, e *entra.Error) {
	out.Hint, out.RetryAfter, out.Claims = e.Hint(), e.RetryAfter, e.Claims
	switch {
	case e.Status == http.StatusTooManyRequests:
		out.Kind = KindThrottled
		out.Hint = cmp.Or(out.Hint, hintLater)
	case e.Temporary():
		out.Kind = KindUnavailable
		out.Hint = cmp.Or(out.Hint, hintLater)
	case e.Code == "invalid_resource" || e.Has(entra.CodeInvalidResource) || e.Has(entra.CodeInvalidResourceURI):
		out.Kind = KindInvalidResource
		out.Hint = cmp.Or(out.Hint, hintResource)
	default:
		out.Kind = KindRefused
		out.Hint = cmp.Or(out.Hint, "https://login.microsoftonline.com/error explains Entra's AADSTS codes")
	}
}

func classifyIMDS(out *Error, e *imds.Error) {
	switch {
	case e.Status == http.StatusTooManyRequests:
		out.Kind = KindThrottled
		out.Hint = hintLater
	case errors.Is(e, imds.ErrNotSupported):
		out.Kind = KindRefused
		out.Hint = "binding certificates are not offered on this host: check the VM's region and type; without them there are Bearer tokens only, and only for an identity with bound: prefer or never and without min_strength"
	case e.Temporary():
		out.Kind = KindUnavailable
		out.Hint = hintLater
	case e.Code == imds.CodeIdentityNotFound:
		out.Kind = KindUnknownIdentity
		out.Hint = "assign the managed identity to this VM, or correct its id in the configuration"
	case e.Code == "invalid_resource":
		out.Kind = KindInvalidResource
		out.Hint = hintResource
	case e.Status == http.StatusUnauthorized || e.Status == http.StatusForbidden || e.Status == http.StatusProxyAuthRequired:
		out.Kind = KindRefused
		out.Hint = hintStranger
	case e.RefusesIssuance():
		out.Kind = KindRefused
		out.Hint = "see what IMDS says of the request; keyagent doctor checks the key, and a wrong clock is another cause"
	default:
		out.Kind = KindRefused
		out.Hint = "see what IMDS says; where the configuration selects the identity by an id, check that it is the VM's"
	}
}

// classifyAttestation goes by what the provider's error says of itself.
func classifyAttestation(out *Error, err error) {
	switch {
	case refusesEvidence(err):
		out.Kind = KindRefused
		out.Hint = "the attestation service does not accept this machine's evidence; see its message"
	case refuses(err):
		out.Kind = KindRefused
		out.Hint = "this machine cannot make evidence; attestation: {provider: none} does without, where the issuer takes that, and bound: never asks for unbound tokens"
	default:
		out.Hint = "see what attestation says above; the agent tries it again, and tokens that are in memory are served meanwhile"
	}
}
