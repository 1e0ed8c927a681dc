package peer_test

import (
	"net"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/keyagent/keyagent/agentapi/peer"
)

// otherSockets is how many sockets of others there are while an owner is looked up.
const otherSockets = 10_000

// BenchmarkTCPOwner looks up the owner of a connection over loopback, as is done once for each, and
// looks again whether it is still the caller's, as is done for each request.
func BenchmarkTCPOwner(b *testing.B) {
	tcp, err := peer.OpenTCP()
	if err != nil {
		b.Fatal(err)
	}
	defer tcp.Close()
	ln, err := peer.ListenTCP(b.Context(), loopback)
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	connect := func() net.Conn {
		client, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = client.Close() })
		conn, err := ln.Accept()
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = conn.Close() })
		return conn
	}
	for range otherSockets / 2 {
		connect()
	}
	conn := connect()
	b.Run("Of", func(b *testing.B) {
		for b.Loop() {
			if _, err := tcp.Of(conn); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Now", func(b *testing.B) {
		caller, err := tcp.Of(conn)
		if err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			if _, err := caller.Now(); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkUnixPeer(b *testing.B) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		b.Fatal(err)
	}
	conn := fileConn(b, pair[0])
	defer conn.Close()
	defer unix.Close(pair[1])
	b.Run("Of", func(b *testing.B) {
		for b.Loop() {
			caller, err := peer.Of(conn)
			if err != nil {
				b.Fatal(err)
			}
			_ = caller.Close()
		}
	})
	b.Run("Now", func(b *testing.B) {
		caller, err := peer.Of(conn)
		if err != nil {
			b.Fatal(err)
		}
		defer caller.Close()
		for b.Loop() {
			if _, err := caller.Now(); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkUnitID compares a unit with the cgroup that it has now, as is done for each request that
// a rule with units decides.
func BenchmarkUnitID(b *testing.B) {
	_, root, _ := newCgroup(b, testCgroup(b))
	for _, dir := range []string{"system.slice", "system.slice/web.service"} {
		made := filepath.Join(root, dir)
		if err := os.Mkdir(made, 0o755); err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = os.Remove(made) })
	}
	host := peer.Host{Cgroups: root}
	for b.Loop() {
		if _, running := host.UnitID("web.service"); !running {
			b.Fatal("it does not run")
		}
	}
}

func fileConn(b *testing.B, fd int) net.Conn {
	b.Helper()
	file := os.NewFile(uintptr(fd), "pair")
	defer file.Close()
	conn, err := net.FileConn(file)
	if err != nil {
		b.Fatal(err)
	}
	return conn
}
