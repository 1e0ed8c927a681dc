package client_test

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/agentapi"
	"github.com/keyagent/keyagent/agentapi/policy"
	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/client"
	"github.com/keyagent/keyagent/internal/secret"
)

const (
	vault     = "https://vault.azure.net"
	tokenText = "eyJ0eXAiOiJKV1QifQ.eyJhdWQiOiJ2YXVsdCJ9.c2lnbmF0dXJl"
)

// The test binary plays a process of another user, too: started with socketEnv
// set it asks for a token there and prints the error.
const socketEnv = "KEYAGENT_CLIENT_TEST_SOCKET"

func TestMain(m *testing.M) {
	socket := os.Getenv(socketEnv)
	if socket == "" {
		goleak.VerifyTestMain(m)
		return
	}
	_, err := client.New(client.Config{Socket: socket}).Token(context.Background(), client.TokenRequest{Resource: vault})
	_, _ = os.Stdout.WriteString(err.Error())
}

func tempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "client") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func newClient(t testing.TB, socket string) *client.Client {
	t.Helper()
	c := client.New(client.Config{Socket: socket})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// tokens is a token source.
type tokens func(acquire.Request) (acquire.Token, error)

func (f tokens) Token(_ context.Context, r acquire.Request) (acquire.Token, error) { return f(r) }

// startAgent runs the agent's own server and returns its socket.
func startAgent(t *testing.T, source tokens, adminOnly bool) string {
	t.Helper()
	uid := uint32(os.Geteuid())
	if adminOnly {
		uid++ // a rule for another user
	}
	server := newServer(t, source, uid)
	socket := filepath.Join(tempDir(t), "agent.sock")
	ln, err := agentapi.Listen(socket, 0o666)
	if err != nil {
		t.Fatal(err)
	}
	run(t, server, ln)
	return socket
}

// newServer is an agent with a rule for one user.
func newServer(t *testing.T, source tokens, uid uint32) *agentapi.Server {
	t.Helper()
	server, err := agentapi.New(agentapi.Config{
		Tokens: source,
		Status: func(context.Context) wire.Status { return wire.Status{Version: "1.2.3", Ready: true} },
		Capabilities: func(context.Context) wire.Capabilities {
			return wire.Capabilities{StrongestBinding: "tpm", TokenTypes: []string{wire.TypeBearer}}
		},
		Identities: []agentapi.Identity{{Name: "vm", Kind: wire.KindManagedIdentity}},
		Policy: &policy.Policy{Rules: []policy.Rule{{
			Name: "test", UIDs: []uint32{uid}, Identities: []string{"vm"}, Resources: []string{vault}, TokenTypes: []string{wire.TypeBearer, wire.TypePoP}, Fresh: true,
		}}},
		Audit: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return server
}

// run serves until the test ends or it is stopped.
func run(t *testing.T, server *agentapi.Server, ln net.Listener) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Serve(ctx, agentapi.Socket(ln)) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func working(r acquire.Request) (acquire.Token, error) {
	return acquire.Token{
		AccessToken: secret.New(tokenText), TokenType: "Bearer", ExpiresOn: time.Now().Add(time.Hour),
		Identity: r.Identity, Resource: r.Resource, Strength: acquire.StrengthAttested,
	}, nil
}

func TestToken(t *testing.T) {
	c := newClient(t, startAgent(t, working, false))
	for name, request := range map[string]client.TokenRequest{
		"by resource":                {Identity: "vm", Resource: vault},
		"by scope":                   {Identity: "vm", Scope: vault + "/.default"},
		"without an identity":        {Resource: vault},
		"with a type":                {Resource: vault, Type: "bearer"},
		"for a resource to be coded": {Identity: "vm", Resource: vault + "/"},
	} {
		t.Run(name, func(t *testing.T) {
			token, err := c.Token(t.Context(), request)
			if err != nil {
				t.Fatal(err)
			}
			if token.AccessToken.Reveal() != tokenText || token.Identity != "vm" || token.Strength != "attested" || !token.Expiry().After(time.Now()) {
				t.Errorf("got %+v", token)
			}
		})
	}
	t.Run("many at once", func(t *testing.T) {
		var group sync.WaitGroup
		for range 50 {
			group.Go(func() {
				if _, err := c.Token(t.Context(), client.TokenRequest{Resource: vault}); err != nil {
					t.Error(err)
				}
			})
		}
		group.Wait()
	})
	t.Run("the status", func(t *testing.T) {
		if status, err := c.Status(t.Context()); err != nil || status.Version != "1.2.3" || !status.Ready {
			t.Errorf("got %+v, %v", status, err)
		}
	})
}

func TestOptionalParametersReachTheAgent(t *testing.T) {
	const challenge = `{"access_token":{"nbf":{"essential":true,"value":"1790000000"}}}`
	var asked acquire.Request
	c := newClient(t, startAgent(t, func(r acquire.Request) (acquire.Token, error) {
		asked = r
		token, err := working(r)
		token.TokenType, token.Bound, token.Binding.Thumbprint = wire.TypePoP, true, "dGh1bWI"
		return token, err
	}, false))
	token, err := c.Token(t.Context(), client.TokenRequest{
		Resource: vault, Type: wire.TypePoP, Claims: challenge, Capabilities: []string{wire.CapabilityCP1}, ForceRefresh: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	if token.TokenType != "mtls_pop" || !token.Bound || token.Binding == nil {
		t.Errorf("got %+v", token)
	}
	asked.Account, asked.ID = nil, "" // the agent decides which account it is charged to, and under which id
	want := acquire.Request{
		Identity: "vm", Resource: vault, Type: acquire.TypePoP, Claims: challenge, Capabilities: []string{"cp1"}, ForceRefresh: true,
	}
	if diff := cmp.Diff(want, asked); diff != "" {
		t.Errorf("what was asked for (-want +got):\n%s", diff)
	}
}

func TestEntrasClaimsReachTheCaller(t *testing.T) {
	c := newClient(t, startAgent(t, func(acquire.Request) (acquire.Token, error) {
		return acquire.Token{}, &acquire.Error{Kind: acquire.KindRefused, Claims: `{"a":1}`, Err: errors.New("interaction_required")}
	}, false))
	_, err := c.Token(t.Context(), client.TokenRequest{Resource: vault})
	var said *client.Error
	if !errors.As(err, &said) || said.Problem.Code != wire.CodeClaimsRequired || said.Problem.Claims != `{"a":1}` || errors.Is(err, client.ErrRefused) {
		t.Errorf("got %+v", err)
	}
}

func TestWhatTheCallerHas(t *testing.T) {
	c := newClient(t, startAgent(t, working, false))
	identities, err := c.Identities(t.Context())
	want := []wire.Identity{{Name: "vm", Kind: "managed_identity", Resources: []string{vault}, Types: []string{"bearer", "mtls_pop"}}}
	if diff := cmp.Diff(want, identities); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if capabilities, err := c.Capabilities(t.Context()); err != nil || capabilities.StrongestBinding != "tpm" {
		t.Errorf("got %+v, %v", capabilities, err)
	}
	socket := serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) })
	if _, err := newClient(t, socket).Identities(t.Context()); err == nil || !strings.Contains(err.Error(), "identities") {
		t.Errorf("HTML for identities: %v", err)
	}
}

func TestAgentErrors(t *testing.T) {
	failing := func(err error) tokens {
		return func(acquire.Request) (acquire.Token, error) { return acquire.Token{}, err }
	}
	unavailable := &acquire.Error{Kind: acquire.KindUnavailable, Hint: "look at IMDS", RetryAfter: 7 * time.Second, Err: errors.New("IMDS is down")}
	unknown := &acquire.Error{Kind: acquire.KindUnknownIdentity, Err: errors.New("the VM has no such identity")}
	request := client.TokenRequest{Identity: "vm", Resource: vault}
	tests := []struct {
		name      string
		source    tokens
		adminOnly bool
		request   client.TokenRequest
		code      wire.Code
		refused   bool
		retry     time.Duration
	}{
		{"a caller whom no rule names", working, true, request, wire.CodeCallerNotAllowed, true, 0},
		{"an identity that is not granted", working, false, client.TokenRequest{Identity: "other", Resource: vault}, wire.CodeNotAllowed, true, 0},
		{"a parameter that is missing", working, false, client.TokenRequest{}, wire.CodeMissingParameter, false, 0},
		{"an identity that is not available", failing(unavailable), false, request, wire.CodeUnavailable, false, 7 * time.Second},
		{"an identity that the VM does not have is no refusal by policy", failing(unknown), false, request, wire.CodeIdentityNotFound, false, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := newClient(t, startAgent(t, tt.source, tt.adminOnly)).Token(t.Context(), tt.request)
			var said *client.Error
			if !errors.As(err, &said) {
				t.Fatalf("got %v", err)
			}
			if said.Problem.Code != tt.code || said.RetryAfter != tt.retry || said.Status != tt.code.Status() {
				t.Errorf("got %+v", said)
			}
			if errors.Is(err, client.ErrRefused) != tt.refused || errors.Is(err, client.ErrNotReachable) {
				t.Errorf("%v: refused %v, not reachable %v", err, errors.Is(err, client.ErrRefused), errors.Is(err, client.ErrNotReachable))
			}
			if !strings.Contains(err.Error(), string(tt.code)) {
				t.Errorf("the error does not name the code: %v", err)
			}
		})
	}
}

func TestNotReachable(t *testing.T) {
	dir := tempDir(t)
	staleSocket := filepath.Join(dir, "stale")
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: staleSocket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	ln.SetUnlinkOnClose(false)
	_ = ln.Close()
	tests := []struct {
		name, socket string
		is           error
		advice       string
	}{
		{"no socket", filepath.Join(dir, "none"), fs.ErrNotExist, "is keyagent running"},
		{"a socket at which nobody listens", staleSocket, syscall.ECONNREFUSED, "not running"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := newClient(t, tt.socket).Token(t.Context(), client.TokenRequest{Resource: vault})
			if !errors.Is(err, client.ErrNotReachable) || !errors.Is(err, tt.is) {
				t.Errorf("got %v", err)
			}
			if !strings.Contains(err.Error(), tt.advice) || strings.Count(err.Error(), tt.socket) != 1 {
				t.Errorf("got %v, want advice …%s… and the socket once", err, tt.advice)
			}
		})
	}
	t.Run("a socket that this user may not open", func(t *testing.T) {
		if os.Geteuid() != 0 {
			t.Skip("starting a process as another user needs root")
		}
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = []string{"GORACE=atexit_sleep_ms=0", socketEnv + "=" + staleSocket} // its directory is for root only
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		out, err := cmd.Output()
		if err != nil || !strings.Contains(string(out), "may not open the socket") {
			t.Errorf("got %s, %v", out, err)
		}
	})
	t.Run("an agent that hangs up", func(t *testing.T) {
		socket := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			_, _ = w.Write([]byte("{"))
			panic(http.ErrAbortHandler)
		})
		_, err := newClient(t, socket).Token(t.Context(), client.TokenRequest{Resource: vault})
		if !errors.Is(err, client.ErrNotReachable) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a context that ends is no fault of the agent", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := newClient(t, filepath.Join(dir, "none")).Token(ctx, client.TokenRequest{Resource: vault})
		if !errors.Is(err, context.Canceled) || errors.Is(err, client.ErrNotReachable) {
			t.Errorf("got %v", err)
		}
	})
}

// serve answers at a socket in the way of some other program.
func serve(t *testing.T, handler http.HandlerFunc) string {
	t.Helper()
	socket := filepath.Join(tempDir(t), "s")
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute}
	done := make(chan error, 1)
	go func() { done <- server.Serve(ln) }()
	t.Cleanup(func() {
		_ = server.Close()
		<-done
	})
	return socket
}

func TestUnneededMembersOfAReplyAreIgnored(t *testing.T) {
	for name, member := range map[string]string{
		"not_before as a date":       `"not_before":"2026-12-01"`,
		"a binding that is a list":   `"binding":[1]`,
		"expires_in with a fraction": `"expires_in":3599.5`,
		"what nobody knows":          `"issued":{"at":[null]},"issued":7`,
	} {
		socket := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte(`{` + member + `,"access_token":"` + tokenText + `","expires_on":1790000000,"identity":"vm"}`))
		})
		token, err := newClient(t, socket).Token(t.Context(), client.TokenRequest{Resource: vault})
		if err != nil || token.AccessToken.Reveal() != tokenText || token.ExpiresOn != 1790000000 || token.Identity != "vm" {
			t.Errorf("%s: got %+v, %v", name, token, err)
		}
	}
}

func TestStrangeReplies(t *testing.T) {
	tests := []struct {
		name                    string
		status                  int
		contentType, retryAfter string
		body                    string
		want                    string // part of the error
		retry                   time.Duration
	}{
		{"an empty token", 200, "application/json", "", `{"access_token":"","expires_on":1}`, "is missing", 0},
		{"no expiry", 200, "application/json", "", `{"access_token":"` + tokenText + `"}`, "is missing", 0},
		{"an expiry that is no number", 200, "application/json", "", `{"access_token":"` + tokenText + `","expires_on":"` + tokenText + `"}`, "expires_on", 0},
		{"a problem with a wrong member", 403, "application/problem+json", "", `{"code":"not_allowed","title":"No rule allows this","status":"403","retry_after":"x"}`, "not_allowed", 0},
		{"HTML", 200, "text/html", "", "<html>" + tokenText + "</html>", "not a token", 0},
		{"half of a token", 200, "application/json", "", `{"access_token":"` + tokenText, "not a token", 0},
		{"a token that is no string", 200, "application/json", "", `{"access_token":{"t":"` + tokenText + `"}}`, "not a token", 0},
		{"a reply without an end", 200, "application/json", "", strings.Repeat(" ", 1<<20+1), "larger than", 0},
		{"a redirect is not followed", 302, "text/plain", "", "", "status 302", 0},
		{"a problem that is none", 500, "application/problem+json", "", "<html>", "status 500", 0},
		{"an error in another format", 503, "application/json", "9", `{"code":"unavailable"}`, "status 503", 9 * time.Second},
		{"a Retry-After for ever", 429, "text/plain", "999999999", "", "status 429", time.Hour},
		{"a Retry-After that is none", 429, "text/plain", "-5", "", "status 429", 0},
		{"a code of the future", 400, "application/problem+json; charset=utf-8", "", `{"code":"brand_new","title":"Something new"}`, "brand_new: Something new", 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			socket := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", tt.contentType)
				w.Header().Set("Location", "http://evil.example/")
				if tt.retryAfter != "" {
					w.Header().Set("Retry-After", tt.retryAfter)
				}
				w.WriteHeader(tt.status)
				_, _ = w.Write([]byte(tt.body))
			})
			token, err := newClient(t, socket).Token(t.Context(), client.TokenRequest{Resource: vault})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %+v, %v, want …%s…", token, err, tt.want)
			}
			if strings.Contains(err.Error(), "eyJ") {
				t.Errorf("the error has the token: %v", err)
			}
			var said *client.Error
			if errors.As(err, &said) && said.RetryAfter != tt.retry {
				t.Errorf("retry after %v, want %v", said.RetryAfter, tt.retry)
			}
		})
	}
}

func TestSocketChoice(t *testing.T) {
	t.Setenv(wire.EnvSocket, "")
	if got := client.New(client.Config{}).Socket(); got != "/run/keyagent/agent.sock" {
		t.Errorf("by default %q", got)
	}
	t.Setenv(wire.EnvSocket, "/from/env")
	if got := client.New(client.Config{}).Socket(); got != "/from/env" {
		t.Errorf("with the variable %q", got)
	}
	if got := client.New(client.Config{Socket: "/from/config"}).Socket(); got != "/from/config" {
		t.Errorf("with both %q", got)
	}
}

func TestProxySettingsAreIgnored(t *testing.T) {
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	t.Setenv("http_proxy", "http://127.0.0.1:1")
	if _, err := newClient(t, startAgent(t, working, false)).Token(t.Context(), client.TokenRequest{Resource: vault}); err != nil {
		t.Error(err)
	}
}
