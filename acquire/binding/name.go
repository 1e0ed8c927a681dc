package binding

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/google/uuid"

	"github.com/keyagent/keyagent/acquire/imds"
)

// name is a managed identity as a manager knows it. Selectors with the same id have the same name,
// however they spell it.
type name struct {
	kind string // "system", "client", "object" or "resource"
	id   string // lower case; empty for "system"
}

// newName names the identity that sel selects. An id that is no GUID has no name: it would become
// part of a file's name.
func newName(sel imds.Selector) (name, error) {
	n := name{kind: "system"}
	switch {
	case sel.ClientID != "":
		n = name{"client", sel.ClientID}
	case sel.ObjectID != "":
		n = name{"object", sel.ObjectID}
	case sel.ResourceID != "":
		return name{"resource", strings.ToLower(sel.ResourceID)}, nil
	default:
		return n, nil
	}
	if len(n.id) != 36 || uuid.Validate(n.id) != nil {
		return name{}, fmt.Errorf("the managed identity's %s id %q is not a GUID: correct it in the configuration", n.kind, n.id)
	}
	n.id = strings.ToLower(n.id)
	return n, nil
}

// String is the form in state files and logs: "system", or kind:id.
func (n name) String() string {
	if n.id == "" {
		return n.kind
	}
	return n.kind + ":" + n.id
}

// resourceDigits is how much of its hash stands for a resource id in a file's name.
const resourceDigits = 32

func (n name) file() string {
	switch n.kind {
	case "system":
		return filePrefix + "system" + fileSuffix
	case "resource": // too long, and full of slashes
		sum := sha256.Sum256([]byte(n.id))
		return filePrefix + "resource-" + hex.EncodeToString(sum[:])[:resourceDigits] + fileSuffix
	}
	return filePrefix + n.kind + "-" + n.id + fileSuffix
}
