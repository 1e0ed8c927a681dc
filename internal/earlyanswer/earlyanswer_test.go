package earlyanswer_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/internal/earlyanswer"
)

// refusing answers each request once its headers are there, and closes the connection with the
// rest of it unread.
func refusing(ln net.Listener) {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		from := bufio.NewReader(conn)
		for line, err := from.ReadString('\n'); err == nil && line != "\r\n"; line, err = from.ReadString('\n') {
		}
		_, _ = io.WriteString(conn, "HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 9\r\n\r\ntoo large")
		_ = conn.Close()
	}
}

func TestTheAnswerIsSeen(t *testing.T) {
	certified := httptest.NewUnstartedServer(nil)
	certified.StartTLS()
	certificates := certified.TLS.Certificates
	roots := certified.Client().Transport.(*http.Transport).TLSClientConfig
	certified.Close()
	for _, c := range []struct {
		name, network, address, scheme string
	}{
		{"TCP", "tcp", "127.0.0.1:0", "http"},
		{"TLS", "tcp", "127.0.0.1:0", "https"},
		{"Unix socket", "unix", filepath.Join(t.TempDir(), "s"), "http"},
	} {
		t.Run(c.name, func(t *testing.T) {
			ln, err := net.Listen(c.network, c.address)
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			at := ln.Addr()
			if c.scheme == "https" {
				ln = tls.NewListener(ln, &tls.Config{Certificates: certificates, MinVersion: tls.VersionTLS13})
			}
			go refusing(ln)
			client := &http.Client{Transport: &http.Transport{TLSClientConfig: roots, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				conn, err := new(net.Dialer).DialContext(ctx, at.Network(), at.String())
				if err != nil {
					return nil, err
				}
				return earlyanswer.Conn(conn), nil
			}}}
			for range 20 {
				resp, err := client.Post(c.scheme+"://example.com/", "text/plain", strings.NewReader(strings.Repeat("x", 4<<20)))
				if err != nil {
					t.Fatal(err)
				}
				body, err := io.ReadAll(resp.Body)
				_ = resp.Body.Close()
				if resp.StatusCode != http.StatusRequestEntityTooLarge || string(body) != "too large" || err != nil {
					t.Fatalf("%d %q %v", resp.StatusCode, body, err)
				}
			}
		})
	}
}

// A server that goes without an answer ends the request as it did before.
func TestThereIsNoAnswer(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		for conn, err := ln.Accept(); err == nil; conn, err = ln.Accept() {
			_, _ = conn.Read(make([]byte, 1))
			_ = conn.Close()
		}
	}()
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, ln.Addr().String())
		if err != nil {
			return nil, err
		}
		return earlyanswer.Conn(conn), nil
	}}}
	resp, err := client.Post("http://example.com/", "text/plain", strings.NewReader(strings.Repeat("x", 4<<20)))
	if err == nil {
		_ = resp.Body.Close()
		t.Error("a request without an answer succeeds")
	}
}
