package tlsbridge

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"
	"syscall"
	"time"
)

// notEstablished is all that net/http says when an HTTP/2 connection ends before its
// first request, which is what a server's refusal of a certificate looks like in TLS 1.3:
// the alert comes when the handshake is over for the client. The error has no name.
const notEstablished = "http2: client conn could not be established"

// cause adds to a request's error why its connection ended, where net/http does not say so, and
// marks a refusal of the certificate that comes from the server itself.
type cause struct{ next http.RoundTripper }

func (c *cause) RoundTrip(req *http.Request) (*http.Response, error) {
	var saw connections
	resp, err := c.next.RoundTrip(req.WithContext(httptrace.WithClientTrace(req.Context(), saw.trace())))
	if err == nil {
		return resp, nil
	}
	stands := saw.stands.Load()
	if stands != nil && ended(err) {
		err = withReadError(err, stands)
	}
	if stands != nil && CertificateRefused(err) && !saw.failedWith(err) {
		err = &provenError{err}
	}
	return resp, err
}

// ended reports whether err says that the connection is closed, and not why. Only then may the
// connection be read: as long as it is open, every byte belongs to net/http.
func ended(err error) bool {
	return err.Error() == notEstablished || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)
}

// connections has the observations of the connections that one request opened or used.
type connections struct {
	stands atomic.Pointer[tls.Conn] // of the last attempt, if its handshake was complete
	failed atomic.Pointer[error]    // of the last handshake that was not completed
}

func (s *connections) trace() *httptrace.ClientTrace {
	return &httptrace.ClientTrace{
		// Another attempt begins. Its outcome says nothing about the previous connection,
		// which may still be open.
		GetConn: func(string) { s.stands.Store(nil) },
		GotConn: func(info httptrace.GotConnInfo) {
			if got, ok := info.Conn.(*tls.Conn); ok {
				s.stands.Store(got)
			}
		},
		TLSHandshakeDone: func(_ tls.ConnectionState, err error) {
			if err != nil {
				s.failed.Store(&err)
			}
		},
	}
}

// failedWith reports whether err is that of a handshake.
func (s *connections) failedWith(err error) bool {
	failed := s.failed.Load()
	return failed != nil && errors.Is(err, *failed)
}

// lastRead bounds the reading of a connection that has ended: no more data will arrive.
const lastRead = 100 * time.Millisecond

// withReadError reads from a connection that has ended, which returns the alert that ended it. The
// deadline also ends a read by net/http that is still in progress and holds the connection's lock.
func withReadError(err error, conn *tls.Conn) error {
	_ = conn.SetReadDeadline(time.Now().Add(lastRead)) // on a closed connection it fails, and so does the read
	_, why := conn.Read(make([]byte, 1))
	if _, alert := remoteAlert(why); alert {
		return fmt.Errorf("%w: %w", err, why)
	}
	return err
}
