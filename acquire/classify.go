package acquire

import (
	"context"
	"errors"
	"net/http"

	"github.com/keyagent/keyagent/acquire/binding"
	"github.com/keyagent/keyagent/acquire/entra"
	"github.com/keyagent/keyagent/acquire/imds"
)

// classify makes a caller's error of whatever stopped a flight.
func classify(identity string, err error) *Error {
	out := &Error{Kind: KindUnavailable, Identity: identity, Err: err}
	var fromEntra *entra.Error
	var fromIMDS *imds.Error
	var floor *floorError
	switch {
	case errors.As(err, &floor):
		out.Kind = KindRefused
		out.Hint = "see keyagent status for the key and keyagent doctor for the attestation, or lower min_strength"
	case errors.As(err, &fromEntra):
		classifyEntra(out, fromEntra)
	case errors.Is(err, binding.ErrAttestation):
		classifyAttestation(out, err)
	case errors.As(err, &fromIMDS):
		classifyIMDS(out, fromIMDS)
	case errors.Is(err, imds.ErrUnreachable):
		out.Hint = "check that this is an Azure VM and that nothing blocks 169.254.169.254"
	case errors.Is(err, imds.ErrBadAnswer), errors.Is(err, entra.ErrBadAnswer):
		out.Kind = KindRefused
	case errors.Is(err, entra.ErrUnreachable):
		out.Hint = "check network, DNS and firewall towards the token endpoint"
	case errors.Is(err, context.Canceled):
		out.Hint = "the agent is stopping"
	}
	return out
}

func classifyEntra(out *Error, e *entra.Error) {
	out.Hint, out.RetryAfter = e.Hint(), e.RetryAfter
	switch {
	case e.Status == http.StatusTooManyRequests:
		out.Kind = KindThrottled
	case e.Temporary():
		out.Kind = KindUnavailable
	case e.Code == "invalid_resource" || e.Has(entra.CodeInvalidResource) || e.Has(entra.CodeInvalidResourceURI):
		out.Kind = KindInvalidResource
	default:
		out.Kind = KindRefused
	}
}

func classifyIMDS(out *Error, e *imds.Error) {
	switch {
	case e.Status == http.StatusTooManyRequests:
		out.Kind = KindThrottled
	case e.Status == http.StatusNotFound:
		out.Kind = KindRefused
		out.Hint = "binding certificates are not offered on this host: check the VM's region and type"
	case e.Temporary():
		out.Kind = KindUnavailable
	case e.Code == "identity_not_found":
		out.Kind = KindUnknownIdentity
		out.Hint = "assign the managed identity to this VM, or correct its id in the configuration"
	default:
		out.Kind = KindRefused
	}
}

// classifyAttestation goes by what the provider's error says of itself.
func classifyAttestation(out *Error, err error) {
	var temporary interface{ Temporary() bool }
	if errors.As(err, &temporary) && !temporary.Temporary() {
		out.Kind = KindRefused
		out.Hint = "the attestation service does not accept this machine's evidence; see its message"
	}
}
