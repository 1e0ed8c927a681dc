package peer_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keyagent/keyagent/agentapi/peer"
)

// Users of the tests: one that a rule could name, and one that would like to be taken for it.
const (
	victim = 64101
	other  = 64102
)

// tcpWorld is a listener as the agent has one, and what finds the callers of it.
type tcpWorld struct {
	*testing.T
	tcp *peer.TCP
	ln  *net.TCPListener
}

func newTCPWorld(t *testing.T, address string) *tcpWorld {
	t.Helper()
	tcp, err := peer.OpenTCP()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tcp.Close() })
	ln, err := peer.ListenTCP(t.Context(), address)
	if err != nil {
		t.Skipf("no %s here: %v", address, err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	w := &tcpWorld{t, tcp, ln.(*net.TCPListener)}
	if err := w.ln.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *tcpWorld) address() netip.AddrPort { return w.ln.Addr().(*net.TCPAddr).AddrPort() }

func (w *tcpWorld) accept() *net.TCPConn {
	w.Helper()
	conn, err := w.ln.AcceptTCP()
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { _ = conn.Close() })
	return conn
}

// wantUID accepts a connection and wants its caller to be this user.
func (w *tcpWorld) wantUID(uid uint32) *net.TCPConn {
	w.Helper()
	conn := w.accept()
	caller, err := w.tcp.Of(conn)
	if err != nil || caller.UID != uid {
		w.Fatalf("got %+v, %v, want uid %d", caller, err, uid)
	}
	return conn
}

// wantNobody wants the caller of a connection not to be known, for this reason.
func (w *tcpWorld) wantNobody(conn net.Conn, reason string) {
	w.Helper()
	caller, err := w.tcp.Of(conn)
	if err == nil || !strings.Contains(err.Error(), reason) {
		w.Errorf("got %+v, %v, want an error with %q", caller, err, reason)
	}
}

// client is a TCP socket of a user, made system call by system call.
type client struct {
	*testing.T
	fd int
}

// as runs f on a thread whose files and sockets are those of a user.
func as(t *testing.T, uid int, f func()) {
	t.Helper()
	needRoot(t)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Setfsuid(uid); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Setfsuid(0); err != nil {
			t.Fatal(err)
		}
	}()
	f()
}

// newClient makes a socket of a user. Port 0 stands for any; else others may bind it, too.
func newClient(t *testing.T, uid int, from netip.AddrPort, protocol int) *client {
	t.Helper()
	c := &client{T: t}
	as(t, uid, func() {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, protocol)
		if err != nil {
			t.Fatal(err)
		}
		c.fd = fd
	})
	t.Cleanup(func() { _ = unix.Close(c.fd) })
	if from.IsValid() {
		c.must(unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
		c.must(unix.Bind(c.fd, sockaddr(from)))
	}
	return c
}

func sockaddr(at netip.AddrPort) unix.Sockaddr {
	return &unix.SockaddrInet4{Addr: at.Addr().As4(), Port: int(at.Port())}
}

func (c *client) must(err error) {
	c.Helper()
	if err != nil {
		c.Fatal(err)
	}
}

func (c *client) connect(to netip.AddrPort) {
	c.Helper()
	c.must(unix.Connect(c.fd, sockaddr(to)))
}

func (c *client) send(text string) {
	c.Helper()
	if _, err := unix.Write(c.fd, []byte(text)); err != nil {
		c.Fatal(err)
	}
}

func (c *client) address() netip.AddrPort {
	c.Helper()
	sa, err := unix.Getsockname(c.fd)
	if err != nil {
		c.Fatal(err)
	}
	at := sa.(*unix.SockaddrInet4)
	return netip.AddrPortFrom(netip.AddrFrom4(at.Addr), uint16(at.Port))
}

func (c *client) close() {
	c.Helper()
	c.must(unix.Close(c.fd))
	c.fd = -1
}

// reset closes the socket without the handshake of an end.
func (c *client) reset() {
	c.Helper()
	c.must(unix.SetsockoptLinger(c.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}))
	c.close()
}

const loopback = "127.0.0.1:0"

// untilClosed waits until the end of what the other end sends has come.
func untilClosed(t *testing.T, conn net.Conn) {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := conn.Read(make([]byte, 4096)); err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatal(err)
			}
			return
		}
	}
}

func TestTCP(t *testing.T) {
	t.Run("this process is named by its uid, without groups and process", func(t *testing.T) {
		w := newTCPWorld(t, loopback)
		conn, err := net.Dial("tcp", w.ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		caller, err := w.tcp.Of(w.accept())
		if err != nil {
			t.Fatal(err)
		}
		if int(caller.UID) != os.Geteuid() || caller.Via != peer.ViaTCP || caller.Weak || caller.PID != 0 || caller.CgroupID == 0 {
			t.Errorf("got %+v, want uid %d over TCP, with a cgroup and without a process", caller, os.Geteuid())
		}
		if caller.InGroup(0) || caller.InGroup(caller.GID) || caller.InGroup(uint32(os.Getegid())) {
			t.Errorf("%+v is in a group: nobody knows that", caller)
		}
		if id, ok := caller.ProcessID(); ok {
			t.Errorf("process %q: nobody knows that", id)
		}
	})

	t.Run("other users are told apart, also at the same port of another address", func(t *testing.T) {
		w := newTCPWorld(t, loopback)
		first := newClient(t, victim, netip.AddrPort{}, 0)
		first.connect(w.address())
		conn := w.wantUID(victim)
		second := newClient(t, other, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.2"), first.address().Port()), 0)
		second.connect(w.address())
		w.wantUID(other)
		if caller, err := w.tcp.Of(conn); err != nil || caller.UID != victim { // while both are open
			t.Errorf("the first is of %+v, %v, want uid %d", caller, err, victim)
		}
	})

	t.Run("a socket is that of the user who has made it, whoever connects it and goes on with it", func(t *testing.T) {
		w := newTCPWorld(t, loopback)
		c := newClient(t, victim, netip.AddrPort{}, 0)
		as(t, other, func() { c.connect(w.address()) })
		conn := w.wantUID(victim)
		passed, err := unix.Dup(c.fd) // as another process has it that was handed it
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(passed)
		c.close()
		if caller, err := w.tcp.Of(conn); err != nil || caller.UID != victim {
			t.Errorf("got %+v, %v, want uid %d", caller, err, victim)
		}
	})

	t.Run("a client that is bound to the interface is found", func(t *testing.T) {
		w := newTCPWorld(t, loopback)
		c := newClient(t, victim, netip.AddrPort{}, 0)
		c.must(unix.BindToDevice(c.fd, "lo"))
		c.connect(w.address())
		w.wantUID(victim)
	})

	t.Run("a client with an IPv6 socket to an IPv4 address is found", func(t *testing.T) {
		w := newTCPWorld(t, loopback)
		var fd int
		as(t, victim, func() {
			var err error
			if fd, err = unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
				t.Skipf("no IPv6 here: %v", err)
			}
		})
		defer unix.Close(fd)
		mapped := &unix.SockaddrInet6{Port: int(w.address().Port()), Addr: netip.MustParseAddr("::ffff:127.0.0.1").As16()}
		if err := unix.Connect(fd, mapped); err != nil {
			t.Fatal(err)
		}
		w.wantUID(victim)
	})

	t.Run("IPv6", func(t *testing.T) {
		w := newTCPWorld(t, "[::1]:0")
		conn, err := net.Dial("tcp", w.ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		w.wantUID(uint32(os.Geteuid()))
	})

	t.Run("another process of another user is named by its uid", func(t *testing.T) {
		needRoot(t)
		w := newTCPWorld(t, loopback)
		cmd := command("connect by tcp", w.ln.Addr().String(), &syscall.Credential{Uid: victim, Gid: victim})
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		conn := w.wantUID(victim)
		_ = conn.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})

	t.Run("after Close nobody is found", func(t *testing.T) {
		w := newTCPWorld(t, loopback)
		conn, err := net.Dial("tcp", w.ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		accepted := w.accept()
		if err := errors.Join(w.tcp.Close(), w.tcp.Close()); err != nil {
			t.Fatal(err)
		}
		w.wantNobody(accepted, "closed")
	})
}

// Each of these was seen to make the kernel name another user than the one who has sent what can be
// read, on some kernel.
func TestTCPNamesNobody(t *testing.T) {
	t.Run("of a connection that was closed with data that is not acknowledged", func(t *testing.T) {
		w := newTCPWorld(t, loopback)
		c := newClient(t, other, netip.AddrPort{}, 0)
		c.connect(w.address())
		conn := w.accept()
		c.must(unix.SetNonblock(c.fd, true))
		for { // until nothing more fits
			if _, err := unix.Write(c.fd, make([]byte, 64<<10)); err != nil {
				break
			}
		}
		c.close() // FIN_WAIT1, and nobody's; our own end is established
		w.wantNobody(conn, "the client's end is in state 4")
	})

	t.Run("of a connection that was closed", func(t *testing.T) {
		w := newTCPWorld(t, loopback)
		c := newClient(t, other, netip.AddrPort{}, 0)
		c.connect(w.address())
		conn := w.accept()
		c.close() // FIN_WAIT2
		untilClosed(t, conn)
		w.wantNobody(conn, "the client's end is in state ")
		if err := conn.CloseWrite(); err != nil { // TIME_WAIT
			t.Fatal(err)
		}
		w.wantNobody(conn, "the client's end is in state 6")
	})

	t.Run("of a connection that is half closed", func(t *testing.T) {
		w := newTCPWorld(t, loopback)
		c := newClient(t, other, netip.AddrPort{}, 0)
		c.connect(w.address())
		conn := w.accept()
		c.must(unix.Shutdown(c.fd, unix.SHUT_WR))
		untilClosed(t, conn)
		w.wantNobody(conn, "the client's end is in state ")
	})

	t.Run("of a connection in whose place a listener of another user answers", func(t *testing.T) {
		w := newTCPWorld(t, loopback)
		c := newClient(t, other, addrPort(loopback), 0)
		c.connect(w.address())
		conn, from := w.accept(), c.address()
		c.reset()
		root := newClient(t, 0, from, 0)
		root.must(unix.Listen(root.fd, 1))
		w.wantNobody(conn, "the kernel answers for")
	})

	t.Run("of a connection that was reset, when another user has connected from its port", func(t *testing.T) {
		w := newTCPWorld(t, loopback)
		thief := newClient(t, other, addrPort(loopback), 0)
		thief.connect(w.address())
		thief.send("GET /token HTTP/1.1\r\n\r\n")
		from := thief.address()
		thief.reset()
		c := newClient(t, victim, from, 0)
		c.connect(w.address())
		conn := w.accept()
		w.wantNobody(conn, "the connection is in state 7")
		w.wantUID(victim)
	})

	t.Run("of a connection that another user's, from the same address, has reset", func(t *testing.T) {
		w := newTCPWorld(t, loopback)
		thief := newClient(t, other, netip.AddrPort{}, 0)
		thief.must(unix.BindToDevice(thief.fd, "lo"))
		thief.must(unix.SetsockoptInt(thief.fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
		thief.must(unix.Bind(thief.fd, sockaddr(addrPort(loopback))))
		thief.connect(w.address())
		conn := w.accept()
		if caller, err := w.tcp.Of(conn); err != nil || caller.UID != other {
			t.Fatalf("got %+v, %v", caller, err)
		}
		c := newClient(t, victim, thief.address(), 0)
		if err := unix.Connect(c.fd, sockaddr(w.address())); err != nil {
			t.Skipf("this kernel does not let two connections have the same addresses: %v", err)
		}
		w.wantNobody(conn, "")
		w.wantUID(victim)
	})

	t.Run("of a connection that is not over loopback", func(t *testing.T) {
		w := newTCPWorld(t, loopback)
		for _, ends := range [][2]string{{"127.0.0.1:1", "10.0.0.4:2"}, {"10.0.0.4:1", "127.0.0.1:2"}} {
			conn := elsewhere{w.dial(), ends[0], ends[1]}
			w.wantNobody(conn, "not a connection over loopback")
		}
	})

	t.Run("of a connection of another kind", func(t *testing.T) {
		w := newTCPWorld(t, loopback)
		a, b := net.Pipe()
		defer a.Close()
		defer b.Close()
		w.wantNobody(a, "has no socket")
		ln := listen(t)
		conn, err := net.Dial("unix", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		w.wantNobody(conn, "not a TCP connection")
	})

	t.Run("of a connection that was not redirected", func(t *testing.T) {
		w := newTCPWorld(t, loopback)
		_ = w.dial()
		caller, err := w.tcp.OfRedirected(w.accept())
		if err == nil || !strings.Contains(err.Error(), "redirected") {
			t.Errorf("got %+v, %v", caller, err)
		}
	})
}

// dial returns the client's end of a connection of this process.
func (w *tcpWorld) dial() *net.TCPConn {
	w.Helper()
	conn, err := net.Dial("tcp", w.ln.Addr().String())
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { _ = conn.Close() })
	return conn.(*net.TCPConn)
}

// elsewhere is a connection that says to have other ends.
type elsewhere struct {
	*net.TCPConn
	local, remote string
}

func (e elsewhere) LocalAddr() net.Addr {
	return net.TCPAddrFromAddrPort(addrPort(e.local))
}

func (e elsewhere) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(addrPort(e.remote))
}

// A client of MPTCP reads as established long after it has closed, and as root's on some kernels.
func TestMPTCP(t *testing.T) {
	if on, err := os.ReadFile("/proc/sys/net/mptcp/enabled"); err != nil || strings.TrimSpace(string(on)) != "1" {
		t.Skip("no MPTCP here")
	}
	t.Run("falls back to plain TCP, whose end is seen", func(t *testing.T) {
		w := newTCPWorld(t, loopback)
		c := newClient(t, other, netip.AddrPort{}, unix.IPPROTO_MPTCP)
		c.connect(w.address())
		conn := w.wantUID(other)
		c.close()
		untilClosed(t, conn)
		w.wantNobody(conn, "the client's end is in state")
	})
	t.Run("is refused by a listener that takes it", func(t *testing.T) {
		w := newTCPWorld(t, loopback)
		var listening net.ListenConfig
		listening.SetMultipathTCP(true)
		ln, err := listening.Listen(t.Context(), "tcp4", loopback)
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		c := newClient(t, other, netip.AddrPort{}, unix.IPPROTO_MPTCP)
		c.connect(ln.Addr().(*net.TCPAddr).AddrPort())
		conn, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		w.wantNobody(conn, "not one of plain TCP")
	})
}

// A caller over TCP counts for as long as its connection lives.
func TestNowOverTCP(t *testing.T) {
	w := newTCPWorld(t, loopback)
	c := newClient(t, victim, netip.AddrPort{}, 0)
	c.connect(w.address())
	conn := w.accept()
	caller, err := w.tcp.Of(conn)
	if err != nil {
		t.Fatal(err)
	}
	if now, err := caller.Now(); err != nil || now.UID != victim {
		t.Fatalf("while the connection lives: %+v, %v", now, err)
	}
	c.close()
	untilClosed(t, conn)
	if now, err := caller.Now(); err == nil {
		t.Errorf("after the client has closed: %+v", now)
	}
	if now, err := (peer.Caller{UID: victim, Via: peer.ViaTCP}).Now(); err == nil {
		t.Errorf("a caller without a connection: %+v", now)
	}
}

func TestListenTCP(t *testing.T) {
	for address, want := range map[string]string{
		"0.0.0.0:0": "not a loopback address", "localhost:0": "ParseAddr", "10.0.0.4:0": "not a loopback address",
		"[::]:0": "not a loopback address", "[::ffff:127.0.0.1]:0": "not a loopback address", "127.0.0.1": "port", ":0": "",
	} {
		if ln, err := peer.ListenTCP(context.Background(), address); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, %v, want an error with %q", address, ln, err, want)
		}
	}
}

// Nobody but root can take the port that the agent has, while it is away.
func TestPrivilegedPort(t *testing.T) {
	needRoot(t)
	text, err := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start")
	if err != nil {
		t.Fatal(err)
	}
	if start, err := strconv.Atoi(strings.TrimSpace(string(text))); err != nil || start < 1024 {
		t.Skipf("ports from %s are for everybody here", strings.TrimSpace(string(text)))
	}
	cmd := command("listen by tcp", "127.0.0.1:843", &syscall.Credential{Uid: other, Gid: other})
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "permission denied") {
		t.Errorf("another user listens: %v, %s", err, out)
	}
}

func addrPort(text string) netip.AddrPort { return netip.MustParseAddrPort(text) }
