package agentapi_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keyagent/keyagent/agentapi/policy"
	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/internal/tooltest"
)

// dialAs connects as another uid with supplementary groups: the kernel notes the credentials of the
// thread that connects, and this one is thrown away afterwards.
func dialAs(t *testing.T, path string, uid uint32, groups ...int) net.Conn {
	t.Helper()
	var conn net.Conn
	var err error
	tooltest.OnOwnThread(func() {
		if err = become(uid, groups); err == nil {
			conn, err = connect(path)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// become changes this thread alone; package syscall would change them all.
func become(uid uint32, groups []int) error {
	if err := unix.Setgroups(groups); err != nil {
		return err
	}
	id := uintptr(uid)
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, id, id, id); errno != 0 {
		return errno
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, id, id, id); errno != 0 {
		return errno
	}
	return nil
}

func connect(path string) (net.Conn, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), path)
	defer file.Close()
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		return nil, err
	}
	return net.FileConn(file)
}

// One user with many uids is still one attacker. What is asserted is the bound itself: without it
// the places come free again when net/http loses patience.
func TestStrangersCannotKeepOthersOut(t *testing.T) {
	needRoot(t)
	for _, tt := range []struct {
		name        string
		total, held int
	}{
		{"a small agent keeps half of its places from them", 8, 4},
		{"of many places they have a few", 1024, 32},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := config(working, rulesFor(65534))
			cfg.MaxConnections, cfg.StrangerTimeout = tt.total, time.Hour
			a := start(t, cfg)
			for i := range tt.held {
				dialAs(t, a.socket, 100000+uint32(i)) // and says nothing
			}
			for uid := uint32(200000); uid < 200008; uid++ {
				if status, body := readReply(t, dialAs(t, a.socket, uid)); status != http.StatusForbidden || !strings.Contains(body, string(wire.CodeCallerNotAllowed)) {
					t.Errorf("beyond the bound uid %d got %d %s", uid, status, body)
				}
				if record := a.audit.lastRecord(t); record["uid"] != float64(uid) || record["decision"] != "refused" || record["status"] != 403.0 {
					t.Errorf("audit %v", record)
				}
			}
			status, body := reply(t, process("ask", a.socket, nativeTarget, &syscall.Credential{Uid: 65534, Gid: 65534}))
			if status != http.StatusOK {
				t.Errorf("a user with a rule got %d %s", status, body)
			}
		})
	}
}

// A rule that names a group also names the subordinate uids of its members: they keep its groups.
func TestMembersOfGroupsCannotKeepOthersOut(t *testing.T) {
	needRoot(t)
	rules := rulesFor(65534)
	rules.Rules = append(rules.Rules, policy.Rule{
		Name: "by group", GIDs: []uint32{7001}, Identities: []string{"shop"}, Resources: []string{vault}, TokenTypes: []string{"bearer"},
	})
	cfg := config(working, rules)
	cfg.MaxConnections, cfg.MaxConnectionsPerUser = 8, 2
	a := start(t, cfg)
	for i := range uint32(4) {
		conn := dialAs(t, a.socket, 100000+i, 7001)
		if _, err := io.WriteString(conn, "GET "+nativeTarget+" HTTP/1.1\r\nHost: agent\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if status, body := readReply(t, conn); status != http.StatusOK { // and keeps the connection
			t.Fatalf("a member of the group got %d %s", status, body)
		}
	}
	status, body := readReply(t, dialAs(t, a.socket, 100004, 7001))
	if p := decode[wire.Problem](t, []byte(body)); status != http.StatusServiceUnavailable || p.Code != wire.CodeTooManyConnections || p.RetryAfter != 1 {
		t.Errorf("beyond the bound: got %d %s", status, body)
	}
	status, body = reply(t, process("ask", a.socket, nativeTarget, &syscall.Credential{Uid: 65534, Gid: 65534, Groups: []uint32{7001}}))
	if status != http.StatusOK {
		t.Errorf("a user whom a rule names by uid got %d %s", status, body)
	}
}

// A stranger that connects and says nothing, or not enough, is gone while a known caller that
// connected before it may still think.
func TestStrangersMustAskSoon(t *testing.T) {
	needRoot(t)
	cfg := config(working, rulesFor(65534))
	cfg.StrangerTimeout = time.Millisecond
	a := start(t, cfg)
	known := dialAs(t, a.socket, 65534)
	for name, said := range map[string]string{"nothing": "", "half a request": "GET /v1/token HTTP/1.1\r\nHost: agent\r\n"} {
		conn := dialAs(t, a.socket, 100000)
		_, _ = io.WriteString(conn, said) // which may find it closed
		if n, err := io.Copy(io.Discard, conn); n != 0 && said == "" {
			t.Errorf("%s: answered with %d bytes, %v", name, n, err)
		}
	}
	if _, err := io.WriteString(known, "GET "+nativeTarget+" HTTP/1.1\r\nHost: agent\r\n\r\n"); err != nil {
		t.Fatalf("the known caller was closed first: %v", err)
	}
	if status, body := readReply(t, known); status != http.StatusOK {
		t.Errorf("got %d %s", status, body)
	}
}

// A caller that nothing names is told so by the protocol that it uses, and is disconnected; the
// audit has what it asked for.
func TestStrangersAreSentAway(t *testing.T) {
	needRoot(t)
	long := strings.Repeat("x", 2000)
	tests := []struct {
		name, target, said       string
		identity, resource, kind any // in the audit record
	}{
		{"native", "/v1/token?identity=vm&resource=" + vault + "&type=bearer", "caller_not_allowed", "vm", vault, "bearer"},
		{"native, with a scope", "/v1/token?scope=" + vault + "/.default", "caller_not_allowed", nil, vault + "/.default", nil},
		{"IMDS protocol", imdsTarget, "access_denied", "client_id=" + shopClient, vault, nil},
		{"IMDS protocol, by resource id", wire.PathIMDSToken + "?resource=" + vault + "&mi_res_id=/x", "access_denied", "mi_res_id=/x", vault, nil},
		{"a query that does not parse", "/v1/token?identity=vm&resource=%zz", "caller_not_allowed", nil, nil, nil},
		{"long texts", "/v1/token?identity=" + long + "&resource=" + long + "&type=" + long, "caller_not_allowed", clipped("x"), clipped("x"), clipped("x")},
	}
	a := start(t, config(working, rulesFor(65534)))
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			conn := dialAs(t, a.socket, 100000)
			if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: agent\r\nMetadata: true\r\n\r\n", tt.target); err != nil {
				t.Fatal(err)
			}
			status, said := readToEnd(t, conn)
			if status != http.StatusForbidden || !strings.Contains(said, tt.said) {
				t.Errorf("got %d %s", status, said)
			}
			record := a.audit.lastRecord(t)
			if record["decision"] != "refused" || record["uid"] != 100000.0 || record["status"] != 403.0 {
				t.Errorf("audit %v", record)
			}
			if record["identity"] != tt.identity || record["resource"] != tt.resource || record["type"] != tt.kind {
				t.Errorf("audit %v, want what was asked for", record)
			}
		})
	}
}

// clipped is what the audit keeps of a text that is one letter, too many times.
func clipped(letter string) string { return strings.Repeat(letter, 253) + "…" }

// readToEnd reads a reply and expects that the connection ends with it.
func readToEnd(t *testing.T, conn net.Conn) (int, string) {
	t.Helper()
	reader := bufio.NewReader(conn)
	resp, err := http.ReadResponse(reader, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if !resp.Close {
		t.Error("the reply does not say that the connection ends")
	}
	if _, err := reader.ReadByte(); !errors.Is(err, io.EOF) {
		t.Errorf("got %v after the refusal, want the end of the connection", err)
	}
	return resp.StatusCode, string(body)
}
