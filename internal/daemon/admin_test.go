package daemon_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/config"
)

// askSocket makes a request at a Unix socket.
func askSocket(t *testing.T, socket, path string) (status int, body string) {
	t.Helper()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}
	defer transport.CloseIdleConnections()
	return ask(t, transport, "http://agent"+path)
}

func ask(t *testing.T, transport *http.Transport, url string) (status int, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := transport.RoundTrip(req)
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

func wantMetrics(t *testing.T, text string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !regexp.MustCompile("(?m)^" + w + "$").MatchString(text) {
			t.Errorf("no %s", w)
		}
	}
	if t.Failed() {
		t.Log(text)
	}
}

// What the agent has done shows in its metrics, wherever they are read.
func TestTheMetricsOfARunningAgent(t *testing.T) {
	s := newStage(t)
	admin := filepath.Join(filepath.Dir(s.cfg.Socket), "admin.sock")
	port := freeAddress(t)
	s.cfg.Endpoints.Admin = &config.AdminEndpoint{Socket: admin, Mode: "0600", Metrics: port}
	s.start()
	token := s.mustToken()
	s.mustToken()
	if info, err := os.Stat(admin); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the administrators' socket has mode %v (%v)", info.Mode(), err)
	}
	for _, socket := range []string{admin, s.cfg.Socket} {
		status, text := askSocket(t, socket, wire.PathMetrics)
		if status != http.StatusOK || strings.Contains(text, token.AccessToken.Reveal()) {
			t.Fatalf("%d %s", status, text)
		}
		wantMetrics(t, text,
			`keyagent_tokens_issued_total\{identity="vm",source="entra",strength="attested"\} 1`, `keyagent_tokens_issued_total\{identity="vm",source="cache",strength="attested"\} 1`,
			`keyagent_token_fetches_total\{identity="vm",outcome="obtained"\} 1`, `keyagent_token_cache_lookups_total\{result="hit"\} 1`, `keyagent_token_cache_lookups_total\{result="miss"\} 1`,
			`keyagent_token_cache_entries 1`, `keyagent_token_fetches_in_flight 0`, `keyagent_tls_handshakes_total\{identity="vm"\} 1`,
			`keyagent_tpm_commands_total\{command="TPM2_Certify",outcome="success"\} [12]`, `keyagent_tpm_commands_total\{command="TPM2_Quote",outcome="success"\} 1`,
			`keyagent_tpm_command_duration_seconds_count\{command="TPM2_Sign"\} [1-9][0-9]*`, `keyagent_tpm_queue_length 0`, `keyagent_tpm_queue_duration_seconds_count [1-9][0-9]*`,
			`keyagent_ready [01]`, `keyagent_audit_records_written_total [1-9][0-9]*`, `keyagent_build_info\{.*version="test"\} 1`,
			`keyagent_certificate_expiry_timestamp_seconds\{credential="",identity="vm"\} .+`, `keyagent_connections [1-9][0-9]*`,
		)
		if status, body := askSocket(t, socket, wire.PathHealth); status != http.StatusOK || body != `{"status":"ok"}` {
			t.Errorf("%d %s", status, body)
		}
	}
	status, text := ask(t, &http.Transport{DisableKeepAlives: true}, "http://"+port+wire.PathMetrics)
	wantMetrics(t, text, `keyagent_tokens_issued_total\{source="entra",strength="attested"\} 1`, `keyagent_identity_ready [01]`)
	if status != http.StatusOK || strings.Contains(text, "identity=") {
		t.Errorf("on loopback: %d %s", status, text)
	}
	if status, body := askSocket(t, admin, wire.PathToken+"?identity=vm&resource="+resource); status != http.StatusNotFound {
		t.Errorf("a token at the administrators' socket: %d %s", status, body)
	}
	s.stop()
	if _, err := os.Stat(admin); !os.IsNotExist(err) {
		t.Errorf("the administrators' socket is left behind: %v", err)
	}
}

// Of two agents that are given one administrators' socket, the second does not start, and takes
// nothing from the first.
func TestAnAdministratorsSocketThatIsTaken(t *testing.T) {
	s := newStage(t)
	admin := filepath.Join(filepath.Dir(s.cfg.Socket), "admin.sock")
	s.cfg.Endpoints.Admin = &config.AdminEndpoint{Socket: admin}
	s.start()
	s.cfg.Socket, s.cfg.StateDir = s.cfg.Socket+"2", s.cfg.StateDir+"2"
	if err := s.tryOpen(); err == nil || !strings.Contains(err.Error(), admin) {
		t.Errorf("got %v", err)
	}
	if status, _ := askSocket(t, admin, wire.PathHealth); status != http.StatusOK {
		t.Errorf("the first answers %d", status)
	}
}
