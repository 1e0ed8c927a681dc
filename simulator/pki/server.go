package pki

import (
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net"
	"time"
)

// ServerAuthority certifies the loopback servers.
type ServerAuthority struct {
	Root *x509.Certificate

	issuer *authority
}

// NewServerAuthority makes the authority, valid from now on.
func NewServerAuthority(now time.Time) (*ServerAuthority, error) {
	key, err := newECKey(elliptic.P256())
	if err != nil {
		return nil, fmt.Errorf("key of the server CA: %w", err)
	}
	issuer, err := newRoot(caTemplate("Simulated Web Server CA", now, 10, 0), key)
	if err != nil {
		return nil, err
	}
	return &ServerAuthority{Root: issuer.certificate, issuer: issuer}, nil
}

// Certificate issues a server certificate for 127.0.0.1, ::1, localhost and the further DNS names,
// valid for a year.
func (a *ServerAuthority) Certificate(now time.Time, names ...string) (tls.Certificate, error) {
	key, err := newECKey(elliptic.P256())
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("server key: %w", err)
	}
	cert, err := a.issuer.issue(&x509.Certificate{
		Subject:               pkix.Name{CommonName: "localhost"},
		NotBefore:             now.Add(-backdated),
		NotAfter:              now.AddDate(1, 0, 0),
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:              append([]string{"localhost"}, names...),
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	}, key.Public())
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}, nil
}
