package peer

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// tcpEstablished is the state of a connection in which both sides may still send (tcp(7)).
const tcpEstablished = unix.BPF_TCP_ESTABLISHED

// TCP finds the users who own the other ends of TCP connections within this machine. It is safe for
// concurrent use.
type TCP struct {
	// Redirected is the destination that [TCP.OfRedirected] takes connections of; as [OpenTCP]
	// returns it, IMDS: 169.254.169.254:80. It must not be changed once the value is in use.
	Redirected netip.AddrPort

	mu       sync.Mutex // guards what follows
	socket   int        // -1: closed
	sequence uint32
	buffer   [maxDiagBytes]byte
}

// OpenTCP opens a netlink socket, which it keeps, and tries it: it makes a connection over loopback
// and asks for its own end. So an error says that owners cannot be found here, and why. Call
// [TCP.Close] at the end.
func OpenTCP() (*TCP, error) {
	t := &TCP{Redirected: netip.AddrPortFrom(netip.AddrFrom4([4]byte{169, 254, 169, 254}), 80), socket: -1}
	if err := t.open(); err != nil {
		return nil, fmt.Errorf("identifying callers over loopback: %w", err)
	}
	if err := t.try(); err != nil {
		_ = t.Close()
		return nil, fmt.Errorf("identifying callers over loopback: %w", err)
	}
	return t, nil
}

// open opens the netlink socket.
func (t *TCP) open() error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_SOCK_DIAG)
	if errors.Is(err, unix.EAFNOSUPPORT) {
		return fmt.Errorf("opening a netlink socket: %w (in a systemd unit: RestrictAddressFamilies= must have AF_NETLINK)", err)
	}
	if err != nil {
		return fmt.Errorf("opening a netlink socket: %w", err)
	}
	if err := unix.Connect(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		_ = unix.Close(fd)
		return fmt.Errorf("connecting a netlink socket to the kernel: %w", err)
	}
	t.socket = fd
	return nil
}

// Close closes the netlink socket. It may be called again.
func (t *TCP) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.socket < 0 {
		return nil
	}
	fd := t.socket
	t.socket = -1
	return unix.Close(fd)
}

// Of returns the owner of the other end of conn, an accepted connection over loopback: the user who
// created the client's socket, and the cgroup in which that was done. It does not block. Whatever
// is not certain is an error: the client has closed its end, or another program may have its
// address by now.
func (t *TCP) Of(conn net.Conn) (Caller, error) {
	caller, err := t.of(conn, func(own endpoints, _ int) (endpoints, uint32, error) {
		if !own.local.Addr().IsLoopback() || !own.remote.Addr().IsLoopback() {
			return endpoints{}, 0, errors.New("it is not a connection over loopback")
		}
		// A client that has bound its socket to the interface is found with its index only.
		return endpoints{local: own.remote, remote: own.local}, loopbackIndex, nil
	})
	if err != nil {
		return Caller{}, fmt.Errorf("identifying the caller at %v: %w", conn.RemoteAddr(), err)
	}
	return caller, nil
}

// OfRedirected is [TCP.Of] for a connection to [TCP.Redirected] that the packet filter of this
// machine has redirected to a loopback address. NAT may change the port that the client has, so
// that another connection's owner is found: take the answer only for users who are redirected, and
// let the packet filter refuse connections to the listener that it has not redirected.
func (t *TCP) OfRedirected(conn net.Conn) (Caller, error) {
	caller, err := t.of(conn, func(own endpoints, fd int) (endpoints, uint32, error) {
		if !own.local.Addr().IsLoopback() {
			return endpoints{}, 0, errors.New("it does not end at a loopback address")
		}
		asked, err := originalDestination(fd)
		if err != nil {
			return endpoints{}, 0, fmt.Errorf("it is not a redirected connection: %w", err)
		}
		if asked != t.Redirected {
			return endpoints{}, 0, fmt.Errorf("it is a connection to %v, not a redirected one to %v", asked, t.Redirected)
		}
		return endpoints{local: own.remote, remote: asked}, 0, nil
	})
	if err != nil {
		return Caller{}, fmt.Errorf("identifying the caller at %v: %w", conn.RemoteAddr(), err)
	}
	return caller, nil
}

// of looks the client's socket up that clientOf returns for our own end.
func (t *TCP) of(conn net.Conn, clientOf func(own endpoints, fd int) (client endpoints, iface uint32, err error)) (Caller, error) {
	end, ok := conn.(syscall.Conn)
	if !ok {
		return Caller{}, fmt.Errorf("a %T has no socket", conn)
	}
	raw, err := end.SyscallConn()
	if err != nil {
		return Caller{}, err
	}
	addresses, err := endpointsOf(conn)
	if err != nil {
		return Caller{}, err
	}
	own := &ownEnd{raw}
	var caller Caller
	err = own.with(func(fd int) error {
		client, iface, err := clientOf(addresses, fd)
		if err != nil {
			return err
		}
		caller, err = t.owner(client, iface, fd)
		return err
	})
	caller.own = own
	return caller, err
}

// endpointsOf returns both ends of a connection.
func endpointsOf(conn net.Conn) (endpoints, error) {
	local, okLocal := conn.LocalAddr().(*net.TCPAddr)
	remote, okRemote := conn.RemoteAddr().(*net.TCPAddr)
	if !okLocal || !okRemote {
		return endpoints{}, errors.New("it is not a TCP connection")
	}
	return endpoints{unmapped(local), unmapped(remote)}, nil
}

func unmapped(addr *net.TCPAddr) netip.AddrPort {
	at := addr.AddrPort()
	return netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
}

// owner returns whose the client's socket is. After that, our own end must be established: else the
// socket that was found is that of a later connection from the same port.
func (t *TCP) owner(client endpoints, iface uint32, own int) (Caller, error) {
	found, err := t.ask(client, iface)
	if err != nil {
		return Caller{}, err
	}
	if err := found.isOpenEnd(client); err != nil {
		return Caller{}, err
	}
	if err := checkOwnEnd(own); err != nil {
		return Caller{}, err
	}
	return Caller{UID: found.uid, GID: noGID, CgroupID: found.cgroup, Via: ViaTCP}, nil
}

// isOpenEnd returns why the owner of a socket that was found need not be the caller. Each of these
// cases was seen to name another user than the one that has connected: a listener may answer in its
// place, and a socket that no process has open any more reads as root's on some kernels.
func (found diagSocket) isOpenEnd(asked endpoints) error {
	switch {
	case found.endpoints != asked:
		return fmt.Errorf("asked for %v, the kernel answers for %v", asked, found.endpoints)
	case found.state != tcpEstablished:
		return fmt.Errorf("the client's end is in state %d: it has been closed", found.state)
	case found.inode == 0:
		return errors.New("no process has the client's end open any more")
	}
	return nil
}

// maxStaleAnswers bounds how many answers to earlier questions are passed over.
const maxStaleAnswers = 64

// ask returns the socket with these ends. The kernel has answered when the question is sent.
func (t *TCP) ask(of endpoints, iface uint32) (diagSocket, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.socket < 0 {
		return diagSocket{}, net.ErrClosed
	}
	t.sequence++
	if err := unix.Send(t.socket, diagRequest(of, t.sequence, iface), 0); err != nil {
		return diagSocket{}, fmt.Errorf("asking for the owner of the client's socket: %w", err)
	}
	for range maxStaleAnswers {
		n, from, err := unix.Recvfrom(t.socket, t.buffer[:], 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return diagSocket{}, fmt.Errorf("reading the kernel's answer on the client's socket: %w", err)
		}
		if kernel, ok := from.(*unix.SockaddrNetlink); !ok || kernel.Pid != 0 {
			continue // no other process can write to this socket; and if it could
		}
		found, err := parseDiag(t.buffer[:n], t.sequence)
		if errors.Is(err, errOtherAnswer) {
			continue
		}
		if err != nil && !errors.Is(err, errNoSocket) {
			return diagSocket{}, fmt.Errorf("the kernel's answer on the client's socket: %w", err)
		}
		return found, err
	}
	return diagSocket{}, errors.New("the kernel does not answer for the client's socket")
}

// ownEnd is the agent's end of a TCP connection.
type ownEnd struct{ raw syscall.RawConn }

func (e *ownEnd) with(f func(fd int) error) error {
	var failed error
	if err := e.raw.Control(func(fd uintptr) { failed = f(int(fd)) }); err != nil {
		return err
	}
	return failed
}

// established reports whether the connection is still the one that the caller made. While it is,
// the owner of the other end cannot change.
func (e *ownEnd) established() bool { return e.with(checkState) == nil }

// checkOwnEnd refuses a connection that is not established any more. One of MPTCP is refused, too:
// it reads as established long after its client has closed it.
func checkOwnEnd(fd int) error {
	protocol, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL)
	if err != nil {
		return fmt.Errorf("SO_PROTOCOL: %w", err)
	}
	if protocol != unix.IPPROTO_TCP {
		return fmt.Errorf("a connection of protocol %d is not one of plain TCP", protocol)
	}
	return checkState(fd)
}

// checkState is checkOwnEnd without the checks whose outcome cannot change.
func checkState(fd int) error {
	// The first bytes of struct tcp_info are all that is asked for; the state is the first of them.
	first, err := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return fmt.Errorf("TCP_INFO: %w", err)
	}
	var bytes [4]byte
	binary.NativeEndian.PutUint32(bytes[:], uint32(first)) //nolint:gosec // its bytes
	if state := bytes[0]; state != tcpEstablished {
		return fmt.Errorf("the connection is in state %d: it has been closed or reset", state)
	}
	return nil
}

// originalDestination returns where a connection went before the packet filter of this machine has
// redirected it.
func originalDestination(fd int) (netip.AddrPort, error) {
	// The address has the size of the structure that x/sys/unix has a call for.
	raw, err := unix.GetsockoptIPv6Mreq(fd, unix.SOL_IP, unix.SO_ORIGINAL_DST)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("SO_ORIGINAL_DST: %w", err)
	}
	b := raw.Multiaddr // struct sockaddr_in: family, port, address
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), uint16(b[2])<<8|uint16(b[3])), nil
}

// ListenTCP listens on a literal loopback address with a port. A connection of MPTCP falls back to
// plain TCP there, since the kernel does not say of the former when it ends; a listener on [::1]
// takes no IPv4.
func ListenTCP(ctx context.Context, address string) (net.Listener, error) {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, err
	}
	if !at.Addr().IsLoopback() || at.Addr().Is4In6() {
		return nil, fmt.Errorf("%s is not a loopback address: 127.0.0.1 or [::1]", at.Addr())
	}
	network := "tcp6" // with IPV6_V6ONLY
	if at.Addr().Is4() {
		network = "tcp4"
	}
	var listening net.ListenConfig
	listening.SetMultipathTCP(false)
	return listening.Listen(ctx, network, address)
}
