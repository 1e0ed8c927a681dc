package agentapi

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Answers reports why connections to a way into the agent are not taken any more, or nil. It makes
// one to each, of which nobody is told: it is closed when it is accepted, and leaves no record.
//
// What callers can bring about must not look as if the agent had stopped. So nothing is asked of a
// way whose bound of connections is reached; and where callers leave no room for one more in the
// kernel's queue, or no descriptor for it, a way works if it has taken a connection since the last
// look. It is safe for concurrent use, and blocks no longer than ctx allows.
func (s *Server) Answers(ctx context.Context) error {
	s.servingMu.Lock()
	serving := append([]*admission(nil), s.serving...)
	s.servingMu.Unlock()
	if len(serving) == 0 {
		return errors.New("nothing is served")
	}
	var problems []error
	for _, a := range serving {
		if err := a.answers(ctx); err != nil {
			problems = append(problems, fmt.Errorf("the socket at %s takes no connections: %w", a.face.listener.Addr(), err))
		}
	}
	return errors.Join(problems...)
}

// serves notes that a way is served until the function that it returns is called.
func (s *Server) serves(a *admission) (over func()) {
	s.servingMu.Lock()
	defer s.servingMu.Unlock()
	s.serving = append(s.serving, a)
	return func() {
		s.servingMu.Lock()
		defer s.servingMu.Unlock()
		for i, other := range s.serving {
			if other == a {
				s.serving = append(s.serving[:i:i], s.serving[i+1:]...)
				return
			}
		}
	}
}

// answers makes a connection and waits until it is accepted.
func (a *admission) answers(ctx context.Context) error {
	if a.face.indirect || a.full() {
		return nil
	}
	if err := a.probes.accepted(ctx, a.face.listener.Addr(), a.progress); err != nil && !a.full() {
		return err
	}
	return nil
}

// accepted makes a connection and waits until it is accepted, or until others are where callers
// leave no room for it.
func (p *probes) accepted(ctx context.Context, at net.Addr, progress progress) error {
	accepted := make(chan struct{})
	conn, name, err := p.dial(ctx, at, accepted)
	defer p.forget(name)
	if err == nil {
		defer conn.Close()
		select {
		case <-accepted:
			progress.forget()
			return nil
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	if callersCanCause(err) && progress.await(ctx) {
		return nil
	}
	return err
}

// callersCanCause reports whether a connection may fail so because of others that callers make:
// the kernel's queue is full, or there are no descriptors, ports or memory left for one more.
func callersCanCause(err error) bool {
	for _, cause := range []error{context.DeadlineExceeded, context.Canceled, os.ErrDeadlineExceeded, unix.EAGAIN, unix.ETIMEDOUT,
		unix.EMFILE, unix.ENFILE, unix.EADDRINUSE, unix.EADDRNOTAVAIL, unix.ENOBUFS, unix.ENOMEM} {
		if errors.Is(err, cause) {
			return true
		}
	}
	return false
}

// progress notes whether connections are taken. It is safe for concurrent use.
type progress struct{ made chan struct{} }

func newProgress() progress { return progress{make(chan struct{}, 1)} }

func (p progress) note() {
	select {
	case p.made <- struct{}{}:
	default: // it is noted
	}
}

// forget begins anew.
func (p progress) forget() {
	select {
	case <-p.made:
	default:
	}
}

// await reports whether there was any since it was last asked for or forgotten, or is before the
// context ends.
func (p progress) await(ctx context.Context) bool {
	select {
	case <-p.made:
		return true
	default:
	}
	select {
	case <-p.made:
		return true
	case <-ctx.Done():
		return false
	}
}

// full reports whether as many connections are open as may be.
func (a *admission) full() bool { return len(a.slots) == cap(a.slots) }

// probes are connections of the agent to itself, by their own ends' addresses, which nobody else
// can have at the same time. It is safe for concurrent use.
type probes struct {
	mu       sync.Mutex
	expected map[string]chan<- struct{}
}

// took reports whether a connection that was accepted is one of these, and says so to who made it.
func (p *probes) took(conn net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.expected) == 0 {
		return false
	}
	name := conn.RemoteAddr().String()
	accepted, ours := p.expected[name]
	if ours {
		delete(p.expected, name)
		close(accepted)
	}
	return ours
}

func (p *probes) expect(name string, accepted chan<- struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.expected == nil {
		p.expected = map[string]chan<- struct{}{}
	}
	p.expected[name] = accepted
}

func (p *probes) forget(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.expected, name)
}

// dial connects from an address that is expected before the other end can see it.
func (p *probes) dial(ctx context.Context, to net.Addr, accepted chan<- struct{}) (conn net.Conn, name string, err error) {
	var d net.Dialer
	if to.Network() == "unix" {
		d.LocalAddr = &net.UnixAddr{Net: "unix", Name: "@keyagent-" + rand.Text()}
		name = d.LocalAddr.String()
		p.expect(name, accepted)
	} else {
		d.SetMultipathTCP(false)
		d.Control = func(network, _ string, raw syscall.RawConn) error {
			var failed error
			err := raw.Control(func(fd uintptr) { name, failed = bindLoopback(int(fd), network) })
			if err = errors.Join(err, failed); err == nil {
				p.expect(name, accepted)
			}
			return err
		}
	}
	conn, err = d.DialContext(ctx, to.Network(), to.String())
	return conn, name, err
}

// bindLoopback gives a socket an address on loopback, and returns it.
func bindLoopback(fd int, network string) (string, error) {
	var at unix.Sockaddr = &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}
	if network == "tcp6" {
		at = &unix.SockaddrInet6{Addr: [16]byte{15: 1}}
	}
	if err := unix.Bind(fd, at); err != nil {
		return "", err
	}
	bound, err := unix.Getsockname(fd)
	if err != nil {
		return "", err
	}
	switch at := bound.(type) {
	case *unix.SockaddrInet4:
		return (&net.TCPAddr{IP: at.Addr[:], Port: at.Port}).String(), nil
	case *unix.SockaddrInet6:
		return (&net.TCPAddr{IP: at.Addr[:], Port: at.Port}).String(), nil
	}
	return "", errors.New("the kernel gave it an address that is none of TCP")
}
