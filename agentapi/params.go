package agentapi

import (
	"errors"
	"net/url"
	"slices"
	"strings"

	"github.com/keyagent/keyagent/agentapi/wire"
)

// unknownParams says what becomes of parameters that a route does not know.
type unknownParams int

const (
	// refuseUnknown: a misspelt parameter must not silently mean its default.
	refuseUnknown unknownParams = iota
	// ignoreUnknown: SDKs send parameters of newer protocol versions.
	ignoreUnknown
)

// params are the known parameters of a query: each at most once, none empty.
type params []param

type param struct{ name, value string }

// get returns the value of a parameter, "" if it was not given.
func (p params) get(name string) string {
	for _, given := range p {
		if given.name == name {
			return given.value
		}
	}
	return ""
}

// parseQuery decodes a query (WHATWG URL, application/x-www-form-urlencoded). A known parameter
// that is given twice is refused: the rules might decide on one value and the token source use the
// other.
func parseQuery(raw string, known []string, unknown unknownParams) (params, *problem) {
	var found params
	for raw != "" {
		var pair string
		pair, raw, _ = strings.Cut(raw, "&")
		name, value, err := unescapePair(pair)
		switch {
		case err != nil:
			return nil, newProblem(wire.CodeInvalidParameter, "the query is malformed: %v", err).withField("query")
		case !slices.Contains(known, name):
			if unknown == refuseUnknown {
				return nil, newProblem(wire.CodeInvalidParameter, "there is no parameter %q", clip(name, maxAuditedBytes)).withField(name)
			}
		case value == "":
			return nil, newProblem(wire.CodeInvalidParameter, "%s is empty", name).withField(name)
		case found.get(name) != "":
			return nil, newProblem(wire.CodeInvalidParameter, "%s is given more than once", name).withField(name)
		default:
			found = append(found, param{name, value})
		}
	}
	return found, nil
}

// unescapePair decodes one pair. A semicolon is an error, as in net/url: others take it for a
// separator.
func unescapePair(pair string) (name, value string, err error) {
	if strings.Contains(pair, ";") {
		return "", "", errors.New("it has a semicolon")
	}
	name, value, _ = strings.Cut(pair, "=")
	if name, err = url.QueryUnescape(name); err != nil {
		return "", "", err
	}
	if value, err = url.QueryUnescape(value); err != nil {
		return "", "", err
	}
	return name, value, nil
}
