package agentapi_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/keyagent/keyagent/agentapi"
)

const (
	manyConnections = 10_000
	maxManyKB       = 150 << 10 // what they may occupy, with the server
)

// BenchmarkConnectionsMemory compares the resident memory of a server with 10,000 idle connections
// with what it may be: of those that have not asked for anything yet, and when each has got a
// token. net/http keeps two buffers of 4 KiB and a stack that has grown for each of the latter. The
// server is another process.
func BenchmarkConnectionsMemory(b *testing.B) {
	socket := filepath.Join(benchDir(b), "agent.sock")
	pid := startMany(b, socket)
	connections := make([]net.Conn, manyConnections)
	for i := range connections {
		conn, err := dialPatiently(socket)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = conn.Close() })
		connections[i] = conn
	}
	// Connections are accepted in their order.
	if err := askOn(connections[manyConnections-1]); err != nil {
		b.Fatal(err)
	}
	silent := residentMemory(b, pid)
	for _, conn := range connections {
		if err := askOn(conn); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(silent, "ours-kB")
	b.ReportMetric(maxManyKB, "reference-kB")
	b.ReportMetric(residentMemory(b, pid), "ours-asked-kB")
	b.ReportMetric(maxManyKB, "reference-asked-kB")
}

// dialPatiently connects, and waits where the queue of those who are to be accepted is full. What
// net.Dial connects does not block, and fails then.
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

// startMany starts the server of BenchmarkConnectionsMemory.
func startMany(b *testing.B, socket string) (pid int) {
	b.Helper()
	server := process("serve many", socket, "", nil)
	server.Stderr = os.Stderr
	stop, err := server.StdinPipe()
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
	b.Cleanup(func() {
		_ = stop.Close()
		_ = server.Wait()
	})
	if _, err := bufio.NewReader(said).ReadString('\n'); err != nil {
		b.Fatal(err)
	}
	return server.Process.Pid
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
