package main

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// What a program has got.
const (
	gotAgent  = "the agent"
	gotIMDS   = "IMDS"
	gotNobody = "nobody"
)

// tokenRequest is what all ways below ask for.
const tokenRequest = "GET /metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://vault.azure.net HTTP/1.1\r\n" +
	"Host: 169.254.169.254\r\nMetadata: true\r\nConnection: close\r\n\r\n"

// imdsAt is where programs look for IMDS.
var imdsAt = unix.SockaddrInet4{Port: 80, Addr: [4]byte{169, 254, 169, 254}}

// way is a way to ask IMDS for a token. It returns the connection, with the request sent or not.
type way func() (socket int, sent bool, err error)

// ways are those that a program without privileges has, by name.
func ways() map[string]way {
	loopback := func(last byte, port int) way {
		return plain(&unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, last}})
	}
	return map[string]way{
		"plain":                    plain(&imdsAt),
		"an IPv4-mapped address":   inet6(&unix.SockaddrInet6{Port: 80, Addr: [16]byte{10: 0xff, 11: 0xff, 12: 169, 13: 254, 14: 169, 15: 254}}),
		"MPTCP":                    tcp(&imdsAt, unix.IPPROTO_MPTCP, nil),
		"fast open":                fastOpen,
		"an address of its own":    tcp(&imdsAt, 0, func(s int) error { return unix.Bind(s, &unix.SockaddrInet4{Addr: [4]byte{10, 9, 0, 2}}) }),
		"a loopback address":       tcp(&imdsAt, 0, func(s int) error { return unix.Bind(s, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}) }),
		"bound to the interface":   tcp(&imdsAt, 0, toDevice("v0")),
		"bound to loopback":        tcp(&imdsAt, 0, toDevice("lo")),
		"a loose source route":     tcp(&imdsAt, 0, sourceRoute(131, [4]byte{10, 9, 0, 1})),
		"a strict source route":    tcp(&imdsAt, 0, sourceRoute(137, [4]byte{10, 9, 0, 1})),
		"a route that ends there":  tcp(&unix.SockaddrInet4{Port: 80, Addr: [4]byte{10, 9, 0, 1}}, 0, sourceRoute(131, imdsAt.Addr)),
		"another port":             plain(&unix.SockaddrInet4{Port: 8080, Addr: imdsAt.Addr}),
		"the agent's port there":   plain(&unix.SockaddrInet4{Port: takenPort, Addr: imdsAt.Addr}),
		"the agent's port":         loopback(1, takenPort),
		"the agent's port of 0":    plain(&unix.SockaddrInet4{Port: takenPort}),
		"another loopback address": loopback(2, takenPort),
		"by the machine's address": plain(&unix.SockaddrInet4{Port: takenPort, Addr: [4]byte{10, 9, 0, 2}}),
		"bound, the agent's port":  tcp(&unix.SockaddrInet4{Port: takenPort, Addr: [4]byte{127, 0, 0, 1}}, 0, toDevice("lo")),
		"the IPv6 twin":            inet6(&unix.SockaddrInet6{Port: 80, Addr: [16]byte{0: 0xfd, 2: 0x0e, 3: 0xc2, 14: 2, 15: 0x54}}),
		"UDP":                      datagram,
	}
}

// takeoverClient asks IMDS in one way and prints who has answered.
func takeoverClient(name string) error {
	switch name {
	case "keep":
		return keepConnection()
	case "clash":
		return clash()
	case "squat":
		return squat()
	case "hold":
		return holdIMDS()
	}
	ask, ok := ways()[name]
	if !ok {
		return fmt.Errorf("there is no way %q", name)
	}
	who, why := answerer(ask)
	fmt.Println(who)
	fmt.Fprintln(os.Stderr, why)
	return nil
}

// answerer says who answers, and why nobody does.
func answerer(ask way) (who string, why error) {
	socket, sent, err := ask()
	if err != nil {
		return gotNobody, err
	}
	file := os.NewFile(uintptr(socket), "connection")
	defer file.Close()
	if !sent {
		if _, err := io.WriteString(file, tokenRequest); err != nil {
			return gotNobody, err
		}
	}
	resp, err := http.ReadResponse(bufio.NewReader(file), nil)
	if err != nil {
		return gotNobody, err
	}
	defer resp.Body.Close()
	if strings.Contains(resp.Header.Get("Server"), "IMDS") {
		return gotIMDS, nil
	}
	return gotAgent, nil
}

// patient bounds what a socket waits for.
func patient(s int) error {
	limit := unix.Timeval{Sec: 2}
	return cmp.Or(unix.SetsockoptTimeval(s, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit), unix.SetsockoptTimeval(s, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit))
}

func plain(to unix.Sockaddr) way { return tcp(to, 0, nil) }

func tcp(to unix.Sockaddr, protocol int, before func(socket int) error) way {
	return func() (int, bool, error) { return connect(unix.AF_INET, protocol, to, before) }
}

func inet6(to unix.Sockaddr) way {
	return func() (int, bool, error) { return connect(unix.AF_INET6, 0, to, nil) }
}

func connect(family, protocol int, to unix.Sockaddr, before func(socket int) error) (int, bool, error) {
	s, err := unix.Socket(family, unix.SOCK_STREAM, protocol)
	if err != nil {
		return -1, false, err
	}
	err = patient(s)
	if err == nil && before != nil {
		err = before(s)
	}
	if err == nil {
		err = unix.Connect(s, to)
	}
	if err != nil {
		_ = unix.Close(s)
	}
	return s, false, err
}

func toDevice(name string) func(int) error {
	return func(s int) error { return unix.BindToDevice(s, name) }
}

// sourceRoute sends packets by way of an address (RFC 791, 3.1).
func sourceRoute(kind byte, by [4]byte) func(int) error {
	return func(s int) error {
		return unix.SetsockoptString(s, unix.IPPROTO_IP, unix.IP_OPTIONS, string(append(append([]byte{kind, 7, 4}, by[:]...), 0)))
	}
}

// fastOpen sends the request with the first packet (RFC 7413).
func fastOpen() (int, bool, error) {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return -1, false, err
	}
	err = cmp.Or(patient(s), unix.Sendto(s, []byte(tokenRequest), unix.MSG_FASTOPEN, &imdsAt))
	return s, true, err
}

// datagram looks whether a packet leaves.
func datagram() (int, bool, error) {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return -1, false, err
	}
	err = cmp.Or(patient(s), unix.Sendto(s, []byte("x"), 0, &imdsAt))
	return s, true, err
}

// keepConnection opens a connection, says so, waits for a line, and asks then.
func keepConnection() error {
	s, _, err := connect(unix.AF_INET, 0, &imdsAt, nil)
	if err != nil {
		return err
	}
	fmt.Println("open")
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		return err
	}
	who, _ := answerer(func() (int, bool, error) { return s, false, nil })
	fmt.Println(who)
	return nil
}

// clash tries, from one source port, the agent's port and then IMDS, again and again, so that the
// redirect has reason to change the source port. It prints who has answered, once each.
func clash() error {
	answered := map[string]bool{}
	from := &unix.SockaddrInet4{Port: 40999, Addr: [4]byte{10, 9, 0, 2}}
	fixed := func(s int) error {
		return cmp.Or(unix.SetsockoptInt(s, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1), unix.SetsockoptLinger(s, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}), unix.Bind(s, from))
	}
	agent := tcp(&unix.SockaddrInet4{Port: takenPort, Addr: [4]byte{127, 0, 0, 1}}, 0, fixed)
	for range 60 {
		if s, _, err := agent(); err == nil {
			answered["a direct connection"] = true
			defer unix.Close(s)
		}
		who, _ := answerer(tcp(&imdsAt, 0, fixed))
		answered[who] = true
	}
	for who := range answered {
		fmt.Println(who)
	}
	return nil
}

// squat tries to be the agent while it does not run.
func squat() error {
	ln, err := net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", takenPort))
	if err != nil {
		fmt.Println(gotNobody)
		return nil
	}
	defer ln.Close()
	return errors.New("the agent's port is free for everybody")
}

// holdIMDS keeps connections to IMDS open until its input ends.
func holdIMDS() error {
	var held []net.Conn
	for range 100 {
		conn, err := net.DialTimeout("tcp4", "169.254.169.254:80", 5*time.Second)
		if err != nil {
			return err
		}
		held = append(held, conn)
	}
	fmt.Println("open")
	_, _ = io.Copy(io.Discard, os.Stdin)
	for _, conn := range held {
		_ = conn.Close()
	}
	return nil
}
