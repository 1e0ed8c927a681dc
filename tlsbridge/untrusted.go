package tlsbridge

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/keyagent/keyagent/internal/upstream"
)

// maxNameBytes bounds a name from a certificate that was not verified.
const maxNameBytes = 160

// UntrustedError says that a server's certificate did not verify, and what names it has. No request
// was sent to the server.
type UntrustedError struct {
	Host    string // that was called, or its proxy; with its port if the URL has one
	Subject string // of the server's certificate; foreign text, clipped and without control characters
	Issuer  string // of that certificate, or of the last one that came with it

	cause      error
	selfSigned bool
}

func (e *UntrustedError) Error() string {
	issued := "issued by " + e.Issuer
	if e.selfSigned {
		issued = "self-signed"
	}
	return fmt.Sprintf("%v: %s showed a certificate of %s, %s%s", e.cause, e.Host, e.Subject, issued, e.meaning())
}

// meaning says what the certificate suggests about the connection.
func (e *UntrustedError) meaning() string {
	switch {
	case e.outsideValidity():
		return ""
	case e.otherName():
		return ": another server answers, or something on the way ends TLS (TLS inspection, a captive portal)"
	}
	return ": something on the way ends TLS (TLS inspection), or its authority is missing here"
}

// Hint says what an operator can do.
func (e *UntrustedError) Hint() string {
	switch {
	case e.outsideValidity():
		return "check this machine's clock"
	case e.otherName():
		return "check DNS and the endpoints in the configuration, and have TLS inspection leave " + e.Host + " alone"
	}
	return "have TLS inspection leave " + e.Host + " alone: through it no bound credential works, since Entra has to see this machine's own certificate. " +
		"If it is an authority of yours (a private cloud, a simulator), name it in ca_file"
}

func (e *UntrustedError) outsideValidity() bool {
	invalid, ok := errors.AsType[x509.CertificateInvalidError](e.cause)
	return ok && invalid.Reason == x509.Expired
}

func (e *UntrustedError) otherName() bool {
	_, ok := errors.AsType[x509.HostnameError](e.cause)
	return ok
}

// Unwrap returns the error of crypto/tls.
func (e *UntrustedError) Unwrap() error { return e.cause }

// naming turns the error about a server's certificate into an [*UntrustedError] with the names in
// it.
type naming struct{ *http.Transport }

// ProxyOf says which proxy a request goes through; nil: none.
func (n naming) ProxyOf(req *http.Request) (*url.URL, error) { return n.Proxy(req) }

func (n naming) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := n.Transport.RoundTrip(req)
	return resp, named(err, req.URL.Host)
}

// named returns err as an [*UntrustedError] of host if it is about a server's certificate and is
// not one yet.
func named(err error, host string) error {
	refused, ok := errors.AsType[*tls.CertificateVerificationError](err)
	if _, is := errors.AsType[*UntrustedError](err); is || !ok || len(refused.UnverifiedCertificates) == 0 {
		return err
	}
	chain := refused.UnverifiedCertificates
	leaf, last := chain[0], chain[len(chain)-1]
	return &UntrustedError{
		Host: host, Subject: subjectOf(leaf), Issuer: nameText(last.Issuer.String()),
		cause: err, selfSigned: len(chain) == 1 && bytes.Equal(leaf.RawSubject, leaf.RawIssuer),
	}
}

// subjectOf returns the subject's name. Many certificates have names only in subjectAltName.
func subjectOf(c *x509.Certificate) string {
	name := c.Subject.String()
	if name == "" {
		name = strings.Join(c.DNSNames, ", ")
	}
	return nameText(name)
}

func nameText(name string) string {
	name = upstream.Text(name)
	if name == "" {
		return "without a name"
	}
	if len(name) > maxNameBytes {
		name = strings.ToValidUTF8(name[:maxNameBytes], "") + "…"
	}
	return fmt.Sprintf("%q", name)
}
