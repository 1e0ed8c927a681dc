package daemon_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/simulator"
)

// askedStage is an agent that gives all of its identities for any resource.
func askedStage(t *testing.T, change func(*stage)) *stage {
	t.Helper()
	s := newStageOn(t, simulator.Config{Dir: t.TempDir(), Resources: []string{resource, database}})
	s.cfg.Rules[0].Resources = []string{"*"}
	if change != nil {
		change(s)
	}
	s.start()
	return s
}

const database = "https://database.windows.net"

// identity returns what the configuration says of an identity.
func (s *stage) identity(name string) *config.Identity {
	for i := range s.cfg.Identities {
		if s.cfg.Identities[i].Name == name {
			return &s.cfg.Identities[i]
		}
	}
	s.t.Fatalf("there is no identity %s", name)
	return nil
}

// platformAsk asks in the protocol of the metadata service.
func (s *stage) platformAsk(query url.Values) (status int, answer map[string]any) {
	s.t.Helper()
	if !query.Has(wire.ParamAPIVersion) {
		query.Set(wire.ParamAPIVersion, "2018-02-01")
	}
	if !query.Has(wire.ParamResource) {
		query.Set(wire.ParamResource, resource)
	}
	status, body := s.ask(wire.PathIMDSToken, query)
	if err := json.Unmarshal([]byte(body), &answer); err != nil {
		s.t.Fatalf("%v: %s", err, body)
	}
	return status, answer
}

// A resource with a slash at its end reaches Entra and IMDS with it, and so does one without.
// Managed identity v2 is the exception.
func TestAResourceIsAskedForAsTheAppWroteIt(t *testing.T) {
	s := askedStage(t, func(s *stage) { s.identity("vm-user").ManagedIdentity.Bound = config.BoundNever })
	for _, tt := range []struct {
		identity, operation, detail string
		plain, slashed              string // as they arrive
	}{
		{"app-fic", "entra.mtls.token", "scope", database + "/.default", database + "//.default"},
		{"vm-user", "imds.token", "resource", database, database + "/"},
		{"vm", "entra.mtls.token", "scope", database + "/.default", database + "/.default"},
	} {
		for _, form := range []struct{ param, value, echo, want string }{
			{wire.ParamResource, database, database, tt.plain},
			{wire.ParamResource, database + "/", database + "/", tt.slashed},
			{wire.ParamScope, database + "/.default", database, tt.plain},
			{wire.ParamScope, database + "//.default", database + "/", tt.slashed},
		} {
			t.Run(tt.identity+" "+form.param+" "+form.value, func(t *testing.T) {
				before := len(s.platform.Journal().Operation(tt.operation))
				status, body := s.ask(wire.PathToken, url.Values{wire.ParamIdentity: {tt.identity}, form.param: {form.value}})
				if status != http.StatusOK || !strings.Contains(body, `"resource":"`+form.echo+`"`) {
					t.Fatalf("status %d, not of %s", status, form.echo)
				}
				seen := s.platform.Journal().Operation(tt.operation)
				if form.param == wire.ParamScope {
					if len(seen) != before {
						t.Errorf("the same resource was asked for again")
					}
					return
				}
				if len(seen) == before || seen[len(seen)-1].Detail[tt.detail] != form.want {
					t.Errorf("asked for %v, want %s", seen[len(seen)-1].Detail, form.want)
				}
			})
		}
	}
}

// The agent and the metadata service itself take the same versions.
func TestThePlatformsVersionsAreTheAgents(t *testing.T) {
	s := askedStage(t, nil)
	for version, want := range map[string]int{
		"2018-02-01": 200, "2019-08-01": 200, "2019-08-15": 200, "2020-06-01": 200, "2021-05-01": 200, "2025-04-07": 200,
		"2018-01-31": 400, "2017-09-01": 400, "2019-07-01-preview": 400, "2021-02-30": 400, "latest": 400,
	} {
		query := url.Values{wire.ParamAPIVersion: {version}, wire.ParamResource: {resource}}
		if status, answer := s.platformAsk(query); status != want {
			t.Errorf("the agent, %s: %d %v", version, status, answer["error_description"])
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.platform.Info().IMDS+wire.PathIMDSToken+"?"+query.Encode(), nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set(wire.HeaderMetadata, "true")
		if status, body := readReply(t, http.DefaultClient, req); status != want {
			t.Errorf("the metadata service, %s: %d %s", version, status, body)
		}
	}
}

// Identities are found by each of their ids, with a binding certificate and without, whichever id
// the configuration has.
func TestIdentitiesAreFoundByTheIDsThatTokensSay(t *testing.T) {
	for _, tt := range []struct{ bound, configured string }{
		{config.BoundRequire, "resource_id"}, {config.BoundRequire, "object_id"}, {config.BoundNever, "resource_id"}, {config.BoundNever, "client_id"},
	} {
		t.Run(tt.bound+" by "+tt.configured, func(t *testing.T) {
			s := askedStage(t, func(s *stage) {
				user, m := s.platform.Info().Identities[1], s.identity("vm-user").ManagedIdentity
				ids := map[string]config.ManagedIdentitySelector{
					"client_id": {ClientID: user.ClientID}, "object_id": {ObjectID: user.ObjectID}, "resource_id": {ResourceID: user.ResourceID},
				}
				m.ManagedIdentitySelector, m.Bound = ids[tt.configured], tt.bound
				s.identity("vm").ManagedIdentity.Bound = tt.bound
			})
			for _, id := range s.platform.Info().Identities[:2] {
				for param, value := range map[string]string{
					wire.ParamClientID: id.ClientID, wire.ParamObjectID: id.ObjectID, wire.ParamResourceID: id.ResourceID,
				} {
					if status, answer := s.platformAsk(url.Values{param: {value}}); status != 200 || answer["client_id"] != id.ClientID {
						t.Errorf("%s by %s: %d %s %s", id.Name, param, status, answer["client_id"], answer["error_description"])
					}
				}
			}
			if status, answer := s.platformAsk(url.Values{}); status != 200 || answer["client_id"] != s.platform.Info().Identities[0].ClientID {
				t.Errorf("without selector: %d %s %s", status, answer["client_id"], answer["error_description"])
			}
			if status, answer := s.platformAsk(url.Values{wire.ParamClientID: {s.platform.Info().TenantID}}); status != 400 || answer["error"] != "identity_not_found" {
				t.Errorf("an id that nobody has: %d %v", status, answer["error_description"])
			}
		})
	}
}
