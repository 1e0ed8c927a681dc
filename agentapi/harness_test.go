package agentapi_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/agentapi"
	"github.com/keyagent/keyagent/agentapi/policy"
	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/internal/secret"
)

const (
	vault      = "https://vault.azure.net"
	storage    = "https://storage.azure.com"
	vmClient   = "8b0c3d0e-0000-4000-8000-00000000c1d1"
	shopClient = "8b0c3d0e-0000-4000-8000-00000000c1d2"
	shopObject = "8b0c3d0e-0000-4000-8000-00000000c1d3"
	shopARM    = "/subscriptions/s/resourceGroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/shop"
	// tokenText is shaped like a token; tests look for it where it must not be.
	tokenText = "eyJ0eXAiOiJKV1QifQ.eyJhdWQiOiJ2YXVsdCJ9.c2lnbmF0dXJlLW9mLXRoZS10b2tlbg"
)

// now is the time of every test server.
var now = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// tokenFunc is a token source.
type tokenFunc func(context.Context, acquire.Request) (acquire.Token, error)

func (f tokenFunc) Token(ctx context.Context, r acquire.Request) (acquire.Token, error) {
	return f(ctx, r)
}

// goodToken is what a working source returns.
func goodToken(r acquire.Request) acquire.Token {
	return acquire.Token{
		AccessToken: secret.New(tokenText), TokenType: "Bearer",
		NotBefore: now.Add(-5 * time.Minute), ExpiresOn: now.Add(time.Hour),
		Resource: r.Resource, Identity: r.Identity, ClientID: vmClient,
		Credential: "managed_identity", Bound: true, Strength: acquire.StrengthAttested,
		Binding:   acquire.Binding{Thumbprint: "dGh1bWI", TLSVersion: "TLS 1.3", SignatureAlgorithm: "rsa_pss_rsae_sha256"},
		FromCache: true,
	}
}

// asksFor is a request without the account that it is charged to, and without its id.
func asksFor(r acquire.Request) acquire.Request {
	r.Account, r.ID = nil, ""
	return r
}

func working(_ context.Context, r acquire.Request) (acquire.Token, error) { return goodToken(r), nil }

func failing(err error) tokenFunc {
	return func(context.Context, acquire.Request) (acquire.Token, error) { return acquire.Token{}, err }
}

// rulesFor gives one user two identities for one resource.
func rulesFor(uid int) *policy.Policy {
	return &policy.Policy{Rules: []policy.Rule{{
		Name: "shop", UIDs: []uint32{uint32(uid)}, Identities: []string{"vm", "shop"},
		Resources: []string{vault}, TokenTypes: []string{"bearer"},
	}}}
}

// output collects what a server writes; it is safe for concurrent use.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// agent is a running server.
type agent struct {
	socket     string
	server     *agentapi.Server
	audit, log *output
	cancel     context.CancelFunc
	done       chan error // what Serve returned
	http       *http.Client
}

func config(tokens tokenFunc, rules *policy.Policy) agentapi.Config {
	return agentapi.Config{
		Tokens: tokens,
		Status: func(context.Context) wire.Status {
			return wire.Status{Version: "1.2.3", PID: 42, Started: now, Ready: true, Identities: []wire.IdentityStatus{}}
		},
		Capabilities: func(context.Context) wire.Capabilities {
			return wire.Capabilities{StrongestBinding: "tpm", Reason: "there is a TPM", TokenTypes: []string{"bearer"}}
		},
		Identities: []agentapi.Identity{
			{Name: "vm", Kind: wire.KindManagedIdentity},
			{Name: "shop", Kind: wire.KindApplication, ClientID: shopClient, ObjectID: shopObject, ResourceID: shopARM},
			{Name: "backup", Kind: wire.KindManagedIdentity, ClientID: "8b0c3d0e-0000-4000-8000-00000000c1d9"},
		},
		Policy: rules,
		Now:    func() time.Time { return now },
	}
}

// newServer returns a server that writes its audit, unless the configuration has one, and its log
// to the outputs.
func newServer(t testing.TB, cfg agentapi.Config) (server *agentapi.Server, audit, log *output) {
	t.Helper()
	audit, log = new(output), new(output)
	if cfg.Audit == nil {
		cfg.Audit = slog.New(slog.NewJSONHandler(audit, nil))
	}
	cfg.Logger = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	server, err := agentapi.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return server, audit, log
}

// start runs a server on a socket that every local user can reach, and by other ways in, until the
// test ends.
func start(t testing.TB, cfg agentapi.Config, ways ...agentapi.Way) *agent {
	t.Helper()
	dir, err := os.MkdirTemp("", "agent")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	a := &agent{socket: filepath.Join(dir, "agent.sock"), done: make(chan error, 1)}
	a.server, a.audit, a.log = newServer(t, cfg)
	ln, err := agentapi.Listen(a.socket, 0o666)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	a.cancel = cancel
	go func() { a.done <- a.server.Serve(ctx, append(ways, agentapi.Socket(ln))...) }()
	a.http = &http.Client{Transport: &http.Transport{DialContext: a.dial}}
	t.Cleanup(func() { a.stop(t) })
	return a
}

func (a *agent) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "unix", a.socket)
}

// stop ends the server and says how it ended; it may be called again.
func (a *agent) stop(t testing.TB) {
	t.Helper()
	a.http.CloseIdleConnections()
	a.cancel()
	err, ok := <-a.done
	if !ok {
		return
	}
	close(a.done)
	if err != nil {
		t.Errorf("Serve: %v", err)
	}
}

// answer is a reply of the server.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// get sends a GET and checks that the reply is one that the API documents.
func (a *agent) get(t testing.TB, target string, headers ...string) answer {
	t.Helper()
	return a.do(t, http.MethodGet, target, headers...)
}

func (a *agent) do(t testing.TB, method, target string, headers ...string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://agent"+target, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := a.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	got := answer{resp.StatusCode, resp.Header, body}
	got.checkHeaders(t)
	checkDocumented(t, method, req.URL.Path, got)
	return got
}

// requestID is a random UUID.
var requestID = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)

func (a answer) checkHeaders(t testing.TB) {
	t.Helper()
	for name, want := range map[string]string{"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"} {
		if got := a.header.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if id := a.header.Get("x-ms-request-id"); !requestID.MatchString(id) {
		t.Errorf("the request's id is %q", id)
	}
	seconds, err := strconv.Atoi(a.header.Get("Retry-After"))
	if retryable := a.status == 429 || a.status == 503; retryable != (err == nil && seconds > 0) {
		t.Errorf("status %d with Retry-After %q", a.status, a.header.Get("Retry-After"))
	}
}

func (a answer) problem(t testing.TB) wire.Problem {
	t.Helper()
	if got := a.header.Get("Content-Type"); got != wire.ContentTypeProblem {
		t.Fatalf("status %d, content type %q: %s", a.status, got, a.body)
	}
	p := decode[wire.Problem](t, a.body)
	if p.Status != a.status || p.Title == "" || p.Type == "" {
		t.Errorf("status %d with %+v", a.status, p)
	}
	return p
}

// decode is strict: a member that the type does not know is an error.
func decode[T any](t testing.TB, body []byte) T {
	t.Helper()
	var v T
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&v); err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	return v
}

// records returns the audit records so far.
func (o *output) records(t testing.TB) []map[string]any {
	t.Helper()
	var all []map[string]any
	for line := range strings.Lines(o.String()) {
		all = append(all, decode[map[string]any](t, []byte(line)))
	}
	return all
}

// lastRecord returns the newest audit record.
func (o *output) lastRecord(t testing.TB) map[string]any {
	t.Helper()
	all := o.records(t)
	if len(all) == 0 {
		t.Fatal("there is no audit record")
	}
	return all[len(all)-1]
}

// documentedAPI is the part of openapi.yaml that answers are compared with.
type documentedAPI struct {
	Paths map[string]map[string]struct {
		Parameters []struct{ Name, In string }
		Responses  map[string]struct {
			Ref     string `yaml:"$ref"`
			Content map[string]any
		}
	}
	Components struct {
		Responses map[string]struct{ Content map[string]any }
	}
}

var readAPI = sync.OnceValues(func() (doc documentedAPI, err error) {
	text, err := os.ReadFile("wire/openapi.yaml")
	if err != nil {
		return doc, err
	}
	return doc, yaml.Unmarshal(text, &doc)
})

// documentedMethod is the method under which the answers to requests for a path are documented.
func documentedMethod(path string) string {
	if path == wire.PathEndpoint || path == wire.PathBindingSign || path == wire.PathEvidence {
		return "post"
	}
	return "get"
}

// checkDocumented compares an answer's status and content type with what openapi.yaml says about
// its path.
func checkDocumented(t testing.TB, method, path string, got answer) {
	t.Helper()
	doc, err := readAPI()
	if err != nil {
		t.Fatal(err)
	}
	operation, ok := doc.Paths[path][documentedMethod(path)]
	if !ok || method == http.MethodHead {
		return // a path that does not exist, or an answer without a body
	}
	response, ok := operation.Responses[strconv.Itoa(got.status)]
	if !ok {
		t.Errorf("%s: status %d is not documented", path, got.status)
		return
	}
	content := response.Content
	if response.Ref != "" {
		content = doc.Components.Responses[filepath.Base(response.Ref)].Content
	}
	if _, ok := content[got.header.Get("Content-Type")]; !ok {
		t.Errorf("%s: status %d with content type %q, documented %v", path, got.status, got.header.Get("Content-Type"), slices.Collect(maps.Keys(content)))
	}
}
