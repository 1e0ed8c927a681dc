package entra

import (
	"encoding/json"
	"errors"
	"io"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/keyagent/keyagent/simulator/journal"
)

// maxFormBytes is far above any form of these flows.
const maxFormBytes = 64 << 10

// readForm reads the request and checks that it has what every flow needs, and nothing twice.
func readForm(w http.ResponseWriter, r *http.Request, e *journal.Entry) (map[string]string, error) {
	if r.Method != http.MethodPost {
		return nil, refuse(http.StatusBadRequest, "invalid_request", 900561, "The endpoint only accepts POST requests. Received a %s request.", r.Method)
	}
	mediaType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || mediaType != "application/x-www-form-urlencoded" {
		return nil, refuse(http.StatusBadRequest, "invalid_request", 900144, "The request body must be of type application/x-www-form-urlencoded.")
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxFormBytes))
	form, errForm := url.ParseQuery(string(body))
	if errors.Join(err, errForm) != nil {
		return nil, refuse(http.StatusBadRequest, "invalid_request", 900144, "The request body cannot be read.")
	}
	noteForm(form, e)
	// A query counts for nothing: MSAL for JavaScript has its client-request-id there.
	noteQuery(r.URL.Query(), e)
	return checkForm(form)
}

// noteForm writes the request's parameters to the journal, but no credentials.
func noteForm(form url.Values, e *journal.Entry) {
	e.Set("form", slices.Sorted(maps.Keys(form)))
	for _, name := range []string{"client_id", "scope", "token_type"} {
		e.Set(name, form.Get(name))
	}
	if form.Has("client_assertion_type") {
		e.Set("assertion_type", strings.TrimPrefix(form.Get("client_assertion_type"), assertionTypes))
	}
}

// noteQuery tells the journal what came beside the form.
func noteQuery(query url.Values, e *journal.Entry) {
	if len(query) > 0 {
		e.Set("query", slices.Sorted(maps.Keys(query)))
	}
}

// noteHeaders tells the journal which of the headers came that Entra's clients are known to send.
func noteHeaders(r *http.Request, e *journal.Entry) {
	headers := map[string]string{}
	for _, name := range []string{
		"return-client-request-id", "x-client-SKU", "x-client-Ver", "x-client-OS", "x-ms-lib-capability", "content-type", "accept",
	} {
		if v := r.Header.Get(name); v != "" {
			headers[name] = v
		}
	}
	if r.Header.Get("client-request-id") != "" {
		headers["client-request-id"] = "present"
	}
	e.Set("headers", headers)
}

// checkForm wants the fields of every flow exactly once. As RFC 6749, 3.2 has it, no other field
// may be there twice, one without a value counts as left out, and one that nobody knows is passed
// over: MSAL writes x-client-SKU and the like there.
func checkForm(form url.Values) (map[string]string, error) {
	for _, name := range []string{"grant_type", "client_id", "scope"} {
		if len(form[name]) != 1 || form.Get(name) == "" {
			return nil, missing(name)
		}
	}
	fields := map[string]string{}
	for name, values := range form {
		switch {
		case len(values) != 1:
			return nil, misplaced(name)
		case values[0] != "":
			fields[name] = values[0]
		}
	}
	if fields["grant_type"] != "client_credentials" {
		return nil, refuse(http.StatusBadRequest, "unsupported_grant_type", 70003, "The app requested an unsupported grant type '%.40s'.", fields["grant_type"])
	}
	return fields, nil
}

func missing(name string) error {
	return refuse(http.StatusBadRequest, "invalid_request", 900144, "The request body must contain the following parameter once: '%s'.", name)
}

func misplaced(name string) error {
	return refuse(http.StatusBadRequest, "invalid_request", 90023, "The parameter '%.40s' does not belong into this request.", name)
}

// without refuses fields that are another way to authenticate than the one in use: a client must
// not use two (RFC 6749, 2.3).
func (r *request) without(others ...string) error {
	for _, name := range others {
		if r.has(name) {
			return misplaced(name)
		}
	}
	return nil
}

// scopes splits the field scope. The scopes of OpenID Connect, which some clients always add, mean
// nothing for an application's token.
func (r *request) scopes(flow string) []string {
	if flow == flowManagedIdentity {
		return []string{r.form["scope"]}
	}
	return slices.DeleteFunc(strings.Split(r.form["scope"], " "), func(scope string) bool {
		return scope == "openid" || scope == "offline_access" || scope == "profile"
	})
}

// requestedClaims is what the field claims may ask of an access token (OpenID Connect Core 1.0,
// 5.5).
type requestedClaims struct {
	capabilities []string // of the client, claim xms_cc
	contexts     []string // authentication contexts, claim acrs
}

// readClaims reads the field claims and writes its members other than capabilities to the journal.
func (r *request) readClaims() (requestedClaims, error) {
	text, ok := r.form["claims"]
	if !ok {
		return requestedClaims{}, nil
	}
	var claims struct {
		AccessToken map[string]json.RawMessage `json:"access_token"`
	}
	if !strings.HasPrefix(strings.TrimSpace(text), "{") || json.Unmarshal([]byte(text), &claims) != nil {
		return requestedClaims{}, badClaims()
	}
	others := maps.Clone(claims.AccessToken)
	delete(others, "xms_cc")
	if len(others) > 0 {
		r.entry.Set("claims", others)
	}
	var c requestedClaims
	var okCapabilities, okContexts bool
	c.capabilities, okCapabilities = claimValues(claims.AccessToken["xms_cc"])
	c.contexts, okContexts = claimValues(claims.AccessToken["acrs"])
	if !okCapabilities || !okContexts {
		return requestedClaims{}, badClaims()
	}
	return c, nil
}

// claimValues reads a member like {"values":["a","b"]} or {"essential":true,"value":"a"}.
func claimValues(member json.RawMessage) ([]string, bool) {
	if member == nil {
		return nil, true
	}
	var m struct {
		Value  string   `json:"value"`
		Values []string `json:"values"`
	}
	if json.Unmarshal(member, &m) != nil {
		return nil, false
	}
	if m.Value != "" {
		m.Values = append(m.Values, m.Value)
	}
	return m.Values, len(m.Values) > 0
}

func badClaims() error {
	return refuse(http.StatusBadRequest, "invalid_request", 50000153, "The parameter 'claims' is not a JSON object of claims requests.")
}
