package agentapi_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyagent/keyagent/agentapi"
	"github.com/keyagent/keyagent/agentapi/peer"
	"github.com/keyagent/keyagent/agentapi/wire"
)

// metadata stands for IMDS. It keeps what it is asked.
type metadata struct {
	mu     sync.Mutex
	asked  []string
	answer agentapi.MetadataAnswer
	err    error
}

func (m *metadata) Read(_ context.Context, path string, query url.Values) (agentapi.MetadataAnswer, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asked = append(m.asked, path+"?"+query.Encode())
	return m.answer, m.err
}

func (m *metadata) all() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.asked)
}

// takeover is a server at 169.254.169.254, as its callers see it.
type takeover struct {
	address string
	imds    *metadata
	audit   *output
}

// taken is a user whom a rule names and whose traffic is taken over; ruleless has no rule.
var (
	taken    = peer.Caller{UID: 1000, GID: 1000}
	ruleless = peer.Caller{UID: 1001, GID: 1001}
)

func startTakeover(t *testing.T, caller peer.Caller, pass ...string) *takeover {
	t.Helper()
	rules := rulesFor(1000)
	rules.Rules[0].Identities = []string{"shop"}
	server, audit, _ := newServer(t, config(working, rules))
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	x := &takeover{ln.Addr().String(), &metadata{answer: agentapi.MetadataAnswer{Status: 200, Kind: "application/json", Body: []byte(`{"vm":1}`)}}, audit}
	way := agentapi.Takeover(ln, agentapi.TakeoverConfig{
		Identify: func(net.Conn) (peer.Caller, error) { return caller, nil },
		Takes:    func(uid uint32) bool { return uid == taken.UID || uid == ruleless.UID },
		Pass:     pass,
		Metadata: x.imds,
	})
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- server.Serve(ctx, way) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return x
}

// send sends a request as it is written; status 0: it was not answered.
func (x *takeover) send(t *testing.T, request string) (status int, header http.Header, body string) {
	t.Helper()
	conn, err := net.Dial("tcp", x.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, request); err != nil {
		return 0, nil, ""
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return 0, nil, ""
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(text)
}

// get asks for a target as programs ask IMDS.
func (x *takeover) get(t *testing.T, target string, headers ...string) (status int, header http.Header, body string) {
	t.Helper()
	return x.send(t, "GET "+target+" HTTP/1.1\r\nHost: 169.254.169.254\r\n"+strings.Join(append([]string{"Metadata: true"}, headers...), "\r\n")+"\r\n\r\n")
}

const tokenTarget = wire.PathIMDSToken + "?api-version=2018-02-01&resource=" + vault

func TestATakenOverProgramGetsTheAgentsToken(t *testing.T) {
	x := startTakeover(t, taken, "instance")
	for _, target := range []string{tokenTarget, strings.Replace(tokenTarget, "/metadata", "//metadata", 1), strings.Replace(tokenTarget, "token?", "token/?", 1)} {
		status, _, body := x.get(t, target)
		if status != 200 || !strings.Contains(body, tokenText) {
			t.Errorf("%s: %d %s", target, status, body)
		}
	}
	if asked := x.imds.all(); len(asked) != 0 {
		t.Errorf("IMDS was asked %q", asked)
	}
	if record := x.audit.lastRecord(t); record["decision"] != "issued" || record["uid"] != 1000.0 {
		t.Errorf("audit %v", record)
	}
}

// A user without a rule gets no token, but does get the parts of IMDS that are passed on.
func TestUsersTakenOverGetThePartsThatArePassedOn(t *testing.T) {
	x := startTakeover(t, ruleless, "instance")
	if status, _, body := x.get(t, tokenTarget); status != 403 || !strings.Contains(body, `"access_denied"`) {
		t.Errorf("a token: %d %s", status, body)
	}
	status, header, body := x.get(t, wire.PathIMDSInstance+"?api-version=2021-02-01")
	if status != 200 || body != `{"vm":1}` || header.Get("Content-Type") != "application/json" || header.Get("Cache-Control") != "no-store" {
		t.Errorf("instance: %d %v %s", status, header, body)
	}
	if record := x.audit.lastRecord(t); record["decision"] != "passed" || record["uid"] != 1001.0 || record["route"] != wire.PathIMDSInstance {
		t.Errorf("audit %v", record)
	}
}

func TestWhatIsPassedOn(t *testing.T) {
	all := []string{"instance", "attested", "scheduledevents"}
	tests := []struct {
		name, target string
		pass         []string
		asked        string // of IMDS; "": it is refused
	}{
		{"Vault's", "/metadata/instance?api-version=2018-02-01", all, "/metadata/instance?api-version=2018-02-01"},
		{"telegraf's", "/metadata/instance?api-version=2017-12-01", all, "/metadata/instance?api-version=2017-12-01"},
		{"without a version, for the list of them", "/metadata/instance", all, "/metadata/instance?"},
		{"a part", "/metadata/instance/compute/location?api-version=2021-02-01&format=text", all, "/metadata/instance/compute/location?api-version=2021-02-01&format=text"},
		{"a part with numbers", "/metadata/instance/network/interface/0/ipv4/ipAddress/12/privateIpAddress?format=text", all, "/metadata/instance/network/interface/0/ipv4/ipAddress/12/privateIpAddress?format=text"},
		{"cloud-init's", "/metadata/instance?api-version=2021-08-01&extended=true", all, "/metadata/instance?api-version=2021-08-01&extended=true"},
		{"attested", "/metadata/attested/document?api-version=2020-09-01&nonce=1234567890", all, "/metadata/attested/document?api-version=2020-09-01&nonce=1234567890"},
		{"scheduled events", "/metadata/scheduledevents?api-version=2020-07-01", all, "/metadata/scheduledevents?api-version=2020-07-01"},

		{"attested by default", "/metadata/attested/document?api-version=2020-09-01", all[:1], ""},
		{"scheduled events by default", "/metadata/scheduledevents?api-version=2020-07-01", all[:1], ""},
		{"nothing", "/metadata/instance?api-version=2021-02-01", nil, ""},
		{"a part that is not known", "/metadata/instance/compute/secrets", all, ""},
		{"a number that is none", "/metadata/instance/network/interface/01", all, ""},
		{"the sign for a number", "/metadata/instance/network/interface/#", all, ""},
		{"a trailing slash", "/metadata/instance/", all, ""},
		{"a parameter that is not known", "/metadata/instance?api-version=2021-02-01&recursive=true", all, ""},
		{"a parameter twice", "/metadata/instance?api-version=2021-02-01&api-version=2018-02-01", all, ""},
		{"a version with another parameter in it", "/metadata/instance?api-version=2021-02-01%26resource%3Dx", all, ""},
		{"a line in a nonce", "/metadata/attested/document?nonce=1%0d%0aX:1", all, ""},
		{"managed identity v2", "/metadata/identity/getplatformmetadata?cred-api-version=2.0", all, ""},
		{"issuecredential", "/metadata/identity/issuecredential?cred-api-version=2.0", all, ""},
		{"info", "/metadata/identity/info?api-version=2018-02-01", all, ""},
		{"THIM", "/metadata/THIM/amd/certification", all, ""},
		{"versions", "/metadata/versions", all, ""},
		{"the root", "/", all, ""},
		{"the agent's API", wire.PathToken + "?identity=shop&resource=" + vault, all, ""},
		{"the agent's status", wire.PathStatus, all, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			x := startTakeover(t, taken, tt.pass...)
			status, _, body := x.get(t, tt.target)
			asked := x.imds.all()
			if tt.asked == "" {
				checkRefused(t, status, body)
				if len(asked) != 0 {
					t.Errorf("IMDS was asked %q", asked)
				}
				return
			}
			if status != 200 || !slices.Equal(asked, []string{tt.asked}) {
				t.Errorf("%d %s; IMDS was asked %q, want %q", status, body, asked, tt.asked)
			}
		})
	}
}

// checkRefused checks that an answer is a refusal as IMDS writes them, final and never a 404.
func checkRefused(t *testing.T, status int, body string) {
	t.Helper()
	var said wire.IMDSError
	if err := json.Unmarshal([]byte(body), &said); err != nil || said.Error == "" || said.Description == "" || status != 400 && status != 403 {
		t.Errorf("status %d: %s (%v)", status, body, err)
	}
	if strings.Contains(body, tokenText) {
		t.Error("a refusal has a token")
	}
}

// CVE-2022-23551: a pattern matched a spelling of the path that the service behind took for the
// path of tokens.
func TestNoSpellingOfATokenPathIsPassedOn(t *testing.T) {
	x := startTakeover(t, ruleless, "instance", "attested", "scheduledevents")
	const query = "?api-version=2018-02-01&resource=https://vault.azure.net"
	for _, path := range []string{
		"/metadata/identity/oauth2/token", "/metadata/identity/oauth2/token/", "//metadata//identity//oauth2//token",
		`/metadata/identity\oauth2\token`, "/metadata/identity/oauth2/Token", "/Metadata/Identity/OAuth2/Token",
		"/metadata/identity/oauth2/%74oken", "/metadata/identity%2foauth2%2ftoken", "/metadata/identity/oauth2/token%00", "/metadata/identity/oauth2/token%20",
		"/metadata/instance/../identity/oauth2/token", "/metadata/instance/%2e%2e/identity/oauth2/token", "/metadata/instance/compute/../../identity/oauth2/token",
		"/metadata/instance/..;/identity/oauth2/token", `/metadata/instance\..\identity\oauth2\token`,
		"/metadata/./identity/oauth2/token", "/./metadata/identity/oauth2/token", "/metadata/identity/oauth2/./token",
		"/metadata/instance//identity/oauth2/token", "/metadata/instance%3f/../identity/oauth2/token",
		"/metadata/instance#/../identity/oauth2/token", "/metadata/instance;/identity/oauth2/token",
		"http://169.254.169.254/metadata/identity/oauth2/token", "http://169.254.169.254/metadata/instance", "http://evil.example/metadata/instance",
		"/metadata/identity/oauth2/authorize", "/metadata/identity/oauth2", "/metadata/identity", "/metadata",
		"metadata/identity/oauth2/token", "*", "//169.254.169.254/metadata/instance",
	} {
		status, _, body := x.get(t, path+query)
		if status == 0 || status == 400 && !strings.HasPrefix(body, "{") {
			continue // net/http does not take it for a request
		}
		checkRefused(t, status, body)
	}
	if asked := x.imds.all(); len(asked) != 0 {
		t.Errorf("IMDS was asked %q", asked)
	}
}

func TestRequestsOfOthersAreNotTakenOver(t *testing.T) {
	x := startTakeover(t, taken, "instance")
	for _, target := range []string{tokenTarget, wire.PathIMDSInstance + "?api-version=2021-02-01"} {
		for name, request := range map[string]string{
			"no Metadata":          "GET " + target + " HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n",
			"Metadata twice":       "GET " + target + " HTTP/1.1\r\nHost: 169.254.169.254\r\nMetadata: true\r\nMetadata: true\r\n\r\n",
			"Metadata: false":      "GET " + target + " HTTP/1.1\r\nHost: 169.254.169.254\r\nMetadata: false\r\n\r\n",
			"a rebound name":       "GET " + target + " HTTP/1.1\r\nHost: evil.example\r\nMetadata: true\r\n\r\n",
			"another port":         "GET " + target + " HTTP/1.1\r\nHost: 169.254.169.254:842\r\nMetadata: true\r\n\r\n",
			"the agent's place":    "GET " + target + " HTTP/1.1\r\nHost: 127.0.0.1:842\r\nMetadata: true\r\n\r\n",
			"no host":              "GET " + target + " HTTP/1.0\r\nMetadata: true\r\n\r\n",
			"forwarded":            "GET " + target + " HTTP/1.1\r\nHost: 169.254.169.254\r\nMetadata: true\r\nX-Forwarded-For: 10.0.0.1\r\n\r\n",
			"of a page":            "GET " + target + " HTTP/1.1\r\nHost: 169.254.169.254\r\nMetadata: true\r\nOrigin: http://evil.example\r\n\r\n",
			"a body":               "GET " + target + " HTTP/1.1\r\nHost: 169.254.169.254\r\nMetadata: true\r\nContent-Length: 1\r\n\r\nx",
			"a POST":               "POST " + target + " HTTP/1.1\r\nHost: 169.254.169.254\r\nMetadata: true\r\nContent-Length: 0\r\n\r\n",
			"another method":       "DELETE " + target + " HTTP/1.1\r\nHost: 169.254.169.254\r\nMetadata: true\r\n\r\n",
			"a method in disguise": "get " + target + " HTTP/1.1\r\nHost: 169.254.169.254\r\nMetadata: true\r\n\r\n",
		} {
			t.Run(name+" "+target, func(t *testing.T) {
				status, _, body := x.send(t, request)
				checkRefused(t, status, body)
			})
		}
	}
	if asked := x.imds.all(); len(asked) != 0 {
		t.Errorf("IMDS was asked %q", asked)
	}
}

// A redirected connection that seems to be root's is of somebody whose source port has changed.
func TestOnlyTakenOverUsersAreAnswered(t *testing.T) {
	for _, caller := range []peer.Caller{{UID: 0}, {UID: 4711}} {
		x := startTakeover(t, caller, "instance")
		if status, _, body := x.get(t, tokenTarget); status != 0 {
			t.Errorf("uid %d: %d %s", caller.UID, status, body)
		}
	}
}

func TestAnswersOfIMDSArePassedOnUnchanged(t *testing.T) {
	x := startTakeover(t, taken, "instance")
	x.imds.answer = agentapi.MetadataAnswer{Status: 400, Kind: "application/json", Body: []byte(`{"error":"Bad request"}`)}
	if status, _, body := x.get(t, "/metadata/instance"); status != 400 || body != `{"error":"Bad request"}` {
		t.Errorf("%d %s", status, body)
	}
	if record := x.audit.lastRecord(t); record["decision"] != "passed" || record["status"] != 400.0 {
		t.Errorf("audit %v", record)
	}
	x.imds.err = errors.New("connection refused at 169.254.169.254")
	status, header, body := x.get(t, "/metadata/instance")
	if status != 503 || header.Get("Retry-After") == "" || strings.Contains(body, "connection refused") {
		t.Errorf("%d %v %s", status, header, body)
	}
}

func TestNobodyAsksIMDSWithoutEndThroughTheAgent(t *testing.T) {
	x := startTakeover(t, taken, "instance")
	var statuses []int
	for range 30 {
		status, _, _ := x.get(t, "/metadata/instance?api-version=2021-02-01")
		statuses = append(statuses, status)
	}
	if asked := len(x.imds.all()); asked >= 30 || asked < 10 || statuses[29] != 429 {
		t.Errorf("IMDS was asked %d times: %v", asked, statuses)
	}
	if status, _, _ := x.get(t, tokenTarget); status != 200 {
		t.Errorf("a token: %d", status)
	}
}

func TestTheAgentSaysThatItHasTakenOver(t *testing.T) {
	x := startTakeover(t, ruleless, "instance")
	status, _, body := x.send(t, fmt.Sprintf("GET %s HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n", wire.PathTakeover))
	if want := `{"takeover":"169.254.169.254","passes":["instance"]}`; status != 200 || body != want {
		t.Errorf("%d %s", status, body)
	}
}

func TestATakeoverThatIsNotComplete(t *testing.T) {
	server, _, _ := newServer(t, config(working, rulesFor(1000)))
	full := agentapi.TakeoverConfig{
		Identify: func(net.Conn) (peer.Caller, error) { return taken, nil },
		Takes:    func(uint32) bool { return true }, Metadata: &metadata{},
	}
	for name, change := range map[string]func(*agentapi.TakeoverConfig){
		"nobody is identified": func(c *agentapi.TakeoverConfig) { c.Identify = nil },
		"no users":             func(c *agentapi.TakeoverConfig) { c.Takes = nil },
		"no IMDS":              func(c *agentapi.TakeoverConfig) { c.Metadata = nil },
		"a token to pass on":   func(c *agentapi.TakeoverConfig) { c.Pass = []string{"identity"} },
		"the same twice":       func(c *agentapi.TakeoverConfig) { c.Pass = []string{"instance", "instance"} },
	} {
		cfg := full
		change(&cfg)
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		if err := server.Serve(ctx, agentapi.Takeover(ln, cfg)); err == nil {
			t.Errorf("%s: it is served", name)
		}
		cancel()
	}
}
