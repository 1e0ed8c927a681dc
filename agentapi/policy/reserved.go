package policy

import (
	"regexp"
	"strconv"
	"strings"
)

// exchangeAudiences begin the App ID URIs of the resources whose tokens Entra takes as client
// assertions, in lower case. Each cloud has one, as in api://AzureADTokenExchangeUSGov, and not all
// of them are published, so what begins like this is one.
var exchangeAudiences = []spelling{
	{"api", "azureadtokenexchange"},
	{"api", "azurefmitokenexchange"},
}

// exchangeApplication is the application id behind api://AzureADTokenExchange: a token of version
// 2.0 for it has this as its aud.
const exchangeApplication = "fb60f99c-7a34-4190-8149-302f77469936"

// Reserves reports whether a token for the resource is a credential of applications: its holder can
// act as each application that trusts the identity, from anywhere and without a key. [AnyResource]
// does not cover such a resource; a rule gives it by name. Spellings that Entra might take for the
// same resource, and paths below it, are reserved, too.
func (p *Policy) Reserves(r Resource) bool {
	asked := spellingOf(r.compared)
	for _, audience := range exchangeAudiences {
		if asked.scheme == audience.scheme && strings.HasPrefix(asked.rest, audience.rest) {
			return true
		}
	}
	if asked.scheme == "" && strings.HasPrefix(asked.rest, exchangeAudiences[0].rest) || asked.names(exchangeApplication) {
		return true
	}
	for _, audience := range p.Audiences {
		if asked.within(spellingOf(audience)) {
			return true
		}
	}
	return false
}

// encodedByte is a byte as a URI has it that cannot have the byte itself (RFC 3986, 2.1).
var encodedByte = regexp.MustCompile("%[0-9A-Fa-f]{2}")

// applicationID is a GUID in lower case.
var applicationID = regexp.MustCompile("^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$")

// spelling is a resource without the parts that may make no difference to Entra: case,
// percent-encoding, the number of slashes, query and fragment. It only ever takes a resource away
// from [AnyResource]; resources that a rule names are compared exactly. An application id has no
// scheme.
type spelling struct{ scheme, rest string }

func spellingOf(resource string) spelling {
	s := strings.ToLower(decoded(resource))
	if i := strings.IndexAny(s, "?#"); i >= 0 {
		s = s[:i]
	}
	for before := ""; before != s; {
		before = s
		s = strings.TrimRight(strings.TrimSuffix(s, defaultScope), "/")
	}
	s = strings.TrimPrefix(s, "spn:") // how version 1.0 marks the name of an application
	scheme, rest, ok := strings.Cut(s, ":")
	if !ok {
		scheme, rest = "", s
	}
	rest = strings.TrimLeft(rest, "/")
	if id, _, _ := strings.Cut(rest, "/"); scheme == "api" && applicationID.MatchString(id) {
		scheme = "" // the App ID URI that an application has by default
	}
	return spelling{scheme, rest}
}

// decoded undoes percent-encoding, however often it was done. A percent sign without two
// hexadecimal digits stays.
func decoded(s string) string {
	for strings.Contains(s, "%") {
		once := encodedByte.ReplaceAllStringFunc(s, func(encoded string) string {
			value, err := strconv.ParseUint(encoded[1:], 16, 8)
			if err != nil {
				return encoded
			}
			return string([]byte{byte(value)})
		})
		if once == s {
			return s
		}
		s = once
	}
	return s
}

// names reports whether an application id is anywhere in the resource, however it is written: with
// hyphens or without, in braces or parentheses, behind a scheme or a tenant.
func (s spelling) names(id string) bool {
	bare := strings.NewReplacer("-", "", "{", "", "}", "", "(", "", ")", "")
	return strings.Contains(bare.Replace(s.rest), bare.Replace(id))
}

// within reports whether s is the resource, or below it.
func (s spelling) within(of spelling) bool {
	below, ok := strings.CutPrefix(s.rest, of.rest)
	return ok && s.scheme == of.scheme && of.rest != "" && (below == "" || below[0] == '/')
}
