package agentapi_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/agentapi"
	"github.com/keyagent/keyagent/agentapi/peer"
	"github.com/keyagent/keyagent/agentapi/wire"
)

// stranger is named by no rule.
var stranger = peer.Caller{UID: 4711, GID: 4711, PID: 1}

func TestEveryRouteRefusesNobody(t *testing.T) {
	server, audit, _ := newServer(t, config(working, rulesFor(1000)))
	callers := map[string]http.Handler{
		"a caller whom no rule names":   server.HandlerFor(stranger),
		"a connection without a caller": server.HandlerForUnknown(),
	}
	for name, handler := range callers {
		for _, route := range agentapi.Routes() {
			t.Run(name+" at "+route.Path, func(t *testing.T) {
				before := len(audit.records(t))
				// A request that is right in every other way.
				r := httptest.NewRequest(route.Method, route.Path+"?api-version=2018-02-01&resource="+vault+"&identity=vm", nil)
				r.Header.Set("Metadata", "true")
				w := httptest.NewRecorder()
				handler.ServeHTTP(w, r)
				if w.Code != http.StatusForbidden {
					t.Errorf("status %d: %s", w.Code, w.Body)
				}
				if strings.Contains(w.Body.String(), "shop") || strings.Contains(w.Body.String(), tokenText) {
					t.Errorf("a stranger is told %s", w.Body)
				}
				records := audit.records(t)
				if len(records) != before+1 || records[before]["decision"] != "refused" {
					t.Errorf("audit: %v", records[before:])
				}
			})
		}
	}
}

func TestStatusIsForAdministrators(t *testing.T) {
	rules := rulesFor(1000)
	rules.AdminUIDs, rules.AdminGIDs = []uint32{990}, []uint32{4}
	server, _, _ := newServer(t, config(working, rules))
	tests := []struct {
		name   string
		caller peer.Caller
		want   int
	}{
		{"root", peer.Caller{}, 200},
		{"the agent's own user", peer.Caller{UID: uint32(os.Geteuid()), GID: 1}, 200},
		{"a configured user", peer.Caller{UID: 990, GID: 1}, 200},
		{"a member of a configured group", peer.Caller{UID: 5, GID: 1, Groups: []uint32{4}}, 200},
		{"a user who may have tokens", peer.Caller{UID: 1000, GID: 1000}, 403},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := httptest.NewRecorder()
			server.HandlerFor(tt.caller).ServeHTTP(w, httptest.NewRequest(http.MethodGet, wire.PathStatus, nil))
			if w.Code != tt.want {
				t.Fatalf("status %d, want %d: %s", w.Code, tt.want, w.Body)
			}
			if tt.want == 200 && decode[wire.Status](t, w.Body.Bytes()).Version != "1.2.3" {
				t.Errorf("body %s", w.Body)
			}
			if tt.want == 403 && decode[wire.Problem](t, w.Body.Bytes()).Code != wire.CodeAdminOnly {
				t.Errorf("body %s", w.Body)
			}
		})
	}
}

func TestRoutesNeedPermission(t *testing.T) {
	if err := agentapi.CheckRouteWithoutPermission(); err == nil {
		t.Error("a route without a permission is accepted")
	}
	server, _, _ := newServer(t, config(working, rulesFor(1000)))
	for _, caller := range []peer.Caller{{}, {UID: 1000}, stranger} {
		if server.PermitsZero(caller) {
			t.Errorf("the zero permission lets %+v in", caller)
		}
	}
}

func TestOpenAPIPaths(t *testing.T) {
	doc, err := readAPI()
	if err != nil {
		t.Fatal(err)
	}
	for _, route := range agentapi.AllRoutes() {
		if route.Method == agentapi.AnyMethod {
			for _, method := range strings.Split(agentapi.AllowOfAnyMethod, ", ") {
				if _, ok := doc.Paths[route.Path+"{identity}/{host}/{path}"][strings.ToLower(method)]; !ok {
					t.Errorf("%s %s is not documented", method, route.Path)
				}
			}
			continue
		}
		operations := doc.Paths[route.Path]
		if _, ok := operations[strings.ToLower(route.Method)]; !ok || len(operations) != 1 {
			t.Errorf("%s %s is not documented as the only method of its path", route.Method, route.Path)
		}
	}
	if len(doc.Paths) != len(agentapi.AllRoutes()) {
		t.Errorf("%d paths are documented, %d exist", len(doc.Paths), len(agentapi.AllRoutes()))
	}
}

func TestIMDSHasAnErrorForEveryCode(t *testing.T) {
	for _, code := range wire.Codes() {
		if !agentapi.HasIMDSError(code) {
			t.Errorf("%s has none", code)
		}
	}
}

func TestMethods(t *testing.T) {
	a := start(t, config(working, rulesFor(os.Geteuid())))
	for _, path := range []string{wire.PathToken, wire.PathStatus, wire.PathIMDSToken} {
		for _, method := range []string{"HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "get"} {
			t.Run(method+" "+path, func(t *testing.T) {
				got := a.do(t, method, path+"?api-version=2018-02-01&identity=vm&resource="+vault, "Metadata", "true")
				if got.status != http.StatusMethodNotAllowed || got.header.Get("Allow") != http.MethodGet {
					t.Fatalf("status %d, Allow %q", got.status, got.header.Get("Allow"))
				}
				if path != wire.PathIMDSToken && method != "HEAD" {
					if code := got.problem(t).Code; code != wire.CodeMethodNotAllowed {
						t.Errorf("code %q", code)
					}
				}
			})
		}
	}
}

// raw sends bytes as they are and returns the reply's status and body.
func (a *agent) raw(t testing.TB, request string) (int, string) {
	t.Helper()
	return readReply(t, a.send(t, request))
}

// send sends bytes over a new connection, which is closed when the test ends.
func (a *agent) send(t testing.TB, request string) net.Conn {
	t.Helper()
	conn, err := a.dial(t.Context(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	return conn
}

func readReply(t testing.TB, conn net.Conn) (int, string) {
	t.Helper()
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func TestPaths(t *testing.T) {
	a := start(t, config(working, rulesFor(os.Geteuid())))
	tests := []struct {
		name, path string
		want       int
	}{
		{"the native path", "/v1/token", 200},
		{"a trailing slash", "/v1/token/", 404},
		{"duplicate slashes", "//v1//token", 404},
		{"another case", "/V1/token", 404},
		{"an encoded letter", "/v1/%74oken", 404},
		{"a dot segment", "/v1/./token", 404},
		{"a parent segment", "/v1/x/../token", 404},
		{"an absolute target", "http://agent/v1/token", 404},
		{"a target without a slash", "v1/token", 400}, // net/http's own answer
		{"the root", "/", 404},

		{"the IMDS path", "/metadata/identity/oauth2/token", 200},
		{"the IMDS path with a trailing slash, as msal-node sends it", "/metadata/identity/oauth2/token/", 200},
		{"the IMDS path behind a base URL that ends in a slash, as msal4j sends it", "//metadata/identity/oauth2/token", 200},
		{"the IMDS path with slashes in between", "/metadata//identity///oauth2/token", 200},
		{"a backslash, CVE-2022-23551", `/metadata/identity\oauth2\token`, 404},
		{"encoded backslashes", "/metadata/identity%5Coauth2%5Ctoken", 404},
		{"encoded slashes", "/metadata/identity%2Foauth2%2Ftoken", 404},
		{"a double encoding", "/metadata/identity%252Foauth2%252Ftoken", 404},
		{"dot segments", "/metadata/./identity/oauth2/token", 404},
		{"parent segments", "/metadata/instance/../identity/oauth2/token", 404},
		{"a path parameter", "/metadata/identity;x/oauth2/token", 404},
		{"another case", "/Metadata/Identity/oauth2/token", 404},
		{"a longer path", "/metadata/identity/oauth2/token/x", 404},
		{"a shorter path", "/metadata/identity/oauth2", 404},
		{"another service of IMDS", "/metadata/instance", 404},
		{"a NUL", "/metadata/identity/oauth2/token%00", 404},
		{"a tab", "/metadata/identity/oauth2/token%09", 404},
		{"a letter that looks like another", "/metadata/identity/\u043eauth2/token", 404},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			query := "?identity=vm&resource=" + vault
			if strings.Contains(tt.path, "etadata") {
				query = "?api-version=2018-02-01&client_id=" + shopClient + "&resource=" + vault
			}
			status, body := a.raw(t, "GET "+tt.path+query+" HTTP/1.1\r\nHost: agent\r\nMetadata: true\r\n\r\n")
			if status != tt.want {
				t.Errorf("status %d, want %d: %s", status, tt.want, body)
			}
			if strings.Contains(body, tokenText) != (tt.want == 200) {
				t.Errorf("body %s", body)
			}
		})
	}
}

func TestRequestsOfOthersAreRefused(t *testing.T) {
	a := start(t, config(working, rulesFor(os.Geteuid())))
	native := wire.PathToken + "?identity=vm&resource=" + vault
	imds := wire.PathIMDSToken + "?api-version=2018-02-01&client_id=" + shopClient + "&resource=" + vault
	for _, name := range []string{"Origin", "Referer", "Sec-Fetch-Site", "X-Forwarded-For", "x-forwarded-for", "Forwarded"} {
		t.Run(name, func(t *testing.T) {
			p := a.get(t, native, name, "http://evil.example").problem(t)
			if p.Code != wire.CodeRefusedHeader || p.Field != http.CanonicalHeaderKey(name) {
				t.Errorf("got %+v", p)
			}
			if got := a.get(t, imds, "Metadata", "true", name, ""); got.status != 400 || decode[wire.IMDSError](t, got.body).Error != "invalid_request" {
				t.Errorf("IMDS protocol, empty value: %d %s", got.status, got.body)
			}
		})
	}
	t.Run("a body", func(t *testing.T) {
		for _, header := range []string{"Content-Length: 1\r\n\r\nx", "Content-Length: 100000000\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n"} {
			status, body := a.raw(t, "GET "+native+" HTTP/1.1\r\nHost: agent\r\n"+header)
			if status != 400 || !strings.Contains(body, string(wire.CodeUnexpectedBody)) {
				t.Errorf("%q: status %d %s", header, status, body)
			}
		}
	})
	t.Run("a request that goes on after its body is not answered", func(t *testing.T) {
		smuggled := "GET " + native + " HTTP/1.1\r\nHost: agent\r\n\r\n"
		conn := a.send(t, "POST /v1/token HTTP/1.1\r\nHost: agent\r\nContent-Length: 3\r\n\r\nabc"+smuggled)
		all, _ := io.ReadAll(conn) // until the server closes
		if strings.Contains(string(all), tokenText) || strings.Count(string(all), "HTTP/1.1 ") != 1 {
			t.Errorf("got %s", all)
		}
	})
	t.Run("headers beyond their limit", func(t *testing.T) {
		conn := a.send(t, "GET "+native+" HTTP/1.1\r\nHost: agent\r\nX: "+strings.Repeat("x", 48<<10)+"\r\n\r\n")
		line, err := bufio.NewReader(conn).ReadString('\n') // the rest may be lost: what we sent is not read to its end
		if err != nil || !strings.Contains(line, "431") {
			t.Errorf("got %q, %v", line, err)
		}
	})
	t.Run("OPTIONS * does not get past the table", func(t *testing.T) {
		if status, body := a.raw(t, "OPTIONS * HTTP/1.1\r\nHost: agent\r\n\r\n"); status != 404 {
			t.Errorf("status %d %s", status, body)
		}
	})
	t.Run("any host is fine", func(t *testing.T) {
		if status, body := a.raw(t, "GET "+native+" HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n"); status != 200 {
			t.Errorf("status %d %s", status, body)
		}
	})
}
