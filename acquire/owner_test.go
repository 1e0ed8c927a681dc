package acquire_test

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/acquire/imds"
	"github.com/keyagent/keyagent/internal/secret"
)

const (
	firstClient  = "8b0c3d0e-0000-4000-8000-00000000c1d1"
	secondClient = "8b0c3d0e-0000-4000-8000-00000000c1d2"
	firstObject  = "9d0c3d0e-0000-4000-8000-0000000000b1"
	firstARM     = "/subscriptions/s/resourcegroups/g/providers/Microsoft.Compute/virtualMachines/vm"
)

// tokenSaying is an unsigned token with these claims.
func tokenSaying(claims string) string {
	return "e30." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".c2ln"
}

func TestATokenTellsTheIDsOfItsOwner(t *testing.T) {
	for _, tt := range []struct {
		name, token, object, resource string
	}{
		{"version 1.0", tokenSaying(`{"appid":"` + firstClient + `","oid":"` + firstObject + `","xms_mirid":"` + firstARM + `"}`), firstObject, firstARM},
		{"version 2.0", tokenSaying(`{"azp":"` + firstClient + `","oid":"` + firstObject + `"}`), firstObject, ""},
		{"in other letters", tokenSaying(`{"appid":"` + strings.ToUpper(firstClient) + `","xms_mirid":"` + firstARM + `"}`), "", firstARM},
		{"an object id alone", tokenSaying(`{"oid":"` + firstObject + `"}`), "", ""},
		{"of another client", tokenSaying(`{"appid":"` + secondClient + `","oid":"` + firstObject + `","xms_mirid":"` + firstARM + `"}`), "", ""},
		{"ids that are none", tokenSaying(`{"appid":"` + firstClient + `","oid":"me","xms_mirid":"vm"}`), "", ""},
		{"a resource id without end", tokenSaying(`{"appid":"` + firstClient + `","xms_mirid":"/` + strings.Repeat("r", 2000) + `"}`), "", ""},
		{"ids of other types", tokenSaying(`{"appid":"` + firstClient + `","oid":7}`), "", ""},
		{"opaque", "opaque", "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := unboundWorld(t)
			w.gives(tt.token, firstClient)
			token := w.mustGet(acquire.Request{})
			if token.ObjectID != tt.object || token.ResourceID != tt.resource || token.ClientID != firstClient {
				t.Errorf("got %q and %q, want %q and %q", token.ObjectID, token.ResourceID, tt.object, tt.resource)
			}
			if again := w.mustGet(acquire.Request{}); !again.FromCache || again.ObjectID != tt.object || again.ResourceID != tt.resource {
				t.Errorf("from memory: %+v", again)
			}
		})
	}
	t.Run("from Entra itself", func(t *testing.T) {
		w := newAppWorld(t, certificateEntry(acquire.BoundRequire))
		w.addKey("app")
		w.answerWith(func(rw http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(rw, `{"token_type":"Bearer","expires_in":3600,"access_token":%q}`, tokenSaying(`{"appid":"`+appID+`","oid":"`+firstObject+`"}`))
		})
		if token := w.mustGet(acquire.Request{Identity: "app"}); token.ObjectID != firstObject || token.ClientID != appID {
			t.Errorf("got %+v", token)
		}
	})
}

// unboundWorld is a world whose identity vm has its tokens from the metadata service.
func unboundWorld(t *testing.T) *world {
	t.Helper()
	id := managed("vm")
	id.ManagedIdentity.Bound = acquire.BoundNever
	return newWorldWith(t, acquire.StrengthTPM, id)
}

// gives has the metadata service give this token, of this client.
func (w *world) gives(token, clientID string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.unbound = func(imds.TokenRequest) (*imds.Token, error) {
		return &imds.Token{AccessToken: secret.New(token), ExpiresIn: time.Hour, ClientID: clientID}, nil
	}
}

// An identity of a VM can be taken away and given anew: it has another client id then, and no
// rights of the one before.
func TestTokensOfAnIdentityThatHasChangedAreDropped(t *testing.T) {
	for _, tt := range []struct {
		name, clientID string
		dropped        bool
	}{
		{"another client id", secondClient, true},
		{"the same in other letters", strings.ToUpper(firstClient), false},
		{"nobody says whose it is", "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := unboundWorld(t)
			w.gives("first", firstClient)
			w.mustGet(acquire.Request{})
			w.mustGet(acquire.Request{Resource: "https://second"})
			w.gives("next", tt.clientID)
			w.mustGet(acquire.Request{Resource: "https://third"})
			for _, asked := range []string{resource, "https://second"} {
				want := "first"
				if tt.dropped {
					want = "next"
				}
				if token := w.mustGet(acquire.Request{Resource: asked}); token.AccessToken.Reveal() != want || token.FromCache == tt.dropped {
					t.Errorf("%s: got %q from memory %v, want %q", asked, token.AccessToken.Reveal(), token.FromCache, want)
				}
			}
			if third := w.mustGet(acquire.Request{Resource: "https://third"}); !third.FromCache {
				t.Error("the token that told it was dropped, too")
			}
			if strings.Contains(w.log.String(), "another client id") != tt.dropped {
				t.Errorf("log: %s", &w.log)
			}
		})
	}
}

// Whatever a token holds, only ids of valid forms, and of the one client, are read from it.
func FuzzOwnerOf(f *testing.F) {
	f.Add([]byte(`{"appid":"` + firstClient + `","oid":"` + firstObject + `","xms_mirid":"` + firstARM + `"}`))
	f.Add([]byte(`{"azp":"` + firstClient + `","oid":"9d0c3d0e-0000-4000-8000-0000000000b1","xms_mirid":"//"}`))
	f.Add([]byte(`{"appid":"x","appid":"` + firstClient + `","OID":null}`))
	f.Fuzz(func(t *testing.T, claims []byte) {
		object, resource := acquire.OwnerOf(tokenSaying(string(claims)), firstClient)
		if object != "" && (len(object) != 36 || uuid.Validate(object) != nil) {
			t.Errorf("object id %q", object)
		}
		if resource != "" && (resource[0] != '/' || len(resource) > 1024 || !utf8.ValidString(resource)) {
			t.Errorf("resource id %q", resource)
		}
		if object+resource != "" && !strings.Contains(strings.ToLower(string(claims)), firstClient) && !strings.Contains(string(claims), `\`) {
			t.Errorf("ids of another client in %q", claims)
		}
	})
}
