package daemon_test

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/tooltest"
)

// onLoopback gives the stage's next agents both endpoints, at ports that are free, and lets an
// ordinary user have what rules give root: over loopback, root is anybody's.
func (s *stage) onLoopback() {
	s.t.Helper()
	s.cfg.Endpoints = config.Endpoints{
		AppService: &config.LoopbackEndpoint{Listen: freeAddress(s.t)},
		IMDS:       &config.LoopbackEndpoint{Listen: freeAddress(s.t)},
	}
	for dir := filepath.Dir(s.cfg.Socket); dir != filepath.Clean(os.TempDir()); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			s.t.Fatal(err)
		}
	}
	s.cfg.Rules[0].Users = []string{strconv.Itoa(tooltest.User()), strconv.Itoa(os.Geteuid())}
}

func freeAddress(t testing.TB) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// program is what a program of an ordinary user is served with.
func (s *stage) program(identity string) wire.Endpoint {
	s.t.Helper()
	dial := tooltest.DialAs(tooltest.User())
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return dial(ctx, "unix", s.cfg.Socket)
	}}
	var endpoint wire.Endpoint
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodPost, "http://agent"+wire.PathEndpoint+"?identity="+identity, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&endpoint); err != nil || resp.StatusCode != http.StatusOK {
		s.t.Fatalf("%s: %v", resp.Status, err)
	}
	return endpoint
}

// said is what an endpoint on loopback answers.
type said struct {
	status     int
	retryAfter string
	token      string
	wire.IMDSError
}

// askOnLoopback makes a request as a program does, on a connection of its own.
func (s *stage) askOnLoopback(target, header, value string) said {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, target, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set(header, value)
	resp, err := (&http.Transport{DisableKeepAlives: true, DialContext: tooltest.DialAs(tooltest.User())}).RoundTrip(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	var answer struct {
		Token string `json:"access_token"`
		wire.IMDSError
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		s.t.Fatalf("%v: %s", err, body)
	}
	return said{resp.StatusCode, resp.Header.Get("Retry-After"), answer.Token, answer.IMDSError}
}

func (s *stage) askAppService(endpoint wire.Endpoint) said {
	s.t.Helper()
	return s.askOnLoopback(endpoint.AppService+"?api-version=2019-08-01&resource="+url.QueryEscape(resource), "X-IDENTITY-HEADER", endpoint.Secret.Reveal())
}

// TestProgramsAreServedOnLoopback: a program gets the token that the native API gives, and its
// secret outlives the agent.
func TestProgramsAreServedOnLoopback(t *testing.T) {
	s := newStage(t)
	s.onLoopback()
	s.start()
	endpoint := s.program("vm")
	if want := "http://" + s.cfg.Endpoints.AppService.Listen + "/msi/token"; endpoint.AppService != want || endpoint.IMDS != "http://"+s.cfg.Endpoints.IMDS.Listen {
		t.Errorf("got %+v, want %s", endpoint, want)
	}
	token := s.mustToken().AccessToken.Reveal()
	if got := s.askAppService(endpoint); got.status != 200 || got.token != token {
		t.Errorf("App Service: %d %+v", got.status, got.IMDSError)
	}
	if got := s.askOnLoopback(endpoint.IMDS+wire.PathIMDSToken+"?api-version=2018-02-01&resource="+resource, "Metadata", "true"); got.status != 200 || got.token != token {
		t.Errorf("IMDS: %d %+v", got.status, got.IMDSError)
	}

	s.stop()
	s.start()
	if got := s.askAppService(endpoint); got.status != 200 || got.token == "" {
		t.Errorf("after a restart of the agent: %d %+v", got.status, got.IMDSError)
	}
	s.stop()
	if err := os.Remove(s.stateFile("appsecret.key")); err != nil {
		t.Fatal(err)
	}
	s.start()
	if got := s.askAppService(endpoint); got.status != 403 || got.Error != "access_denied" {
		t.Errorf("with another key: %d %+v", got.status, got.IMDSError)
	}
	if got := s.askAppService(s.program("vm")); got.status != 200 {
		t.Errorf("with another secret: %d %+v", got.status, got.IMDSError)
	}
	for _, text := range []string{s.log.String(), s.audit.String()} {
		if strings.Contains(text, endpoint.Secret.Reveal()[:30]) || strings.Contains(text, token) {
			t.Errorf("it has a secret:\n%s", text)
		}
	}
}

// TestASlowFetchIsNotWaitedFor: a program is told to come back, the fetch goes on, and who comes
// back gets its token.
func TestASlowFetchIsNotWaitedFor(t *testing.T) {
	s := newStage(t)
	s.onLoopback()
	s.sdkTimeout = 50 * time.Millisecond
	proxy, _ := s.newConnectProxy()
	release := make(chan struct{})
	var once sync.Once
	let := func() { once.Do(func() { close(release) }) }
	held := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
			proxy.ServeHTTP(w, r)
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(held.Close)
	t.Cleanup(let)
	s.cfg.Proxy.URL = held.URL
	s.throughProxy(config.BoundRequire)
	s.start()
	endpoint := s.program("app-cert")

	for range 3 {
		got := s.askAppService(endpoint)
		if got.status != 503 || got.Error != "temporarily_unavailable" || got.retryAfter != "5" || got.token != "" {
			t.Fatalf("while Entra does not answer: %+v", got)
		}
	}
	let()
	got := s.askAppService(endpoint)
	for got.status == 503 {
		got = s.askAppService(endpoint)
	}
	if got.status != 200 || got.token == "" {
		t.Errorf("afterwards: %+v", got)
	}
	if asked := len(s.platform.Journal().Operation("entra.mtls.token")); asked != 1 {
		t.Errorf("Entra was asked %d times", asked)
	}
	if log := s.log.String(); !strings.Contains(log, "no token within 50ms") {
		t.Errorf("the log does not say why:\n%s", log)
	}
}

// TestAPortThatIsTakenIsAnError: the agent does not go on without an endpoint that it should have.
func TestAPortThatIsTakenIsAnError(t *testing.T) {
	s := newStage(t)
	s.onLoopback()
	ln, err := net.Listen("tcp", s.cfg.Endpoints.IMDS.Listen)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if err := s.tryOpen(); err == nil || !strings.Contains(err.Error(), "endpoints (imds)") || !strings.Contains(err.Error(), "in use") {
		t.Errorf("got %v", err)
	}
}
