package tlsbridge

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"net/url"
	"sync/atomic"

	"github.com/keyagent/keyagent/internal/upstream"
	"github.com/keyagent/keyagent/tlsbridge/certverify"
)

// Pair is a certificate and the key that it certifies. It is immutable.
type Pair struct {
	// Chain is the certificates in DER, the leaf first. Exactly these are sent: a
	// binding certificate is sent without its issuers.
	Chain [][]byte
	// Signer returns a view of the key whose signatures honour ctx.
	Signer func(ctx context.Context) crypto.Signer
	// SignatureSchemes are those that the key supports, the preferred first; nil leaves the choice
	// to the standard library.
	SignatureSchemes []tls.SignatureScheme
}

// Handshake describes the last handshake in which the key signed.
type Handshake struct {
	Version   uint16              // TLS version, as tls.VersionTLS13
	Signature tls.SignatureScheme // of the client's CertificateVerify
	Count     uint64              // handshakes signed by this bridge so far
}

// SignatureName returns the scheme under its TLS name (RFC 8446, 4.2.3), as in
// "rsa_pss_rsae_sha256".
func (h Handshake) SignatureName() string { return certverify.SchemeName(h.Signature) }

// VersionName returns the version as in "TLS 1.3", or "" before any handshake.
func (h Handshake) VersionName() string {
	if h.Version == 0 {
		return ""
	}
	return tls.VersionName(h.Version)
}

// Bridge makes HTTP requests over mutual TLS with one pair. It is safe for
// concurrent use.
type Bridge struct {
	pair      Pair
	transport *http.Transport
	client    *http.Client
	closed    atomic.Bool
	handshake atomic.Pointer[Handshake]
	signed    atomic.Uint64
	turns     chan struct{} // one element for each signature under way; nil: they are not counted
}

// New returns a bridge for pair. It does not connect.
func New(cfg Config, pair Pair) (*Bridge, error) {
	if len(pair.Chain) == 0 || len(pair.Chain[0]) == 0 || pair.Signer == nil {
		return nil, errors.New("tlsbridge: a pair needs a certificate and a key")
	}
	b := &Bridge{pair: pair}
	config := serverTLS(cfg)
	config.GetClientCertificate = b.clientCertificate
	b.transport = newTransport(cfg, config)
	b.client = &http.Client{
		Transport:     &tidy{newGate(&cause{naming{b.transport}}), b.transport.Proxy, b.closeIdle},
		CheckRedirect: upstream.RefuseRedirects,
	}
	return b, nil
}

// Pair is what the bridge's connections present.
func (b *Bridge) Pair() Pair { return b.pair }

// Thumbprint is the x5t#S256 of the pair's certificate (RFC 8705, 3.1).
func (b *Bridge) Thumbprint() string {
	sum := sha256.Sum256(b.pair.Chain[0])
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// Client returns the client whose connections present the pair's certificate.
func (b *Bridge) Client() *http.Client { return b.client }

// Handshake describes the last handshake; it returns the zero value before the first.
func (b *Bridge) Handshake() Handshake {
	if h := b.handshake.Load(); h != nil {
		return *h
	}
	return Handshake{}
}

// Close closes idle connections, so that no connection with an old certificate stays open. Requests
// in progress finish, and later ones still work; their connections end with them. It may be called
// more than once.
func (b *Bridge) Close() {
	b.closed.Store(true)
	b.transport.CloseIdleConnections()
}

// closeIdle runs whenever a request is over.
func (b *Bridge) closeIdle() {
	if b.closed.Load() {
		b.transport.CloseIdleConnections()
	}
}

// schemeChooser is a key that finds out what it can sign with when a server wants it.
type schemeChooser interface {
	SchemesFor(server []tls.SignatureScheme) []tls.SignatureScheme
}

// schemes returns what the key can do for the server of a handshake, within its time.
func (b *Bridge) schemes(info *tls.CertificateRequestInfo) []tls.SignatureScheme {
	ctx, cancel := context.WithTimeout(info.Context(), handshakeTimeout)
	defer cancel()
	if key, ok := b.pair.Signer(ctx).(schemeChooser); ok {
		return key.SchemesFor(info.SignatureSchemes)
	}
	return b.pair.SignatureSchemes
}

func (b *Bridge) clientCertificate(info *tls.CertificateRequestInfo) (*tls.Certificate, error) {
	return &tls.Certificate{
		Certificate:                  b.pair.Chain,
		SupportedSignatureAlgorithms: b.schemes(info),
		PrivateKey:                   &handshakeSigner{ctx: info.Context(), bridge: b, version: info.Version},
	}, nil
}

// tidy calls after when a request is over: when it failed, or its answer was read.
type tidy struct {
	next    http.RoundTripper
	proxyOf func(*http.Request) (*url.URL, error)
	after   func()
}

// ProxyOf says which proxy a request goes through; nil: none.
func (t *tidy) ProxyOf(req *http.Request) (*url.URL, error) { return t.proxyOf(req) }

func (t *tidy) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.next.RoundTrip(req)
	if err != nil {
		t.after()
		return nil, err
	}
	resp.Body = &tidyBody{resp.Body, t.after}
	return resp, nil
}

type tidyBody struct {
	io.ReadCloser
	after func()
}

func (b *tidyBody) Close() error {
	err := b.ReadCloser.Close()
	b.after()
	return err
}
