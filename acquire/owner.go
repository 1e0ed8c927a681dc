package acquire

import (
	"cmp"
	"strings"

	"github.com/google/uuid"

	"github.com/keyagent/keyagent/internal/secret"
	"github.com/keyagent/keyagent/internal/upstream"
)

// owner is whom a token names: the ids by which Entra and Azure know its identity.
type owner struct {
	objectID   string // of the service principal, a GUID
	resourceID string // of a managed identity in Azure Resource Manager, or of the VM whose identity it is
}

// maxResourceIDBytes is above the longest resource id that Azure has, and bounds what is kept.
const maxResourceIDBytes = 1024

// ownerOf reads the ids inside a token of the identity with this client id (Microsoft identity platform, "Access token claims
// reference"). Nobody has checked the token's signature: it is as good as who gave it, which is Entra over TLS, or IMDS. A token that
// is opaque to us, or is another's, tells nothing.
func ownerOf(token secret.String, clientID string) owner {
	var claims struct {
		AppID      string `json:"appid"` // token version 1.0
		AZP        string `json:"azp"`   // token version 2.0
		ObjectID   string `json:"oid"`
		ResourceID string `json:"xms_mirid"`
	}
	if upstream.UnverifiedClaims(token.Reveal(), &claims) != nil || clientID == "" || !strings.EqualFold(cmp.Or(claims.AppID, claims.AZP), clientID) {
		return owner{}
	}
	var found owner
	if len(claims.ObjectID) == 36 && uuid.Validate(claims.ObjectID) == nil {
		found.objectID = claims.ObjectID
	}
	if len(claims.ResourceID) <= maxResourceIDBytes && strings.HasPrefix(claims.ResourceID, "/") {
		found.resourceID = claims.ResourceID
	}
	return found
}
