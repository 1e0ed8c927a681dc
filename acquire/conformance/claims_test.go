package conformance_test

import (
	"fmt"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/acquire/imds"
)

const challenge = `{"access_token":{"nbf":{"essential":true,"value":"1700000000"}}}`

// claimsDemands are those of section 10.
func claimsDemands() []demand {
	ask := func(a *azure, r acquire.Request) acquire.Token {
		a.t.Helper()
		r.Identity, r.Resource, r.Type = "id", vault, acquire.TypeBearer
		token, err := a.acquirer.Token(a.t.Context(), r)
		if err != nil {
			a.t.Fatal(err)
		}
		return token
	}
	cp1 := []string{"cp1"}
	list := []demand{
		{"10", "without capabilities and challenge there is no field claims: cp1 is declared for identities that opt in", func(t *testing.T) {
			a := newAzure(t, vmIdentity())
			a.mustGet(vault, acquire.TypeBearer)
			if a.mtls.requestsTo("token")[0].form.Has("claims") {
				t.Error("claims are sent")
			}
		}},
		{"10", "version 1 carries neither capabilities nor claims; a challenge goes past the cache of IMDS", func(t *testing.T) {
			a := newAzure(t, v1Identity())
			ask(a, acquire.Request{Capabilities: cp1, Claims: challenge})
			m := a.metadata.requestsTo("token")[0]
			if m.query.Has("xms_cc") || m.query.Has("claims") || m.query.Has("token_sha256_to_refresh") || m.query.Get("bypass_cache") != "true" {
				t.Errorf("asked %s", m.target)
			}
		}},
		{"10", "the token cache is skipped for a challenge, and the result takes the token's place", func(t *testing.T) {
			a := newAzure(t, vmIdentity())
			first := a.mustGet(vault, acquire.TypeBearer)
			second := ask(a, acquire.Request{Claims: challenge})
			third := a.mustGet(vault, acquire.TypeBearer)
			if second.FromCache || !third.FromCache || second.AccessToken.Reveal() != third.AccessToken.Reveal() || first.AccessToken.Reveal() == third.AccessToken.Reveal() {
				t.Error("the result of the challenge is not what is served")
			}
			a.wantTraffic("metadata 2, attest 1, credential 1, mtls 2")
		}},
		{"10", "a challenge keeps the certificate", func(t *testing.T) {
			a := newAzure(t, vmIdentity())
			ask(a, acquire.Request{Claims: challenge})
			ask(a, acquire.Request{Claims: challenge})
			if !sameCertificate(a.mtls.requestsTo("token")) {
				t.Error("another certificate was obtained")
			}
		}},
		{"10", "tokens for other capabilities are other tokens", func(t *testing.T) {
			a := newAzure(t, vmIdentity())
			a.mustGet(vault, acquire.TypeBearer)
			if ask(a, acquire.Request{Capabilities: cp1}).FromCache {
				t.Error("a token without cp1 was given to a caller that has it")
			}
			if !ask(a, acquire.Request{Capabilities: cp1}).FromCache {
				t.Error("it was not kept")
			}
			if token := a.mustGet(vault, acquire.TypeBearer); !token.FromCache {
				t.Error("the first one is gone")
			}
		}},
		{"10", "a refresh ahead of need declares the same capabilities", func(t *testing.T) {
			a := newAzure(t, vmIdentity())
			first := ask(a, acquire.Request{Capabilities: cp1})
			a.advance(first.RefreshOn.Sub(a.clock.Now()))
			ask(a, acquire.Request{Capabilities: cp1})
			for ask(a, acquire.Request{Capabilities: cp1}).AccessToken.Reveal() == first.AccessToken.Reveal() {
				runtime.Gosched() // the refresh goes on beside us; what it brings is seen in the cache
			}
			if err := a.acquirer.Close(); err != nil {
				t.Error(err)
			}
			m := a.mtls.requestsTo("token")
			if len(m) != 2 || m[1].form.Get("claims") != m[0].form.Get("claims") {
				t.Errorf("%d requests", len(m))
			}
		}},
		{"10", "token types are other tokens", func(t *testing.T) {
			a := newAzure(t, vmIdentity())
			a.mustGet(vault, acquire.TypeBearer)
			if token := a.mustGet(vault, acquire.TypePoP); token.FromCache || token.TokenType != "mtls_pop" {
				t.Errorf("got %+v", token)
			}
		}},
		{"10", "identities are other tokens, and so are resources, also with a trailing slash", func(t *testing.T) {
			a := newAzure(t, vmIdentity(), named("other", managedIdentity(acquire.BoundRequire, imds.Selector{ClientID: mustServices(t).user.ClientID})))
			a.mustGet(vault, acquire.TypeBearer)
			for _, resource := range []string{management, vault + "/", management + "/"} {
				if first := a.mustGet(resource, acquire.TypeBearer); first.FromCache || first.Resource != resource {
					t.Errorf("%s is mixed up with another resource: %+v", resource, first)
				}
				if again := a.mustGet(resource, acquire.TypeBearer); !again.FromCache || again.Resource != resource {
					t.Errorf("%s is not in memory: %+v", resource, again)
				}
			}
			if token, err := a.acquirer.Token(t.Context(), acquire.Request{Identity: "other", Resource: vault, Type: acquire.TypeBearer}); err != nil || token.FromCache {
				t.Errorf("identities are mixed up: %v", err)
			}
		}},
		{"10", "while Entra is down a token serves on, until it really expires", func(t *testing.T) {
			a := newAzure(t, vmIdentity())
			first := a.mustGet(vault, acquire.TypeBearer)
			a.mtls.alwaysAnswers("token", says(503, ""))
			a.advance(first.ExpiresOn.Add(-2 * time.Second).Sub(a.clock.Now()))
			if token := a.mustGet(vault, acquire.TypeBearer); token.AccessToken.Reveal() != first.AccessToken.Reveal() {
				t.Error("another token")
			}
			a.advance(2 * time.Second)
			if _, err := a.bearer(); err == nil {
				t.Error("an expired token is served")
			}
		}},
		{"10", "a challenge that is no JSON object, asks for nothing or declares capabilities is refused, and nothing is sent", func(t *testing.T) {
			for _, claims := range []string{"x", "[]", "{", `{"a":1}{}`, `{"a":1,"a":2}`, `"eyJ9"`, "{}", `{"access_token":{"xms_cc":{"values":["cp1"]}}}`} {
				a := newAzure(t, vmIdentity())
				_, err := a.acquirer.Token(t.Context(), acquire.Request{Identity: "id", Resource: vault, Claims: claims})
				wantKind(t, err, acquire.KindRefused)
				a.wantTraffic("")
			}
		}},
	}
	for _, row := range []struct {
		capabilities []string
		challenge    string
		want         string
	}{
		{cp1, "", `{"access_token":{"xms_cc":{"values":["cp1"]}}}`},
		{nil, challenge, challenge},
		{cp1, challenge, `{"access_token":{"nbf":{"essential":true,"value":"1700000000"},"xms_cc":{"values":["cp1"]}}}`},
		{cp1, `{"id_token":{"a":null}}`, `{"access_token":{"xms_cc":{"values":["cp1"]}},"id_token":{"a":null}}`},
	} {
		list = append(list, demand{"10", fmt.Sprintf("capabilities %v with challenge %s are merged under access_token", row.capabilities, row.challenge), func(t *testing.T) {
			a := newAzure(t, vmIdentity())
			ask(a, acquire.Request{Capabilities: row.capabilities, Claims: row.challenge})
			if got := a.mtls.requestsTo("token")[0].form["claims"]; !slices.Equal(got, []string{row.want}) {
				t.Errorf("sent %s, want %s", got, row.want)
			}
		}})
	}
	return list
}

// selectionDemands are those of 11.3 and 11.4.
func selectionDemands() []demand {
	missing := certificateEntry(acquire.BoundRequire)
	missing.Name, missing.Key = "missing", "nobody's"
	second := certificateEntry(acquire.BoundRequire)
	second.Name = "second"
	return []demand{
		{"11.3", "the first entry that loads is used", func(t *testing.T) {
			a := newAzure(t, application(t, certApp, missing, certificateEntry(acquire.BoundRequire), second))
			if token := a.mustGet(vault, acquire.TypeBearer); token.Credential != "cert" || !token.Fallback {
				t.Errorf("got %+v", token)
			}
			a.wantTraffic("mtls 1")
		}},
		{"11.3", "the order is that of the list", func(t *testing.T) {
			a := newAzure(t, application(t, certApp, second, certificateEntry(acquire.BoundRequire)))
			if token := a.mustGet(vault, acquire.TypeBearer); token.Credential != "second" || token.Fallback {
				t.Errorf("got %+v", token)
			}
		}},
		{"11.3", "a managed identity without assertion gives way to the next entry", func(t *testing.T) {
			a := newAzure(t, application(t, certApp, userEntry(t, acquire.BoundRequire), certificateEntry(acquire.BoundRequire)))
			a.metadata.alwaysAnswers("getplatformmetadata", says(400, identityNotFound))
			if token := a.mustGet(vault, acquire.TypeBearer); token.Credential != "cert" || !token.Fallback {
				t.Errorf("got %+v", token)
			}
			a.wantTraffic("metadata 1, mtls 1")
		}},
		{"11.3", "no usable entry: the error tells of each", func(t *testing.T) {
			other := missing
			other.Name = "other"
			a := newAzure(t, application(t, certApp, missing, other))
			_, err := a.bearer()
			wantError(t, err, "missing (bound)")
			wantError(t, err, "other (bound)")
			a.wantTraffic("")
		}},
		{"11.3", "a rejected entry gives way once in a request", func(t *testing.T) {
			third := second
			third.Name = "third"
			a := newAzure(t, application(t, certApp, certificateEntry(acquire.BoundRequire), second, third))
			a.mtls.alwaysAnswers("token", refuses(401, "invalid_client", 7000277))
			if _, err := a.bearer(); err == nil {
				t.Error("no error")
			}
			a.wantTraffic("mtls 2")
		}},
		{"11.3", "an entry that was rejected rests while another one works", func(t *testing.T) {
			a := newAzure(t, application(t, certApp, certificateEntry(acquire.BoundRequire), second))
			a.mtls.answers("token", refuses(401, "invalid_client", 7000277))
			a.mustGet(vault, acquire.TypeBearer)
			if token := a.mustGet(management, acquire.TypeBearer); token.Credential != "second" || !token.Fallback {
				t.Errorf("got %+v", token)
			}
			a.wantTraffic("mtls 3")
		}},
		{"11.4", "mtls_pop with a certificate is variant C", func(t *testing.T) {
			a := newAzure(t, application(t, certApp, certificateEntry(acquire.BoundRequire)))
			wantVariant(t, a.mtls, globalMTLS, "C", a.mustGet(vault, acquire.TypePoP))
		}},
		{"11.4", "mtls_pop with a managed identity is two requests, the second with jwt-pop, and a bound result", func(t *testing.T) {
			a := newAzure(t, application(t, ficApp, userEntry(t, acquire.BoundRequire)))
			if token := a.mustGet(vault, acquire.TypePoP); token.TokenType != "mtls_pop" || !token.Bound {
				t.Errorf("got %+v", token)
			}
			a.wantTraffic("metadata 1, attest 1, credential 1, mtls 2")
		}},
		{"11.4", "mtls_pop with anything else is refused, and nothing is sent", func(t *testing.T) {
			file := acquire.Credential{Name: "file", Source: acquire.SourceAssertionFile, Bound: acquire.BoundNever, Path: "/nonexistent"}
			for _, id := range []acquire.Identity{v1Identity(), application(t, certApp, file), application(t, certApp, certificateEntry(acquire.BoundNever))} {
				a := newAzure(t, id)
				_, err := a.get(vault, acquire.TypePoP)
				wantKind(t, err, acquire.KindRefused)
				a.wantTraffic("")
			}
		}},
		{"11.4", "Bearer with a bound certificate is variant B", func(t *testing.T) {
			a := newAzure(t, application(t, certApp, certificateEntry(acquire.BoundRequire)))
			wantVariant(t, a.mtls, globalMTLS, "B", a.mustGet(vault, acquire.TypeBearer))
		}},
		{"11.4", "Bearer with a bound managed identity is two requests, the second with jwt-pop, and a Bearer result", func(t *testing.T) {
			a := newAzure(t, application(t, ficApp, userEntry(t, acquire.BoundRequire)))
			if token := a.mustGet(vault, acquire.TypeBearer); token.TokenType != "Bearer" || !token.Bound {
				t.Errorf("got %+v", token)
			}
			a.wantTraffic("metadata 1, attest 1, credential 1, mtls 2")
		}},
		{"11.4", "no silent downgrade: what is required to be bound is bound or fails", func(t *testing.T) {
			for _, id := range []acquire.Identity{vmIdentity(), application(t, ficApp, userEntry(t, acquire.BoundRequire))} {
				a := newAzure(t, id)
				a.metadata.alwaysAnswers("getplatformmetadata", says(404, ""))
				_, err := a.bearer()
				wantKind(t, err, acquire.KindRefused)
				a.wantTraffic("metadata 4")
			}
		}},
		{"11.4", "a downgrade that is preferred to failing is said in the result and the log", func(t *testing.T) {
			a := newAzure(t, managedIdentity(acquire.BoundPrefer, imds.Selector{}))
			a.metadata.alwaysAnswers("getplatformmetadata", says(404, ""))
			if token := a.mustGet(vault, acquire.TypeBearer); token.Bound || !token.Fallback || a.log.String() == "" {
				t.Errorf("got %+v", token)
			}
		}},
		{"11.4", "a file's assertion is never bound: such an entry is refused at the start", func(t *testing.T) {
			file := acquire.Credential{Name: "file", Source: acquire.SourceAssertionFile, Bound: acquire.BoundRequire, Path: "/nonexistent"}
			if _, err := acquire.New(acquire.Config{Identities: []acquire.Identity{application(t, certApp, file)}}); err == nil {
				t.Error("no error")
			}
		}},
	}
}
