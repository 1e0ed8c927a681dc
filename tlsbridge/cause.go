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

// cause adds to the error of a request why its connection ended, where net/http does not tell, and marks a refusal of the certificate
// that the server itself has sent.
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

// ended reports whether err says that the connection is closed, and not why. Only then
// may it be read: of a living one every byte belongs to net/http.
func ended(err error) bool {
	return err.Error() == notEstablished || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)
}

// connections is what was seen of those that one request began or used.
type connections struct {
	stands atomic.Pointer[tls.Conn] // that of the last attempt, if its handshake was complete
	failed atomic.Pointer[error]    // of the last handshake that was not completed
}

func (s *connections) trace() *httptrace.ClientTrace {
	return &httptrace.ClientTrace{
		// Another attempt begins: what becomes of it says nothing about the connection of the one before, which may live.
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

// lastRead bounds the reading of a connection that has ended: nothing is to come any more.
const lastRead = 100 * time.Millisecond

// withReadError asks a connection that has ended: it keeps the alert that ended it. The deadline is for whoever else may still
// be reading it, too: he holds its lock.
func withReadError(err error, conn *tls.Conn) error {
	_ = conn.SetReadDeadline(time.Now().Add(lastRead)) // of one that is closed it fails, and so does the reading, at once
	_, why := conn.Read(make([]byte, 1))
	if _, alert := remoteAlert(why); alert {
		return fmt.Errorf("%w: %w", err, why)
	}
	return err
}
