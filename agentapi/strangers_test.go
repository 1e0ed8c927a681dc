package agentapi_test

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/keyagent/keyagent/agentapi/wire"
)

// dialAs connects as another uid: the kernel notes the credentials of the thread
// that connects, and this one is thrown away afterwards.
func dialAs(t *testing.T, path string, uid int) net.Conn {
	t.Helper()
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked
		id := uintptr(uid)
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, id, id, id); errno != 0 {
			done <- result{err: errno}
			return
		}
		conn, err := connect(path)
		done <- result{conn, err}
	}()
	r := <-done
	if r.err != nil {
		t.Fatal(r.err)
	}
	t.Cleanup(func() { _ = r.conn.Close() })
	return r.conn
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

// TestStrangersCannotKeepOthersOut: one user with many uids is still one attacker.
func TestStrangersCannotKeepOthersOut(t *testing.T) {
	needRoot(t)
	cfg := config(working, rulesFor(65534))
	cfg.MaxConnections = 40
	a := start(t, cfg)
	for uid := 100000; uid < 100004; uid++ {
		for range 20 {
			dialAs(t, a.socket, uid) // and says nothing
		}
	}
	status, body := reply(t, process("ask", a.socket, nativeTarget, &syscall.Credential{Uid: 65534, Gid: 65534}))
	if status != http.StatusOK {
		t.Errorf("a user with a rule got %d %s", status, body)
	}
}

// TestStrangersAreSentAway: who is not named hears so, is disconnected, and what it
// asked for is on record, also when there was no place for it.
func TestStrangersAreSentAway(t *testing.T) {
	needRoot(t)
	a := start(t, config(working, rulesFor(65534)))
	conn := dialAs(t, a.socket, 100000)
	if _, err := io.WriteString(conn, "GET /v1/token?identity=vm&resource=https://vault.azure.net HTTP/1.1\r\nHost: agent\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	reader := bufio.NewReader(conn)
	resp, err := http.ReadResponse(reader, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusForbidden || !strings.Contains(string(body), string(wire.CodeCallerNotAllowed)) {
		t.Errorf("got %d %s, %v", resp.StatusCode, body, err)
	}
	if _, err := reader.ReadByte(); !errors.Is(err, io.EOF) {
		t.Errorf("got %v after the refusal, want the end of the connection", err)
	}
	record := a.audit.lastRecord(t)
	if record["decision"] != "refused" || record["uid"] != 100000.0 || record["identity"] != "vm" || record["resource"] != "https://vault.azure.net" {
		t.Errorf("audit %v, want what was asked for", record)
	}

	for range 40 { // more than there are places for strangers
		conn = dialAs(t, a.socket, 100000)
	}
	if status, body := readReply(t, conn); status != http.StatusForbidden || !strings.Contains(body, string(wire.CodeCallerNotAllowed)) {
		t.Errorf("beyond the bound: got %d %s", status, body)
	}
}
