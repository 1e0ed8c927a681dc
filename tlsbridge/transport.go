package tlsbridge

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/keyagent/keyagent/internal/upstream"
)

const (
	dialTimeout = 10 * time.Second

	// handshakeTimeout bounds a handshake, the client's signature included.
	handshakeTimeout = 10 * time.Second

	// connsPerHost bounds the cost of a server without HTTP/2: each connection costs a
	// signature. As many are kept idle, so that they need not be opened again.
	connsPerHost = 4
)

// Config says how servers are reached and which certificates are trusted. The zero value is
// usable.
type Config struct {
	RootCAs *x509.CertPool   // nil means the system's roots
	Now     func() time.Time // for certificate validity; nil means time.Now

	// Proxy chooses the proxy of a request, as http.Transport has it; nil means none.
	// A proxy over https is verified like any server.
	Proxy func(*http.Request) (*url.URL, error)

	// Dial opens TCP connections; nil means a net.Dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// NewClient returns a client for servers that want no client certificate. It follows no
// redirects. Its idle connections end after 90 seconds, or by CloseIdleConnections.
func NewClient(cfg Config) *http.Client {
	return &http.Client{Transport: naming{newTransport(cfg, serverTLS(cfg))}, CheckRedirect: upstream.RefuseRedirects}
}

func newTransport(cfg Config, tlsConfig *tls.Config) *http.Transport {
	route := newRoute(cfg)
	return &http.Transport{
		Proxy:                  route.proxyFor,
		OnProxyConnectResponse: proxyAnswered,
		DialContext:            route.dial,
		TLSClientConfig:        tlsConfig,
		TLSHandshakeTimeout:    handshakeTimeout,
		ForceAttemptHTTP2:      true,
		MaxConnsPerHost:        connsPerHost,
		MaxIdleConnsPerHost:    connsPerHost,
		IdleConnTimeout:        90 * time.Second,
		ResponseHeaderTimeout:  30 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
	}
}

// serverTLS verifies a server and presents nothing.
func serverTLS(cfg Config) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		RootCAs:    cfg.RootCAs,
		Time:       cfg.Now,
		CipherSuites: []uint16{
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
		},
		CurvePreferences: []tls.CurveID{tls.CurveP256, tls.CurveP384},
	}
}
