package daemon_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/client"
	"github.com/keyagent/keyagent/simulator/fault"
)

// form is what the running agent says of a form: verdict and strength.
func (c *chaos) form(name string) string {
	c.t.Helper()
	known, err := c.client.Capabilities(c.t.Context())
	if err != nil {
		c.t.Fatal(err)
	}
	at := slices.IndexFunc(known.Forms, func(f wire.Form) bool { return f.Name == name })
	if at < 0 {
		c.t.Fatalf("nothing is said of %s: %+v", name, known.Forms)
	}
	return known.Forms[at].Reached() + " " + known.Forms[at].Strength
}

// What the agent obtains, and what it is refused for good, changes what capabilities say; what
// passes does not.
func TestCapabilitiesFollowWhatIsObtained(t *testing.T) {
	c := newDuel(t, "")
	ask := func(identity string) { // how it ends is what the steps are about
		_, _ = c.client.Token(t.Context(), client.TokenRequest{Identity: identity, Resource: resource})
	}
	for _, step := range []struct {
		name  string
		fault fault.Fault
		asks  string
		form  string
		want  string
	}{
		{"nobody has asked", fault.Fault{}, "", "certificate-mtls", "not known yet tpm"},
		{"nor for an assertion", fault.Fault{}, "", "certificate-signed", "yes tpm-signed"},
		{"nor for a binding certificate", fault.Fault{}, "", "managed-identity-v2-attested", "not known yet attested"},
		{"an outage", status(503, codes(51000)), "app-cert", "certificate-mtls", "not known yet tpm"},
		{"not enabled", status(412, codes(51000)), "app-cert", "certificate-mtls", "no none"},
		{"not enabled, and the assertion alone is taken", status(412, codes(51000)), "app-prefer", "certificate-signed", "yes tpm-signed"},
		{"it is enabled", fault.Fault{}, "app-cert", "certificate-mtls", "yes tpm"},
		{"an outage afterwards", status(503, ""), "app-cert", "certificate-mtls", "yes tpm"},
		{"not trusted by subject name and issuer", status(400, codes(392189)), "app-cert", "certificate-mtls", "no none"},
		{"a managed identity has got one", fault.Fault{}, "vm", "managed-identity-v2-attested", "yes attested"},
		{"its assertion has not been tried", fault.Fault{}, "vm", "federated-v2", "not known yet tpm"},
		{"it has", fault.Fault{}, "app-fic", "federated-v2", "yes attested"},
		{"IMDS gives tokens", fault.Fault{}, "", "managed-identity-v1", "yes none"},
	} {
		c.platform.Faults().Clear()
		c.advance(8 * 24 * time.Hour) // what was obtained before is over
		if step.fault.Kind != "" {
			step.fault.Operation = "entra.mtls.token"
			c.add(step.fault)
		}
		if step.asks != "" {
			ask(step.asks)
		}
		if got := c.form(step.form); got != step.want {
			t.Errorf("%s: %s is %q, want %q", step.name, step.form, got, step.want)
		}
	}
}

// Where Entra takes an application's certificate in no bound form, its assertions are the strongest
// that it has.
func TestTheCertificateOfAnApplicationSaysWhenItCannotBeBound(t *testing.T) {
	c := newDuel(t, "")
	for _, code := range []int{51000, 392189, 3921996} {
		c.advance(8 * 24 * time.Hour)
		c.platform.Faults().Clear()
		c.add(fault.Fault{Operation: "entra.mtls.token", Kind: fault.Status, Status: 400, Body: codes(code)})
		if token, err := c.client.Token(t.Context(), client.TokenRequest{Identity: "app-cert", Resource: resource}); err == nil {
			t.Fatalf("%d: got a token, bound: %v", code, token.Bound)
		}
		known, err := c.client.Capabilities(t.Context())
		if err != nil || known.Certificate.Strength != wire.StrengthTPMSigned || !strings.Contains(known.Certificate.Reason, "assertions alone") {
			t.Errorf("%d: got %+v, %v", code, known.Certificate, err)
		}
	}
}
