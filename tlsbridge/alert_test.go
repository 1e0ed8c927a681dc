package tlsbridge_test

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyagent/keyagent/tlsbridge"
)

// listen gives each connection to handle, which need not close it.
func listen(t *testing.T, handle func(net.Conn)) (address string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				handle(conn)
			}()
		}
	}()
	return listener.Addr().String()
}

// serverConfig is a TLS server's with a certificate that the returned roots vouch for.
func serverConfig(t *testing.T) (*tls.Config, *x509.CertPool) {
	t.Helper()
	server := httptest.NewTLSServer(nil)
	defer server.Close()
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	return &tls.Config{Certificates: server.TLS.Certificates}, roots
}

func TestCertificateRefusedByRealServers(t *testing.T) {
	trusting := func(t *testing.T, pair tlsbridge.Pair) *x509.CertPool {
		leaf, err := x509.ParseCertificate(pair.Chain[0])
		if err != nil {
			t.Fatal(err)
		}
		pool := x509.NewCertPool()
		pool.AddCert(leaf)
		return pool
	}
	for _, tc := range []struct {
		name      string
		configure func(*testing.T, *tls.Config, tlsbridge.Pair)
		want      bool
	}{
		{"an issuer that it does not know", func(_ *testing.T, c *tls.Config, _ tlsbridge.Pair) {
			c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
		}, true},
		{"a certificate that is over by its clock", func(t *testing.T, c *tls.Config, p tlsbridge.Pair) {
			c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, trusting(t, p)
			c.Time = func() time.Time { return time.Now().Add(48 * time.Hour) }
		}, true},
		{"a certificate on its own list", func(_ *testing.T, c *tls.Config, _ tlsbridge.Pair) {
			c.ClientAuth = tls.RequireAnyClientCert
			c.VerifyPeerCertificate = func([][]byte, [][]*x509.Certificate) error { return errors.New("revoked") }
		}, true},
		{"a protocol that it does not speak", func(_ *testing.T, c *tls.Config, _ tlsbridge.Pair) {
			c.NextProtos = []string{"smtp"}
		}, false},
		{"no key agreement in common", func(_ *testing.T, c *tls.Config, _ tlsbridge.Pair) {
			c.CurvePreferences = []tls.CurveID{tls.X25519}
		}, false},
	} {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			for _, protocol := range []string{"http/1.1", "h2"} {
				t.Run(tc.name+", "+tls.VersionName(version)+", "+protocol, func(t *testing.T) {
					pair, _ := newPair(t, "bound")
					config, roots := serverConfig(t)
					config.MinVersion, config.MaxVersion, config.NextProtos = version, version, []string{protocol}
					tc.configure(t, config, pair)
					b, err := tlsbridge.New(tlsbridge.Config{RootCAs: roots}, pair)
					if err != nil {
						t.Fatal(err)
					}
					defer b.Close()
					_, err = get(t, b, "https://"+listen(t, refuse(t, config)))
					if err == nil || tlsbridge.CertificateRefused(err) != tc.want {
						t.Errorf("got %v, classified as a refusal: %v, want %v", err, tlsbridge.CertificateRefused(err), tc.want)
					}
					// In TLS 1.3 it comes when the server has proven its identity; before, anybody
					// could have sent it.
					if proven := tc.want && version == tls.VersionTLS13; tlsbridge.RefusalProven(err) != proven {
						t.Errorf("got %v, classified as proven: %v, want %v", err, !proven, proven)
					}
				})
			}
		}
	}
}

// refuse makes the handshake, which fails, and reads on until the client is gone: a
// server that closes with data unread resets the connection, and the alert may be lost.
func refuse(t *testing.T, config *tls.Config) func(net.Conn) {
	return func(conn net.Conn) {
		_ = tls.Server(conn, config).HandshakeContext(t.Context())
		_, _ = io.Copy(io.Discard, conn)
	}
}

func TestCertificateRequired(t *testing.T) {
	// TLS 1.2 has no alert for it (RFC 5246, 7.4.6), only a general one.
	for version, want := range map[uint16]bool{tls.VersionTLS12: false, tls.VersionTLS13: true} {
		config, roots := serverConfig(t)
		config.MinVersion, config.MaxVersion, config.ClientAuth = version, version, tls.RequireAnyClientCert
		resp, err := send(t, tlsbridge.NewClient(tlsbridge.Config{RootCAs: roots}), "https://"+listen(t, refuse(t, config)))
		if err == nil {
			resp.Body.Close()
		}
		if err == nil || tlsbridge.CertificateRefused(err) != want {
			t.Errorf("%s: got %v, want a refusal: %v", tls.VersionName(version), err, want)
		}
	}
}

// Most alerts are not in the gift of Go's server. In answer to a ClientHello they are
// plain: a record of type 21, fatal.
func TestAlertsAboutCertificates(t *testing.T) {
	refusals := map[byte]bool{42: true, 43: true, 44: true, 45: true, 46: true, 48: true, 49: true, 116: true}
	for code := range byte(122) {
		if code == 0 || code == 90 {
			continue // close_notify and user_canceled end or say nothing
		}
		address := listen(t, func(conn net.Conn) {
			_, _ = conn.Read(make([]byte, 1))
			_, _ = conn.Write([]byte{21, 3, 3, 0, 2, 2, code})
			_, _ = io.Copy(io.Discard, conn)
		})
		b := newBridge(t, tlsbridge.Config{})
		_, err := get(t, b, "https://"+address)
		if err == nil || tlsbridge.CertificateRefused(err) != refusals[code] {
			t.Errorf("alert %d: got %v, classified as a refusal: %v", code, err, tlsbridge.CertificateRefused(err))
		}
		if tlsbridge.RefusalProven(err) {
			t.Errorf("alert %d: an alert in the clear was taken for the server's own word", code)
		}
	}
}

// An attacker in the network's path can cut a connection that stands, and answer the next
// handshake.
func TestAnAlertInTheClearAfterAGoodConnectionIsNotProven(t *testing.T) {
	config, roots := serverConfig(t)
	config.NextProtos = []string{"http/1.1"}
	var connections atomic.Int64
	address := listen(t, func(conn net.Conn) {
		if connections.Add(1) > 1 {
			_, _ = conn.Read(make([]byte, 1))
			_, _ = conn.Write([]byte{21, 3, 3, 0, 2, 2, 44})
			_, _ = io.Copy(io.Discard, conn)
			return
		}
		server := tls.Server(conn, config)
		_, _ = server.Read(make([]byte, 4096))
		_, _ = io.WriteString(server, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		_, _ = server.Read(make([]byte, 4096)) // the second request, which gets no answer
	})
	pair, _ := newPair(t, "bound")
	b, err := tlsbridge.New(tlsbridge.Config{RootCAs: roots}, pair)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	for n := range 2 {
		_, err = get(t, b, "https://"+address)
		if n == 0 && err != nil {
			t.Fatal(err)
		}
	}
	if !tlsbridge.CertificateRefused(err) || tlsbridge.RefusalProven(err) || connections.Load() != 2 {
		t.Errorf("got %v on %d connections, want a refusal that is not proven", err, connections.Load())
	}
}

func TestOtherFailuresAreNoRefusals(t *testing.T) {
	reset := listen(t, func(conn net.Conn) {
		_, _ = conn.Read(make([]byte, 1))
		_ = conn.(*net.TCPConn).SetLinger(0)
	})
	b := newBridge(t, tlsbridge.Config{})
	if _, err := get(t, b, "https://"+reset); err == nil || tlsbridge.CertificateRefused(err) {
		t.Errorf("a reset: got %v", err)
	}

	server, cfg := start(t, true, rendezvous(1), nil)
	pair, key := newPair(t, "bound")
	pair.Signer = func(context.Context) crypto.Signer { return failingKey{key} }
	broken, err := tlsbridge.New(cfg, pair)
	if err != nil {
		t.Fatal(err)
	}
	defer broken.Close()
	if _, err := get(t, broken, server.URL); err == nil || !strings.Contains(err.Error(), errKey.Error()) || tlsbridge.CertificateRefused(err) {
		t.Errorf("a key that fails: got %v, want its own error", err)
	}

	for name, err := range map[string]error{
		"no error":              nil,
		"a time-out":            context.DeadlineExceeded,
		"our own alert":         &net.OpError{Op: "local error", Err: tls.AlertError(42)},
		"the same words":        errors.New("remote error: tls: bad certificate"),
		"a proxy's own refusal": fmt.Errorf("proxy: %w", errors.New("tls: bad certificate")),
	} {
		if tlsbridge.CertificateRefused(err) {
			t.Errorf("%s: taken for a refusal", name)
		}
	}
}
