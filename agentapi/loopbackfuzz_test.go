package agentapi_test

import (
	"bytes"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/keyagent/keyagent/agentapi"
	"github.com/keyagent/keyagent/agentapi/appsecret"
	"github.com/keyagent/keyagent/agentapi/peer"
	"github.com/keyagent/keyagent/internal/secret"
)

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// Whatever request arrives on loopback, a token is given only for the one path, with the secret,
// and nothing is 404 or 500. No secret gets into the audit.
func FuzzLoopbackRequest(f *testing.F) {
	const host = "127.0.0.1:840"
	keeper, err := appsecret.New(secret.New(strings.Repeat("k", 32)), "boot", func(string) (appsecret.Watched, bool) { return nil, false })
	if err != nil {
		f.Fatal(err)
	}
	made, err := keeper.Mint(appsecret.Holder{Lifetime: appsecret.Unit, UID: 1000, CgroupID: 77, Identity: "shop"})
	if err != nil {
		f.Fatal(err)
	}
	text := made.Reveal()
	query := "?api-version=2019-08-01&resource=" + url.QueryEscape(vault)
	for _, path := range []string{"/msi/token", "//msi/token/", "/msi%2ftoken", `/msi\token`, "/msi/./token", "/", "*", "http://127.0.0.1:840/msi/token", "/msi/token;x"} {
		f.Add(path+query, text, host, false)
	}
	f.Add("/msi/token?api-version=2017-09-01&clientid="+shopClient+"&resource="+vault, text, host, true)
	f.Add("/msi/token"+query+"&secret="+text, "", host, false)
	f.Add("/msi/token"+query+"&x=%6beyagent1_A", text, host, false)
	f.Add("/msi/token"+query, text[:60], host, false)
	f.Add("/msi/token"+query, text, "evil.example", false)

	var leaked atomic.Bool
	cfg := onlyShop()
	cfg.Policy = rulesFor(1000)
	cfg.Programs.Secrets = keeper
	cfg.Audit = slog.New(slog.NewJSONHandler(writerFunc(func(p []byte) (int, error) {
		if bytes.Contains(p, []byte(appsecret.Prefix)) {
			leaked.Store(true)
		}
		return len(p), nil
	}), nil))
	server, err := agentapi.New(cfg)
	if err != nil {
		f.Fatal(err)
	}
	handler := server.AppServiceHandler(host, peer.Caller{UID: 1000, GID: 1000, CgroupID: 77})
	f.Fuzz(func(t *testing.T, target, shown, to string, old bool) {
		r := &http.Request{Method: http.MethodGet, RequestURI: target, Host: to, Header: http.Header{}, URL: &url.URL{}}
		if _, raw, found := strings.Cut(target, "?"); found {
			r.URL.RawQuery = raw
		}
		header := "X-Identity-Header"
		if old {
			header = "Secret"
		}
		r.Header.Set(header, shown)
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		path, _, _ := strings.Cut(target, "?")
		for strings.Contains(path, "//") {
			path = strings.ReplaceAll(path, "//", "/")
		}
		_, refused := keeper.Check(shown, appsecret.Presenter{UID: 1000, CgroupID: 77})
		allowed := strings.TrimSuffix(path, "/") == "/msi/token" && refused == nil && to == host && !strings.Contains(target, appsecret.Prefix)
		switch got := strings.Contains(w.Body.String(), tokenText); {
		case got != (w.Code == http.StatusOK), got && !allowed:
			t.Errorf("status %d, %q to %q with %q: %s", w.Code, target, to, shown, w.Body)
		case w.Code == http.StatusNotFound || w.Code == http.StatusMethodNotAllowed || w.Code == http.StatusInternalServerError:
			t.Errorf("status %d for %q", w.Code, target)
		case target == "/msi/token"+query && refused == nil && to == host && !got:
			t.Errorf("status %d for what a program sends: %s", w.Code, w.Body)
		case leaked.Load():
			t.Errorf("%q: the audit has a secret", target)
		}
	})
}
