package upstream_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/internal/upstream"
)

func TestProxyServesForeignHTTPSTargetsOnly(t *testing.T) {
	proxy, err := upstream.Proxy("http://user:pass%2Fword@proxy.example:3128", []string{"intranet.example", ".corp.example", "10.0.0.0/8", "ported.example:8443"})
	if err != nil {
		t.Fatal(err)
	}
	for target, want := range map[string]bool{
		"https://login.microsoftonline.com/t": true,
		"http://login.microsoftonline.com/t":  false,
		"https://intranet.example":            false,
		"https://a.intranet.example":          false,
		"https://notintranet.example":         true,
		"https://corp.example":                true,
		"https://a.corp.example":              false,
		"https://10.1.2.3":                    false,
		"https://11.1.2.3":                    true,
		"https://ported.example:8443":         false,
		"https://ported.example":              true,
		"https://169.254.169.254/metadata":    false,
		"http://169.254.169.254/metadata":     false,
		"https://localhost:1":                 false,
		"https://127.0.0.1:1":                 false,
		"https://[::1]:1":                     false,
	} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, target, nil)
		if err != nil {
			t.Fatal(err)
		}
		u, err := proxy(r)
		if err != nil || (u != nil) != want {
			t.Errorf("%s: got %v, %v; want the proxy: %v", target, u, err, want)
		}
		if password := ""; u != nil {
			if password, _ = u.User.Password(); password != "pass/word" || u.Host != "proxy.example:3128" {
				t.Errorf("%s: got host %q, password %q", target, u.Host, password)
			}
		}
	}
}

func TestMetadataServiceIsBypassedWhateverTheListSays(t *testing.T) {
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://169.254.169.254/", nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, bypass := range [][]string{nil, {""}, {"*"}, {"other.example,"}, {"169.254.169.254:80"}} {
		proxy, err := upstream.Proxy("https://proxy.example", bypass)
		if err != nil {
			t.Fatal(err)
		}
		if u, err := proxy(r); u != nil || err != nil {
			t.Errorf("bypass %q: got %v, %v", bypass, u, err)
		}
	}
}

func TestURLsThatAreNoProxies(t *testing.T) {
	for _, raw := range []string{
		"", "proxy.example:3128", "proxy.example", "socks5://user:swordfish@proxy.example", "http://", "http://:3128", "//proxy.example",
		"http://user:swordfish@proxy.example/path", "http://user:swordfish@proxy.example?x", "http://user:swordfish@proxy.example#x",
		"http://user:swordfish@proxy.example:port", "http://user:swordfish\x7f@proxy.example",
	} {
		if _, err := upstream.Proxy(raw, nil); err == nil || strings.Contains(err.Error(), "swordfish") {
			t.Errorf("%q: got %v, want an error without the password", raw, err)
		}
	}
}
