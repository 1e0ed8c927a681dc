package resource

import (
	"errors"
	"net/http"
	"strings"
)

// Refusals of a token that is bound to a certificate.
var (
	errNoCertificate    = errors.New("token is bound to a certificate, and the connection shows none")
	errOtherCertificate = errors.New("token is bound to another certificate than the connection's")
)

// api is one of the APIs that the server imitates. They differ in audience and in the codes of
// their refusals.
type api struct {
	audience      string
	unauthorized  string // whatever has no code of its own
	noCertificate string // with a bound token
}

// otherCertificate is the code of both APIs for a token that is bound to another certificate. The
// Azure SDKs look for it.
const otherCertificate = "MtlsCnfClaimRequestDataValidationFailed"

// api returns the one that a path belongs to. The codes for a bound token without certificate are
// those that Key Vault and Graph answer (MSAL Go, pull request 662).
func (s *Server) api(r *http.Request) api {
	if s.cfg.Graph != "" && strings.HasPrefix(r.URL.Path, "/v1.0/") {
		return api{s.cfg.Graph, "InvalidAuthenticationToken", "MtlsMissingClientCertificate"}
	}
	return api{s.cfg.Audience, "Unauthorized", "MissingClientCertificate"}
}

func (a api) code(err error) string {
	switch {
	case errors.Is(err, errNoCertificate):
		return a.noCertificate
	case errors.Is(err, errOtherCertificate):
		return otherCertificate
	}
	return a.unauthorized
}
