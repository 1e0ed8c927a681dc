package agentapi_test

import (
	"bufio"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"

	"github.com/keyagent/keyagent/agentapi"
	"github.com/keyagent/keyagent/agentapi/appsecret"
	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/internal/tooltest"
)

// dialLoopback connects to a base URL as a user, until the test ends.
func dialLoopback(t testing.TB, base string, uid int) net.Conn {
	t.Helper()
	conn, err := tooltest.DialAs(uid)(t.Context(), "tcp", strings.TrimPrefix(base, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// sayOnLoopback sends bytes as they are and returns what comes back until the agent closes, or one
// answer.
func sayOnLoopback(t testing.TB, base, request string) (status int, body string) {
	t.Helper()
	conn := dialLoopback(t, base, appUser)
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	return readReply(t, conn)
}

// What SDKs never send, byte for byte.
func TestRawRequestsOnLoopback(t *testing.T) {
	a := startPrograms(t, onlyShop())
	text := a.secret(t, "").Secret.Reveal()
	host := strings.TrimPrefix(a.appService, "http://")
	const query = "?api-version=2019-08-01&resource=" + vault
	headers := "Host: " + host + "\r\nX-IDENTITY-HEADER: " + text + "\r\n"
	tests := []struct {
		name, request string
		status        int
	}{
		{"as it should be", "GET /msi/token" + query + " HTTP/1.1\r\n" + headers + "\r\n", 200},
		{"slashes too many", "GET //msi///token/" + query + " HTTP/1.1\r\n" + headers + "\r\n", 200},
		{"a target with its host, as to a proxy", "GET http://" + host + "/msi/token" + query + " HTTP/1.1\r\n" + headers + "\r\n", 400},
		{"a target with another host", "GET http://evil.example/msi/token" + query + " HTTP/1.1\r\n" + headers + "\r\n", 400},
		{"a tunnel", "CONNECT " + host + " HTTP/1.1\r\n" + headers + "\r\n", 400},
		{"no host", "GET /msi/token" + query + " HTTP/1.0\r\nX-IDENTITY-HEADER: " + text + "\r\n\r\n", 400},
		{"two hosts", "GET /msi/token" + query + " HTTP/1.1\r\n" + headers + "Host: evil.example\r\n\r\n", 400},
		{"a host with a user", "GET /msi/token" + query + " HTTP/1.1\r\nHost: evil@" + host + "\r\nX-IDENTITY-HEADER: " + text + "\r\n\r\n", 400},
		{"a host with a dot", "GET /msi/token" + query + " HTTP/1.1\r\nHost: " + strings.Replace(host, ":", ".:", 1) + "\r\nX-IDENTITY-HEADER: " + text + "\r\n\r\n", 400},
		{"the host as a number", "GET /msi/token" + query + " HTTP/1.1\r\nHost: " + strings.Replace(host, "127.0.0.1", "2130706433", 1) + "\r\nX-IDENTITY-HEADER: " + text + "\r\n\r\n", 400},
		{"another case", "GET /MSI/token" + query + " HTTP/1.1\r\n" + headers + "\r\n", 400},
		{"a backslash", "GET /msi\\token" + query + " HTTP/1.1\r\n" + headers + "\r\n", 400},
		{"an encoded slash", "GET /msi%2Ftoken" + query + " HTTP/1.1\r\n" + headers + "\r\n", 400},
		{"a dot segment", "GET /msi/./token" + query + " HTTP/1.1\r\n" + headers + "\r\n", 400},
		{"a parent segment", "GET /x/../msi/token" + query + " HTTP/1.1\r\n" + headers + "\r\n", 400},
		{"a path parameter", "GET /msi/token;x" + query + " HTTP/1.1\r\n" + headers + "\r\n", 400},
		{"a semicolon in the query", "GET /msi/token" + query + ";client_id=x HTTP/1.1\r\n" + headers + "\r\n", 400},
		{"a body", "GET /msi/token" + query + " HTTP/1.1\r\n" + headers + "Content-Length: 1\r\n\r\nx", 400},
		{"a body of a gigabyte", "GET /msi/token" + query + " HTTP/1.1\r\n" + headers + "Content-Length: 1073741824\r\n\r\n", 400},
		{"a body in chunks", "GET /msi/token" + query + " HTTP/1.1\r\n" + headers + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
		{"the secret folded over two lines", "GET /msi/token" + query + " HTTP/1.1\r\nHost: " + host + "\r\nX-IDENTITY-HEADER: " + text[:20] + "\r\n " + text[20:] + "\r\n\r\n", 403},
		{"OPTIONS *", "OPTIONS * HTTP/1.1\r\n" + headers + "\r\n", 400},
		{"HTTP/2 without TLS", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			status, body := sayOnLoopback(t, a.appService, tt.request)
			if status != tt.status && !(tt.status == 400 && status == 505) || strings.Contains(body, tokenText) != (tt.status == 200) {
				t.Errorf("status %d, want %d: %s", status, tt.status, body)
			}
		})
	}
	t.Run("headers beyond their limit", func(t *testing.T) {
		conn := dialLoopback(t, a.appService, appUser)
		_, _ = io.WriteString(conn, "GET /msi/token"+query+" HTTP/1.1\r\n"+headers+"X: "+strings.Repeat("x", 48<<10)+"\r\n\r\n")
		line, err := bufio.NewReader(conn).ReadString('\n')
		if err != nil || !strings.Contains(line, "431") {
			t.Errorf("got %q, %v", line, err)
		}
	})
	t.Run("a request that goes on after its body is not answered", func(t *testing.T) {
		conn := dialLoopback(t, a.appService, appUser)
		smuggled := "GET /msi/token" + query + " HTTP/1.1\r\n" + headers + "\r\n"
		if _, err := io.WriteString(conn, "GET /msi/token HTTP/1.1\r\nHost: "+host+"\r\nContent-Length: 3\r\n\r\nabc"+smuggled); err != nil {
			t.Fatal(err)
		}
		all, _ := io.ReadAll(conn)
		if strings.Contains(string(all), tokenText) || strings.Count(string(all), "HTTP/1.1 ") != 1 {
			t.Errorf("got %s", all)
		}
	})
	for name, written := range map[string]string{"audit": a.audit.String(), "log": a.log.String()} {
		if strings.Contains(written, appsecret.Prefix) {
			t.Errorf("the %s has a secret", name)
		}
	}
}

// A client that does not send its request holds its own user's place, and nobody else's.
func TestSlowClientsOnLoopback(t *testing.T) {
	needRoot(t)
	cfg := forTwo()
	cfg.MaxConnectionsPerUser = 2
	a := startPrograms(t, cfg)
	for range cfg.MaxConnectionsPerUser {
		if _, err := io.WriteString(dialLoopback(t, a.imds, appUser), "GET /metadata/identity/oauth2/token HTTP/1.1\r\nHost: "); err != nil {
			t.Fatal(err)
		}
	}
	// It is told so before it has asked.
	status, body := readReply(t, dialLoopback(t, a.imds, appUser))
	if said := decode[wire.IMDSError](t, []byte(body)); status != 503 || said.Error != "temporarily_unavailable" {
		t.Errorf("one more connection of that user: %d %s", status, body)
	}
	target := a.imds + wire.PathIMDSToken + "?api-version=2018-02-01&resource=" + vault
	conn := dialLoopback(t, a.imds, thief)
	if _, err := io.WriteString(conn, "GET "+strings.TrimPrefix(target, a.imds)+" HTTP/1.1\r\nHost: "+strings.TrimPrefix(a.imds, "http://")+"\r\nMetadata: true\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if status, body := readReply(t, conn); status != 200 {
		t.Errorf("another user: %d %s", status, body)
	}
}

// Thousands of idle connections of one user, and of users whom no rule names, keep nobody else out.
func TestIdleConnectionsOnLoopback(t *testing.T) {
	needRoot(t)
	idle := 10000
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if limit.Cur < 12000 {
		idle = int(limit.Cur) / 2
	}
	cfg := forTwo()
	cfg.Audit = nil
	a := startPrograms(t, cfg)
	for i := range idle {
		uid := appUser
		if i%2 == 1 {
			uid = 100000 + i // a stranger each time
		}
		dialLoopback(t, a.imds, uid)
	}
	conn := dialLoopback(t, a.imds, thief)
	if _, err := io.WriteString(conn, "GET "+wire.PathIMDSToken+"?api-version=2018-02-01&resource="+vault+" HTTP/1.1\r\nHost: "+
		strings.TrimPrefix(a.imds, "http://")+"\r\nMetadata: true\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if status, body := readReply(t, conn); status != 200 {
		t.Errorf("another user beside %d connections: %d %s", idle, status, body)
	}
	if n := len(a.audit.records(t)); n > 20*agentapi.RecordsOfAccount {
		t.Errorf("%d audit records", n)
	}
	if idle < 10000 {
		t.Skipf("all was well with %d idle connections: the limit of open files is too low for 10,000 (ulimit -n 12000)", idle)
	}
}
