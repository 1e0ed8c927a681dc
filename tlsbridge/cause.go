package tlsbridge

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"
)

// notEstablished is all that net/http says when an HTTP/2 connection ends before its
// first request, which is what a server's refusal of a certificate looks like in TLS 1.3:
// the alert comes when the handshake is over for the client. The error has no name.
const notEstablished = "http2: client conn could not be established"

// cause adds to that error why the connection ended.
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
	if err != nil && err.Error() == notEstablished && conn.Load() != nil {
		err = withReadError(err, conn.Load())
	}
	return resp, err
}

// withReadError asks a connection that has ended: it keeps the error that ended it.
func withReadError(err error, conn *tls.Conn) error {
	if _, why := conn.Read(make([]byte, 1)); why != nil {
		return fmt.Errorf("%w: %w", err, why)
	}
	return err
}
