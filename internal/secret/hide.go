package secret

import (
	"regexp"
	"strings"
)

// jwtBegin is how each JWT begins: its header is a JSON object, in base64url.
const jwtBegin = "eyJ"

// jwt is a JWT, or the beginning of one: a header, and what comes after its dot (RFC 7515, 7.1; RFC
// 7516, 7.1). Without a dot it may be anything that is JSON, such as a claims challenge.
var jwt = regexp.MustCompile(jwtBegin + `[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_.-]*`)

// Hide replaces what may be a token or an assertion in somebody else's text: services quote in
// their refusals what they were sent, and programs send a token where a name belongs.
func Hide(text string) string {
	if !strings.Contains(text, jwtBegin) {
		return text
	}
	return jwt.ReplaceAllLiteralString(text, redacted)
}
