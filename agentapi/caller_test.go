package agentapi_test

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/keyagent/keyagent/agentapi/policy"
	"github.com/keyagent/keyagent/agentapi/wire"
)

const (
	nativeTarget = wire.PathToken + "?identity=shop&resource=" + vault
	imdsTarget   = wire.PathIMDSToken + "?api-version=2018-02-01&client_id=" + shopClient + "&resource=" + vault
)

// Callers are real processes of real users.
func TestCallers(t *testing.T) {
	needRoot(t)
	nobody := &syscall.Credential{Uid: 65534, Gid: 65534}
	member := &syscall.Credential{Uid: 65534, Gid: 65534, Groups: []uint32{7001}}
	byGroup := &policy.Policy{Rules: []policy.Rule{{
		Name: "by group", GIDs: []uint32{7001}, Identities: []string{"shop"}, Resources: []string{vault}, TokenTypes: []string{"bearer"},
	}}}
	tests := []struct {
		name       string
		rules      *policy.Policy
		credential *syscall.Credential
		target     string
		status     int
		body       string // part of it
	}{
		{"a user whom a rule names gets a token", rulesFor(65534), nobody, nativeTarget, 200, tokenText},
		{"and in the IMDS protocol", rulesFor(65534), nobody, imdsTarget, 200, tokenText},
		{"a user whom no rule names is refused", rulesFor(1000), nobody, nativeTarget, 403, "caller_not_allowed"},
		{"and in the IMDS protocol", rulesFor(1000), nobody, imdsTarget, 403, "access_denied"},
		{"a supplementary group counts", byGroup, member, nativeTarget, 200, tokenText},
		{"the same user without the group is refused", byGroup, nobody, nativeTarget, 403, "caller_not_allowed"},
		{"a user who may have tokens does not see the status", rulesFor(65534), nobody, wire.PathStatus, 403, "admin_only"},
		{"root sees the status", rulesFor(65534), nil, wire.PathStatus, 200, "1.2.3"},
		{"root, who has no rule, may ask how well tokens can be bound", rulesFor(65534), nil, wire.PathCapabilities, 200, "strongest_binding"},
		{"so may an administrator", &policy.Policy{AdminUIDs: []uint32{65534}}, nobody, wire.PathCapabilities, 200, "strongest_binding"},
		{"a stranger may not", rulesFor(1000), nobody, wire.PathCapabilities, 403, "caller_not_allowed"},
		{"and root still has no identities", rulesFor(65534), nil, wire.PathIdentities, 403, "caller_not_allowed"},
		{"root gets no token without a rule", rulesFor(65534), nil, nativeTarget, 403, "caller_not_allowed"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := start(t, config(working, tt.rules))
			cmd := process("ask", a.socket, tt.target, tt.credential)
			status, body := reply(t, cmd)
			if status != tt.status || !strings.Contains(body, tt.body) {
				t.Errorf("%d %s, want %d …%s…", status, body, tt.status, tt.body)
			}
			record := a.audit.lastRecord(t)
			uid := 0.0
			if tt.credential != nil {
				uid = float64(tt.credential.Uid)
			}
			if record["uid"] != uid || record["pid"] != float64(cmd.Process.Pid) || record["status"] != float64(tt.status) {
				t.Errorf("audit %v, want uid %v pid %d", record, uid, cmd.Process.Pid)
			}
		})
	}
}

// A connection speaks for the process that made it. That a process can lend out its connection is a
// known limit; what must not happen is that the borrower's own rights are mixed in.
func TestCallerOfInheritedConnection(t *testing.T) {
	needRoot(t)
	tests := []struct {
		name   string
		uid    int // whom the rule names
		status int
	}{
		{"the child's user is named, the one who connected is not", 65534, 403},
		{"the one who connected is named, the child's user is not", 0, 200},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := start(t, config(working, rulesFor(tt.uid)))
			conn, err := a.dial(t.Context(), "", "")
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			file, err := conn.(*net.UnixConn).File()
			if err != nil {
				t.Fatal(err)
			}
			defer file.Close()
			cmd := process("ask over fd 3", "", nativeTarget, &syscall.Credential{Uid: 65534, Gid: 65534})
			cmd.ExtraFiles = []*os.File{file}
			if status, body := reply(t, cmd); status != tt.status {
				t.Errorf("%d %s", status, body)
			}
			if record := a.audit.lastRecord(t); record["uid"] != 0.0 || record["pid"] != float64(os.Getpid()) {
				t.Errorf("audit %v, want the process that connected", record)
			}
		})
	}
}

func TestOneUserCannotKeepOthersOut(t *testing.T) {
	needRoot(t)
	cfg := config(working, rulesFor(65534))
	cfg.MaxConnectionsPerUser = 2
	a := start(t, cfg)
	for range 2 { // root takes all that it may
		if status, _ := a.raw(t, "GET /v1/status HTTP/1.1\r\nHost: agent\r\n\r\n"); status != 200 {
			t.Fatalf("status %d", status)
		}
	}
	if status, _ := a.refusal(t); status != http.StatusServiceUnavailable {
		t.Fatalf("the third connection got %d", status)
	}
	status, body := reply(t, process("ask", a.socket, nativeTarget, &syscall.Credential{Uid: 65534, Gid: 65534}))
	if status != 200 {
		t.Errorf("another user got %d %s", status, body)
	}
}

// refusal connects and reads what the server says before it is asked.
func (a *agent) refusal(t *testing.T) (int, string) {
	t.Helper()
	conn, err := a.dial(t.Context(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return readReply(t, conn)
}

func TestConnectionsOfOneUser(t *testing.T) {
	cfg := config(working, rulesFor(os.Geteuid()))
	cfg.MaxConnectionsPerUser = 1
	a := start(t, cfg)
	first := a.send(t, fmt.Sprintf("GET %s HTTP/1.1\r\nHost: agent\r\n\r\n", nativeTarget))
	if status, body := readReply(t, first); status != 200 {
		t.Fatalf("%d %s", status, body)
	}

	status, body := a.refusal(t)
	p := decode[wire.Problem](t, []byte(body))
	if status != 503 || p.Code != wire.CodeTooManyConnections || p.RetryAfter != 1 {
		t.Errorf("%d %+v", status, p)
	}
	if record := a.audit.lastRecord(t); record["code"] != "too_many_connections" || record["uid"] != float64(os.Geteuid()) {
		t.Errorf("audit %v", record)
	}

	_ = first.Close()
	for status != 200 { // the server needs a moment to see that the first is gone
		status, body = a.tryOnce(t)
	}
	if !strings.Contains(body, tokenText) {
		t.Errorf("body %s", body)
	}
}

// tryOnce makes a request on a connection of its own and returns status 0 if the server turned it
// away before it was sent.
func (a *agent) tryOnce(t *testing.T) (int, string) {
	t.Helper()
	conn, err := a.dial(t.Context(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n", nativeTarget); err != nil {
		return 0, ""
	}
	return readReply(t, conn)
}

func TestConnectionsInTotal(t *testing.T) {
	cfg := config(working, rulesFor(os.Geteuid()))
	cfg.MaxConnections = 1
	a := start(t, cfg)
	request := fmt.Sprintf("GET %s HTTP/1.1\r\nHost: agent\r\n\r\n", nativeTarget)
	first := a.send(t, request)
	if status, _ := readReply(t, first); status != 200 {
		t.Fatalf("status %d", status)
	}
	second := a.send(t, request) // waits in the kernel's queue
	_ = first.Close()
	if status, body := readReply(t, second); status != 200 {
		t.Errorf("the one that waited got %d %s", status, body)
	}
	// The server stops although an Accept waits for room.
	a.stop(t)
}
