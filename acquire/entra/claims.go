package entra

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	// Unlike the standard library's, this decoder refuses a name that comes twice: two
	// readers could take a different one of them.
	"github.com/go-jose/go-jose/v4/json"
)

const (
	maxClaimsBytes = 8 << 10 // of a claims challenge; Entra's have a few hundred
	maxClaimsDepth = 16      // of its objects and arrays; Entra's have four
)

// MergeClaims makes the value of the form field claims: the client's capabilities
// (such as "cp1", which says that it understands claims challenges) and the decoded
// JSON of a claims challenge, or either alone. Objects are merged member by member,
// arrays united; for the rest the challenge wins. It is "" if there is neither.
// Challenges come from resources by way of callers: they are limited to 8 KiB, 16
// levels and one JSON object. The result has its members sorted.
func MergeClaims(capabilities []string, claims string) (string, error) {
	merged := map[string]any{}
	if len(capabilities) > 0 {
		merged = capabilityClaims(capabilities)
	}
	if claims != "" {
		challenge, err := parseClaims(claims)
		if err != nil {
			return "", fmt.Errorf("claims: %w", err)
		}
		if err := mergeInto(merged, challenge); err != nil {
			return "", fmt.Errorf("claims: %w", err)
		}
	}
	if len(merged) == 0 {
		return "", nil
	}
	encoded, err := json.Marshal(merged)
	if err != nil {
		return "", fmt.Errorf("claims: %w", err)
	}
	return string(encoded), nil
}

func capabilityClaims(capabilities []string) map[string]any {
	values := make([]any, 0, len(capabilities))
	for _, c := range capabilities {
		values = append(values, c)
	}
	return map[string]any{"access_token": map[string]any{"xms_cc": map[string]any{"values": values}}}
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
	}
	return object, nil
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

// mergeInto adds src to dst. A null asks for a claim without conditions, so it takes
// nothing away.
func mergeInto(dst, src map[string]any) error {
	for name, added := range src {
		had, exists := dst[name]
		if !exists {
			dst[name] = added
			continue
		}
		if added == nil {
			continue
		}
		value, err := mergeValue(had, added)
		if err != nil {
			return fmt.Errorf("member %q: %w", name, err)
		}
		dst[name] = value
	}
	return nil
}

func mergeValue(had, added any) (any, error) {
	switch had := had.(type) {
	case map[string]any:
		if object, ok := added.(map[string]any); ok {
			return had, mergeInto(had, object)
		}
		return nil, errors.New("not an object")
	case []any:
		if list, ok := added.([]any); ok {
			return union(had, list), nil
		}
		return nil, errors.New("not an array")
	}
	return added, nil
}

// union appends what is new. Only texts are compared: capabilities are texts.
func union(had, added []any) []any {
	for _, v := range added {
		text, isText := v.(string)
		if !isText || !slices.ContainsFunc(had, func(h any) bool { return h == text }) {
			had = append(had, v)
		}
	}
	return had
}
