package maa_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyagent/keyagent/attest"
	at "github.com/keyagent/keyagent/attest/internal/attesttest"
	"github.com/keyagent/keyagent/attest/maa"
)

// transportAttributes are fixedTPM, fixedParent, sensitiveDataOrigin, noDA and decrypt.
const transportAttributes = 0x00020432

var (
	worldOnce sync.Once
	amd       *at.AMD
	ca        *at.CA
	keys      at.Keys
)

// rig is a machine, a service and a client between them.
type rig struct {
	machine *at.Machine
	service *at.Service
	key     *softKey
	client  *maa.Client
	pauses  []time.Duration
}

// onlyHost allows one endpoint.
type onlyHost string

func (h onlyHost) Check(endpoint string) (string, error) {
	if strings.TrimRight(endpoint, "/") != string(h) {
		return "", fmt.Errorf("host of %q is not trusted", endpoint)
	}
	return string(h), nil
}

func newRig(t *testing.T) *rig {
	t.Helper()
	worldOnce.Do(func() { amd, ca, keys = at.NewAMD(t), at.NewCA(t), at.NewKeys(t) })
	r := &rig{machine: at.NewMachine(t, amd, ca, keys)}
	public := at.Public(&keys.Other.PublicKey, transportAttributes, make([]byte, 32))
	r.key = &softKey{key: keys.Other, certified: r.machine.Certify(t, public, at.Null, nil)}
	r.service = at.NewService(t, r.machine.Anchors())
	r.client = maa.New(maa.Config{
		Hosts: onlyHost(r.service.URL), HTTP: r.service.Client(), OS: maa.OS{Distro: "Debian", Major: 12}, Now: at.Epoch,
		Sleep: func(_ context.Context, d time.Duration) error {
			r.pauses = append(r.pauses, d)
			return nil
		},
	})
	return r
}

func (r *rig) request(t *testing.T) maa.Request {
	t.Helper()
	ch := attest.Challenge{Nonce: []byte("a nonce of thirty-two bytes here"), Audience: r.service.URL}
	return maa.Request{Endpoint: r.service.URL + "/", Challenge: ch, Evidence: r.machine.Evidence(t, ch), Key: r.key}
}

func (r *rig) attest(t *testing.T) (string, time.Time, error) {
	t.Helper()
	token, expires, err := r.client.Attest(t.Context(), r.request(t))
	return token.Reveal(), expires, err
}

func TestServiceUnderstandsTheRequestAndItsAnswerIsOpened(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	token, expires, err := r.attest(t)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Count(token, ".") != 2 || !expires.Equal(at.Epoch().Add(8*time.Hour)) {
		t.Errorf("token %q, expires %v", token, expires)
	}
}

func TestEvidenceGoesToAllowedHostsOnly(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for _, endpoint := range []string{"https://attacker.example", "http" + strings.TrimPrefix(r.service.URL, "https"), ""} {
		req := r.request(t)
		req.Endpoint = endpoint
		if _, _, err := r.client.Attest(t.Context(), req); err == nil {
			t.Errorf("sent to %q", endpoint)
		}
	}
	if _, err := maa.New(maa.Config{}).Endpoint(r.service.URL); err == nil {
		t.Error("a client without host list sends evidence")
	}
	if r.service.Requests() != 0 {
		t.Errorf("%d requests reached the service", r.service.Requests())
	}
}

func TestServiceFailures(t *testing.T) {
	t.Parallel()
	status := func(code int, header, body string) func(http.ResponseWriter, *http.Request, int) bool {
		return func(w http.ResponseWriter, _ *http.Request, _ int) bool {
			if header != "" {
				w.Header().Set("Retry-After", header)
			}
			w.WriteHeader(code)
			_, _ = w.Write([]byte(body))
			return true
		}
	}
	tests := []struct {
		name      string
		answer    func(http.ResponseWriter, *http.Request, int) bool
		status    int
		temporary bool
		requests  int
		text      string
	}{
		{"a refusal is final and says why", status(400, "", `{"error":{"code":"PolicyFailure","message":"not a\r\nCVM"}}`), 400, false, 1, "PolicyFailure"},
		{"a refusal without a body", status(400, "", ""), 400, false, 1, "status 400"},
		{"an instance that wants its callers to authenticate", status(401, "", ""), 401, false, 1, "authenticate"},
		{"throttling is retried", status(429, "2", ""), 429, true, 3, "429"},
		{"throttling for long is left to the caller", status(429, "3600", ""), 429, true, 1, "429"},
		{"a failing service is retried", status(503, "", "gateway"), 503, true, 3, "503"},
		{"a redirect is not followed", func(w http.ResponseWriter, r *http.Request, _ int) bool {
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
			return true
		}, 307, false, 1, "307"},
		{"an answer without end", func(w http.ResponseWriter, _ *http.Request, _ int) bool {
			_, _ = w.Write([]byte(`{"token":"` + strings.Repeat("A", 2<<20) + `"}`))
			return true
		}, 0, true, 1, "too large"},
		{"an answer that is not JSON", status(200, "", "<html>"), 0, true, 1, "unusable answer"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.service.Answer = tt.answer
			_, _, err := r.attest(t)
			var e *maa.Error
			if !errors.As(err, &e) {
				t.Fatalf("error %v is no *maa.Error", err)
			}
			if e.Status != tt.status || e.Temporary() != tt.temporary || r.service.Requests() != tt.requests {
				t.Errorf("status %d, temporary %v, %d requests; want %d, %v, %d",
					e.Status, e.Temporary(), r.service.Requests(), tt.status, tt.temporary, tt.requests)
			}
			if !strings.Contains(err.Error(), tt.text) || strings.ContainsAny(err.Error(), "\r\n") {
				t.Errorf("text %q, want one line with %q", err, tt.text)
			}
		})
	}
}

func TestRecoveryWithinOneCall(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.service.Answer = func(w http.ResponseWriter, _ *http.Request, n int) bool {
		if n == 3 {
			return false
		}
		w.Header().Set("Retry-After", "4")
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	}
	if _, _, err := r.attest(t); err != nil {
		t.Fatal(err)
	}
	if len(r.pauses) != 2 || r.pauses[0] != 4*time.Second || r.pauses[1] != 4*time.Second {
		t.Errorf("paused %v, want what Retry-After says", r.pauses)
	}
}

func TestUnreachableService(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.service.Close()
	_, _, err := r.attest(t)
	var e *maa.Error
	if !errors.As(err, &e) || e.Status != 0 || !e.Temporary() {
		t.Errorf("error %v, want a temporary *maa.Error without status", err)
	}
}

func TestAnEndedContextEndsTheRetries(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	ctx, cancel := context.WithCancel(t.Context())
	r.service.Answer = func(w http.ResponseWriter, _ *http.Request, _ int) bool {
		cancel()
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	}
	if _, _, err := r.client.Attest(ctx, r.request(t)); err == nil || r.service.Requests() != 1 {
		t.Errorf("error %v after %d requests", err, r.service.Requests())
	}
}

func TestOnlyTheExactEnvelopeIsTaken(t *testing.T) {
	t.Parallel()
	param := func(name string, value any) func(map[string]any) {
		return func(e map[string]any) { e["EncryptionParams"].(map[string]any)[name] = value }
	}
	tests := map[string]func(map[string]any){
		"another cipher":        param("Cipher", "3DES"),
		"another mode":          param("BlockMode", "ChainingModeCBC"),
		"another padding":       param("BlockPadding", "none"),
		"a key of no AES size":  param("KeySizeInBits", 192),
		"a short IV":            param("Iv", []byte("short")),
		"a truncated tag":       func(e map[string]any) { e["AuthenticationData"] = []byte("short") },
		"a short inner key":     func(e map[string]any) { e["EncryptedInnerKey"] = []byte("short") },
		"a member in two cases": func(e map[string]any) { e["jwt"] = []byte("other") },
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.service.Envelope = change
			if _, _, err := r.attest(t); err == nil || !strings.Contains(err.Error(), "envelope") {
				t.Errorf("error %v, want one about the envelope", err)
			}
		})
	}
}

func TestAllFaultsInsideTheEnvelopeGiveOneError(t *testing.T) {
	t.Parallel()
	tests := map[string]func(*rig){
		"a tag that is wrong": func(r *rig) {
			r.service.Envelope = func(e map[string]any) { e["AuthenticationData"] = make([]byte, 16) }
		},
		"a token that was changed":  func(r *rig) { r.service.Envelope = func(e map[string]any) { e["Jwt"].([]byte)[0] ^= 1 } },
		"an inner key badly padded": func(r *rig) { r.service.Envelope = func(e map[string]any) { e["EncryptedInnerKey"].([]byte)[9] ^= 1 } },
		"an inner key of 16 bytes":  func(r *rig) { r.service.InnerKey = func(k []byte) []byte { return k[:16] } },
		"an inner key of 31 bytes":  func(r *rig) { r.service.InnerKey = func(k []byte) []byte { return k[:31] } },
		"other additional data":     func(r *rig) { r.service.AAD = "Transport key" },
	}
	texts := map[string]bool{}
	for name, change := range tests {
		r := newRig(t)
		change(r)
		_, _, err := r.attest(t)
		if !errors.Is(err, maa.ErrNotOpened) {
			t.Errorf("%s: error %v, want ErrNotOpened", name, err)
			continue
		}
		texts[strings.ReplaceAll(err.Error(), r.service.URL, "URL")] = true
	}
	if len(texts) != 1 {
		t.Errorf("the errors tell these cases apart: %v", texts)
	}
}

func TestAKeyThatIsGoneIsReportedAsGone(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.key.err = errors.New("the TPM was reset")
	if _, _, err := r.attest(t); !errors.Is(err, r.key.err) {
		t.Errorf("error %v, want the key's own", err)
	}
}

func TestATokenForSomebodyElseIsRefused(t *testing.T) {
	t.Parallel()
	tests := map[string]func(*at.Service){
		"another nonce": func(s *at.Service) {
			s.Claims = func(c map[string]any) {
				c["x-ms-runtime"] = map[string]any{"client-payload": map[string]any{"nonce": "b3RoZXI="}}
			}
		},
		"no nonce": func(s *at.Service) { s.Claims = func(c map[string]any) { delete(c, "x-ms-runtime") } },
		"another attestation key": func(s *at.Service) {
			s.Claims = func(c map[string]any) {
				c["x-ms-isolation-tee"] = map[string]any{"x-ms-runtime": map[string]any{
					"keys": []any{map[string]any{"kid": "HCLAkPub", "n": "AQAB"}},
				}}
			}
		},
		"no expiry": func(s *at.Service) { s.Claims = func(c map[string]any) { delete(c, "exp") } },
		"no attestation key": func(s *at.Service) {
			s.Claims = func(c map[string]any) { delete(c, "x-ms-isolation-tee") }
		},
		"the attestation key under another name": func(s *at.Service) {
			s.Claims = func(c map[string]any) {
				keys := c["x-ms-isolation-tee"].(map[string]any)["x-ms-runtime"].(map[string]any)["keys"]
				for _, key := range keys.([]any) {
					key.(map[string]any)["kid"] = "other"
				}
			}
		},
		"two parts":      func(s *at.Service) { s.Compact = func(j string) string { return j[:strings.LastIndexByte(j, '.')] } },
		"not base64url":  func(s *at.Service) { s.Compact = func(string) string { return "a.!.c" } },
		"a member twice": func(s *at.Service) { s.Compact = func(string) string { return "a.eyJleHAiOjEsImV4cCI6Mn0.c" } },
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			change(r.service)
			if _, _, err := r.attest(t); !errors.Is(err, maa.ErrWrongToken) {
				t.Errorf("error %v, want ErrWrongToken", err)
			}
		})
	}
}

func TestNoTokenInErrorsAndLogs(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.service.Claims = func(c map[string]any) { delete(c, "exp") }
	_, _, err := r.attest(t)
	if err == nil || strings.Contains(err.Error(), "eyJ") {
		t.Errorf("error %v", err)
	}
	token, _, err := newRig(t).client.Attest(t.Context(), maa.Request{Endpoint: "https://x"})
	if b, _ := json.Marshal(token); err == nil || strings.Contains(string(b), "ey") {
		t.Errorf("%s, %v", b, err)
	}
}
