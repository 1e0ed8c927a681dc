package agentapi_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/agentapi/peer"
	"github.com/keyagent/keyagent/agentapi/policy"
	"github.com/keyagent/keyagent/agentapi/wire"
)

const challenge = `{"access_token":{"nbf":{"essential":true,"value":"1790000000"}}}`

// freshRules let the user skip the cache, and have bound tokens, for the vault alone.
func freshRules(uid int) *policy.Policy {
	rules := rulesFor(uid)
	rules.Rules[0].Fresh, rules.Rules[0].TokenTypes = true, []string{wire.TypeBearer, wire.TypePoP}
	rules.Rules = append(rules.Rules, policy.Rule{
		Name: "stale", UIDs: []uint32{uint32(uid)}, Identities: []string{"vm"}, Resources: []string{storage}, TokenTypes: []string{wire.TypeBearer},
	})
	return rules
}

// boundAsAsked is a source whose tokens are of the type that was asked for.
func boundAsAsked(asked *acquire.Request) tokenFunc {
	return func(_ context.Context, r acquire.Request) (acquire.Token, error) {
		*asked = asksFor(r)
		token := goodToken(r)
		if r.Type == acquire.TypePoP {
			token.TokenType = string(acquire.TypePoP)
		}
		return token, nil
	}
}

func TestClaimsAndCapabilitiesReachTheSource(t *testing.T) {
	var asked acquire.Request
	a := start(t, config(boundAsAsked(&asked), freshRules(os.Geteuid())))
	vm := acquire.Request{Identity: "vm", Resource: vault, Type: acquire.TypeBearer}
	for _, tt := range []struct {
		name, query string
		want        func(*acquire.Request)
	}{
		{"nothing", "", func(*acquire.Request) {}},
		{"claims", "&claims=" + url.QueryEscape(challenge), func(r *acquire.Request) { r.Claims = challenge }},
		{"claims with lines", "&claims=" + url.QueryEscape(" {\n\"a\": 1}\n"), func(r *acquire.Request) { r.Claims = " {\n\"a\": 1}\n" }},
		{"the longest claims", "&claims=" + strings.Repeat("%20", wire.MaxClaimsBytes-7) + "%7B%22a%22%3A1%7D",
			func(r *acquire.Request) { r.Claims = strings.Repeat(" ", wire.MaxClaimsBytes-7) + `{"a":1}` }},
		{"a capability", "&capabilities=cp1", func(r *acquire.Request) { r.Capabilities = []string{"cp1"} }},
		{"a capability twice is one", "&capabilities=cp1,cp1", func(r *acquire.Request) { r.Capabilities = []string{"cp1"} }},
		{"a refresh", "&force_refresh=true", func(r *acquire.Request) { r.ForceRefresh = true }},
		{"no refresh", "&force_refresh=false", func(*acquire.Request) {}},
		{"a bound token", "&type=mtls_pop", func(r *acquire.Request) { r.Type = acquire.TypePoP }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := a.get(t, wire.PathToken+"?identity=vm&resource="+vault+tt.query)
			if got.status != http.StatusOK {
				t.Fatalf("%d %s", got.status, got.body)
			}
			want := vm
			tt.want(&want)
			if diff := cmp.Diff(want, asked); diff != "" {
				t.Errorf("what the source was asked for (-want +got):\n%s", diff)
			}
			token := decode[wire.TokenResponse](t, got.body)
			if wantType := map[acquire.TokenType]string{acquire.TypeBearer: "Bearer", acquire.TypePoP: "mtls_pop"}[want.Type]; token.TokenType != wantType || !token.Bound {
				t.Errorf("token type %q, bound %v", token.TokenType, token.Bound)
			}
			record := a.audit.lastRecord(t)
			if record["force_refresh"] != want.ForceRefresh || record["claims"] != (want.Claims != "") || strings.Contains(a.audit.String(), "essential") {
				t.Errorf("audit %v", record)
			}
		})
	}
	t.Run("the IMDS protocol has none of it", func(t *testing.T) {
		got := a.get(t, imdsTarget+"&bypass_cache=true&force_refresh=true&type=mtls_pop&claims=%7B%7D&capabilities=cp1", "Metadata", "true")
		want := acquire.Request{Identity: "shop", Resource: vault, Type: acquire.TypeBearer}
		if diff := cmp.Diff(want, asked); diff != "" || got.status != http.StatusOK {
			t.Errorf("%d, what the source was asked for (-want +got):\n%s", got.status, diff)
		}
	})
}

func TestSkippingTheCacheTakesARule(t *testing.T) {
	a := start(t, config(working, freshRules(os.Geteuid())))
	p := a.get(t, wire.PathToken+"?identity=vm&force_refresh=true&resource="+storage).problem(t)
	if p.Code != wire.CodeNotAllowed || p.Field != "force_refresh" || !strings.Contains(p.Hint, "fresh: true") {
		t.Errorf("got %+v", p)
	}
	for _, query := range []string{"&force_refresh=false", "&claims=%7B%22a%22%3A1%7D"} {
		if got := a.get(t, wire.PathToken+"?identity=vm&resource="+storage+query); got.status != http.StatusOK {
			t.Errorf("%s: %d %s", query, got.status, got.body)
		}
	}
	if p := a.get(t, wire.PathToken+"?identity=vm&type=mtls_pop&resource="+storage).problem(t); p.Code != wire.CodeNotAllowed {
		t.Errorf("a type of another rule: %+v", p)
	}
}

// Neither type is ever handed out for the other, and no bound token whose certificate is not known.
func TestWrongTypes(t *testing.T) {
	for _, tt := range []struct {
		name, query string
		change      func(*acquire.Token)
	}{
		{"a Bearer token for a bound one", "&type=mtls_pop", func(t *acquire.Token) { t.TokenType = "Bearer" }},
		{"a bound token for a Bearer one", "", func(t *acquire.Token) { t.TokenType = "mtls_pop" }},
		{"a bound token without a certificate", "&type=mtls_pop", func(t *acquire.Token) { t.TokenType, t.Binding = "mtls_pop", acquire.Binding{} }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := start(t, config(func(_ context.Context, r acquire.Request) (acquire.Token, error) {
				token := goodToken(r)
				tt.change(&token)
				return token, nil
			}, freshRules(os.Geteuid())))
			got := a.get(t, wire.PathToken+"?identity=vm&resource="+vault+tt.query)
			if got.status != http.StatusInternalServerError || strings.Contains(string(got.body), tokenText) {
				t.Errorf("%d %s", got.status, got.body)
			}
		})
	}
}

func TestAClaimsChallengeOfEntraIsPassedOn(t *testing.T) {
	demanding := func(claims string) tokenFunc {
		return failing(&acquire.Error{Kind: acquire.KindRefused, Identity: "vm", Claims: claims, Hint: "ask the tenant's administrator", Err: errors.New("interaction_required")})
	}
	a := start(t, config(demanding(challenge), rulesFor(os.Geteuid())))
	p := a.get(t, wire.PathToken+"?identity=vm&resource="+vault).problem(t)
	if p.Code != wire.CodeClaimsRequired || p.Claims != challenge || p.Identity != "vm" || p.Hint == "" || p.Code.RefusedByPolicy() {
		t.Errorf("got %+v", p)
	}
	got := a.get(t, imdsTarget, "Metadata", "true")
	if said := decode[wire.IMDSError](t, got.body); got.status != http.StatusBadRequest || said.Error != "interaction_required" {
		t.Errorf("IMDS protocol: %d %+v", got.status, said)
	}
	for name, claims := range map[string]string{"no JSON": "<html>", "too much": "{" + strings.Repeat(" ", wire.MaxClaimsBytes) + "}"} {
		t.Run(name+" is not passed on", func(t *testing.T) {
			a := start(t, config(demanding(claims), rulesFor(os.Geteuid())))
			if p := a.get(t, wire.PathToken+"?identity=vm&resource="+vault).problem(t); p.Code != wire.CodeCredentialRefused || p.Claims != "" {
				t.Errorf("got %+v", p)
			}
		})
	}
}

func TestIdentitiesAreThoseOfTheCaller(t *testing.T) {
	rules := freshRules(1000)
	rules.Rules = append(rules.Rules, policy.Rule{
		Name: "others", UIDs: []uint32{1001}, GIDs: []uint32{7}, Identities: []string{"backup"}, Resources: []string{"*"}, TokenTypes: []string{wire.TypeBearer},
	})
	server, audit, _ := newServer(t, config(working, rules))
	both, backup := []string{wire.TypeBearer, wire.TypePoP}, "8b0c3d0e-0000-4000-8000-00000000c1d9"
	own := []wire.Identity{
		{Name: "vm", Kind: wire.KindManagedIdentity, Resources: []string{vault, storage}, Types: both},
		{Name: "shop", Kind: wire.KindApplication, ClientID: shopClient, Resources: []string{vault}, Types: both},
	}
	other := wire.Identity{Name: "backup", Kind: wire.KindManagedIdentity, ClientID: backup, Resources: []string{"*"}, Types: []string{wire.TypeBearer}}
	for _, tt := range []struct {
		name   string
		caller peer.Caller
		want   []wire.Identity
	}{
		{"a user", peer.Caller{UID: 1000, GID: 1000}, own},
		{"another user", peer.Caller{UID: 1001, GID: 1001}, []wire.Identity{other}},
		{"a user with a group", peer.Caller{UID: 1000, GID: 1000, Groups: []uint32{7}}, append(own, other)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := httptest.NewRecorder()
			server.HandlerFor(tt.caller).ServeHTTP(w, newRequest(wire.PathIdentities))
			if diff := cmp.Diff(tt.want, decode[[]wire.Identity](t, w.Body.Bytes())); diff != "" || w.Code != http.StatusOK {
				t.Errorf("%d (-want +got):\n%s", w.Code, diff)
			}
			if record := audit.lastRecord(t); record["decision"] != "answered" || record["route"] != wire.PathIdentities {
				t.Errorf("audit %v", record)
			}
		})
	}
	t.Run("root, whom no rule names", func(t *testing.T) {
		w := httptest.NewRecorder()
		server.HandlerFor(peer.Caller{}).ServeHTTP(w, newRequest(wire.PathIdentities))
		if w.Code != http.StatusForbidden {
			t.Errorf("%d %s", w.Code, w.Body)
		}
	})
}

func TestCapabilities(t *testing.T) {
	a := start(t, config(working, rulesFor(os.Geteuid())))
	got := a.get(t, wire.PathCapabilities)
	if c := decode[wire.Capabilities](t, got.body); got.status != http.StatusOK || c.StrongestBinding != "tpm" || c.ManagedIdentityV2.Available != nil {
		t.Errorf("%d %s", got.status, got.body)
	}
	if !strings.Contains(string(got.body), `"available":null`) {
		t.Errorf("what is not known is not null: %s", got.body)
	}
	for _, path := range []string{wire.PathCapabilities, wire.PathIdentities} {
		if p := a.get(t, path+"?x=y").problem(t); p.Code != wire.CodeInvalidParameter || p.Field != "x" {
			t.Errorf("%s: %+v", path, p)
		}
	}
}
