package conformance_test

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/acquire/imds"
	simentra "github.com/keyagent/keyagent/simulator/entra"
)

// refusedConnection is what a host answers where no process listens.
func refusedConnection() error {
	return &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}
}

// v1Demands are those of 9.1, as a client, and 9.7.
func v1Demands() []demand {
	list := slices.Concat(v1Requests(), v1Answers(), v1Errors())
	return append(list,
		demand{"9.7", "refreshed at refresh_in of Entra", func(t *testing.T) {
			a := newAzure(t, vmIdentity())
			a.mtls.answers("token", says(200, `{"token_type":"Bearer","expires_in":36000,"refresh_in":9000,"access_token":"x"}`))
			if token := a.mustGet(vault, acquire.TypeBearer); token.RefreshOn.Sub(a.clock.Now()) != 9000*time.Second {
				t.Errorf("refreshed after %v", token.RefreshOn.Sub(a.clock.Now()))
			}
		}},
		demand{"9.7", "without refresh_in: at half of a life of more than 2 h", func(t *testing.T) {
			for _, id := range []acquire.Identity{vmIdentity(), v1Identity()} {
				a := newAzure(t, id)
				a.mtls.answers("token", says(200, `{"token_type":"Bearer","expires_in":36000,"access_token":"x"}`))
				a.metadata.answers("token", says(200, v1Answer("36000", "")))
				if token := a.mustGet(vault, acquire.TypeBearer); token.RefreshOn.Sub(a.clock.Now()) != 5*time.Hour {
					t.Errorf("refreshed after %v", token.RefreshOn.Sub(a.clock.Now()))
				}
			}
		}},
		demand{"9.7", "Entra, a life of 2 h or less without refresh_in: at half of it, before the agent's callers think it old", func(t *testing.T) {
			a := newAzure(t, vmIdentity())
			a.mtls.answers("token", says(200, `{"token_type":"Bearer","expires_in":3600,"access_token":"x"}`))
			if token := a.mustGet(vault, acquire.TypeBearer); token.RefreshOn.Sub(a.clock.Now()) != 30*time.Minute {
				t.Errorf("refreshed after %v", token.RefreshOn.Sub(a.clock.Now()))
			}
		}},
		demand{"9.7", "version 1, a life of 2 h or less: 5 minutes before its end", func(t *testing.T) {
			a := newAzure(t, v1Identity())
			a.metadata.answers("token", says(200, v1Answer("3600", "")))
			if token := a.mustGet(vault, acquire.TypeBearer); token.RefreshOn.Sub(a.clock.Now()) != 55*time.Minute {
				t.Errorf("refreshed after %v", token.RefreshOn.Sub(a.clock.Now()))
			}
		}},
	)
}

func v1Requests() []demand {
	var list []demand
	for name, row := range map[string]struct {
		selector func(simentra.Principal) imds.Selector
		query    func(simentra.Principal) string
	}{
		"nothing: the system-assigned one": {
			func(simentra.Principal) imds.Selector { return imds.Selector{} },
			func(simentra.Principal) string { return "" },
		},
		"client id": {
			func(u simentra.Principal) imds.Selector { return imds.Selector{ClientID: u.ClientID} },
			func(u simentra.Principal) string { return "&client_id=" + u.ClientID },
		},
		"object id": {
			func(u simentra.Principal) imds.Selector { return imds.Selector{ObjectID: u.ObjectID} },
			func(u simentra.Principal) string { return "&object_id=" + u.ObjectID },
		},
		"resource id": {
			func(u simentra.Principal) imds.Selector { return imds.Selector{ResourceID: u.ResourceID} },
			func(u simentra.Principal) string {
				return "&msi_res_id=" + strings.ReplaceAll(u.ResourceID, "/", "%2F")
			},
		},
	} {
		list = append(list, demand{"9.1", "selected by " + name, func(t *testing.T) {
			user := mustServices(t).user
			a := newAzure(t, managedIdentity(acquire.BoundNever, row.selector(user)))
			a.mustGet(vault, acquire.TypeBearer)
			m := a.metadata.requestsTo("token")[0]
			if m.method != http.MethodGet || !strings.HasPrefix(m.target, "/metadata/identity/oauth2/token?") {
				t.Errorf("asked %s %s", m.method, m.target)
			}
			want := sortedQuery("api-version=2018-02-01" + row.query(user) + "&resource=https%3A%2F%2Fvault.azure.net")
			if got := m.query.Encode(); got != want {
				t.Errorf("asked %s, want %s", got, want)
			}
			if uuid.Validate(m.header.Get("x-ms-client-request-id")) != nil || !slices.Equal(m.header["Metadata"], []string{"true"}) || m.header.Get("X-Forwarded-For") != "" {
				t.Errorf("headers are %v", m.header)
			}
		}})
	}
	for _, resource := range []string{vault, vault + "/", management + "/"} {
		list = append(list, demand{"9.1", "the resource " + resource + " as it was asked for", func(t *testing.T) {
			a := newAzure(t, v1Identity())
			if token := a.mustGet(resource, acquire.TypeBearer); token.Resource != resource || claimsOf(t, token.AccessToken.Reveal())["aud"] != resource {
				t.Errorf("got a token for %s", token.Resource)
			}
			if got := a.metadata.requestsTo("token")[0].query["resource"]; !slices.Equal(got, []string{resource}) {
				t.Errorf("asked for %q", got)
			}
		}})
	}
	return append(list, demand{"9.1", "bypass_cache=true where a fresh token is demanded, and only there", func(t *testing.T) {
		a := newAzure(t, v1Identity())
		a.mustGet(vault, acquire.TypeBearer)
		if _, err := a.acquirer.Token(t.Context(), acquire.Request{Identity: "id", Resource: vault, ForceRefresh: true}); err != nil {
			t.Fatal(err)
		}
		if m := a.metadata.requestsTo("token"); len(m) != 2 || m[0].query.Has("bypass_cache") || m[1].query.Get("bypass_cache") != "true" {
			t.Errorf("%d requests", len(m))
		}
	}})
}

func sortedQuery(query string) string {
	parts := strings.Split(query, "&")
	slices.Sort(parts)
	return strings.Join(parts, "&")
}

// v1Answer is an answer with these two expiries; "" leaves one out.
func v1Answer(in, on string) string {
	answer := `{"access_token":"opaque","token_type":"Bearer","refresh_token":"","resource":"https://vault.azure.net"`
	if in != "" {
		answer += `,"expires_in":"` + in + `"`
	}
	if on != "" {
		answer += `,"expires_on":"` + on + `"`
	}
	return answer + "}"
}

func v1Answers() []demand {
	var list []demand
	for name, answer := range map[string]func(now time.Time) string{
		"expires_in as a decimal string":                     func(time.Time) string { return v1Answer("3600", "") },
		"expires_on as a decimal string":                     func(now time.Time) string { return v1Answer("", strconv.FormatInt(now.Unix()+3600, 10)) },
		"both, of which expires_in needs no agreeing clocks": func(now time.Time) string { return v1Answer("3600", strconv.FormatInt(now.Unix()+99, 10)) },
		"numbers": func(now time.Time) string {
			return fmt.Sprintf(`{"access_token":"x","token_type":"Bearer","expires_in":3600,"expires_on":%d}`, now.Unix()+3600)
		},
	} {
		list = append(list, demand{"9.1", "the answer may have " + name, func(t *testing.T) {
			a := newAzure(t, v1Identity())
			a.metadata.answers("token", says(200, answer(a.clock.Now())))
			token := a.mustGet(vault, acquire.TypeBearer)
			if life := token.ExpiresOn.Sub(a.clock.Now()); life <= 3598*time.Second || life > 3600*time.Second || token.Bound || token.Strength != acquire.StrengthNone {
				t.Errorf("lives %v: %+v", life, token)
			}
		}})
	}
	for name, answer := range map[string]string{
		"neither expires_in nor expires_on": v1Answer("", ""),
		"no access_token":                   `{"token_type":"Bearer","expires_in":"3600"}`,
		"another token_type":                `{"access_token":"x","token_type":"pop","expires_in":"3600"}`,
		"an expiry that is no number":       v1Answer("soon", ""),
		"an expiry in the past":             v1Answer("", "1000000000"),
		"no JSON":                           "<html>",
	} {
		list = append(list, demand{"9.1", "an answer with " + name + " is refused", func(t *testing.T) {
			a := newAzure(t, v1Identity())
			a.metadata.answers("token", says(200, answer))
			_, err := a.bearer()
			wantKind(t, err, acquire.KindRefused)
			if !errors.Is(err, imds.ErrBadAnswer) {
				t.Errorf("got %v", err)
			}
		}})
	}
	return append(list, demand{"9.1", "an answer about another identity than the one selected is refused", func(t *testing.T) {
		user := mustServices(t).user
		a := newAzure(t, managedIdentity(acquire.BoundNever, imds.Selector{ClientID: user.ClientID}))
		a.metadata.edits("token", func(m map[string]any) { m["client_id"] = a.system.ClientID })
		if _, err := a.bearer(); !errors.Is(err, imds.ErrBadAnswer) {
			t.Errorf("got %v", err)
		}
	}})
}

func v1Errors() []demand {
	var list []demand
	exponential := []time.Duration{time.Second, 2 * time.Second, 4 * time.Second}
	for _, row := range []struct {
		name   string
		status int
		body   string
		kind   acquire.Kind
		pauses []time.Duration
	}{
		{"no Metadata header", 400, `{"error":"bad_request_102","error_description":"Required metadata header not specified"}`, acquire.KindRefused, nil},
		{"identity not assigned", 400, identityNotFound, acquire.KindUnknownIdentity, nil},
		{"unknown audience", 400, `{"error":"invalid_resource","error_description":"AADSTS50001: The resource was not found"}`, acquire.KindInvalidResource, nil},
		{"misuse", 401, `{"error":"unauthorized_client"}`, acquire.KindRefused, nil},
		{"forbidden", 403, `{"error":"access_denied"}`, acquire.KindRefused, nil},
		{"a container engine's proxy", 403, "dial tcp 169.254.169.254:80: connect: network is unreachable", acquire.KindUnavailable, nil},
		{"the endpoint is updating", 404, "", acquire.KindUnavailable, exponential},
		{"a time-out of the server", 408, "", acquire.KindUnavailable, exponential},
		{"IMDS is being updated", 410, "", acquire.KindUnavailable, slices.Repeat([]time.Duration{10 * time.Second}, 7)},
		{"throttled", 429, "", acquire.KindThrottled, exponential},
		{"transient", 500, `{"error":"unknown"}`, acquire.KindUnavailable, exponential},
		{"transient", 503, "", acquire.KindUnavailable, exponential},
	} {
		list = append(list, demand{"9.1", fmt.Sprintf("%d, %s: %s after %d pauses", row.status, row.name, row.kind, len(row.pauses)), func(t *testing.T) {
			a := newAzure(t, v1Identity())
			a.metadata.alwaysAnswers("token", says(row.status, row.body))
			_, err := a.bearer()
			wantKind(t, err, row.kind)
			a.wantSlept(row.pauses...)
		}})
	}
	return list
}
