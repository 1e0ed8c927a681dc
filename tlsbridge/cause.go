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
)

// cause adds to the error of a request why its connection ended, where net/http does not
// tell. In TLS 1.3 a server's refusal of a certificate arrives when the handshake is over
// for the client: in the middle of the first request or before it.
type cause struct{ next http.RoundTripper }

func (c *cause) RoundTrip(req *http.Request) (*http.Response, error) {
	var conn atomic.Pointer[tls.Conn]
	resp, err := c.next.RoundTrip(req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) {
			if got, ok := info.Conn.(*tls.Conn); ok {
				conn.Store(got)
			}
		},
	})))
	if err != nil && ended(err) && conn.Load() != nil {
		err = withReadError(err, conn.Load())
	}
	return resp, err
}

// notEstablished is what net/http says of an HTTP/2 connection that ends before its first
// request. The error has no name.
const notEstablished = "http2: client conn could not be established"

// ended reports whether err says that the connection is closed, and not why. Only then
// may it be read: of a living one the answer belongs to net/http.
func ended(err error) bool {
	return err.Error() == notEstablished || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)
}

// withReadError asks a connection that has ended: it keeps the alert that ended it.
func withReadError(err error, conn *tls.Conn) error {
	_, why := conn.Read(make([]byte, 1))
	if _, alert := remoteAlert(why); alert {
		return fmt.Errorf("%w: %w", err, why)
	}
	return err
}
