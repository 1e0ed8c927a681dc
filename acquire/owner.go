package acquire

import (
	"cmp"
	"strings"

	"github.com/google/uuid"

	"github.com/keyagent/keyagent/internal/secret"
	"github.com/keyagent/keyagent/internal/upstream"
)

// owner is the identity that a token names: the ids by which Entra and Azure know it.
type owner struct {
	objectID   string // of the service principal, a GUID
	resourceID string // in Azure Resource Manager: of a managed identity, or of the VM for its own identity
}

// maxResourceIDBytes bounds the memory for a resource id. Azure has none that long.
const maxResourceIDBytes = 1024

// ownerOf reads the ids in a token of the identity with this client id (Microsoft identity
// platform, "Access token claims reference"). The token's signature is not checked: the ids are as
// reliable as the sender of the token, which is Entra over TLS, or IMDS. A token that cannot be
// read, or is for another client, gives none.
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
