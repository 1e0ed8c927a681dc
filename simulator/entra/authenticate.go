package entra

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/keyagent/keyagent/simulator/internal/leg"
	"github.com/keyagent/keyagent/simulator/pki"
)

// authenticate returns the principal that the client certificate of the connection stands for. The handshake has already proved
// possession of its key.
func (s *Server) authenticate(state *tls.ConnectionState, clientID string) (*Principal, error) {
	if state == nil || len(state.PeerCertificates) == 0 {
		return nil, refuse(http.StatusUnauthorized, "invalid_client", 7000218,
			"The request body must contain the following parameter: 'client_assertion' or 'client_secret'. No client certificate was presented either.")
	}
	certificate := state.PeerCertificates[0]
	if err := s.checkCertificate(certificate); err != nil {
		return nil, err
	}
	at := slices.IndexFunc(s.cfg.Principals, func(p Principal) bool { return strings.EqualFold(p.ClientID, clientID) })
	if at < 0 {
		return nil, refuse(http.StatusBadRequest, "unauthorized_client", 700016, "Application with identifier '%.40s' was not found in the directory '%s'.", clientID, s.cfg.TenantID)
	}
	if certificate.Subject.CommonName != s.cfg.Principals[at].ClientID {
		return nil, refuse(http.StatusUnauthorized, "invalid_client", 700027, "The client certificate is not registered for application '%s': it was issued to '%.40s'.", clientID, certificate.Subject.CommonName)
	}
	return &s.cfg.Principals[at], nil
}

// checkCertificate checks that the managed identity issuer issued certificate for client authentication, and that it still counts.
func (s *Server) checkCertificate(certificate *x509.Certificate) error {
	now := s.cfg.Now()
	if err := certificate.CheckSignatureFrom(s.cfg.Issuer); err != nil || certificate.Issuer.String() != s.cfg.Issuer.Subject.String() {
		return refuse(http.StatusUnauthorized, "invalid_client", 7000277, "The client certificate was not issued by %s.", pki.IdentityIssuerName)
	}
	if certificate.IsCA || !slices.Contains(certificate.ExtKeyUsage, x509.ExtKeyUsageClientAuth) || certificate.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		return refuse(http.StatusUnauthorized, "invalid_client", 7000277, "The client certificate is not one for client authentication.")
	}
	if now.Before(certificate.NotBefore) || now.After(certificate.NotAfter) {
		return refuse(http.StatusUnauthorized, "invalid_client", 1000502, "The provided certificate is not within its specified validity window.")
	}
	if s.isRevoked(leg.Thumbprint(certificate.Raw)) {
		return refuse(http.StatusUnauthorized, "invalid_client", 7000214, "The client certificate has been revoked.")
	}
	return checkTokenNotAfter(certificate, now)
}

// checkTokenNotAfter checks the time until which the certificate gets tokens, which ends before TLS refuses it.
func checkTokenNotAfter(certificate *x509.Certificate, now time.Time) error {
	for _, extension := range certificate.Extensions {
		if !extension.Id.Equal(pki.OIDTokenNotAfter()) {
			continue
		}
		var end time.Time
		rest, err := asn1.UnmarshalWithParams(extension.Value, &end, "generalized")
		if err != nil || len(rest) != 0 || now.After(end) {
			return refuse(http.StatusBadRequest, "invalid_request", 1000901, "The token_not_after time of the client certificate has passed.")
		}
	}
	return nil
}
