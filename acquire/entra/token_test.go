package entra_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
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
)

var update = flag.Bool("update", false, "rewrite the golden files")

const (
	clientID = "8b0c3d0e-0000-4000-8000-00000000c1d1"
	tenantID = "1f2e3d4c-0000-4000-8000-0000000077e1"
	good     = `{"token_type":"Bearer","expires_in":86399,"ext_expires_in":86399,"refresh_in":"43199","access_token":"aaa.bbb.ccc"}`
)

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

func request(t *testing.T, url string) (*entra.TokenResponse, []time.Duration, error) {
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
	got, err := client.ManagedIdentityToken(t.Context(), http.DefaultClient, entra.ManagedIdentityRequest{
		Endpoint: url, TenantID: tenantID, ClientID: clientID, Resource: "https://vault.azure.net/",
	})
	return got, pauses, err
}

func TestManagedIdentityRequestOnTheWire(t *testing.T) {
	var wire strings.Builder
	url, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(&wire, "%s %s\n", r.Method, r.URL.RequestURI())
		names := make([]string, 0, len(r.Header))
		for name := range r.Header {
			names = append(names, name)
		}
		slices.Sort(names)
		for _, name := range names {
			value := r.Header.Get(name)
			if name == "Client-Request-Id" {
				value = fmt.Sprintf("<%d characters>", len(value))
			}
			fmt.Fprintf(&wire, "%s: %s\n", name, value)
		}
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(&wire, "\n%s\n", body)
		answer(200, good)(w, r)
	})
	if _, _, err := request(t, url); err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "managed-identity-bearer.golden")
	if *update {
		if err := os.WriteFile(golden, []byte(wire.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), wire.String()); diff != "" {
		t.Errorf("request differs (-want +got):\n%s", diff)
	}
}

func TestTokenAnswer(t *testing.T) {
	url, _ := serve(t, answer(200, good))
	got, _, err := request(t, url)
	if err != nil {
		t.Fatal(err)
	}
	if got.AccessToken.Reveal() != "aaa.bbb.ccc" || got.TokenType != "Bearer" || got.ExpiresIn != 86399*time.Second || got.RefreshIn != 43199*time.Second {
		t.Errorf("got %+v", got)
	}
}

func TestUnusableAnswersAreNeverTokens(t *testing.T) {
	for _, tc := range []struct{ name, body, want string }{
		{"empty object", `{}`, "no access_token"},
		{"empty token", strings.Replace(good, "aaa.bbb.ccc", "", 1), "no access_token"},
		{"no token type", strings.Replace(good, `"token_type":"Bearer",`, "", 1), "token_type"},
		{"another token type", strings.Replace(good, "Bearer", "mtls_pop", 1), `"mtls_pop"`},
		{"no lifetime", strings.Replace(good, `"expires_in":86399,`, "", 1), "no expires_in"},
		{"a negative lifetime", strings.Replace(good, `"expires_in":86399`, `"expires_in":-5`, 1), "not the JSON"},
		{"a lifetime of centuries", strings.Replace(good, `"expires_in":86399`, `"expires_in":99999999999`, 1), "not the JSON"},
		{"HTML", "<html>", "not the JSON"},
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

func TestScope(t *testing.T) {
	for in, want := range map[string]string{
		"https://vault.azure.net":          "https://vault.azure.net/.default",
		"https://vault.azure.net/":         "https://vault.azure.net/.default",
		"https://vault.azure.net/.default": "https://vault.azure.net/.default",
		"api://AzureADTokenExchange":       "api://AzureADTokenExchange/.default",
	} {
		if got := entra.Scope(in); got != want {
			t.Errorf("Scope(%q) = %q, want %q", in, got, want)
		}
	}
}

func FuzzTokenAnswer(f *testing.F) {
	f.Add(200, []byte(good))
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
		if got != nil && (status != 200 || got.AccessToken.IsZero() || got.ExpiresIn <= 0) {
			t.Errorf("accepted %+v with status %d", got, status)
		}
	})
}
