package agentapi_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/keyagent/keyagent/agentapi"
)

const (
	manyConnections = 10_000
	maxManyKB       = 150 << 10 // what they may occupy, with the server
)

// BenchmarkConnectionsMemory compares the resident memory of a server with 10,000 idle connections
// with the bound: of connections that have not sent a request yet, and of those that have each got
// a token. net/http keeps two buffers of 4 KiB and a stack that has grown for each of the latter.
// Each of the two servers is another process.
//
// The server needs two descriptors for each connection. Where the limit of open files is lower,
// fewer connections are opened, and the memory is scaled up to 10,000, the server's own with it.
func BenchmarkConnectionsMemory(b *testing.B) {
	n := openable(b)
	b.ReportMetric(memoryOfSilent(b, n)*manyConnections/float64(n), "ours-kB")
	b.ReportMetric(maxManyKB, "reference-kB")
	b.ReportMetric(memoryOfAsked(b, n)*manyConnections/float64(n), "ours-asked-kB")
	b.ReportMetric(maxManyKB, "reference-asked-kB")
}

// openable returns how many connections the server's descriptors suffice for.
func openable(b *testing.B) int {
	b.Helper()
	const perConnection, others = 2, 64
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		b.Fatal(err)
	}
	n := (int(min(limit.Cur, 1<<30)) - others) / perConnection
	if n < manyConnections/2 {
		b.Fatalf("the limit of %d open files is too low to tell the memory of %d connections", limit.Cur, manyConnections)
	}
	return min(n, manyConnections)
}

// memoryOfSilent measures with connections that send nothing. The server closes such a connection
// after readHeaderTimeout, so on a busy machine, where opening all of them takes longer than that,
// it measures anew.
func memoryOfSilent(b *testing.B, n int) float64 {
	b.Helper()
	const attempts = 5
	for range attempts {
		opened := openMany(b, n, func(net.Conn) error { return nil })
		// The last is accepted last, so its answer shows that all are accepted.
		err := askOn(opened.connections[n-1])
		memory, closed := residentMemory(b, opened.pid), opened.closed(b)
		opened.close()
		if err == nil && closed == 0 {
			return memory
		}
	}
	b.Fatalf("%d times the server closed connections before all %d were open: the machine is too busy", attempts, n)
	return 0
}

// memoryOfAsked measures with connections that have got a token each.
func memoryOfAsked(b *testing.B, n int) float64 {
	b.Helper()
	opened := openMany(b, n, askOn)
	defer opened.close()
	memory, closed := residentMemory(b, opened.pid), opened.closed(b)
	if closed != 0 {
		b.Fatalf("the server closed %d connections that have got a token", closed)
	}
	return memory
}

// openConns are open connections to a server of their own.
type openConns struct {
	pid         int
	stop        func()
	connections []net.Conn
}

// openMany starts a server and opens n connections; use is called with each as soon as it is open.
func openMany(b *testing.B, n int, use func(net.Conn) error) *openConns {
	b.Helper()
	socket := filepath.Join(benchDir(b), "agent.sock")
	m := &openConns{}
	m.pid, m.stop = startMany(b, socket)
	for range n {
		conn, err := dialPatiently(socket)
		if err == nil {
			m.connections = append(m.connections, conn)
			err = use(conn)
		}
		if err != nil {
			m.close()
			b.Fatal(err)
		}
	}
	return m
}

// close closes the connections and ends the server.
func (m *openConns) close() {
	for _, conn := range m.connections {
		_ = conn.Close()
	}
	m.stop()
}

// closed returns how many connections the server has closed.
func (m *openConns) closed(b *testing.B) (n int) {
	b.Helper()
	for _, conn := range m.connections {
		raw, err := conn.(*net.UnixConn).SyscallConn()
		if err != nil {
			b.Fatal(err)
		}
		var peek error
		err = raw.Read(func(fd uintptr) bool {
			_, _, peek = syscall.Recvfrom(int(fd), make([]byte, 1), syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
			return true
		})
		if err != nil || !errors.Is(peek, syscall.EAGAIN) {
			n++
		}
	}
	return n
}

// dialPatiently connects, and waits while the queue of connections to be accepted is full. The
// sockets of net.Dial do not block, and fail then.
func dialPatiently(socket string) (net.Conn, error) {
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), socket)
	defer file.Close()
	if err := syscall.Connect(fd, &syscall.SockaddrUnix{Name: socket}); err != nil {
		return nil, err
	}
	return net.FileConn(file)
}

// startMany starts the server of BenchmarkConnectionsMemory; stop ends it.
func startMany(b *testing.B, socket string) (pid int, stop func()) {
	b.Helper()
	server := process("serve many", socket, "", nil)
	server.Stderr = os.Stderr
	stdin, err := server.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	said, err := server.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := server.Start(); err != nil {
		b.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		_ = stdin.Close()
		_ = server.Wait()
	})
	b.Cleanup(stop)
	if _, err := bufio.NewReader(said).ReadString('\n'); err != nil {
		b.Fatal(err)
	}
	return server.Process.Pid, stop
}

// askOn asks for a token on a connection that stays open.
func askOn(conn net.Conn) error {
	if _, err := io.WriteString(conn, nativeRequest); err != nil {
		return err
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d", resp.StatusCode)
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

// serveMany is the server of BenchmarkConnectionsMemory. It ends with its standard input.
func serveMany(socket string) error {
	cfg := config(working, rulesFor(os.Geteuid()))
	cfg.Audit = slog.New(slog.NewJSONHandler(io.Discard, nil))
	cfg.MaxConnections, cfg.MaxConnectionsPerUser = manyConnections, manyConnections
	server, err := agentapi.New(cfg)
	if err != nil {
		return err
	}
	ln, err := agentapi.Listen(socket, 0o600)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	fmt.Println("listening")
	return server.Serve(ctx, agentapi.Socket(ln))
}

// residentMemory returns how much of a process is in memory, in kB of 1024 bytes.
func residentMemory(tb testing.TB, pid int) float64 {
	tb.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		tb.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var kB float64
		if n, _ := fmt.Sscanf(line, "VmRSS: %f kB", &kB); n == 1 {
			return kB
		}
	}
	tb.Fatal("the process has no VmRSS")
	return 0
}
