package daemon_test

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/internal/upstream"
	"github.com/keyagent/keyagent/simulator/journal"
	"github.com/keyagent/keyagent/tpm"
)

// checkToken compares a token's own claims with what was asked for, and how it was obtained with
// what the reply says.
func (c *chaos) checkToken(h handedOut) {
	c.t.Helper()
	var claims struct {
		AppID        string  `json:"appid"`
		Audience     string  `json:"aud"`
		Expires      float64 `json:"exp"`
		Confirmation struct {
			Thumbprint string `json:"x5t#S256"`
		} `json:"cnf"`
	}
	if err := upstream.UnverifiedClaims(h.token.AccessToken.Reveal(), &claims); err != nil {
		c.t.Error(err)
	}
	thumbprint := ""
	if h.token.Binding != nil {
		thumbprint = h.token.Binding.Thumbprint
	}
	bound := ""
	if h.asked.Type == wire.TypePoP {
		bound = thumbprint
	}
	switch {
	case claims.AppID != c.clientID(h.asked.Identity) || h.token.ClientID != claims.AppID || h.token.Identity != h.asked.Identity:
		c.t.Errorf("%v: got a token of %s, for %+v", h.asked, claims.AppID, h.token)
	case claims.Audience != h.asked.Resource || h.token.Resource != h.asked.Resource:
		c.t.Errorf("%v: got a token for %s", h.asked, claims.Audience)
	case claims.Confirmation.Thumbprint != bound || h.asked.Type == wire.TypePoP && bound == "":
		c.t.Errorf("%v: got a token bound to %q, want %q", h.asked, claims.Confirmation.Thumbprint, bound)
	case !strings.EqualFold(h.token.TokenType, h.asked.Type):
		c.t.Errorf("%v: got a token of type %s", h.asked, h.token.TokenType)
	case int64(claims.Expires) <= h.at.Unix():
		c.t.Errorf("%v: the token had expired before it was asked for", h.asked)
	case h.token.Bound:
		c.checkBound(h, thumbprint)
	case h.asked.Identity != "vm-user" || !h.token.Fallback || h.token.Strength != "none" || thumbprint != "":
		c.t.Errorf("%v: got an unbound token: %+v", h.asked, h.token)
	}
}

// checkBound finds the request by which a token was obtained with the certificate that the reply
// names.
func (c *chaos) checkBound(h handedOut, thumbprint string) {
	c.t.Helper()
	wireTypes := []any{wire.TypeBearer, ""} // a managed identity names it, an application leaves it out
	if h.asked.Type == wire.TypePoP {
		wireTypes = []any{wire.TypePoP}
	}
	for _, e := range c.obtained() {
		if e.ClientCertThumbprint == thumbprint && slices.Contains(wireTypes, e.Detail["token_type"]) &&
			e.Detail["client_id"] == h.token.ClientID && e.Detail["scope"] == h.asked.Resource+"/.default" {
			return
		}
	}
	c.t.Errorf("%v: no request over mutual TLS with certificate %s obtained it", h.asked, thumbprint)
}

// obtained are the requests over mutual TLS that obtained a token.
func (c *chaos) obtained() []journal.Entry {
	return slices.DeleteFunc(c.platform.Journal().Operation("entra.mtls.token"), func(e journal.Entry) bool { return e.Outcome != journal.OK })
}

// checkUnbound checks that no unbound token was obtained for an identity that must be bound.
func (c *chaos) checkUnbound() {
	c.t.Helper()
	for _, e := range c.platform.Journal().Operation("entra.login.token") {
		c.t.Errorf("a token was asked for without a certificate: %+v", e)
	}
	for _, e := range c.platform.Journal().Operation("imds.token") {
		if id, known := e.Detail["client_id"]; known && id != c.clientID("vm-user") || strings.Contains(fmt.Sprint(e.Detail["resource"]), "TokenExchange") {
			c.t.Errorf("an unbound token was asked for: %+v", e)
		}
	}
}

// checkIssuances wants no more certificates than first ones, renewals at half of the life, and
// replacements as far apart as the breaker allows. The pauses are computed from issuances alone:
// attempts that failed between them could only make them longer.
func (c *chaos) checkIssuances() {
	c.t.Helper()
	for _, name := range []string{"vm", "vm-user"} {
		ordinary, pause := 0, time.Duration(0)
		var until time.Time
		for _, e := range c.issued(c.clientID(name)) {
			if e.Detail["bypass_cache"] != true {
				ordinary++
				continue
			}
			if e.Time.Before(until) {
				c.t.Errorf("%s: a certificate was replaced at %v, %v before the pause of %v was over", name, e.Time, until.Sub(e.Time), pause)
			}
			if pause > 0 && e.Time.Sub(until) <= pause {
				pause = min(2*pause, 30*time.Minute)
			} else {
				pause = 30 * time.Second
			}
			until = e.Time.Add(pause)
		}
		if ordinary > 1+c.jumps {
			c.t.Errorf("%s: %d issuances that replaced nothing, in a time of %d half lives", name, ordinary, c.jumps)
		}
	}
}

// checkLogs looks for tokens, and for anything that looks like one.
func (c *chaos) checkLogs() {
	c.t.Helper()
	for name, text := range map[string]string{"log": c.log.String(), "audit": c.audit.String()} {
		if strings.Contains(text, "eyJ") {
			c.t.Errorf("there is a JWT in the %s", name)
		}
		for _, h := range c.tokens {
			signature := h.token.AccessToken.Reveal()[strings.LastIndexByte(h.token.AccessToken.Reveal(), '.')+1:]
			if strings.Contains(text, signature) {
				c.t.Errorf("a token's signature is in the %s", name)
			}
		}
		for _, word := range []string{"panic", "DATA RACE"} {
			if strings.Contains(text, word) {
				c.t.Errorf("the %s says %q:\n%s", name, word, text)
			}
		}
	}
}

// loaded counts the transient objects in the TPM, of all its users.
func (c *chaos) loaded() int {
	c.t.Helper()
	on, err := tpm.Open(c.t.Context(), tpm.Config{Device: c.platform.Info().TPM})
	if err != nil {
		c.t.Fatal(err)
	}
	defer on.Close()
	var handles *tpm2.TPMLHandle
	err = on.Do(c.t.Context(), func(t transport.TPM) error {
		rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: uint32(tpm2.TPMHTTransient) << 24, PropertyCount: 32}.Execute(t)
		if err == nil {
			handles, err = rsp.CapabilityData.Data.Handles()
		}
		return err
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return len(handles.Handle)
}

// checkTPM wants the agent to hold no more than its two keys while it runs, and nothing when it has
// ended.
func (c *chaos) checkTPM() {
	c.t.Helper()
	if n := c.loaded(); n > 2 {
		c.t.Errorf("%d objects are loaded for two keys", n)
	}
	c.stop()
	if n := c.loaded(); n != 0 {
		c.t.Errorf("the agent has left %d objects in the TPM", n)
	}
}
