package entra_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keyagent/keyagent/acquire/entra"
	"github.com/keyagent/keyagent/internal/secret"
)

var update = flag.Bool("update", false, "rewrite the golden files")

const (
	clientID = "8b0c3d0e-0000-4000-8000-00000000c1d1"
	tenantID = "1f2e3d4c-0000-4000-8000-0000000077e1"
	good     = `{"token_type":"Bearer","expires_in":86399,"ext_expires_in":86399,"refresh_in":"43199","access_token":"aaa.bbb.ccc"}`
)

// thumbprint is that of the connection's certificate, otherThumbprint is not.
var (
	thumbprint      = base64.RawURLEncoding.EncodeToString(make([]byte, 32))
	otherThumbprint = base64.RawURLEncoding.EncodeToString(bytes.Repeat([]byte{1}, 32))
)

var bearer = entra.Request{ClientID: clientID, Scope: entra.ManagedIdentityScope("https://vault.azure.net/"), TokenType: entra.TokenTypeBearer}

// jwtOf makes a token with these claims; its signature is not checked.
func jwtOf(claims string) string {
	return "e30." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".c2ln"
}

func confirm(thumbprint string) string { return `{"cnf":{"x5t#S256":"` + thumbprint + `"}}` }

func popAnswer(claims string) string {
	return `{"token_type":"mtls_pop","expires_in":3600,"access_token":"` + jwtOf(claims) + `"}`
}

var now = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

// serve answers requests with the handlers in turn, the last one for ever.
func serve(t *testing.T, handlers ...http.HandlerFunc) (url string, count *int) {
	t.Helper()
	count = new(int)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		*count++
		handlers[min(*count, len(handlers))-1](w, r)
	}))
	t.Cleanup(server.Close)
	return server.URL, count
}

func answer(status int, body string, headers ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i+1 < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

func requestOf(t *testing.T, url string, r entra.Request) (*entra.TokenResponse, []time.Duration, error) {
	t.Helper()
	var pauses []time.Duration
	client := entra.New(entra.Config{
		Version: "1.2.3",
		Now:     func() time.Time { return now },
		Sleep: func(_ context.Context, d time.Duration) error {
			pauses = append(pauses, d)
			return nil
		},
	})
	r.Endpoint = entra.ManagedIdentityEndpoint(url, tenantID)
	got, err := client.Token(t.Context(), http.DefaultClient, r)
	return got, pauses, err
}

func request(t *testing.T, url string) (*entra.TokenResponse, []time.Duration, error) {
	t.Helper()
	return requestOf(t, url, bearer)
}

// record answers with body and writes down the request as it arrived.
func record(wire *strings.Builder, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(wire, "%s %s\n", r.Method, r.URL.RequestURI())
		for _, name := range slices.Sorted(maps.Keys(r.Header)) {
			value := r.Header.Get(name)
			if name == "Client-Request-Id" {
				value = fmt.Sprintf("<%d characters>", len(value))
			}
			fmt.Fprintf(wire, "%s: %s\n", name, value)
		}
		form, _ := io.ReadAll(r.Body)
		fmt.Fprintf(wire, "\n%s\n", strings.ReplaceAll(string(form), "&", "\n&"))
		answer(200, body)(w, r)
	}
}

func TestEachFlowOnTheWire(t *testing.T) {
	assertion := secret.New("aaa.bbb.ccc")
	claims, err := entra.MergeClaims([]string{"cp1"}, "")
	if err != nil {
		t.Fatal(err)
	}
	app := entra.Request{ClientID: clientID, Scope: "https://graph.microsoft.com/.default"}
	with := func(r entra.Request, change func(*entra.Request)) entra.Request {
		change(&r)
		return r
	}
	bound := func(r *entra.Request) { r.TokenType, r.Thumbprint = entra.TokenTypePoP, thumbprint }
	exchange := with(app, func(r *entra.Request) {
		r.Assertion, r.AssertionType = assertion, entra.AssertionPoP
	})
	for _, tc := range []struct {
		golden string
		r      entra.Request
	}{
		{"managed-identity-bearer", bearer},
		{"managed-identity-pop", with(bearer, bound)},
		{"managed-identity-claims", with(bearer, func(r *entra.Request) { r.Claims = claims })},
		{"app-pop", with(app, bound)},
		{"app-assertion", with(app, func(r *entra.Request) { r.Assertion, r.AssertionType = assertion, entra.AssertionBearer })},
		{"app-certificate-only", app},
		{"exchange-bearer", exchange},
		{"exchange-pop", with(exchange, bound)},
	} {
		t.Run(tc.golden, func(t *testing.T) {
			body := good
			if tc.r.TokenType == entra.TokenTypePoP {
				body = popAnswer(confirm(thumbprint))
			}
			var wire strings.Builder
			url, _ := serve(t, record(&wire, body))
			if _, _, err := requestOf(t, url, tc.r); err != nil {
				t.Fatal(err)
			}
			compareGolden(t, tc.golden, wire.String())
		})
	}
}

func compareGolden(t *testing.T, name, got string) {
	t.Helper()
	golden := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("request differs (-want +got):\n%s", diff)
	}
}

func TestRequestsThatCannotWorkAreNotSent(t *testing.T) {
	for name, change := range map[string]func(*entra.Request){
		"no client id":                         func(r *entra.Request) { r.ClientID = "" },
		"no scope":                             func(r *entra.Request) { r.Scope = "" },
		"a token type that nobody knows":       func(r *entra.Request) { r.TokenType = "pop" },
		"a bound token without certificate":    func(r *entra.Request) { r.TokenType = entra.TokenTypePoP },
		"an assertion without type":            func(r *entra.Request) { r.Assertion = secret.New("a.b.c") },
		"the type of an assertion without one": func(r *entra.Request) { r.AssertionType = entra.AssertionPoP },
	} {
		url, count := serve(t, answer(200, good))
		r := bearer
		change(&r)
		if got, _, err := requestOf(t, url, r); err == nil || *count != 0 {
			t.Errorf("%s: got %+v, %v after %d requests; want an error and none", name, got, err, *count)
		}
	}
}

func TestTokenAnswer(t *testing.T) {
	url, _ := serve(t, answer(200, good))
	got, _, err := request(t, url)
	if err != nil {
		t.Fatal(err)
	}
	if got.AccessToken.Reveal() != "aaa.bbb.ccc" || got.TokenType != "Bearer" || got.ExpiresIn != 86399*time.Second || got.RefreshIn != 43199*time.Second || got.ExtExpiresIn != 86399*time.Second || got.Confirmation != "" {
		t.Errorf("got %+v", got)
	}
}

func TestUnneededMembersOfATokenAnswerSpoilNothing(t *testing.T) {
	alter := func(old, new string) string { return strings.Replace(good, old, new, 1) }
	for name, body := range map[string]string{
		"expires_in with a fraction":        alter(`"expires_in":86399`, `"expires_in":86399.5`),
		"refresh_in empty":                  alter(`"43199"`, `""`),
		"refresh_in as a date":              alter(`"43199"`, `"2026-11-01"`),
		"refresh_in twice":                  alter(`"43199"`, `1,"refresh_in":2`),
		"refresh_in negative":               alter(`"43199"`, `-1`),
		"ext_expires_in null":               alter(`"ext_expires_in":86399`, `"ext_expires_in":null`),
		"ext_expires_in of centuries":       alter(`"ext_expires_in":86399`, `"ext_expires_in":99999999999`),
		"expires_on as a date":              alter(`{`, `{"expires_on":"12/01/2026 15:24:35 +00:00",`),
		"members of any type, in any case":  alter(`{`, `{"scope":7,"foci":{"a":[1]},"Access_Token":5,"EXPIRES_IN":"x",`),
		"a member that nobody knows, twice": alter(`{`, `{"id_token":1,"id_token":2,`),
	} {
		url, _ := serve(t, answer(200, body))
		got, _, err := request(t, url)
		if err != nil || got.AccessToken.Reveal() != "aaa.bbb.ccc" || got.ExpiresIn != 86399*time.Second {
			t.Errorf("%s: got %+v, %v", name, got, err)
		}
		if err == nil && strings.HasPrefix(name, "refresh_in") && got.RefreshIn != 0 {
			t.Errorf("%s: refreshed in %v", name, got.RefreshIn)
		}
	}
}

func TestOneWrongMemberOfARefusalDoesNotHideTheOthers(t *testing.T) {
	for name, change := range map[string][2]string{
		"a trace id that is a number":  {`"t-1"`, `7`},
		"claims that are an object":    {`"claims":"{}"`, `"claims":{}`},
		"a code that is a text":        {`[51000,7]`, `["x",51000,null,7,1.5]`},
		"a description that is null":   {`"AADSTS51000: no"`, `null`},
		"a suberror twice":             {`"suberror":"s"`, `"suberror":"s","suberror":"t"`},
		"a timestamp that is a number": {`{`, `{"timestamp":1,"timestamp":2,`},
	} {
		body := `{"error":"invalid_client","suberror":"s","error_description":"AADSTS51000: no","error_codes":[51000,7],"trace_id":"t-1","claims":"{}"}`
		url, _ := serve(t, answer(401, strings.Replace(body, change[0], change[1], 1)))
		_, _, err := request(t, url)
		e, ok := errors.AsType[*entra.Error](err)
		if !ok || e.Code != "invalid_client" || !slices.Equal(e.Codes, []int{51000, 7}) {
			t.Errorf("%s: got %+v, %v", name, e, err)
		}
	}
}

func TestTokenTypeIsThatWhichWasAsked(t *testing.T) {
	for _, tc := range []struct {
		name, asked, answered string
		ok                    bool
	}{
		{"nothing asked, Bearer answered", "", "Bearer", true},
		{"nothing asked, a bound token answered", "", "mtls_pop", false},
		{"bearer asked, BEARER answered", entra.TokenTypeBearer, "BEARER", true},
		{"a bound token asked, in capitals answered", entra.TokenTypePoP, "MTLS_POP", true},
		{"a bound token asked, Bearer answered", entra.TokenTypePoP, "Bearer", false},
		{"a bound token asked, no type answered", entra.TokenTypePoP, "", false},
		{"nothing asked, no type answered", "", "", false},
	} {
		url, _ := serve(t, answer(200, strings.Replace(popAnswer(confirm(thumbprint)), "mtls_pop", tc.answered, 1)))
		r := bearer
		r.TokenType, r.Thumbprint = tc.asked, thumbprint
		got, _, err := requestOf(t, url, r)
		if (err == nil) != tc.ok || err != nil && !errors.Is(err, entra.ErrBadAnswer) {
			t.Errorf("%s: got %v, want success: %v", tc.name, err, tc.ok)
		}
		if err == nil && (got.Confirmation != thumbprint || got.TokenType != map[bool]string{true: "mtls_pop", false: "Bearer"}[tc.asked == entra.TokenTypePoP]) {
			t.Errorf("%s: got %+v", tc.name, got)
		}
	}
}

func TestBoundTokenMustBeBoundToOurCertificate(t *testing.T) {
	ours := confirm(thumbprint)
	for _, tc := range []struct{ name, token, want string }{
		{"bound to another certificate", jwtOf(confirm(otherThumbprint)), "another certificate"},
		{"not bound at all", jwtOf(`{}`), "names no certificate"},
		{"bound to null", jwtOf(`{"cnf":null}`), "names no certificate"},
		{"bound to the empty text", jwtOf(confirm("")), "names no certificate"},
		{"bound by a key id", jwtOf(`{"cnf":{"kid":"` + thumbprint + `"}}`), "names no certificate"},
		{"bound by SHA-1", jwtOf(`{"cnf":{"x5t":"` + thumbprint + `"}}`), "names no certificate"},
		{"a thumbprint with padding", jwtOf(confirm(thumbprint + "=")), "names no certificate"},
		{"a thumbprint with bits too many", jwtOf(confirm(thumbprint[:42] + "B")), "names no certificate"},
		{"a list of thumbprints", jwtOf(`{"cnf":{"x5t#S256":["` + thumbprint + `"]}}`), "not a JWT"},
		{"two confirmations", jwtOf(`{"cnf":{"x5t#S256":"` + otherThumbprint + `"},"cnf":{"x5t#S256":"` + thumbprint + `"}}`), "not a JWT"},
		{"two thumbprints", jwtOf(`{"cnf":{"x5t#S256":"` + otherThumbprint + `","x5t#S256":"` + thumbprint + `"}}`), "not a JWT"},
		{"a name in other letters", jwtOf(strings.Replace(ours, "cnf", "CNF", 1)), "names no certificate"},
		{"claims in an array", jwtOf("[" + ours + "]"), "not a JWT"},
		{"more after the claims", jwtOf(ours + ours), "not a JWT"},
		{"an opaque token", "opaque", "not a JWT"},
		{"two parts", "e30." + thumbprint, "not a JWT"},
		{"five parts, encrypted", jwtOf(ours) + ".a.b", "not a JWT"},
		{"claims in standard base64", "e30." + base64.StdEncoding.EncodeToString([]byte(ours+" ")) + ".c2ln", "not a JWT"},
	} {
		url, _ := serve(t, answer(200, `{"token_type":"mtls_pop","expires_in":3600,"access_token":"`+tc.token+`"}`))
		r := bearer
		r.TokenType, r.Thumbprint = entra.TokenTypePoP, thumbprint
		got, _, err := requestOf(t, url, r)
		if got != nil || !errors.Is(err, entra.ErrBadAnswer) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got %+v, %v; want ErrBadAnswer with %q", tc.name, got, err, tc.want)
		}
		if err != nil && strings.Contains(err.Error(), tc.token) {
			t.Errorf("%s: the error shows the token", tc.name)
		}
	}
}

func TestBearerTokenMayBeAnything(t *testing.T) {
	for _, tc := range []struct{ name, token, want string }{
		{"opaque", "opaque", ""},
		{"unbound", jwtOf(`{}`), ""},
		{"bound", jwtOf(confirm(otherThumbprint)), otherThumbprint},
		{"bound to nonsense", jwtOf(confirm("me")), ""},
		{"cnf is a text", jwtOf(`{"cnf":"x"}`), ""},
	} {
		url, _ := serve(t, answer(200, strings.Replace(good, "aaa.bbb.ccc", tc.token, 1)))
		if got, _, err := request(t, url); err != nil || got.Confirmation != tc.want {
			t.Errorf("%s: got %+v, %v; want confirmation %q", tc.name, got, err, tc.want)
		}
	}
}

func TestUnusableAnswersAreNeverTokens(t *testing.T) {
	for _, tc := range []struct{ name, body, want string }{
		{"empty object", `{}`, "no access_token"},
		{"empty token", strings.Replace(good, "aaa.bbb.ccc", "", 1), "no access_token"},
		{"no token type", strings.Replace(good, `"token_type":"Bearer",`, "", 1), "token_type"},
		{"another token type", strings.Replace(good, "Bearer", "mtls_pop", 1), `"mtls_pop"`},
		{"no lifetime", strings.Replace(good, `"expires_in":86399,`, "", 1), "no expires_in"},
		{"a negative lifetime", strings.Replace(good, `"expires_in":86399`, `"expires_in":-5`, 1), "expires_in is -5 seconds"},
		{"a lifetime of centuries", strings.Replace(good, `"expires_in":86399`, `"expires_in":99999999999`, 1), "expires_in is 99999999999 seconds"},
		{"HTML", "<html>", "not the JSON"},
		{"a lifetime that is null", strings.Replace(good, `"expires_in":86399`, `"expires_in":null`, 1), "no expires_in"},
		{"a lifetime that is a date", strings.Replace(good, `"expires_in":86399`, `"expires_in":"2026-11-01"`, 1), "expires_in is not a number"},
		{"a lifetime twice", strings.Replace(good, `"expires_in":86399`, `"expires_in":1,"expires_in":86399`, 1), "expires_in occurs twice"},
		{"a token that is a number", strings.Replace(good, `"aaa.bbb.ccc"`, `5`, 1), "access_token is not a string"},
		{"a token twice", strings.Replace(good, `"aaa.bbb.ccc"`, `"aaa.bbb.ccc","access_token":"d"`, 1), "access_token occurs twice"},
		{"a body without end", strings.Repeat(" ", 1<<20) + good, "too large"},
	} {
		url, _ := serve(t, answer(200, tc.body))
		got, _, err := request(t, url)
		if !errors.Is(err, entra.ErrBadAnswer) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got %+v, %v; want ErrBadAnswer with %q", tc.name, got, err, tc.want)
		}
		if err != nil && strings.Contains(err.Error(), "aaa.bbb.ccc") {
			t.Errorf("%s: the error shows the token", tc.name)
		}
	}
}

func TestRefusalsKeepWhatEntraSaid(t *testing.T) {
	body := `{"error":"invalid_client","suberror":"s","error_description":"AADSTS51000: no\r\nTrace ID: x","error_codes":[51000,7],"trace_id":"t-1","correlation_id":"c-1","claims":"{}"}`
	url, _ := serve(t, answer(401, body, "Retry-After", "17"))
	_, pauses, err := request(t, url)
	e, ok := errors.AsType[*entra.Error](err)
	if !ok {
		t.Fatalf("got %v, want an *entra.Error", err)
	}
	want := &entra.Error{Status: 401, Code: "invalid_client", Suberror: "s", Codes: []int{51000, 7}, Description: "AADSTS51000: no  Trace ID: x",
		CorrelationID: "c-1", TraceID: "t-1", RetryAfter: 17 * time.Second, Claims: "{}"}
	if diff := cmp.Diff(want, e); diff != "" {
		t.Errorf("error differs (-want +got):\n%s", diff)
	}
	if !e.Has(51000) || e.Has(1) || e.Temporary() || e.Hint() == "" || len(pauses) != 0 {
		t.Errorf("got Has %v/%v, Temporary %v, hint %q, pauses %v", e.Has(51000), e.Has(1), e.Temporary(), e.Hint(), pauses)
	}
}

func TestClaimsChallengeOfAnyLengthIsNotPassedOn(t *testing.T) {
	url, _ := serve(t, answer(400, `{"error":"interaction_required","claims":"`+strings.Repeat("x", 8<<10+1)+`"}`))
	_, _, err := request(t, url)
	if e, ok := errors.AsType[*entra.Error](err); !ok || e.Claims != "" || e.Code != "interaction_required" {
		t.Errorf("got %v", err)
	}
}

// Errors are kept for a while, in more than one place.
func TestLittleIsKeptOfAHugeRefusal(t *testing.T) {
	long := strings.Repeat("x", 64<<10)
	body := `{"error":"` + long + `","suberror":"` + long + `","error_description":"` + long + `","trace_id":"` + long + `","correlation_id":"` + long +
		`","claims":"` + long + `","error_codes":[51000` + strings.Repeat(",7", 100_000) + `]}`
	url, _ := serve(t, answer(400, body))
	_, _, err := request(t, url)
	e, ok := errors.AsType[*entra.Error](err)
	if !ok {
		t.Fatalf("got %v, want an *entra.Error", err)
	}
	if len(e.Codes) != 16 || cap(e.Codes) > 32 || !e.Has(51000) {
		t.Errorf("got %d codes with room for %d, want the first 16", len(e.Codes), cap(e.Codes))
	}
	for name, text := range map[string]string{"error": e.Code, "suberror": e.Suberror, "description": e.Description, "trace id": e.TraceID,
		"correlation id": e.CorrelationID, "claims": e.Claims} {
		if len(text) > 512 {
			t.Errorf("%s has %d bytes", name, len(text))
		}
	}
}

func TestOneRetryAtMost(t *testing.T) {
	for _, tc := range []struct {
		name     string
		handlers []http.HandlerFunc
		requests int
		ok       bool
	}{
		{"503, then success", []http.HandlerFunc{answer(503, ""), answer(200, good)}, 2, true},
		{"503 twice", []http.HandlerFunc{answer(503, "")}, 2, false},
		{"503 with Retry-After fails fast", []http.HandlerFunc{answer(503, "", "Retry-After", "5")}, 1, false},
		{"429 fails fast", []http.HandlerFunc{answer(429, "", "Retry-After", "5")}, 1, false},
		{"400 is final", []http.HandlerFunc{answer(400, `{"error":"invalid_request"}`)}, 1, false},
	} {
		url, count := serve(t, tc.handlers...)
		_, _, err := request(t, url)
		if (err == nil) != tc.ok || *count != tc.requests {
			t.Errorf("%s: got %d requests and %v, want %d and success %v", tc.name, *count, err, tc.requests, tc.ok)
		}
	}
}

func TestTimeOutIsRetriedOnce(t *testing.T) {
	timeouts := 0
	hc := &http.Client{Transport: roundTripper(func(*http.Request) (*http.Response, error) {
		timeouts++
		return nil, context.DeadlineExceeded
	})}
	client := entra.New(entra.Config{Sleep: func(context.Context, time.Duration) error { return nil }})
	r := bearer
	r.Endpoint = "https://login.example.com/t/oauth2/v2.0/token"
	if _, err := client.Token(t.Context(), hc, r); !errors.Is(err, entra.ErrUnreachable) || timeouts != 2 {
		t.Errorf("got %v after %d attempts, want ErrUnreachable after two", err, timeouts)
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestScope(t *testing.T) {
	for _, tc := range []struct{ resource, scope, managedIdentity string }{
		{"https://vault.azure.net", "https://vault.azure.net/.default", "https://vault.azure.net/.default"},
		{"https://vault.azure.net/", "https://vault.azure.net//.default", "https://vault.azure.net/.default"},
		{"https://database.windows.net/", "https://database.windows.net//.default", "https://database.windows.net/.default"},
		{"api://shop/", "api://shop//.default", "api://shop/.default"},
		{"https://vault.azure.net/.default", "https://vault.azure.net/.default", "https://vault.azure.net/.default"},
		{"https://vault.azure.net//.default", "https://vault.azure.net//.default", "https://vault.azure.net//.default"},
		{"api://AzureADTokenExchange", "api://AzureADTokenExchange/.default", "api://AzureADTokenExchange/.default"},
	} {
		if got := entra.Scope(tc.resource); got != tc.scope {
			t.Errorf("Scope(%q) = %q, want %q", tc.resource, got, tc.scope)
		}
		if got := entra.ManagedIdentityScope(tc.resource); got != tc.managedIdentity {
			t.Errorf("ManagedIdentityScope(%q) = %q, want %q", tc.resource, got, tc.managedIdentity)
		}
	}
}

func FuzzTokenAnswer(f *testing.F) {
	f.Add(200, []byte(good))
	f.Add(200, []byte(popAnswer(confirm(thumbprint))))
	f.Add(400, []byte(`{"error":"x","error_codes":[1,2]}`))
	f.Add(500, []byte(`{"error_codes":"no"}`))
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		if status < 200 || status > 599 {
			return
		}
		url, _ := serve(t, answer(status, string(body)))
		got, _, err := request(t, url)
		if (got == nil) == (err == nil) {
			t.Fatalf("got %v and %v", got, err)
		}
		r := bearer
		r.TokenType, r.Thumbprint = entra.TokenTypePoP, thumbprint
		if bound, _, _ := requestOf(t, url, r); bound != nil && bound.Confirmation != thumbprint {
			t.Errorf("accepted %+v as bound", bound)
		}
		if got != nil && (status != 200 || got.AccessToken.IsZero() || got.ExpiresIn <= 0) {
			t.Errorf("accepted %+v with status %d", got, status)
		}
	})
}
