package agentapi

import (
	"net"
	"net/http"
	"time"

	"github.com/keyagent/keyagent/agentapi/wire"
)

// imdsForm is GET /metadata/identity/oauth2/token.
var imdsForm = sdkProtocol{checkIMDSVersion, (*record).unnamed}.form()

// imdsRoutes is every request that the agent answers as IMDS does on loopback. It asks for no
// secret, as IMDS does not: the caller is known by its socket alone.
var imdsRoutes = []route{
	{http.MethodGet, wire.PathIMDSToken, withoutExtraSlashes, loopbackErrors.format, forCallersOfRules, metadataHeader, imdsForm.issue},
}

// IMDS is the protocol of Azure's Instance Metadata Service on loopback, for programs that are told
// its address (AZURE_POD_IDENTITY_AUTHORITY_HOST). Identify names the owner of the socket at the
// other end; it must not block.
func IMDS(ln net.Listener, identify Identify) Way {
	return loopback(&face{
		listener: ln, identify: identify, routes: imdsRoutes, errors: loopbackErrors.format,
		name: "imds", about: "tokens are at GET " + wire.PathIMDSToken,
	})
}

// checkIMDSVersion refuses a version that does not have this request and answer.
func checkIMDSVersion(version string) *problem {
	// Dates of this form sort as they follow each other.
	if _, err := time.Parse(time.DateOnly, version); err == nil && version >= wire.IMDSAPIVersion {
		return nil
	}
	return newProblem(wire.CodeInvalidParameter, "api-version must be a date, %s or later", wire.IMDSAPIVersion)
}
