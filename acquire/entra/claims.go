package entra

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	// Unlike the standard library's, this decoder refuses duplicate names, of which two readers
	// could take different ones.
	"github.com/go-jose/go-jose/v4/json"
)

const (
	maxClaimsBytes = 8 << 10 // of a claims challenge; Entra's have a few hundred
	maxClaimsDepth = 16      // of its objects and arrays; Entra's have four
)

// MergeClaims makes the value of the form field claims of the client's capabilities (such as "cp1":
// it handles claims challenges) and of a claims challenge in JSON. It is "" without either. A
// challenge comes from a resource by way of a caller, and is limited to 8 KiB, 16 levels and one
// JSON object that asks for something; it must not contain capabilities, which only the client may
// declare. The members of the result are sorted.
func MergeClaims(capabilities []string, claims string) (string, error) {
	if len(capabilities) == 0 && claims == "" {
		return "", nil
	}
	merged := map[string]any{}
	if claims != "" {
		var err error
		if merged, err = parseClaims(claims); err != nil {
			return "", fmt.Errorf("claims: %w", err)
		}
	}
	if err := declare(merged, capabilities); err != nil {
		return "", fmt.Errorf("claims: %w", err)
	}
	encoded, err := json.Marshal(merged)
	if err != nil {
		return "", fmt.Errorf("claims: %w", err)
	}
	return string(encoded), nil
}

// declare adds capabilities to a challenge.
func declare(challenge map[string]any, capabilities []string) error {
	if len(capabilities) == 0 {
		return nil
	}
	token, ok := challenge["access_token"].(map[string]any)
	switch {
	case ok:
	case challenge["access_token"] != nil: // a null asks for a token without conditions
		return errors.New(`member "access_token": not an object`)
	default:
		token = map[string]any{}
		challenge["access_token"] = token
	}
	token["xms_cc"] = map[string]any{"values": capabilities}
	return nil
}

func parseClaims(claims string) (map[string]any, error) {
	if len(claims) > maxClaimsBytes {
		return nil, fmt.Errorf("more than %d bytes", maxClaimsBytes)
	}
	decoder := json.NewDecoder(strings.NewReader(claims))
	decoder.SetNumberType(json.UnmarshalJSONNumber) // a number is passed on as it came
	var value any
	if err := decoder.Decode(&value); err != nil {
		return nil, errors.New("not JSON, or a member comes twice")
	}
	object, ok := value.(map[string]any)
	var rest any
	switch {
	case !ok:
		return nil, errors.New("not a JSON object")
	case !errors.Is(decoder.Decode(&rest), io.EOF):
		return nil, errors.New("something follows the JSON object")
	case !shallow(value, maxClaimsDepth):
		return nil, fmt.Errorf("more than %d levels deep", maxClaimsDepth)
	case !asks(object):
		return nil, errors.New("nothing is asked for")
	case declaresCapabilities(object):
		return nil, errors.New("a challenge must not contain capabilities (xms_cc): the program declares them")
	}
	return object, nil
}

// asks reports whether there is a value in an object or in one below it.
func asks(object map[string]any) bool {
	for _, member := range object {
		if below, nested := member.(map[string]any); !nested || asks(below) {
			return true
		}
	}
	return false
}

// declaresCapabilities reports whether a challenge contains client capabilities. The token would
// then be another one than callers without them get.
func declaresCapabilities(challenge map[string]any) bool {
	for _, token := range challenge {
		if claims, ok := token.(map[string]any); ok {
			if _, declared := claims["xms_cc"]; declared {
				return true
			}
		}
	}
	return false
}

func shallow(value any, levels int) bool {
	deeper := func(v any) bool { return !shallow(v, levels-1) }
	switch v := value.(type) {
	case map[string]any:
		if levels == 0 {
			return false
		}
		for _, member := range v {
			if deeper(member) {
				return false
			}
		}
	case []any:
		return levels > 0 && !slices.ContainsFunc(v, deeper)
	}
	return true
}
