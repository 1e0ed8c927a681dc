package peer_test

import (
	"net"
	"net/netip"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keyagent/keyagent/agentapi/peer"
	"github.com/keyagent/keyagent/internal/tooltest"
)

const insideEnv = "KEYAGENT_PEER_TEST_NAMESPACE"

// redirects sends what goes to IMDS, and to an address that is not it, to the agent.
const redirects = `table ip keyagent_test {
	chain output {
		type nat hook output priority -100;
		ip daddr { 169.254.169.254, 169.254.169.253 } tcp dport 80 redirect to :18080
	}
}
`

// TestRedirected makes a network namespace with the address of a VM and a packet filter that
// redirects what goes to IMDS, and runs the test below in it.
func TestRedirected(t *testing.T) {
	needRoot(t)
	ip, nft := tooltest.Tool(t, "ip"), tooltest.Tool(t, "nft")
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestRedirectedInside$", "-test.v")
	cmd.Env = []string{insideEnv + "=" + ip + ":" + nft, "GORACE=atexit_sleep_ms=0"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestRedirectedInside") {
		t.Errorf("%v:\n%s", err, out)
	}
}

func TestRedirectedInside(t *testing.T) {
	ip, nft, _ := strings.Cut(tooltest.Entry(t, insideEnv), ":")
	run := func(input, name string, args ...string) {
		t.Helper()
		cmd := exec.Command(name, args...)
		cmd.Stdin = strings.NewReader(input)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
		}
	}
	run("", ip, "link", "set", "lo", "up")
	run("", ip, "address", "add", "10.9.9.9/32", "dev", "lo")
	run("", ip, "route", "add", "169.254.169.252/30", "dev", "lo", "src", "10.9.9.9")
	run(redirects, nft, "-f", "-")

	w := newTCPWorld(t, "127.0.0.1:18080")
	imds := addrPort("169.254.169.254:80")
	refused := func(conn net.Conn, reason string) {
		t.Helper()
		caller, err := w.tcp.OfRedirected(conn)
		if err == nil || !strings.Contains(err.Error(), reason) {
			t.Errorf("got %+v, %v, want an error with %q", caller, err, reason)
		}
	}

	c := newClient(t, victim, netip.AddrPort{}, 0)
	c.connect(imds)
	conn := w.accept()
	caller, err := w.tcp.OfRedirected(conn)
	if err != nil || caller.UID != victim || caller.Via != peer.ViaTCP {
		t.Fatalf("got %+v, %v, want uid %d", caller, err, victim)
	}
	w.wantNobody(conn, "not a connection over loopback")
	c.close()
	untilClosed(t, conn)
	refused(conn, "the client's end is in state")
	if now, err := caller.Now(); err == nil {
		t.Errorf("after the client has closed: %+v", now)
	}

	direct := newClient(t, victim, netip.AddrPort{}, 0)
	direct.connect(w.address())
	refused(w.accept(), "redirected")

	elsewhere := newClient(t, victim, netip.AddrPort{}, 0)
	elsewhere.connect(addrPort("169.254.169.253:80"))
	refused(w.accept(), "169.254.169.253:80")

	// NAT changes the port of a connection if another one, from the same address and port, goes to
	// the same place directly. What the agent sees is then nobody's.
	direct = newClient(t, other, addrPort("10.9.9.9:0"), 0)
	direct.connect(w.address())
	refused(w.accept(), "redirected")
	clash := newClient(t, victim, direct.address(), 0)
	clash.connect(imds)
	changed := w.accept()
	if addrPort(changed.RemoteAddr().String()) == clash.address() {
		t.Fatal("NAT has not changed the port: the test does not do what it says")
	}
	refused(changed, "nobody on this machine")

	// A peer in another network namespace is in no table of this one.
	outside := otherNamespace(t, ip, run)
	if caller, err := w.tcp.Of(outside); err == nil {
		t.Errorf("a peer in another namespace is %+v", caller)
	}
	if caller, err := w.tcp.OfRedirected(outside); err == nil {
		t.Errorf("a peer in another namespace is %+v", caller)
	}
}

// otherNamespace returns a connection from another network namespace.
func otherNamespace(t *testing.T, ip string, run func(input, name string, args ...string)) net.Conn {
	t.Helper()
	ln, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if err := ln.(*net.TCPListener).SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	to := ln.Addr().(*net.TCPAddr).AddrPort().Port()
	type made struct {
		fd  int
		err error
	}
	there, ready, result := make(chan int), make(chan struct{}), make(chan made)
	go tooltest.OnOwnThread(func() { // the namespace ends with the socket
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			there <- 0
			result <- made{-1, err}
			return
		}
		there <- unix.Gettid()
		<-ready
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			err = exec.Command(ip, "address", "add", "10.8.8.2/24", "dev", "vb").Run()
		}
		if err == nil {
			err = exec.Command(ip, "link", "set", "vb", "up").Run()
		}
		if err == nil {
			err = unix.Connect(fd, sockaddr(netip.AddrPortFrom(netip.MustParseAddr("10.8.8.1"), to)))
		}
		result <- made{fd, err}
	})
	tid := <-there
	if tid == 0 {
		t.Fatal((<-result).err)
	}
	run("", ip, "link", "add", "va", "type", "veth", "peer", "name", "vb", "netns", strconv.Itoa(tid))
	run("", ip, "address", "add", "10.8.8.1/24", "dev", "va")
	run("", ip, "link", "set", "va", "up")
	close(ready)
	client := <-result
	if client.err != nil {
		t.Fatal(client.err)
	}
	t.Cleanup(func() { _ = unix.Close(client.fd) })
	conn, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}
