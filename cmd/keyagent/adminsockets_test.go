package main

import (
	"context"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/simulator"
)

const adminSettings = "\nendpoints:\n  admin: {socket: /run/no-such-directory/admin.sock, metrics: \"127.0.0.1:1\"}\n" // the passed ones count

// TestSocketsForAdministratorsCanBePassed: by systemd, which holds them.
func TestSocketsForAdministratorsCanBePassed(t *testing.T) {
	v := newVictim(t, simulator.Config{})
	_, agentSocket := socketUnit(t, "unix", filepath.Join(v.dir, "agent.sock"))
	admin, adminSocket := socketUnit(t, "unix", filepath.Join(v.dir, "admin.sock"))
	port, metricsPort := socketUnit(t, "tcp", "127.0.0.1:0")
	v.startPassed("metrics:keyagent:admin", adminSettings, metricsPort, agentSocket, adminSocket)
	v.ready()
	for _, at := range []net.Addr{admin.Addr(), port.Addr()} {
		transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, at.Network(), at.String())
		}}
		for _, path := range []string{wire.PathHealth, wire.PathReady, wire.PathMetrics} {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+port.Addr().String()+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := transport.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			if _ = resp.Body.Close(); resp.StatusCode != http.StatusOK {
				t.Errorf("%s at %s: %s", path, at, resp.Status)
			}
		}
	}
	v.terminate()
}

func TestSocketsForAdministratorsThatCannotBeUsed(t *testing.T) {
	_, local := socketUnit(t, "tcp", "127.0.0.1:0")
	_, all := socketUnit(t, "tcp", "0.0.0.0:0")
	for _, tt := range []struct {
		name, as string
		passed   *os.File
		says     string
	}{
		{"a port for administrators", "admin", local, "callers cannot be identified on a tcp socket"},
		{"metrics for the network", "metrics", all, "is not a loopback address"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := newVictim(t, simulator.Config{})
			settings := strings.Replace(adminSettings, "/run/no-such-directory", v.dir, 1)
			v.startPassed(tt.as, strings.Replace(settings, "127.0.0.1:1", closedPort(t), 1), tt.passed)
			<-v.ended
			code := v.agent.ProcessState.ExitCode()
			v.kill()
			if code != exitFailed || !strings.Contains(v.output.String(), tt.says) {
				t.Errorf("it ends with %d and says\n%s\nwant …%s…", code, v.output.String(), tt.says)
			}
		})
	}
}

// closedPort is an address at which nobody listens.
func closedPort(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}
