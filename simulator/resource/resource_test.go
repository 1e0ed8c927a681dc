package resource_test

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/keyagent/keyagent/simulator/fault"
	"github.com/keyagent/keyagent/simulator/internal/leg"
	"github.com/keyagent/keyagent/simulator/journal"
	"github.com/keyagent/keyagent/simulator/resource"
)

func epoch() time.Time { return time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC) }

func sign(t *testing.T, key any, algorithm jose.SignatureAlgorithm, claims map[string]any) string {
	t.Helper()
	return signAs(t, "1", key, algorithm, claims)
}

func signAs(t *testing.T, keyID string, key any, algorithm jose.SignatureAlgorithm, claims map[string]any) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: algorithm, Key: key}, (&jose.SignerOptions{}).WithHeader("kid", keyID))
	if err != nil {
		t.Fatal(err)
	}
	token, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func TestResource(t *testing.T) {
	newKey := func() *rsa.PrivateKey {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	key, other := newKey(), newKey()
	j := journal.New(100, epoch)
	server := httptest.NewServer(resource.New(resource.Config{
		Audience: "https://vault.azure.net", Issuer: "https://sts/", Now: epoch,
		Keys:     jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{KeyID: "1", Key: key.Public()}}},
		Recorder: leg.Recorder{Journal: j, Faults: fault.NewSet()},
	}))
	t.Cleanup(server.Close)

	claims := map[string]any{
		"iss": "https://sts/", "aud": "https://vault.azure.net", "nbf": epoch().Unix(), "exp": epoch().Add(time.Hour).Unix(),
		"appid": "app", "oid": "oid", "tid": "tid", "xms_mirid": "mirid",
	}
	with := func(name string, value any) map[string]any {
		changed := maps.Clone(claims)
		if value == nil {
			delete(changed, name)
		} else {
			changed[name] = value
		}
		return changed
	}
	for name, c := range map[string]struct {
		authorization string
		status        int
	}{
		"a good token":            {"Bearer " + sign(t, key, jose.RS256, claims), 200},
		"a scheme in lower case":  {"bearer " + sign(t, key, jose.RS256, claims), 200},
		"no token":                {"", 401},
		"another scheme":          {"mtls_pop " + sign(t, key, jose.RS256, claims), 401},
		"no JWT":                  {"Bearer x", 401},
		"an unknown key id":       {"Bearer " + signAs(t, "2", key, jose.RS256, claims), 401},
		"a forged signature":      {"Bearer " + sign(t, other, jose.RS256, claims), 401},
		"another algorithm":       {"Bearer " + sign(t, []byte("0123456789abcdef0123456789abcdef"), jose.HS256, claims), 401},
		"another audience":        {"Bearer " + sign(t, key, jose.RS256, with("aud", "https://graph.microsoft.com")), 401},
		"another issuer":          {"Bearer " + sign(t, key, jose.RS256, with("iss", "https://other/")), 401},
		"an expired token":        {"Bearer " + sign(t, key, jose.RS256, with("exp", epoch().Add(-2*time.Minute).Unix())), 401},
		"a token without expiry":  {"Bearer " + sign(t, key, jose.RS256, with("exp", nil)), 401},
		"a token of the future":   {"Bearer " + sign(t, key, jose.RS256, with("nbf", epoch().Add(2*time.Minute).Unix())), 401},
		"a token for no audience": {"Bearer " + sign(t, key, jose.RS256, with("aud", nil)), 401},
	} {
		t.Run(name, func(t *testing.T) {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+"/secrets/x", nil)
			if err != nil {
				t.Fatal(err)
			}
			if c.authorization != "" {
				req.Header.Set("Authorization", c.authorization)
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			var caller resource.Caller
			if err := json.NewDecoder(resp.Body).Decode(&caller); err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode != c.status || (caller.ClientID == "app") != (c.status == 200) || (resp.Header.Get("WWW-Authenticate") != "") != (c.status == 401) {
				t.Errorf("status %d, want %d; caller %+v", resp.StatusCode, c.status, caller)
			}
		})
	}
}
