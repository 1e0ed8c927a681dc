package entra_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/keyagent/keyagent/acquire/entra"
)

func TestReactionTo(t *testing.T) {
	refusal := func(status int, code string, codes ...int) error {
		return fmt.Errorf("somewhere: %w", &entra.Error{Status: status, Code: code, Codes: codes})
	}
	for _, tc := range []struct {
		name string
		err  error
		want entra.Reaction
	}{
		{"attestation token outside its time", refusal(401, "invalid_client", 1000610), entra.ReactionReattest},
		{"attestation token of a wrong issuer", refusal(401, "invalid_client", 1000611), entra.ReactionReattest},
		{"attestation token with a wrong claim", refusal(401, "invalid_client", 1000612), entra.ReactionReattest},
		{"attestation token with a wrong jku", refusal(401, "invalid_client", 1000613), entra.ReactionReattest},
		{"attestation token with a wrong signature", refusal(401, "invalid_client", 1000614), entra.ReactionReattest},
		{"invalid_client without codes", refusal(401, "invalid_client"), entra.ReactionReissue},
		{"token_not_after has passed", refusal(400, "invalid_request", 1000901), entra.ReactionReissue},
		{"certificate outside its validity", refusal(401, "invalid_client", 1000502), entra.ReactionCertificate},
		{"certificate rejected", refusal(401, "invalid_client", 7000214), entra.ReactionCertificate},
		{"certificate revoked", refusal(401, "invalid_client", 7000277), entra.ReactionCertificate},
		{"certificate and assertion differ", refusal(400, "invalid_request", 500181), entra.ReactionPair},
		{"resource takes no bound tokens", refusal(400, "invalid_request", 392196), entra.ReactionUnboundResource},
		{"tenant gets no bound tokens", refusal(401, "", 3921996), entra.ReactionUnboundTenant},
		{"feature disabled", refusal(400, "unauthorized_client", 51000), entra.ReactionFeature},
		{"feature disabled, with the status that Entra gives it", refusal(412, "unauthorized_client", 51000), entra.ReactionFeature},
		{"a certificate that is merely uploaded", refusal(400, "invalid_request", 392189), entra.ReactionFeature},
		{"the same as an invalid client", refusal(401, "invalid_client", 392189), entra.ReactionFeature},
		{"no federated credential", refusal(401, "invalid_client", 70022204), entra.ReactionFinal},
		{"no assertion", refusal(401, "invalid_client", 7000218), entra.ReactionNeedsAssertion},
		{"assertion of another key", refusal(401, "invalid_client", 700027), entra.ReactionNextCredential},
		{"certificate not registered", refusal(401, "invalid_client", 7000274), entra.ReactionNextCredential},
		{"assertion outside its time", refusal(401, "invalid_client", 700024), entra.ReactionRebuildAssertion},
		{"wrong secret", refusal(401, "invalid_client", 7000215), entra.ReactionFinal},
		{"no such app", refusal(400, "unauthorized_client", 700016), entra.ReactionFinal},
		{"assertion invalid", refusal(400, "invalid_grant", 50013), entra.ReactionFinal},
		{"no such resource", refusal(400, "invalid_resource", 500011), entra.ReactionFinal},

		{"codes that could not be read", &entra.Error{Status: 401, Code: "invalid_client", Unread: true}, entra.ReactionFinal},
		{"a code beside others that could not be read", &entra.Error{Status: 401, Code: "invalid_client", Codes: []int{7000214}, Unread: true}, entra.ReactionFinal},
		{"a code that nobody knows", refusal(401, "invalid_client", 4711), entra.ReactionFinal},
		{"a known code after one that nobody knows", refusal(401, "invalid_client", 4711, 1000502), entra.ReactionCertificate},
		{"the more specific code comes first", refusal(401, "invalid_client", 51000, 1000502), entra.ReactionFeature},
		{"a final code is a known one", refusal(401, "invalid_client", 70022204, 1000502), entra.ReactionFinal},
		{"another error without codes", refusal(400, "invalid_request"), entra.ReactionFinal},
		{"a refusal that says nothing", refusal(403, ""), entra.ReactionFinal},
		{"codes in the text count for nothing", &entra.Error{Status: 400, Description: "AADSTS1000612: no"}, entra.ReactionFinal},

		{"throttled", refusal(429, "invalid_client"), entra.ReactionWait},
		{"a server's error, whatever its code", refusal(503, "invalid_client", 1000612), entra.ReactionWait},
		{"a time-out at the server", refusal(408, ""), entra.ReactionWait},
		{"nobody there", fmt.Errorf("%w: refused", entra.ErrUnreachable), entra.ReactionWait},
		{"an unusable answer", fmt.Errorf("%w: HTML", entra.ErrBadAnswer), entra.ReactionFinal},
		{"an error of ours", errors.New("no such key"), entra.ReactionFinal},
		{"no error", nil, entra.ReactionFinal},
	} {
		if got := entra.ReactionTo(tc.err); got != tc.want {
			t.Errorf("%s: got reaction %d, want %d", tc.name, got, tc.want)
		}
	}
}

func TestEachCodeHasAHint(t *testing.T) {
	for _, code := range []int{
		50001, 500011, 1000610, 1000611, 1000612, 1000613, 1000614, 1000901, 1000502, 7000214, 7000277, 500181,
		392196, 3921996, 51000, 392189, 70022204, 7000218, 700027, 7000274, 700024, 7000215, 700016, 50013,
	} {
		if (&entra.Error{Codes: []int{4711, code}}).Hint() == "" {
			t.Errorf("AADSTS%d: the operator gets no hint", code)
		}
	}
	if hint := (&entra.Error{Codes: []int{4711}}).Hint(); hint != "" {
		t.Errorf("a code that nobody knows: got hint %q", hint)
	}
}
