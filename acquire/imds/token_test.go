package imds_test

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keyagent/keyagent/acquire/imds"
)

const (
	otherClientID = "11111111-0000-4000-8000-000000000001"
	tokenBody     = `{"access_token":"opaque","client_id":"` + clientID + `","expires_in":"86395","expires_on":"1790000000",
 "ext_expires_in":"86395","not_before":"1789913605","refresh_token":"","resource":"https://vault.azure.net","token_type":"Bearer"}`
)

var now = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

// jwtOf makes a token with these claims; its signature is not checked.
func jwtOf(claims string) string {
	return "e30." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".c2ln"
}

func vault() imds.TokenRequest { return imds.TokenRequest{Resource: "https://vault.azure.net"} }

func TestTokenRequestOnTheWire(t *testing.T) {
	const base = "/metadata/identity/oauth2/token?api-version=2018-02-01"
	const vaultQuery = "&resource=https%3A%2F%2Fvault.azure.net"
	for _, tc := range []struct {
		name string
		sel  imds.Selector
		req  imds.TokenRequest
		want string
	}{
		{"system-assigned", imds.Selector{}, vault(), base + vaultQuery},
		{"client id", imds.Selector{ClientID: clientID}, vault(), base + "&client_id=" + clientID + vaultQuery},
		{"object id", imds.Selector{ObjectID: tenantID}, vault(), base + "&object_id=" + tenantID + vaultQuery},
		{"resource id", imds.Selector{ResourceID: "/subscriptions/s"}, vault(), base + "&msi_res_id=%2Fsubscriptions%2Fs" + vaultQuery},
		{"past the cache", imds.Selector{}, imds.TokenRequest{Resource: "https://vault.azure.net", BypassCache: true}, base + "&bypass_cache=true" + vaultQuery},
	} {
		s := &stub{answers: []answer{{status: 200, body: tokenBody}}}
		client, _ := newClient(t, s)
		if _, err := client.Token(t.Context(), tc.sel, tc.req); err != nil {
			t.Errorf("%s: %v", tc.name, err)
			continue
		}
		r := s.seen[0]
		if r.Method != "GET" || r.URL.RequestURI() != tc.want {
			t.Errorf("%s: got %s %s, want GET %s", tc.name, r.Method, r.URL.RequestURI(), tc.want)
		}
		if r.Header.Get("Metadata") != "true" || len(r.Header.Get("x-ms-client-request-id")) != 36 || r.Header.Get("X-Forwarded-For") != "" {
			t.Errorf("%s: got headers %v", tc.name, r.Header)
		}
	}
	client, _ := newClient(t, &stub{answers: []answer{{status: 200, body: tokenBody}}})
	if got, err := client.Token(t.Context(), imds.Selector{}, imds.TokenRequest{}); err == nil {
		t.Errorf("without resource: got %+v", got)
	}
}

func TestTokenAnswer(t *testing.T) {
	soon := now.Add(time.Hour).Unix()
	alter := func(old, new string) string { return strings.Replace(tokenBody, old, new, 1) }
	for _, tc := range []struct {
		name, body    string
		life, refresh time.Duration
	}{
		{"as IMDS writes it", tokenBody, 86395 * time.Second, 0},
		{"numbers as numbers", alter(`"86395","expires_on":"1790000000"`, `86395,"expires_on":1790000000`), 86395 * time.Second, 0},
		{"the relative expiry wins", alter(`"expires_on":"1790000000"`, fmt.Sprintf(`"expires_on":"%d"`, soon)), 86395 * time.Second, 0},
		{"expires_on alone", alter(`"expires_in":"86395","expires_on":"1790000000"`, fmt.Sprintf(`"expires_on":"%d"`, soon)), time.Hour, 0},
		{"expires_on alone, a number", alter(`"expires_in":"86395","expires_on":"1790000000"`, fmt.Sprintf(`"expires_on":%d`, soon)), time.Hour, 0},
		{"refresh_in", alter(`"refresh_token"`, `"refresh_in":"43197","refresh_token"`), 86395 * time.Second, 43197 * time.Second},
		{"refresh_in after the expiry", alter(`"refresh_token"`, `"refresh_in":"99999","refresh_token"`), 86395 * time.Second, 0},
		{"bearer in small letters", alter("Bearer", "bearer"), 86395 * time.Second, 0},
		{"expires_on as a date beside a good expires_in", alter(`"1790000000"`, `"12/01/2026 15:24:35 +00:00"`), 86395 * time.Second, 0},
		{"expires_on as a date of RFC 3339", alter(`"1790000000"`, `"2026-12-01T15:24:35.0000000+00:00"`), 86395 * time.Second, 0},
		{"expires_on that is null", alter(`"1790000000"`, `null`), 86395 * time.Second, 0},
		{"expires_on twice", alter(`"1790000000"`, `1,"expires_on":2`), 86395 * time.Second, 0},
		{"expires_in as a date beside a good expires_on", alter(`"86395","expires_on":"1790000000"`, fmt.Sprintf(`"soon","expires_on":"%d"`, soon)), time.Hour, 0},
		{"expires_in with a fraction", alter(`"86395"`, `86395.9`), 86395 * time.Second, 0},
		{"expires_in with a fraction, in a string", alter(`"86395"`, `"86395.0"`), 86395 * time.Second, 0},
		{"refresh_in empty", alter(`"refresh_token"`, `"refresh_in":"","refresh_token"`), 86395 * time.Second, 0},
		{"refresh_in negative", alter(`"refresh_token"`, `"refresh_in":-5,"refresh_token"`), 86395 * time.Second, 0},
		{"refresh_in with a fraction", alter(`"refresh_token"`, `"refresh_in":43197.5,"refresh_token"`), 86395 * time.Second, 43197 * time.Second},
		{"others of other types", alter(`"refresh_token":""`, `"refresh_token":{"a":[null]},"resource":7,"resource":8,"EXPIRES_IN":"x","Access_Token":[]`), 86395 * time.Second, 0},
	} {
		client, _ := newClient(t, &stub{answers: []answer{{status: 200, body: tc.body}}})
		got, err := client.Token(t.Context(), imds.Selector{}, vault())
		if err != nil {
			t.Errorf("%s: %v", tc.name, err)
			continue
		}
		if got.AccessToken.Reveal() != "opaque" || got.ExpiresIn != tc.life || got.RefreshIn != tc.refresh || got.ClientID != clientID {
			t.Errorf("%s: got %+v, want %v and %v", tc.name, got, tc.life, tc.refresh)
		}
	}
}

func TestUnusableTokenAnswersAreNeverTokens(t *testing.T) {
	alter := func(old, new string) string { return strings.Replace(tokenBody, old, new, 1) }
	expiry := func(members string) string { return alter(`"expires_in":"86395","expires_on":"1790000000",`, members) }
	for _, tc := range []struct {
		name string
		a    answer
		want string
	}{
		{"no Server header", answer{status: 200, server: "-", body: tokenBody}, "Server header"},
		{"another server", answer{status: 200, server: "nginx", body: tokenBody}, `"nginx"`},
		{"HTML", answer{status: 200, body: "<html>"}, "not the JSON expected"},
		{"a body without end", answer{status: 200, body: strings.Repeat(" ", 1<<20) + tokenBody}, "too large"},
		{"no token", answer{status: 200, body: alter("opaque", "")}, "no access_token"},
		{"a token that is none", answer{status: 200, body: alter(`"opaque"`, `["opaque"]`)}, "access_token is not a string"},
		{"a token twice", answer{status: 200, body: alter(`"opaque"`, `"opaque","access_token":"other"`)}, "access_token occurs twice"},
		{"a token type that is none", answer{status: 200, body: alter(`"Bearer"`, `7`)}, "token_type is not a string"},
		{"an expiry that is empty", answer{status: 200, body: expiry(`"expires_in":"","expires_on":"",`)}, "expires_in is not a number; expires_on is not a number"},
		{"an expiry twice", answer{status: 200, body: expiry(`"expires_in":60,"expires_in":86395,`)}, "expires_in occurs twice"},
		{"a life below a second", answer{status: 200, body: expiry(`"expires_in":0.9,`)}, "expires in 0 seconds"},
		{"no token type", answer{status: 200, body: alter("Bearer", "")}, "no token_type"},
		{"another token type", answer{status: 200, body: alter("Bearer", "mtls_pop")}, `"mtls_pop"`},
		{"no expiry", answer{status: 200, body: expiry("")}, "neither expires_in"},
		{"already expired", answer{status: 200, body: expiry(`"expires_in":"0",`)}, "expires in 0 seconds"},
		{"expired by the clock", answer{status: 200, body: expiry(fmt.Sprintf(`"expires_on":"%d",`, now.Unix()-5))}, "expires in -5 seconds"},
		{"a negative life", answer{status: 200, body: expiry(`"expires_in":"-5",`)}, "expires in -5 seconds"},
		{"a life of centuries", answer{status: 200, body: expiry(`"expires_in":"99999999999",`)}, "expires in"},
		{"an expiry in milliseconds", answer{status: 200, body: expiry(`"expires_on":"1790000000000",`)}, "expires in"},
		{"an expiry that overflows", answer{status: 200, body: expiry(`"expires_on":"99999999999999999999",`)}, "expires_on is too large"},
		{"an expiry as a date", answer{status: 200, body: expiry(`"expires_on":"2026-11-01",`)}, "expires_on is not a number"},
		{"a client id that is none", answer{status: 200, body: alter(clientID, "me")}, "not a GUID"},
	} {
		client, _ := newClient(t, &stub{answers: []answer{tc.a}})
		got, err := client.Token(t.Context(), imds.Selector{}, vault())
		if !errors.Is(err, imds.ErrBadAnswer) || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "opaque") {
			t.Errorf("%s: got %+v, %v; want ErrBadAnswer with %q", tc.name, got, err, tc.want)
		}
	}
}

func TestTokenMustBeThatOfTheIdentityAskedFor(t *testing.T) {
	ours, other := jwtOf(`{"appid":"`+clientID+`"}`), jwtOf(`{"appid":"`+otherClientID+`"}`)
	asked := imds.Selector{ClientID: strings.ToUpper(clientID)}
	for _, tc := range []struct {
		name        string
		sel         imds.Selector
		answered    string // member client_id
		token, want string // want: client id, "" a refusal
	}{
		{"both say so", asked, clientID, ours, clientID},
		{"the answer says so, the token is opaque", asked, clientID, "opaque", clientID},
		{"the token says so", asked, "", ours, clientID},
		{"a token of version 2 says so", asked, "", jwtOf(`{"azp":"` + clientID + `"}`), clientID},
		{"nobody says so", asked, "", "opaque", ""},
		{"a token without the claim", asked, "", jwtOf(`{}`), ""},
		{"the answer names another", asked, otherClientID, "opaque", ""},
		{"the token names another", asked, "", other, ""},
		{"the answer lies about the token", asked, clientID, other, ""},
		{"the token's claim is no id", asked, "", jwtOf(`{"appid":"me"}`), ""},
		{"the answer says another than the token, and nobody asked for one", imds.Selector{}, clientID, other, ""},
		{"the same of an identity selected by its object id", imds.Selector{ObjectID: tenantID}, clientID, other, ""},
		{"the same of one selected by its resource id", imds.Selector{ResourceID: "/subscriptions/s"}, otherClientID, ours, ""},
		{"both say the same in different letters", imds.Selector{}, strings.ToUpper(clientID), ours, strings.ToUpper(clientID)},
		{"system-assigned takes what comes", imds.Selector{}, "", other, otherClientID},
		{"an object id cannot be compared", imds.Selector{ObjectID: tenantID}, otherClientID, "opaque", otherClientID},
	} {
		body := strings.Replace(strings.Replace(tokenBody, clientID, tc.answered, 1), "opaque", tc.token, 1)
		client, _ := newClient(t, &stub{answers: []answer{{status: 200, body: body}}})
		got, err := client.Token(t.Context(), tc.sel, vault())
		if tc.want == "" && (got != nil || !errors.Is(err, imds.ErrBadAnswer)) {
			t.Errorf("%s: got %+v, %v; want ErrBadAnswer", tc.name, got, err)
		}
		if tc.want != "" && (err != nil || got.ClientID != tc.want) {
			t.Errorf("%s: got %+v, %v; want client id %s", tc.name, got, err, tc.want)
		}
		if err != nil && strings.Contains(err.Error(), tc.token) {
			t.Errorf("%s: the error shows the token: %v", tc.name, err)
		}
	}
	client, _ := newClient(t, &stub{answers: []answer{{status: 200, body: strings.Replace(tokenBody, clientID, "", 1)}}})
	if got, err := client.Token(t.Context(), imds.Selector{}, vault()); err != nil || got.ClientID != "" {
		t.Errorf("nobody says whose, and nobody asked: got %+v, %v", got, err)
	}
}

func TestTokenRefusals(t *testing.T) {
	const s = time.Second
	short, long := []time.Duration{s, 2 * s, 4 * s}, slices.Repeat([]time.Duration{10 * s}, 7)
	for _, tc := range []struct {
		name, body string
		status     int
		want       imds.Error
		pauses     []time.Duration
	}{
		{"no Metadata header", `{"error":"bad_request_102","error_description":"Required metadata header not specified"}`, 400, imds.Error{Code: "bad_request_102", Description: "Required metadata header not specified"}, nil},
		{"identity not found", `{"error":"invalid_request","error_description":"Identity not found"}`, 400, imds.Error{Code: "invalid_request", Description: "Identity not found"}, nil},
		{"identity_not_found", `{"error":"identity_not_found"}`, 400, imds.Error{Code: "identity_not_found"}, nil},
		{"unknown audience", `{"error":"invalid_resource","error_description":"AADSTS50001: no"}`, 400, imds.Error{Code: "invalid_resource", Description: "AADSTS50001: no"}, nil},
		{"unknown source", `{"error":"unknown_source"}`, 401, imds.Error{Code: "unknown_source"}, nil},
		{"unauthorized client", `{"error":"unauthorized_client"}`, 401, imds.Error{Code: "unauthorized_client"}, nil},
		{"access denied", `{"error":"access_denied"}`, 401, imds.Error{Code: "access_denied"}, nil},
		{"invalid scope", `{"error":"invalid_scope"}`, 401, imds.Error{Code: "invalid_scope"}, nil},
		{"unsupported response type", `{"error":"unsupported_response_type"}`, 401, imds.Error{Code: "unsupported_response_type"}, nil},
		{"forbidden", `{"message":"no","correlationId":"c-1"}`, 403, imds.Error{Description: "no", CorrelationID: "c-1"}, nil},
		{"endpoint being updated", ``, 404, imds.Error{}, short},
		{"IMDS being updated", ``, 410, imds.Error{}, long},
		{"time-out there", ``, 408, imds.Error{}, short},
		{"throttled", `{"error":"too_many"}`, 429, imds.Error{Code: "too_many"}, short},
		{"transient", `{"error":"unknown"}`, 500, imds.Error{Code: "unknown"}, short},
	} {
		client, pauses := newClient(t, &stub{answers: []answer{{status: tc.status, body: tc.body}}})
		_, err := client.Token(t.Context(), imds.Selector{}, vault())
		e, ok := errors.AsType[*imds.Error](err)
		if !ok {
			t.Errorf("%s: got %v, want an *imds.Error", tc.name, err)
			continue
		}
		tc.want.Operation, tc.want.Status = "token", tc.status
		if *e != tc.want || e.Temporary() != (tc.pauses != nil) || errors.Is(err, imds.ErrNotSupported) {
			t.Errorf("%s: got %+v, temporary %v; want %+v", tc.name, *e, e.Temporary(), tc.want)
		}
		if diff := cmp.Diff(tc.pauses, *pauses); diff != "" {
			t.Errorf("%s: pauses differ (-want +got):\n%s", tc.name, diff)
		}
	}
	client, _ := newClient(t, &stub{answers: []answer{{status: 403, body: "dial tcp 169.254.169.254:80: network is unreachable"}}})
	if _, err := client.Token(t.Context(), imds.Selector{}, vault()); !errors.Is(err, imds.ErrUnreachable) {
		t.Errorf("a container engine's proxy: got %v, want ErrUnreachable", err)
	}
}

func FuzzToken(f *testing.F) {
	f.Add([]byte(tokenBody))
	f.Add([]byte(strings.Replace(strings.Replace(tokenBody, clientID, "", 1), "opaque", jwtOf(`{"azp":"`+clientID+`"}`), 1)))
	f.Add([]byte(`{"access_token":"a","token_type":"Bearer","expires_on":1793577600}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		server := httptest.NewServer(&stub{answers: []answer{{status: 200, body: string(body)}}})
		defer server.Close()
		client, err := imds.New(imds.Config{Endpoint: server.URL, Now: func() time.Time { return now }})
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		got, err := client.Token(t.Context(), imds.Selector{ClientID: clientID}, vault())
		if (got == nil) == (err == nil) {
			t.Fatalf("got %v and %v", got, err)
		}
		if got != nil && (got.AccessToken.IsZero() || got.ExpiresIn <= 0 || got.RefreshIn < 0 || !strings.EqualFold(got.ClientID, clientID)) {
			t.Errorf("accepted %+v", got)
		}
	})
}
