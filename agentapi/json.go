package agentapi

import (
	"encoding/json"
	"strconv"

	"github.com/keyagent/keyagent/agentapi/wire"
)

// head is how the JSON of every reply with a token begins; the token follows.
const head = `{"access_token":"`

// tail is the JSON of a reply with a token from the end of the token on. It is
// written by hand because encoding/json, which looks at the types and at each
// byte of the token anew, took as long as all the rest of an answer. A test
// holds it equal to what encoding/json makes of the types of package wire.
type tail []byte

// tailBytes is room for a usual tail.
const tailBytes = 640

func newTail() tail { return append(make(tail, 0, tailBytes), '"') }

func (t tail) name(name string) tail {
	t = append(t, ',', '"')
	t = append(t, name...)
	return append(t, '"', ':')
}

func (t tail) text(name, value string) tail { return t.name(name).quoted(value) }

func (t tail) number(name string, value int64) tail {
	return strconv.AppendInt(t.name(name), value, 10)
}

func (t tail) flag(name string, value bool) tail {
	return strconv.AppendBool(t.name(name), value)
}

// quoted appends a JSON string.
func (t tail) quoted(value string) tail {
	if !plain(value) {
		encoded, err := json.Marshal(value)
		if err != nil {
			encoded = []byte(`""`) // not reached: a string can be encoded
		}
		return append(t, encoded...)
	}
	t = append(t, '"')
	t = append(t, value...)
	return append(t, '"')
}

// plain reports whether a text is the same in JSON.
func plain(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case c < ' ', c >= 0x7f, c == '"', c == '\\', c == '<', c == '>', c == '&':
			return false
		}
	}
	return true
}

// nativeTail follows wire.TokenResponse, member by member.
func nativeTail(r wire.TokenResponse) tail {
	t := newTail().
		text("token_type", r.TokenType).
		number("expires_in", r.ExpiresIn).
		number("expires_on", r.ExpiresOn).
		number("not_before", r.NotBefore).
		text("resource", r.Resource).
		text("identity", r.Identity).
		text("client_id", r.ClientID).
		text("credential", r.Credential).
		flag("bound", r.Bound).
		text("strength", r.Strength).
		flag("fallback", r.Fallback)
	if r.Binding != nil {
		t = t.binding(*r.Binding)
	}
	return append(t, '}')
}

func (t tail) binding(b wire.Binding) tail {
	t = append(t.name("binding"), `{"thumbprint":`...).quoted(b.Thumbprint)
	if b.TLSVersion != "" {
		t = t.text("tls_version", b.TLSVersion)
	}
	if b.SignatureAlgorithm != "" {
		t = t.text("signature_algorithm", b.SignatureAlgorithm)
	}
	return append(t, '}')
}

// imdsTail follows wire.IMDSToken, member by member: every value is a string.
func imdsTail(r wire.TokenResponse) tail {
	expiresIn := strconv.FormatInt(r.ExpiresIn, 10)
	t := newTail().
		text("client_id", r.ClientID).
		text("expires_in", expiresIn).
		text("expires_on", strconv.FormatInt(r.ExpiresOn, 10)).
		text("ext_expires_in", expiresIn).
		text("not_before", strconv.FormatInt(r.NotBefore, 10)).
		text("refresh_token", "").
		text("resource", r.Resource).
		text("token_type", r.TokenType)
	return append(t, '}')
}
