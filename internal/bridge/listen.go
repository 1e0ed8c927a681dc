package bridge

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"syscall"

	"github.com/keyagent/keyagent/agentapi/peer"
)

// Listen listens on unix:PATH, or on a literal loopback address with a port, for this process' user
// alone. A socket of that path to which nobody listens any more is replaced. Where the owners of
// connections over TCP cannot be found out, Listen refuses a port. Closing the listener removes its
// socket.
func Listen(ctx context.Context, address string) (net.Listener, error) {
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		ln, err := listenUnix(ctx, path)
		if err != nil {
			return nil, err
		}
		return &ownListener{ln, peer.Of, func() error { return nil }}, nil
	}
	owners, err := peer.OpenTCP()
	if err != nil {
		return nil, fmt.Errorf("the users of connections to a port cannot be found out on this machine: %w (listen on unix:PATH)", err)
	}
	ln, err := peer.ListenTCP(ctx, address)
	if err != nil {
		return nil, errors.Join(err, owners.Close())
	}
	return &ownListener{ln, owners.Of, owners.Close}, nil
}

func listenUnix(ctx context.Context, path string) (net.Listener, error) {
	if info, err := os.Lstat(path); err == nil && info.Mode().Type() == fs.ModeSocket {
		conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
		if err == nil {
			_ = conn.Close()
			return nil, fmt.Errorf("another program listens on %s", path)
		}
		if errors.Is(err, syscall.ECONNREFUSED) {
			_ = os.Remove(path)
		}
	}
	ln, err := new(net.ListenConfig).Listen(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	// Who connects before the mode is changed is asked who it is, as everybody.
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	return ln, nil
}

// ownListener accepts what this process' user connects.
type ownListener struct {
	net.Listener
	identify func(net.Conn) (peer.Caller, error)
	release  func() error
}

// Accept closes the connections of others, and of whom the kernel does not know.
func (l *ownListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		caller, err := l.identify(conn)
		if err == nil && int(caller.UID) == os.Geteuid() {
			return conn, nil
		}
		_ = conn.Close()
	}
}

// Close implements [net.Listener].
func (l *ownListener) Close() error { return errors.Join(l.Listener.Close(), l.release()) }
