package resource

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// challenge is what every token must carry at present. The zero value asks for nothing.
type challenge struct {
	mu     sync.Mutex // guards what follows
	claims string     // JSON, as in the header
	wanted map[string][]string
}

// set reads a claims request for the access token. An empty one takes the challenge back.
func (c *challenge) set(claims string) error {
	var request struct {
		AccessToken map[string]struct {
			Essential bool     `json:"essential"`
			Value     string   `json:"value"`
			Values    []string `json:"values"`
		} `json:"access_token"`
	}
	dec := json.NewDecoder(strings.NewReader(claims))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&request); err != nil {
		return fmt.Errorf("claims challenge: %w", err)
	}
	wanted := map[string][]string{}
	for name, member := range request.AccessToken {
		values := member.Values
		if member.Value != "" {
			values = append(values, member.Value)
		}
		if err := checkWanted(name, values); err != nil {
			return err
		}
		wanted[name] = values
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.claims, c.wanted = claims, wanted
	return nil
}

// checkWanted refuses a challenge that no token can meet.
func checkWanted(name string, values []string) error {
	switch {
	case len(values) == 0:
		return fmt.Errorf("claims challenge: %s has no value", name)
	case name == "nbf":
		if _, err := strconv.ParseInt(values[0], 10, 64); err != nil || len(values) > 1 {
			return fmt.Errorf("claims challenge: nbf is not one number of seconds since 1970")
		}
	case name != "acrs" && name != "xms_cc":
		return fmt.Errorf("claims challenge: claim %q, want nbf, acrs or xms_cc", name)
	}
	return nil
}

// unmet returns the header's claims value, in base64, if the token does not carry the claims that
// are asked for.
func (c *challenge) unmet(token tokenClaims) (string, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for name, values := range c.wanted {
		if !token.carries(name, values) {
			return base64.StdEncoding.EncodeToString([]byte(c.claims)), true
		}
	}
	return "", false
}

// carries says whether the token was issued at or after a time (nbf), or has one of the values.
func (t tokenClaims) carries(name string, values []string) bool {
	if name == "nbf" {
		earliest, err := strconv.ParseInt(values[0], 10, 64)
		return err == nil && t.NotBefore >= earliest
	}
	has := map[string][]string{"acrs": t.Contexts, "xms_cc": t.Capabilities}[name]
	return slices.ContainsFunc(values, func(v string) bool { return slices.Contains(has, v) })
}
