package entra_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/keyagent/keyagent/acquire/entra"
	"github.com/keyagent/keyagent/internal/secret"
)

// TestAConnectionThatIsCutIsTriedAgainOnce cuts real connections at different moments of a request.
func TestAConnectionThatIsCutIsTriedAgainOnce(t *testing.T) {
	reset := func(conn net.Conn) {
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // closing then resets
		}
	}
	for _, tt := range []struct {
		name string
		cut  func(conn net.Conn)
		cuts int64
		ok   bool
	}{
		{"reset before an answer", reset, 1, true},
		{"closed before an answer", func(net.Conn) {}, 1, true},
		{"closed within the headers", func(conn net.Conn) { _, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n") }, 1, true},
		{"closed within the body", func(conn net.Conn) {
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"token_type\"")
		}, 1, true},
		{"reset again and again", reset, 99, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var requests, signed atomic.Int64
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if requests.Add(1) > tt.cuts {
					_, _ = io.WriteString(w, good)
					return
				}
				conn, _, err := http.NewResponseController(w).Hijack()
				if err != nil {
					t.Error(err)
					return
				}
				tt.cut(conn)
				_ = conn.Close()
			}))
			defer server.Close()
			r := bearer
			r.Endpoint, r.TokenType, r.AssertionType = server.URL, "", entra.AssertionBearer
			r.Sign = func() (secret.String, error) { return secret.New(fmt.Sprint("assertion-", signed.Add(1))), nil }
			pauses := 0
			client := entra.New(entra.Config{Sleep: func(context.Context, time.Duration) error { pauses++; return nil }})
			_, err := client.Token(t.Context(), server.Client(), r)
			if (err == nil) != tt.ok || !tt.ok && !errors.Is(err, entra.ErrUnreachable) {
				t.Errorf("got %v", err)
			}
			if requests.Load() != 2 || signed.Load() != 2 || pauses != 1 {
				t.Errorf("%d requests, %d assertions, %d pauses; want two requests with an assertion each", requests.Load(), signed.Load(), pauses)
			}
		})
	}
}

// An answer of the other side is not a cut connection, nor is an error that asking again does not
// change.
func TestErrorsOtherThanACutConnectionAreNotRetried(t *testing.T) {
	for name, err := range map[string]error{
		"an alert":               &net.OpError{Op: "remote error", Err: tls.AlertError(42)},
		"an alert after a reset": fmt.Errorf("%w: %w", syscall.ECONNRESET, &net.OpError{Op: "remote error", Err: tls.AlertError(42)}),
		"nobody listens":         &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED},
		"no such host":           &net.DNSError{Name: "x", IsNotFound: true},
		"somebody else's name":   errors.New("x509: certificate is valid for other.example"),
	} {
		attempts := 0
		hc := &http.Client{Transport: roundTripper(func(*http.Request) (*http.Response, error) {
			attempts++
			return nil, err
		})}
		client := entra.New(entra.Config{Sleep: func(context.Context, time.Duration) error { return nil }})
		r := bearer
		r.Endpoint = "https://login.example.com/t/oauth2/v2.0/token"
		if _, got := client.Token(t.Context(), hc, r); got == nil || attempts != 1 {
			t.Errorf("%s: %v after %d attempts", name, got, attempts)
		}
	}
}
