package agentapi_test

import (
	"encoding/json"
	"strconv"
	"testing"

	"github.com/keyagent/keyagent/agentapi"
	"github.com/keyagent/keyagent/agentapi/wire"
)

// An answer, into which the token is put while it is sent, is byte for byte what encoding/json
// makes of the types that clients decode into.
func FuzzTokenJSON(f *testing.F) {
	f.Add("Bearer", vault, "vm", "dGh1bWI", int64(3600), int64(1795438800), true, true)
	f.Add("", "", "", "", int64(-1), int64(0), false, false)
	f.Add(`"quo\ted"`, "<&>", "\u2028\x00\x7f", "\xff", int64(1)<<62, -int64(1)<<62, true, false)
	f.Fuzz(func(t *testing.T, tokenType, resource, identity, other string, in, on int64, fallback, bound bool) {
		response := wire.TokenResponse{
			AccessToken: wire.NewSecret(tokenText), TokenType: tokenType, ExpiresIn: in, ExpiresOn: on, NotBefore: in ^ on,
			Resource: resource, Identity: identity, ClientID: other, Credential: other + "1", Strength: other + "2", Fallback: fallback, Bound: bound,
		}
		if bound {
			response.Binding = &wire.Binding{Thumbprint: other, TLSVersion: tokenType, SignatureAlgorithm: identity}
		}
		equal(t, agentapi.NativeJSON(tokenText, response), response)
		equal(t, agentapi.IMDSJSON(tokenText, response), wire.IMDSToken{
			AccessToken: response.AccessToken, ClientID: other, ExpiresIn: strconv.FormatInt(in, 10), ExpiresOn: strconv.FormatInt(on, 10),
			ExtExpiresIn: strconv.FormatInt(in, 10), NotBefore: strconv.FormatInt(in^on, 10), Resource: resource, TokenType: tokenType,
		})
	})
}

func equal(t *testing.T, got string, typed any) {
	t.Helper()
	want, err := json.Marshal(typed)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}
