package main

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/attest"
)

func testServer(t *testing.T) (*server, *httptest.Server) {
	t.Helper()
	n, c := testNonces(t, 10)
	s := &server{
		audience: "https://verifier.example", anchors: attest.DefaultTrustAnchors(), policy: attest.DefaultPolicy(),
		nonces: n, now: c.now, log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
	web := httptest.NewServer(s.handler())
	t.Cleanup(web.Close)
	return s, web
}

func post(t *testing.T, url string, body []byte) (int, string) {
	t.Helper()
	resp, err := http.Post(url, attest.MediaType, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

func TestEvidenceForOthersIsRefused(t *testing.T) {
	t.Parallel()
	s, web := testServer(t)
	ours := issue(t, s.nonces)
	bundle := func(e attest.Evidence) []byte {
		data, err := e.Encode()
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	for _, tt := range []struct {
		name   string
		body   []byte
		status int
		says   string
	}{
		{"nothing", nil, http.StatusBadRequest, "evidence"},
		{"something else", []byte(`{"verified":true}`), http.StatusBadRequest, "unknown member"},
		{"too much", make([]byte, attest.MaxEvidenceSize+1), http.StatusRequestEntityTooLarge, ""},
		{"no nonce", bundle(attest.Evidence{Audience: s.audience}), http.StatusBadRequest, "ask for another"},
		{"a nonce of somebody else", bundle(attest.Evidence{Nonce: make([]byte, nonceSize), Audience: s.audience}), http.StatusBadRequest, "ask for another"},
		{"a nonce and no proof", bundle(attest.Evidence{Nonce: ours, Audience: s.audience}), http.StatusUnprocessableEntity, `"check":"quote.nonce","status":"not-applicable"`},
		{"made for somebody else", bundle(attest.Evidence{Nonce: ours, Audience: "https://other.example"}), http.StatusUnprocessableEntity, `"check":"bundle.nonce","status":"fail"`},
	} {
		status, text := post(t, web.URL+"/evidence", tt.body)
		if status != tt.status || !strings.Contains(text, tt.says) || strings.Contains(text, `"verified":true`) {
			t.Errorf("%s: %d %s", tt.name, status, text)
		}
	}
	if err := s.nonces.use(ours); err != nil {
		t.Errorf("evidence that was refused has used up the nonce: %v", err)
	}
}

func TestEachChallengeIsAnother(t *testing.T) {
	t.Parallel()
	s, web := testServer(t)
	seen := map[string]bool{}
	for range 3 {
		status, text := post(t, web.URL+"/challenge", nil)
		var ch struct {
			Nonce, Audience string
		}
		if err := json.Unmarshal([]byte(text), &ch); err != nil || status != http.StatusOK {
			t.Fatalf("%d %s: %v", status, text, err)
		}
		nonce, err := hex.DecodeString(ch.Nonce)
		challenge := attest.Challenge{Nonce: nonce, Audience: ch.Audience}
		if err != nil || seen[ch.Nonce] || ch.Audience != s.audience || challenge.Validate() != nil {
			t.Errorf("%s", text)
		}
		seen[ch.Nonce] = true
	}
}
