package tlsbridge

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// handshakeTimeout bounds a handshake, the client's signature included.
const handshakeTimeout = 10 * time.Second

// Pair is a certificate and the key that it certifies. It is immutable.
type Pair struct {
	// Certificate is the leaf certificate's DER. Only the leaf is sent.
	Certificate []byte
	// Signer returns a view of the key whose signatures honour ctx.
	Signer func(ctx context.Context) crypto.Signer
	// SignatureSchemes is what the key can do, best first; nil leaves the choice
	// to the standard library.
	SignatureSchemes []tls.SignatureScheme
}

// Config configures a [Bridge].
type Config struct {
	RootCAs *x509.CertPool   // nil means the system's roots
	Now     func() time.Time // for certificate validity; nil means time.Now
}

// Handshake describes the last handshake in which the key signed.
type Handshake struct {
	Version   uint16              // TLS version, as tls.VersionTLS13
	Signature tls.SignatureScheme // of the client's CertificateVerify
	Count     uint64              // handshakes signed by this bridge so far
}

// SignatureName returns the scheme under its TLS name (RFC 8446, 4.2.3), as in
// "rsa_pss_rsae_sha256".
func (h Handshake) SignatureName() string {
	if name, ok := schemeNames[h.Signature]; ok {
		return name
	}
	return h.Signature.String()
}

// VersionName returns the version as in "TLS 1.3", or "" before any handshake.
func (h Handshake) VersionName() string {
	if h.Version == 0 {
		return ""
	}
	return tls.VersionName(h.Version)
}

var schemeNames = map[tls.SignatureScheme]string{
	tls.PSSWithSHA256:   "rsa_pss_rsae_sha256",
	tls.PSSWithSHA384:   "rsa_pss_rsae_sha384",
	tls.PSSWithSHA512:   "rsa_pss_rsae_sha512",
	tls.PKCS1WithSHA256: "rsa_pkcs1_sha256",
	tls.PKCS1WithSHA384: "rsa_pkcs1_sha384",
	tls.PKCS1WithSHA512: "rsa_pkcs1_sha512",
}

// Bridge makes HTTP requests over mutual TLS with one pair. It is safe for
// concurrent use.
type Bridge struct {
	pair      Pair
	transport *http.Transport
	client    *http.Client
	handshake atomic.Pointer[Handshake]
	signed    atomic.Uint64
}

// New returns a bridge for pair. It does not connect.
func New(cfg Config, pair Pair) (*Bridge, error) {
	if len(pair.Certificate) == 0 || pair.Signer == nil {
		return nil, errors.New("tlsbridge: a pair needs a certificate and a key")
	}
	b := &Bridge{pair: pair}
	b.transport = &http.Transport{
		Proxy:       nil,
		DialContext: (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig: &tls.Config{
			MinVersion:           tls.VersionTLS12,
			RootCAs:              cfg.RootCAs,
			Time:                 cfg.Now,
			GetClientCertificate: b.clientCertificate,
		},
		TLSHandshakeTimeout:    handshakeTimeout,
		ForceAttemptHTTP2:      true,
		MaxIdleConnsPerHost:    2,
		IdleConnTimeout:        90 * time.Second,
		ResponseHeaderTimeout:  30 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
	}
	b.client = &http.Client{
		Transport:     b.transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return b, nil
}

// Client returns the client whose connections present the pair's certificate.
func (b *Bridge) Client() *http.Client { return b.client }

// Handshake returns what is known of the last handshake; the zero value before
// the first.
func (b *Bridge) Handshake() Handshake {
	if h := b.handshake.Load(); h != nil {
		return *h
	}
	return Handshake{}
}

// Close closes idle connections, so that none goes on presenting an old
// certificate. Requests under way finish. It may be called more than once.
func (b *Bridge) Close() { b.transport.CloseIdleConnections() }

func (b *Bridge) clientCertificate(info *tls.CertificateRequestInfo) (*tls.Certificate, error) {
	return &tls.Certificate{
		Certificate:                  [][]byte{b.pair.Certificate},
		SupportedSignatureAlgorithms: b.pair.SignatureSchemes,
		PrivateKey:                   &handshakeSigner{ctx: info.Context(), bridge: b, version: info.Version},
	}, nil
}
