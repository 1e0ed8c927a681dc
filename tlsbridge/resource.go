package tlsbridge

import (
	"context"
	"crypto/tls"
	"net/http"
	"time"
)

// maxSignatures is how many handshakes with resources may wait for the key at once: programs choose
// how many there are, and the key has other work.
const maxSignatures = 4

const (
	// streamWindow is how much of one answer a connection of HTTP/2 holds for a program that reads
	// slowly. connWindow has room for as many such programs as a server lets in at once, so that
	// none of them stops the others.
	streamWindow = 256 << 10
	connWindow   = 256 * streamWindow
)

// Resource says how a resource asks for the certificate.
type Resource int

const (
	// AsksAtOnce is a resource that asks in the first handshake, over TLS 1.2 or 1.3 and HTTP/1.1
	// or HTTP/2.
	AsksAtOnce Resource = iota
	// AsksLater is a resource that asks once it has seen the request, by renegotiation, as Azure
	// Key Vault does. There is none in TLS 1.3, and none with HTTP/2, so these are not offered.
	AsksLater
)

// NewForResource returns a bridge to resources that take tokens bound to the pair's certificate.
// Requests and answers may be streams: time and size are bounded by whoever reads and writes them.
// It does not connect.
func NewForResource(cfg Config, pair Pair, resource Resource) (*Bridge, error) {
	b, err := New(cfg, pair)
	if err != nil {
		return nil, err
	}
	b.turns = make(chan struct{}, maxSignatures)
	t := b.transport
	t.MaxConnsPerHost, t.MaxIdleConnsPerHost, t.MaxIdleConns = 0, 8, 64
	t.ResponseHeaderTimeout, t.ExpectContinueTimeout = 0, time.Second
	t.DisableCompression = true // the answer is the program's, byte for byte
	t.ReadBufferSize, t.WriteBufferSize = 64<<10, 64<<10
	t.HTTP2 = &http.HTTP2Config{
		MaxReceiveBufferPerStream: streamWindow, MaxReceiveBufferPerConnection: connWindow,
		SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second,
	}
	if resource == AsksLater {
		t.ForceAttemptHTTP2 = false
		t.TLSClientConfig.MaxVersion = tls.VersionTLS12
		t.TLSClientConfig.Renegotiation = tls.RenegotiateOnceAsClient
	}
	return b, nil
}

// turn waits until the key may be used. A bridge without turns does not wait.
func (b *Bridge) turn(ctx context.Context) (end func(), err error) {
	if b.turns == nil {
		return func() {}, nil
	}
	select {
	case b.turns <- struct{}{}:
		return func() { <-b.turns }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}
