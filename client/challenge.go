package client

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"

	"github.com/keyagent/keyagent/agentapi/wire"
)

// maxChallengeBytes limits how much of WWW-Authenticate is read. Azure's services send some hundred
// bytes.
const maxChallengeBytes = 16 << 10

// ClaimsChallenge returns the claims that a resource asks for with a 401: the JSON object that is
// in base64 in a Bearer challenge of WWW-Authenticate with error="insufficient_claims". It reports
// false if there is none, if it is no JSON object, or if it is larger than [wire.MaxClaimsBytes].
//
// Syntax: RFC 9110, 11.6.1; meaning: "Claims challenges, claims requests and client capabilities"
// in the documentation of Microsoft's identity platform.
func ClaimsChallenge(h http.Header) (claims string, ok bool) {
	left := maxChallengeBytes
	for _, value := range h.Values("WWW-Authenticate") {
		if left -= len(value); left < 0 {
			return "", false
		}
		for _, c := range parseChallenges(value) {
			if !strings.EqualFold(c.scheme, "Bearer") || c.params["error"] != "insufficient_claims" {
				continue
			}
			if claims, ok := decodeClaims(c.params["claims"]); ok {
				return claims, true
			}
		}
	}
	return "", false
}

// decodeClaims takes either alphabet of base64, with or without padding: services send all of them.
func decodeClaims(text string) (string, bool) {
	if text == "" || base64.RawStdEncoding.DecodedLen(len(text)) > wire.MaxClaimsBytes+2 {
		return "", false
	}
	encoding := base64.RawStdEncoding
	if strings.ContainsAny(text, "-_") {
		encoding = base64.RawURLEncoding
	}
	decoded, err := encoding.DecodeString(strings.TrimRight(text, "="))
	if err != nil || len(decoded) > wire.MaxClaimsBytes {
		return "", false
	}
	var object map[string]json.RawMessage
	if json.Unmarshal(decoded, &object) != nil || object == nil {
		return "", false
	}
	return string(decoded), true
}

// challenge is one element of WWW-Authenticate. The names of parameters are in lower case; of a
// name that comes twice nothing is kept, since readers differ in which one they take.
type challenge struct {
	scheme string
	params map[string]string
}

// parseChallenges reads a list of challenges as far as it has the syntax of one.
func parseChallenges(value string) []challenge {
	var list []challenge
	twice := map[string]bool{}
	for rest := value; ; {
		rest = strings.TrimLeft(rest, " \t,")
		name, after := cutToken(rest)
		if name == "" {
			return list
		}
		if text, next, ok := parameter(after); ok && len(list) > 0 {
			params := list[len(list)-1].params
			name = strings.ToLower(name)
			if _, known := params[name]; known || twice[name] {
				delete(params, name)
				twice[name] = true
			} else {
				params[name] = text
			}
			rest = next
			continue
		}
		list, twice = append(list, challenge{scheme: name, params: map[string]string{}}), map[string]bool{}
		rest = skipToken68(after)
	}
}

// parameter reads what follows the name of a parameter: "=", and a token or a quoted string.
func parameter(s string) (value, rest string, ok bool) {
	s, ok = strings.CutPrefix(strings.TrimLeft(s, " \t"), "=")
	if !ok {
		return "", "", false
	}
	s = strings.TrimLeft(s, " \t")
	if strings.HasPrefix(s, `"`) {
		return quoted(s[1:])
	}
	end := strings.IndexAny(s, ", \t")
	if end < 0 {
		end = len(s)
	}
	return s[:end], s[end:], end > 0
}

// quoted reads a quoted string behind its first quote.
func quoted(s string) (value, rest string, ok bool) {
	var text strings.Builder
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '"':
			return text.String(), s[i+1:], true
		case '\\':
			if i++; i == len(s) {
				return "", "", false
			}
		}
		text.WriteByte(s[i])
	}
	return "", "", false
}

// skipToken68 passes over the one value without a name that may follow a scheme, as in "Negotiate
// YWJj==".
func skipToken68(s string) string {
	value, rest := cutToken(strings.TrimLeft(s, " \t"))
	if end := strings.TrimLeft(rest, "="); value != "" && (strings.Trim(end, " \t") == "" || strings.HasPrefix(strings.TrimLeft(end, " \t"), ",")) {
		return end
	}
	return s
}

// cutToken cuts the token that a text begins with (RFC 9110, 5.6.2, and "/", which token68 has).
func cutToken(s string) (token, rest string) {
	end := strings.IndexFunc(s, func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && !strings.ContainsRune("!#$%&'*+-.^_`|~/", r)
	})
	if end < 0 {
		end = len(s)
	}
	return s[:end], s[end:]
}
