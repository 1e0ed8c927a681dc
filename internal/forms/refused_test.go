package forms

import (
	"fmt"
	"testing"

	"github.com/keyagent/keyagent/acquire/entra"
	"github.com/keyagent/keyagent/acquire/imds"
)

// What a caller asked for must not look like a fault of the host to the others.
func TestWhatEntraSaysAboutARequestIsNoWordOnBindingCertificates(t *testing.T) {
	refusal := func(status int, codes ...int) error {
		return fmt.Errorf("somewhere: %w", &entra.Error{Status: status, Code: "invalid_request", Codes: codes})
	}
	for _, tt := range []struct {
		name    string
		err     error
		refused bool
	}{
		{"a resource that the tenant does not have", refusal(400, 500011), false},
		{"a resource that nobody knows", refusal(400, 50001), false},
		{"a resource that takes no bound tokens", refusal(400, 392196), false},
		{"a tenant that gets no bound tokens", refusal(400, 3921996), false},
		{"a claims challenge", refusal(400), false},
		{"throttling", refusal(429, 51000), false},
		{"nobody there", entra.ErrUnreachable, false},
		{"IMDS is not there", imds.ErrUnreachable, false},
		{"somebody else is there", imds.ErrBadAnswer, false},
		{"sign-in with certificates is switched off", refusal(400, 51000), true},
		{"the certificate is rejected", refusal(401, 7000214), true},
		{"the attestation is rejected", refusal(401, 1000612), true},
	} {
		got := refusedIssuance(tt.err) + refusedCertificate(tt.err)
		if (got != "") != tt.refused {
			t.Errorf("%s: got %q", tt.name, got)
		}
	}
}
