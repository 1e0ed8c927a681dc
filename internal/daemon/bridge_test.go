package daemon_test

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/config"
)

// bridgeTo lets the test's user call the simulated resource through the agent, and returns its
// host.
func (s *stage) bridgeTo(hosts ...string) string {
	s.t.Helper()
	u, err := url.Parse(s.platform.Info().Resource)
	if err != nil {
		s.t.Fatal(err)
	}
	rule := &s.cfg.Rules[0]
	rule.Types, rule.Hosts = []string{config.TypeBearer, config.TypePoP}, append(hosts, u.Host)
	return u.Host
}

// overSocket is a client of the agent's socket, whatever the host of a URL is.
func (s *stage) overSocket() *http.Client {
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", s.cfg.Socket)
	}}
	s.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// A resource that takes bound tokens only over the connection that they are bound to is called
// through the agent, by each identity whose certificate it may be.
func TestTheBridgeCallsAResourceWithABoundToken(t *testing.T) {
	s := newStage(t)
	host := s.bridgeTo()
	s.start()
	for _, identity := range []string{"vm", "app-fic"} {
		t.Run(identity, func(t *testing.T) {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://agent"+wire.PathBridge+identity+"/"+host+"/secrets/db?api-version=7.4", nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set(wire.HeaderResource, resource)
			req.Header.Set("Authorization", "Bearer of-the-caller")
			resp, err := s.overSocket().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			if err != nil || resp.StatusCode != http.StatusOK || resp.Header.Get(wire.HeaderError) != "" {
				t.Fatalf("%d %v %s %v\n%s", resp.StatusCode, resp.Header, body, err, s.log.String())
			}
			var caller struct {
				Bound bool `json:"bound"`
			}
			if err := json.Unmarshal(body, &caller); err != nil || !caller.Bound {
				t.Errorf("%s %v", body, err)
			}
		})
	}
	s.stop()
	trail := s.audit.String()
	if strings.Count(trail, `"decision":"used"`) != 2 || strings.Count(trail, `"msg":"call ended"`) != 2 || !strings.Contains(trail, `"end":"complete"`) {
		t.Errorf("audit:\n%s", trail)
	}
	if strings.Contains(trail, "secrets/db") || strings.Contains(trail, "api-version") {
		t.Errorf("the audit has the path or the query:\n%s", trail)
	}
}
