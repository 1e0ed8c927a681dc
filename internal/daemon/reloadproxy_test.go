package daemon_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyagent/keyagent/client"
	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/agenttest"
	"github.com/keyagent/keyagent/internal/keyring"
)

// connectProxy is an HTTP proxy in front of the platform's Entra: what is asked for by the names of
// the public cloud goes there. It counts the tunnels that it was asked for, and knows which are
// open. It is safe for concurrent use.
type connectProxy struct {
	hosts map[string]string // where a host and port are

	mu    sync.Mutex
	asked map[string]int // by host and port
	open  int
}

// newConnectProxy starts a proxy that ends with the test, and returns its URL with it.
func (s *stage) newConnectProxy() (*connectProxy, string) {
	s.t.Helper()
	p := &connectProxy{asked: map[string]int{}, hosts: map[string]string{
		"login.microsoft.com:443":       strings.TrimPrefix(s.platform.Info().Login, "https://"),
		"login.microsoftonline.com:443": strings.TrimPrefix(s.platform.Info().Login, "https://"),
		"mtlsauth.microsoft.com:443":    strings.TrimPrefix(s.platform.Info().MTLSAuth, "https://"),
	}}
	server := httptest.NewServer(p)
	s.t.Cleanup(server.Close)
	return p, server.URL
}

func (p *connectProxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.count(r.Host, 1)
	defer p.count("", -1)
	target, known := p.hosts[r.Host]
	if r.Method != http.MethodConnect || !known {
		http.Error(w, "this proxy knows Entra only", http.StatusForbidden)
		return
	}
	server, err := new(net.Dialer).DialContext(r.Context(), "tcp", target)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer server.Close()
	agent, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer agent.Close()
	_, _ = io.WriteString(agent, "HTTP/1.1 200 OK\r\n\r\n") // only now the agent goes on
	go func() {
		_, _ = io.Copy(server, agent)
		server.Close()
	}()
	_, _ = io.Copy(agent, server)
}

func (p *connectProxy) count(host string, opened int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open += opened
	if host != "" {
		p.asked[host]++
	}
}

// tunnels is how many tunnels to a host were asked for, and how many are open to any.
func (p *connectProxy) tunnels(host string) (asked, open int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked[host], p.open
}

// throughProxy has the stage's application log in at the public cloud's names, which only a proxy
// can reach.
func (s *stage) throughProxy(bound string) {
	s.t.Helper()
	keys := s.keyring(s.platform.Clock().Now)
	if _, err := keys.Create(s.t.Context(), "app", keyring.KeyRequest{}); err != nil {
		s.t.Fatal(err)
	}
	s.certify(keys)
	s.cfg.Rules[0].Types = []string{config.TypeBearer}
	for i := range s.cfg.Identities {
		if id := &s.cfg.Identities[i]; id.Name == "app-cert" {
			id.Application.LoginEndpoint, id.Application.MTLSEndpoint = "", ""
			id.Application.Credentials[0].Bound = bound
		}
	}
}

// TestAReloadedProxyIsUsed: from the reload on, what goes to Entra goes through the new proxy
// alone, and the connections through the old one end. An unchanged proxy keeps its connections.
func TestAReloadedProxyIsUsed(t *testing.T) {
	for _, tt := range []struct{ bound, host string }{
		{config.BoundRequire, "mtlsauth.microsoft.com:443"},
		{config.BoundNever, "login.microsoftonline.com:443"},
	} {
		t.Run(tt.bound, func(t *testing.T) {
			s := newStage(t)
			first, firstURL := s.newConnectProxy()
			second, secondURL := s.newConnectProxy()
			s.cfg.Proxy.URL = firstURL
			s.throughProxy(tt.bound)
			s.start()
			ask := func() {
				t.Helper()
				token, err := s.client.Token(t.Context(), client.TokenRequest{Identity: "app-cert", Resource: resource, ForceRefresh: true})
				if err != nil || token.Bound != (tt.bound == config.BoundRequire) {
					t.Fatalf("got %+v, %v", token, err)
				}
			}
			want := func(inFirst, inSecond int) {
				t.Helper()
				a, _ := first.tunnels(tt.host)
				b, _ := second.tunnels(tt.host)
				if a != inFirst || b != inSecond {
					t.Errorf("%d and %d tunnels were asked for, want %d and %d", a, b, inFirst, inSecond)
				}
			}
			use := func(url string) {
				t.Helper()
				s.mustReload(func(c *config.Config) { c.Proxy.URL = url })
			}

			ask()
			want(1, 0)
			use(firstURL)
			ask()
			want(1, 0) // the connection is kept
			use(secondURL)
			ask()
			want(1, 1)
			first.mustBeLeft(t)
			use(firstURL)
			ask()
			want(2, 1)
			second.mustBeLeft(t)
		})
	}
}

// mustBeLeft waits until no tunnel is open any more.
func (p *connectProxy) mustBeLeft(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), agenttest.WaitsLimit)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, open := p.tunnels(""); open == 0 {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("a tunnel through the proxy that is not configured any more stays open")
		}
	}
}

// TestAnErrorSaysWhetherItIsOfBeforeTheReload: an operator who has corrected the proxy sees that
// the last error is older.
func TestAnErrorSaysWhetherItIsOfBeforeTheReload(t *testing.T) {
	s := newStage(t)
	proxy, url := s.newConnectProxy()
	s.cfg.Proxy.URL = "http://127.0.0.1:1"
	s.throughProxy(config.BoundNever)
	s.start()
	asked := client.TokenRequest{Identity: "app-cert", Resource: resource}
	began := s.platform.Clock().Now()
	if _, err := s.client.Token(t.Context(), asked); err == nil {
		t.Fatal("a token came through a proxy that is not there")
	}
	if status := s.status(); !strings.Contains(fmt.Sprint(status.Identities), "not reachable, through proxy 127.0.0.1:1: ") {
		t.Errorf("the proxy is not named: %+v", status.Identities)
	}
	want := func(before bool) {
		t.Helper()
		for _, id := range s.status().Identities {
			if id.Name != "app-cert" {
				continue
			}
			one := id.Credentials[0]
			if id.LastErrorAt.Before(began) || id.LastErrorBeforeReload != before || one.LastErrorAt.Before(began) || one.LastErrorBeforeReload != before {
				t.Errorf("got %+v", id)
			}
		}
	}
	want(false)
	if err := s.platform.Clock().Advance(time.Minute); err != nil {
		t.Fatal(err)
	}
	s.mustReload(nothing)
	want(false)
	s.mustReload(func(c *config.Config) { c.Proxy.URL = url })
	want(true)
	if _, err := s.client.Token(t.Context(), asked); err != nil {
		t.Fatal(err)
	}
	if n, _ := proxy.tunnels("login.microsoftonline.com:443"); n != 1 {
		t.Errorf("%d tunnels", n)
	}
	for _, id := range s.status().Identities {
		if id.Name == "app-cert" && (id.LastError != "" || !id.LastErrorAt.IsZero() || id.LastErrorBeforeReload) {
			t.Errorf("got %+v", id)
		}
	}
}
