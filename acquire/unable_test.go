package acquire_test

import (
	"context"
	"errors"
	"testing"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/acquire/binding"
	"github.com/keyagent/keyagent/acquire/entra"
	"github.com/keyagent/keyagent/acquire/imds"
	"github.com/keyagent/keyagent/tlsbridge"
	"github.com/keyagent/keyagent/tpm"
)

// A local user with a rule chooses the requests, and must not be able to make the agent look broken
// to all others by that.
func TestARefusedRequestIsNoFaultOfTheIdentity(t *testing.T) {
	coded := func(status int, code string, codes ...int) error {
		return &entra.Error{Status: status, Code: code, Codes: codes}
	}
	loaded, attempts := acquire.NotLoaded, chainOf
	app := acquire.Identity{Name: "app", Application: &acquire.Application{}}
	vm := acquire.Identity{Name: "vm", ManagedIdentity: &acquire.ManagedIdentity{}}
	for _, tt := range []struct {
		name   string
		of     acquire.Identity
		err    error
		unable bool
	}{
		// Refusals of the request.
		{"the app has no role at the resource", app, coded(400, "invalid_grant", 501051), false},
		{"a scope that is not valid", app, coded(400, "invalid_scope", 1002012), false},
		{"a resource that nobody knows", app, coded(400, "invalid_request", 50001), false},
		{"a resource that the tenant does not have", app, coded(400, "invalid_resource", 500011), false},
		{"a resource that takes no bound tokens", app, said(400, 392196), false},
		{"a policy on who may have what", app, coded(400, "invalid_grant", 53003), false},
		{"an app that may not have that", app, coded(400, "unauthorized_client", 650053), false},
		{"a code that nobody knows", app, said(400, 4711), false},
		{"a refusal without a code", app, coded(400, "invalid_request"), false},
		{"claims", app, &entra.Error{Status: 400, Code: "interaction_required", Claims: `{"access_token":{}}`}, false},
		{"a type of token", app, acquire.ErrNoPoP, false},
		{"the same, of a managed identity", vm, coded(400, "invalid_grant", 501051), false},
		{"a resource, says IMDS", vm, loaded(&imds.Error{Operation: "token", Status: 400, Code: "invalid_resource"}), false},
		{"anything else of the request, says IMDS", vm, loaded(&imds.Error{Operation: "token", Status: 400, Code: "invalid_request"}), false},
		{"the second credential was accepted", app, attempts(said(401, 700027), coded(400, "invalid_grant", 501051)), false},
		{"the first was accepted", app, attempts(said(400, 392196), loaded(errors.New("no key"))), false},

		// The credential, the app, the tenant.
		{"the certificate is not registered", app, coded(401, "invalid_client", 700027), true},
		{"the certificate was revoked", app, said(401, 7000277), true},
		{"a credential is wrong, and Entra does not say how", app, coded(401, "invalid_client"), true},
		{"a credential is wrong in a way that nobody knows", app, coded(401, "invalid_client", 4711), true},
		{"no such app", app, coded(400, "unauthorized_client", 700016), true},
		{"the app is disabled", app, coded(400, "unauthorized_client", 7000112), true},
		{"an app that may not have anything", app, coded(400, "unauthorized_client"), true},
		{"no such tenant", app, coded(400, "invalid_request", 90002), true},
		{"no federated credential", app, coded(400, "invalid_request", 70022204), true},
		{"no federated credential of the issuer", app, coded(400, "invalid_client", 700211), true},
		{"no federated credential of the subject", app, coded(400, "invalid_client", 700213), true},
		{"an assertion that is not valid", app, said(400, 50013), true},
		{"the tenant gets no bound tokens", app, said(400, 3921996), true},
		{"sign-in with certificates is switched off", app, said(400, 51000), true},
		{"the clock", app, said(401, 700024), true},
		{"no credential at all", app, said(401, 7000218), true},
		{"a certificate that could not be replaced", vm, loaded(acquire.NotReplaced(said(401, 7000214), &binding.PausedError{})), true},
		{"the floor", app, loaded(acquire.TooWeak("none", "tpm")), true},
		{"no key", app, loaded(errors.New("no key")), true},
		{"the app of the assertion has no role", app, loaded(coded(400, "invalid_grant", 501051)), true},
		{"IMDS gives no assertion", app, loaded(&imds.Error{Operation: "token", Status: 400, Code: "invalid_resource"}), true},
		{"IMDS does not have the identity", vm, loaded(&imds.Error{Operation: "token", Status: 400, Code: imds.CodeIdentityNotFound}), true},
		{"IMDS lets nobody ask", vm, loaded(&imds.Error{Operation: "token", Status: 403}), true},
		{"IMDS issues no certificate", vm, loaded(&imds.Error{Operation: "issuecredential", Status: 400}), true},
		{"IMDS issues none at all", vm, loaded(imds.ErrNotSupported), true},
		{"all credentials are wrong", app, attempts(said(401, 700027), loaded(errors.New("no key"))), true},

		// Services that were not reached.
		{"Entra is throttling", app, said(429), true},
		{"Entra is down", app, said(503, 501051), true},
		{"Entra is not there", app, entra.ErrUnreachable, true},
		{"something else is there", app, entra.ErrBadAnswer, true},
		{"a server that nobody vouches for", app, &tlsbridge.UntrustedError{}, true},
		{"IMDS is not there", vm, loaded(imds.ErrUnreachable), true},
		{"IMDS is down", vm, loaded(&imds.Error{Operation: "token", Status: 500}), true},
		{"the TPM is not there", app, tpm.ErrUnavailable, true},
		{"time is up", app, context.DeadlineExceeded, true},
		{"a fault in the agent", app, acquire.ErrPanic, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := acquire.Unable(tt.of, tt.err); got != tt.unable {
				t.Errorf("%v: unable: %v, want %v", tt.err, got, tt.unable)
			}
		})
	}
}
