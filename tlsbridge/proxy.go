package tlsbridge

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/keyagent/keyagent/internal/earlyanswer"
)

// route dials servers, or the proxies before them.
//
// http.Transport sees every proxy as one over http. For a proxy over https it would use the TLS
// configuration of the server behind it, and so present the client certificate to the proxy; here
// the dialer makes the TLS connection with the proxy.
type route struct {
	dialTCP  func(ctx context.Context, network, address string) (net.Conn, error)
	choose   func(*http.Request) (*url.URL, error) // nil: no proxies
	proxyTLS *tls.Config
	secure   sync.Map // addresses of the proxies over https
}

func newRoute(cfg Config) *route {
	r := &route{dialTCP: cfg.Dial, choose: cfg.Proxy, proxyTLS: serverTLS(cfg)}
	if r.dialTCP == nil {
		r.dialTCP = (&net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}).DialContext
	}
	return r
}

func (r *route) proxyFor(req *http.Request) (*url.URL, error) {
	if r.choose == nil {
		return nil, nil
	}
	u, err := r.choose(req)
	if err != nil || u == nil || u.Scheme != "https" {
		return u, err
	}
	plain := *u
	plain.Scheme = "http"
	plain.Host = net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), "443"))
	r.secure.Store(plain.Host, true)
	return &plain, nil
}

func (r *route) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := r.dialTCP(ctx, network, address)
	if err != nil {
		return nil, err
	}
	conn = earlyanswer.Conn(conn)
	if _, secure := r.secure.Load(address); !secure {
		return conn, nil
	}
	return r.secureProxy(ctx, conn, address)
}

func (r *route) secureProxy(ctx context.Context, conn net.Conn, address string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	config := r.proxyTLS.Clone()
	config.ServerName = host
	secured := tls.Client(conn, config)
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	if err := secured.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("TLS with the proxy %s: %w", address, named(ownAlert(err), address))
	}
	return proxyConn{secured}, nil
}

// proxyConn keeps a proxy's alerts apart from those of the server behind it, which
// [CertificateRefused] is about. In TLS 1.3 an alert may come after the handshake.
type proxyConn struct{ *tls.Conn }

func (c proxyConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	return n, ownAlert(err)
}

func ownAlert(err error) error {
	if alert, ok := remoteAlert(err); ok {
		return errors.New("proxy: " + alert)
	}
	return err
}

// proxyAnswered turns a proxy's refusal into an error. It names the proxy by its host:
// the URL may have a password in it.
func proxyAnswered(_ context.Context, proxy *url.URL, connect *http.Request, answer *http.Response) error {
	switch answer.StatusCode {
	case http.StatusOK:
		return nil
	case http.StatusProxyAuthRequired:
		return fmt.Errorf("proxy %s wants other credentials (status 407): check the proxy's user name and password", proxy.Host)
	}
	return fmt.Errorf("proxy %s does not connect to %s (status %d): check that it allows this host", proxy.Host, connect.URL.Opaque, answer.StatusCode)
}
