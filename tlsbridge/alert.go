package tlsbridge

import (
	"crypto/tls"
	"errors"
	"net"
	"slices"
)

// certificateExpired is also sent about a certificate that is not valid yet.
const certificateExpired = tls.AlertError(45)

// certificateAlerts are the alerts by which a server refuses a client's certificate
// (RFC 8446, 6.2).
var certificateAlerts = []tls.AlertError{
	42, // bad_certificate
	43, // unsupported_certificate
	44, // certificate_revoked
	certificateExpired,
	46,  // certificate_unknown
	48,  // unknown_ca
	49,  // access_denied
	116, // certificate_required
}

// CertificateRefused reports whether err says that the server does not take our
// certificate: by one of the alerts about certificates. A connection that
// is merely reset, a time-out and a failure of our own key are not such alerts. In TLS 1.3
// the alert comes after the handshake, and a server that closes at once may lose it.
func CertificateRefused(err error) bool {
	text, ok := remoteAlert(err)
	return ok && slices.ContainsFunc(certificateAlerts, func(a tls.AlertError) bool { return a.Error() == text })
}

// RefusalProven reports whether a refusal ([CertificateRefused]) came from the server itself: after
// a handshake in which the server had proven its identity. Within a handshake an alert is in the
// clear, so anyone who can write into the connection can send one; in TLS 1.2 no refusal is ever
// proven. It is false for errors that are not from a [Bridge].
func RefusalProven(err error) bool {
	_, ok := errors.AsType[*provenError](err)
	return ok && CertificateRefused(err)
}

// CalledExpired reports whether a refusal ([CertificateRefused]) says that the certificate is
// outside its validity. A server whose clock differs from this machine's may send it for a valid
// certificate.
func CalledExpired(err error) bool {
	text, ok := remoteAlert(err)
	return ok && text == certificateExpired.Error()
}

// provenError marks an error that came over a connection whose handshake was complete.
type provenError struct{ error }

func (e *provenError) Unwrap() error { return e.error }

// remoteAlert returns the text of the alert that the peer sent. crypto/tls has a type for
// it and does not export that; the text of its exported twin is the same.
func remoteAlert(err error) (string, bool) {
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "remote error" {
		return op.Err.Error(), true
	}
	return "", false
}
