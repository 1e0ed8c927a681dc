package entra

import (
	"crypto/x509"
	"encoding/asn1"
	"net/http"
	"time"

	"github.com/keyagent/keyagent/simulator/internal/endpoint"
	"github.com/keyagent/keyagent/simulator/pki"
)

// checkLife checks that a certificate of a known issuer or registration is still accepted.
func (s *Server) checkLife(certificate *x509.Certificate) error {
	now := s.cfg.Now()
	if now.Before(certificate.NotBefore) || now.After(certificate.NotAfter) {
		return refuse(http.StatusUnauthorized, "invalid_client", 1000502, "The provided certificate is not within its specified validity window.")
	}
	switch code := s.rejection(endpoint.Thumbprint(certificate.Raw)); code {
	case 0:
	case codeRevoked:
		return refuseCode(code, "The client certificate has been revoked.")
	default:
		return refuseCode(code, "The client certificate is no longer accepted.")
	}
	return checkTokenNotAfter(certificate, now)
}

// checkTokenNotAfter checks the time until which the certificate gets tokens, which ends before TLS
// refuses it.
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
