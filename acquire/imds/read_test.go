package imds_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/acquire/imds"
)

func TestReadForPrograms(t *testing.T) {
	var seen []*http.Request
	type said struct {
		status         int
		server, kind   string
		body, location string
	}
	var answer said
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = append(seen, r)
		for name, value := range map[string]string{"Server": answer.server, "Content-Type": answer.kind, "Location": answer.location, "Set-Cookie": "a=b", "Connection": "X-Secret"} {
			if value != "" {
				w.Header().Set(name, value)
			}
		}
		w.WriteHeader(answer.status)
		_, _ = w.Write([]byte(answer.body))
	}))
	t.Cleanup(server.Close)
	client, err := imds.New(imds.Config{Endpoint: server.URL, MTLSHosts: imds.MicrosoftMTLSHosts(), AttestationHosts: imds.MicrosoftAttestationHosts()})
	if err != nil {
		t.Fatal(err)
	}
	const json, text = "application/json", "text/plain"
	for _, tt := range []struct {
		name   string
		answer said
		want   imds.Reading
		err    error // of the answer; nil: it is passed on
	}{
		{"an answer", said{200, "IMDS/1", json + "; charset=utf-8", `{"a":1}`, ""}, imds.Reading{Status: 200, Kind: json}, nil},
		{"text", said{200, "IMDS/1", text, "westeurope", ""}, imds.Reading{Status: 200, Kind: text}, nil},
		{"a page is text", said{200, "IMDS/1", "text/html", "<script>", ""}, imds.Reading{Status: 200, Kind: text}, nil},
		{"a refusal", said{400, "IMDS/1", json, `{"error":"Bad request"}`, ""}, imds.Reading{Status: 400, Kind: json}, nil},
		{"too many requests", said{429, "IMDS/1", json, `{}`, ""}, imds.Reading{Status: 429, Kind: json}, nil},
		{"a redirect", said{302, "IMDS/1", json, "{}", "http://evil.example/"}, imds.Reading{}, imds.ErrBadAnswer},
		{"another server", said{200, "nginx", json, "{}", ""}, imds.Reading{}, imds.ErrBadAnswer},
		{"no server", said{200, "", json, "{}", ""}, imds.Reading{}, imds.ErrBadAnswer},
		{"without end", said{200, "IMDS/1", json, strings.Repeat("x", 2<<20), ""}, imds.Reading{}, imds.ErrBadAnswer},
	} {
		t.Run(tt.name, func(t *testing.T) {
			answer, seen = tt.answer, nil
			got, err := client.Read(t.Context(), "/metadata/instance", url.Values{"api-version": {"2021-02-01"}})
			if !errors.Is(err, tt.err) || got.Status != tt.want.Status || got.Kind != tt.want.Kind {
				t.Errorf("got %d %q, %v", got.Status, got.Kind, err)
			}
			if err == nil && string(got.Body) != tt.answer.body {
				t.Errorf("another body: %s", got.Body)
			}
			if len(seen) != 1 || seen[0].Method != http.MethodGet || seen[0].RequestURI != "/metadata/instance?api-version=2021-02-01" || seen[0].Header.Get("Metadata") != "true" {
				t.Errorf("asked %v", seen)
			}
		})
	}
	server.Close()
	if _, err := client.Read(t.Context(), "/metadata/instance", nil); !errors.Is(err, imds.ErrUnreachable) {
		t.Errorf("nobody answers: %v", err)
	}
}
