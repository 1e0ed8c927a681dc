package maa_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"os"
	"testing"

	"github.com/keyagent/keyagent/attest"
	at "github.com/keyagent/keyagent/attest/internal/attesttest"
	"github.com/keyagent/keyagent/attest/maa"
)

const vectors = "../../testdata/azure-cvm/maa/"

// FuzzEnvelope: an accepted answer has one meaning. Written again, it is accepted again and means
// the same.
func FuzzEnvelope(f *testing.F) {
	good, err := json.Marshal(map[string]any{
		"EncryptedInnerKey": make([]byte, 256), "AuthenticationData": make([]byte, 16), "Jwt": []byte("ciphertext"),
		"EncryptionParams": map[string]any{
			"Cipher": "AES", "BlockMode": "ChainingModeGCM", "BlockPadding": "PKCS7", "KeySizeInBits": 256, "Iv": make([]byte, 12),
		},
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(wrap(good))
	f.Add([]byte(`{"token":"e30"}`))
	f.Add([]byte(`{"token":"e30=","token":"e30="}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		first, err := maa.ReadEnvelope(body)
		if err != nil {
			return
		}
		second, err := maa.ReadEnvelope(wrap(first))
		if err != nil || !bytes.Equal(first, second) {
			t.Errorf("accepted once, then %v:\n%s\n%s", err, first, second)
		}
	})
}

func wrap(envelope []byte) []byte {
	return []byte(`{"token":"` + base64.RawURLEncoding.EncodeToString(envelope) + `"}`)
}

// FuzzToken: no token is accepted that does not repeat the nonce.
func FuzzToken(f *testing.F) {
	real, err := os.ReadFile(vectors + "sevsnp-token.jwt")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(real))
	f.Add("a.e30.c")
	f.Add("a.eyJleHAiOjF9.c")
	r := maa.Request{
		Challenge: attest.Challenge{Nonce: []byte("a nonce that occurs nowhere else")},
		Evidence:  unwrapped(at.Claims(&at.NewKeys(f).AK.PublicKey)),
	}
	f.Fuzz(func(t *testing.T, jwt string) {
		if _, err := maa.CheckToken(jwt, r); err == nil {
			t.Errorf("accepted %q", jwt)
		}
	})
}

// TestRealClaimsAreRead: the sample was asked for without client payload, so one is put in.
func TestRealClaimsAreRead(t *testing.T) {
	t.Parallel()
	payload, err := os.ReadFile(vectors + "azureguest-claims-sample.json")
	if err != nil {
		t.Fatal(err)
	}
	payload = bytes.Replace(payload, []byte(`"x-ms-runtime": {
    "keys": [
      {
        "e": "AQAB",
        "key_ops": [
          "encrypt"
        ],
        "kid": "TpmE`), []byte(`"x-ms-runtime": {"client-payload": {"nonce": "bm9uY2U="},
    "keys": [
      {
        "e": "AQAB",
        "key_ops": [
          "encrypt"
        ],
        "kid": "TpmE`), 1)
	var sample struct {
		Isolation struct {
			Runtime json.RawMessage `json:"x-ms-runtime"`
		} `json:"x-ms-isolation-tee"`
	}
	if err := json.Unmarshal(payload, &sample); err != nil {
		t.Fatal(err)
	}
	r := maa.Request{
		Challenge: attest.Challenge{Nonce: []byte("nonce")},
		Evidence:  unwrapped(sample.Isolation.Runtime),
	}
	expires, err := maa.CheckToken("a."+base64.RawURLEncoding.EncodeToString(payload)+".c", r)
	if err != nil {
		t.Fatal(err)
	}
	if expires.Unix() != 1653021894 {
		t.Errorf("expires %v", expires.Unix())
	}
}

// unwrapped is evidence without the paravisor's wrapper, as far as the request needs it.
func unwrapped(claims []byte) *attest.Evidence {
	e := &attest.Evidence{RuntimeClaims: claims}
	e.SNPReport = make([]byte, 1184)
	return e
}
