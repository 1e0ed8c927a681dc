package bridge_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/internal/bridge"
)

// agent answers on a socket as the agent would, and says what it was asked.
func agent(t *testing.T) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "agent.sock")
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		_, _ = fmt.Fprint(w, r.Method, " ", r.RequestURI, " ", r.Header.Get(wire.HeaderResource), " ", string(body))
	})}
	go func() { _ = srv.Serve(ln) }()
	t.Cleanup(func() { _ = srv.Close() })
	return socket
}

// serve runs a bridge until the test ends, and returns where.
func serve(t *testing.T, cfg bridge.Config, listen string) net.Addr {
	t.Helper()
	b, err := bridge.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := bridge.Listen(t.Context(), listen)
	if err != nil {
		t.Skipf("listening on %s: %v", listen, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- b.Serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return ln.Addr()
}

// reply is an answer without its body.
type reply struct {
	StatusCode int
	Header     http.Header
}

// ask sends a request as it is written.
func ask(t *testing.T, at net.Addr, request string) (reply, string) {
	t.Helper()
	conn, err := net.Dial(at.Network(), at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, strings.ReplaceAll(request, "\n", "\r\n")); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return reply{resp.StatusCode, resp.Header}, string(body)
}

func TestRequestsGoToTheAgent(t *testing.T) {
	socket := agent(t)
	const vault = "https://vault.azure.net"
	dir := t.TempDir()
	for _, listen := range []string{"unix:" + filepath.Join(dir, "own.sock"), "127.0.0.1:0", "[::1]:0"} {
		t.Run(listen, func(t *testing.T) {
			at := serve(t, bridge.Config{Socket: socket, Identity: "vm", Host: "v.example", Resource: vault}, listen)
			host := "Host: " + at.String() + "\n"
			if at.Network() == "unix" {
				host = "Host: localhost\n"
			}
			_, body := ask(t, at, "PUT /a%2Fb//c?d%20&e HTTP/1.1\n"+host+"Keyagent-Resource: other\nContent-Length: 4\n\nbody")
			if want := "PUT /bridge/vm/v.example/a%2Fb//c?d%20&e " + vault + " body"; body != want {
				t.Errorf("the agent is asked %q, want %q", body, want)
			}
			for _, header := range []string{"Origin: https://evil.example", "Referer: https://evil.example/", "Sec-Fetch-Site: cross-site", "X-Forwarded-For: 10.0.0.1", "Forwarded: for=10.0.0.1"} {
				if resp, body := ask(t, at, "GET / HTTP/1.1\n"+host+header+"\n\n"); resp.Header.Get(wire.HeaderError) != string(wire.CodeRefusedHeader) {
					t.Errorf("%s: %d %s", header, resp.StatusCode, body)
				}
			}
			for _, line := range []string{"GET http://v.example/ HTTP/1.1", "CONNECT v.example:443 HTTP/1.1", "OPTIONS * HTTP/1.1", `GET /a\b HTTP/1.1`, "GET /%zz HTTP/1.1"} {
				if resp, body := ask(t, at, line+"\n"+host+"\n"); resp.StatusCode != 400 {
					t.Errorf("%s: %d %s", line, resp.StatusCode, body)
				}
			}
		})
	}
}

// A page in a browser whose name leads to 127.0.0.1 asks for its own host.
func TestOverTCPTheHostIsOurs(t *testing.T) {
	at := serve(t, bridge.Config{Socket: agent(t), Identity: "vm"}, "127.0.0.1:0")
	port := at.(*net.TCPAddr).Port
	for host, want := range map[string]int{
		at.String(): 200, fmt.Sprintf("localhost:%d", port): 200, "evil.example": 400, fmt.Sprintf("evil.example:%d", port): 400, "127.0.0.1": 400, "": 400,
	} {
		if resp, body := ask(t, at, "GET /v.example/x HTTP/1.1\nHost: "+host+"\n\n"); resp.StatusCode != want {
			t.Errorf("host %q: %d %s, want %d", host, resp.StatusCode, body, want)
		}
	}
}

// Another user gets no answer, not even over a socket that anybody may open.
func TestOtherUsersAreNotServed(t *testing.T) {
	curl, err := exec.LookPath("curl")
	if err != nil || os.Geteuid() != 0 {
		t.Skip("this takes curl, and root to be another user")
	}
	dir, err := os.MkdirTemp("", "bridge")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, listen := range []string{"unix:" + filepath.Join(dir, "own.sock"), "127.0.0.1:0"} {
		at := serve(t, bridge.Config{Socket: agent(t), Identity: "vm", Host: "v.example"}, listen)
		args := []string{"-sS", "http://" + at.String() + "/"}
		if at.Network() == "unix" {
			if err := os.Chmod(at.String(), 0o666); err != nil {
				t.Fatal(err)
			}
			args = []string{"-sS", "--unix-socket", at.String(), "http://localhost/"}
		}
		for _, uid := range []uint32{0, 65534} {
			cmd := exec.CommandContext(t.Context(), curl, args...)
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
			out, err := cmd.CombinedOutput()
			if served := err == nil && strings.HasPrefix(string(out), "GET /bridge/vm/v.example/"); served != (uid == 0) {
				t.Errorf("%s: uid %d: %v %s", listen, uid, err, out)
			}
		}
	}
}

func TestAnAgentThatIsNotThere(t *testing.T) {
	at := serve(t, bridge.Config{Socket: filepath.Join(t.TempDir(), "none.sock"), Identity: "vm"}, "unix:"+filepath.Join(t.TempDir(), "own.sock"))
	resp, body := ask(t, at, "GET /v.example/ HTTP/1.1\nHost: localhost\n\n")
	if resp.StatusCode != 503 || resp.Header.Get(wire.HeaderError) != string(wire.CodeUnavailable) || resp.Header.Get("Retry-After") == "" {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
}

func TestListenRefuses(t *testing.T) {
	dir := t.TempDir()
	serve(t, bridge.Config{Socket: "none", Identity: "vm"}, "unix:"+filepath.Join(dir, "own.sock"))
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, listen := range []string{"0.0.0.0:0", "[::]:0", "localhost:0", "10.0.0.1:0", ":0", "", "unix:" + filepath.Join(dir, "own.sock"), "unix:" + filepath.Join(dir, "file")} {
		if ln, err := bridge.Listen(t.Context(), listen); err == nil {
			t.Errorf("%q is listened on", listen)
			_ = ln.Close()
		}
	}
	for _, cfg := range []bridge.Config{{}, {Identity: "vm/evil.example"}, {Identity: "vm", Host: "v.example/x"}, {Identity: "vm", Host: "a?b"}, {Identity: "v%2fm"}} {
		if _, err := bridge.New(cfg); err == nil {
			t.Errorf("%+v is taken", cfg)
		}
	}
}

// An answer that comes before the whole request was read, after which the agent reads no more, is
// the answer: here of a resource that takes no upload as large.
func TestAnAnswerBeforeTheRequestIsRead(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "agent.sock")
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		for conn, err := ln.Accept(); err == nil; conn, err = ln.Accept() {
			if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
				_, _ = io.WriteString(conn, "HTTP/1.1 413 Content Too Large\r\nContent-Length: 9\r\nConnection: close\r\n\r\ntoo large")
			}
			_ = conn.Close()
		}
	}()
	at := serve(t, bridge.Config{Socket: socket, Identity: "vm", Host: "v.example"}, "unix:"+filepath.Join(t.TempDir(), "own.sock"))
	for range 20 {
		conn, err := net.Dial(at.Network(), at.String())
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			const size = 4 << 20
			_, _ = fmt.Fprintf(conn, "PUT / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s", size, strings.Repeat("x", size))
		}()
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		_ = conn.Close()
		if resp.StatusCode != http.StatusRequestEntityTooLarge {
			t.Fatal(resp.Status)
		}
	}
}
