package tpmtest

import (
	"net"
	"path/filepath"
	"sync"
	"testing"
)

// server listens on a Unix socket and keeps a list of its clients.
type server struct {
	listener net.Listener
	serving  sync.WaitGroup

	mu      sync.Mutex
	clients map[net.Conn]struct{}
	closed  bool
}

// start listens until the test ends. Serve is called for each client, whose connection is closed
// when it returns.
func (s *server) start(t testing.TB, serve func(net.Conn)) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(shortDir(t), "tpm.sock"))
	if err != nil {
		t.Fatal(err)
	}
	s.listener, s.clients = l, make(map[net.Conn]struct{})
	s.serving.Go(func() { s.accept(serve) })
	t.Cleanup(s.close)
}

// Device is the address to open the TPM by.
func (s *server) Device() string { return "unix:" + s.listener.Addr().String() }

// Push writes bytes to all clients that nobody asked for.
func (s *server) Push(t testing.TB, b []byte) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.clients {
		if _, err := c.Write(b); err != nil {
			t.Error(err)
		}
	}
}

// Disconnect closes the connections of all clients. They may come back.
func (s *server) Disconnect() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.clients {
		_ = c.Close() // its server sees the end
	}
}

func (s *server) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	_ = s.listener.Close() // it ends accept
	s.Disconnect()
	s.serving.Wait()
}

func (s *server) accept(serve func(net.Conn)) {
	for {
		c, err := s.listener.Accept()
		if err != nil {
			return // closed
		}
		s.mu.Lock()
		s.clients[c] = struct{}{}
		closed := s.closed
		s.mu.Unlock()
		if closed {
			_ = c.Close() // too late
			continue
		}
		s.serving.Go(func() {
			defer s.leave(c)
			serve(c)
		})
	}
}

func (s *server) leave(c net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.clients, c)
	_ = c.Close() // all is said
}
