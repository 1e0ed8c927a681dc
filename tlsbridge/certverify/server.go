package certverify

import (
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/keyagent/keyagent/internal/certs"
)

// VerifyServer refuses a message unless a certificate authority among roots (nil: those of the
// system) has certified the server for [Message.ServerName], and the server's key has signed the
// key agreement of this handshake. What that is worth, the package's comment says.
func (m *Message) VerifyServer(roots *x509.CertPool, now time.Time) error {
	t := m.transcript
	if t == nil {
		return errNoTranscript
	}
	if t.serverName == "" {
		return errors.New("the client does not say which server it calls: it calls it by its address")
	}
	leaf, err := t.verifyChain(roots, now)
	if err != nil {
		return fmt.Errorf("the certificate of server %s: %w", t.serverName, err)
	}
	scheme, ok := schemes[t.scheme]
	if !ok {
		return fmt.Errorf("server %s signs by scheme %v, which is not accepted", t.serverName, t.scheme)
	}
	if err := scheme.verify(leaf.PublicKey, slices.Concat(t.clientRandom, t.serverRandom, t.agreement), t.signature); err != nil {
		return fmt.Errorf("the key agreement of server %s: %w", t.serverName, err)
	}
	return nil
}

func (t *transcript) verifyChain(roots *x509.CertPool, now time.Time) (*x509.Certificate, error) {
	intermediates := x509.NewCertPool()
	var leaf *x509.Certificate
	for i, der := range t.serverChain {
		certificate, err := x509.ParseCertificate(der)
		switch {
		case err != nil && i == 0:
			return nil, errors.New("it cannot be read")
		case err != nil:
		case certs.CheckKey(certificate.PublicKey) != nil: // before anything is verified with it
			return nil, fmt.Errorf("certificate %d: %w", i, certs.CheckKey(certificate.PublicKey))
		case i == 0:
			leaf = certificate
		default:
			intermediates.AddCert(certificate)
		}
	}
	_, err := leaf.Verify(x509.VerifyOptions{
		DNSName: t.serverName, Roots: roots, Intermediates: intermediates, CurrentTime: now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	return leaf, err
}
