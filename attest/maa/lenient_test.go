package maa_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/attest/maa"
)

func TestUnneededMembersOfATokenOrEnvelopeAreIgnored(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*rig){
		"an expiry with a fraction": func(r *rig) { r.service.Claims = func(c map[string]any) { c["exp"] = json.RawMessage("1780343999.5") } },
		"claims of any type":        func(r *rig) { r.service.Claims = func(c map[string]any) { c["iat"], c["secureboot"] = "now", nil } },
		"a key that is none":        func(r *rig) { r.service.Claims = addKey("a string") },
		"a key of another kind":     func(r *rig) { r.service.Claims = addKey(map[string]any{"kid": 7, "n": nil, "crv": "P-256"}) },
		"members of the envelope":   func(r *rig) { r.service.Envelope = func(e map[string]any) { e["Version"] = []any{nil} } },
		"members of its parameters": func(r *rig) {
			r.service.Envelope = func(e map[string]any) { e["EncryptionParams"].(map[string]any)["Tag"] = nil }
		},
		"a member of the envelope, twice": func(r *rig) {
			r.service.Envelope = func(e map[string]any) { e["x"] = json.RawMessage(`{"a":1,"a":2}`) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			change(r)
			if _, _, err := r.attest(t); err != nil {
				t.Error(err)
			}
		})
	}
}

func addKey(key any) func(map[string]any) {
	return func(c map[string]any) {
		runtime := c["x-ms-isolation-tee"].(map[string]any)["x-ms-runtime"].(map[string]any)
		list, err := json.Marshal(runtime["keys"])
		if err != nil {
			panic(err)
		}
		var keys []any
		if err := json.Unmarshal(list, &keys); err != nil {
			panic(err)
		}
		runtime["keys"] = append(keys, key)
	}
}

func TestFaultsOfAnAnswerAreNamed(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]string{
		`{"token":7}`:                     "token is not a string",
		`{}`:                              "no token",
		`{"token":"e30","token":"e30"}`:   "token occurs twice",
		`{"token":"e30","x":1,"x":null}`:  "envelope: cipher", // what is beside the token is no matter
		`{"token":"%","status":{"a":[]}}`: "token is not base64url",
	} {
		if _, err := maa.ReadEnvelope([]byte(body)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", body, err, want)
		}
	}
	for claims, want := range map[string]string{
		`{"exp":"soon"}`:              "exp is not a number",
		`{"exp":1,"exp":2}`:           "exp occurs twice",
		`{"exp":0}`:                   "exp is not a time",
		`{"exp":1}`:                   "no x-ms-runtime",
		`{"exp":1,"x-ms-runtime":[]}`: "x-ms-runtime is not an object",
		`{"exp":1,"x-ms-runtime":{"client-payload":{"nonce":5}}}`: "nonce is not a string",
	} {
		r := newRig(t)
		_, err := maa.CheckToken("a."+base64.RawURLEncoding.EncodeToString([]byte(claims))+".c", r.request(t))
		if !errors.Is(err, maa.ErrWrongToken) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", claims, err, want)
		}
	}
}

func TestOneWrongMemberOfARefusalDoesNotHideTheOthers(t *testing.T) {
	t.Parallel()
	for _, body := range []string{
		`{"error":{"code":"PolicyFailure","message":7}}`,
		`{"error":{"code":"PolicyFailure","inner":1,"inner":2}}`,
		`{"error":{"code":"PolicyFailure"},"trace":[{}],"trace":null}`,
	} {
		r := newRig(t)
		r.service.Answer = func(w http.ResponseWriter, _ *http.Request, _ int) bool {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = w.Write([]byte(body))
			return true
		}
		_, _, err := r.attest(t)
		if e, ok := errors.AsType[*maa.Error](err); !ok || e.Code != "PolicyFailure" {
			t.Errorf("%s: got %v", body, err)
		}
	}
}
