package agentapi_test

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/agentapi"
	"github.com/keyagent/keyagent/agentapi/peer"
	"github.com/keyagent/keyagent/agentapi/policy"
	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/internal/secret"
)

// idOf and object make client and object ids of a letter.
func idOf(letter string) string   { return "8b0c3d0e-0000-4000-8000-0000000000" + letter + "1" }
func object(letter string) string { return "9d0c3d0e-0000-4000-8000-0000000000" + letter + "2" }

const subscription = "/subscriptions/s/resourcegroups/g/providers/"

// tenantOfTest is a token source that knows whose each identity is, as Entra does.
type tenantOfTest struct {
	mu    sync.Mutex
	ids   map[string]agentapi.Identity // that tokens say, by the name of the identity
	fails map[string]error
	asked []string // identities
}

func (s *tenantOfTest) Token(_ context.Context, r acquire.Request) (acquire.Token, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, r.Identity)
	if err := s.fails[r.Identity]; err != nil {
		return acquire.Token{}, err
	}
	token, ids := goodToken(r), s.ids[r.Identity]
	token.AccessToken = secret.New(r.Identity + "." + tokenText)
	token.ClientID, token.ObjectID, token.ResourceID = ids.ClientID, ids.ObjectID, ids.ResourceID
	return token, nil
}

// become makes an identity another one.
func (s *tenantOfTest) become(name string, ids agentapi.Identity) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ids[name] = ids
}

// requests returns the identities that the source was asked for since the last call.
func (s *tenantOfTest) requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	asked := s.asked
	s.asked = nil
	return asked
}

func idsOf(letter, resource string) agentapi.Identity {
	return agentapi.Identity{ClientID: idOf(letter), ObjectID: object(letter), ResourceID: subscription + resource}
}

func newTenant() *tenantOfTest {
	return &tenantOfTest{fails: map[string]error{}, ids: map[string]agentapi.Identity{
		"own":    idsOf("a", "Microsoft.Compute/virtualMachines/vm"),
		"byarm":  idsOf("b", "Microsoft.ManagedIdentity/userAssignedIdentities/byarm"),
		"byid":   idsOf("c", "Microsoft.ManagedIdentity/userAssignedIdentities/byid"),
		"byoid":  idsOf("d", "Microsoft.ManagedIdentity/userAssignedIdentities/byoid"),
		"app":    {ClientID: idOf("e"), ObjectID: object("e")},
		"secret": idsOf("f", "Microsoft.ManagedIdentity/userAssignedIdentities/secret"),
	}}
}

// identitiesOf configures each identity by one id, and the one of the VM by none.
func identitiesOf(s *tenantOfTest) []agentapi.Identity {
	return []agentapi.Identity{
		{Name: "own", Kind: wire.KindManagedIdentity},
		{Name: "byarm", Kind: wire.KindManagedIdentity, ResourceID: strings.ToUpper(s.ids["byarm"].ResourceID)},
		{Name: "byid", Kind: wire.KindManagedIdentity, ClientID: s.ids["byid"].ClientID},
		{Name: "byoid", Kind: wire.KindManagedIdentity, ObjectID: s.ids["byoid"].ObjectID},
		{Name: "app", Kind: wire.KindApplication, ClientID: s.ids["app"].ClientID},
		{Name: "secret", Kind: wire.KindManagedIdentity},
	}
}

// giving is a policy that gives whoever runs the test these identities for one resource.
func giving(identities ...string) *policy.Policy {
	p := rulesFor(os.Geteuid())
	p.Rules[0].Identities = identities
	return p
}

func startTenant(t *testing.T, s *tenantOfTest, rules *policy.Policy) *agent {
	t.Helper()
	cfg := config(s.Token, rules)
	cfg.Identities = identitiesOf(s)
	return start(t, cfg)
}

// selects asks with a selector, and returns the identity whose token came, or the error.
func (a *agent) selects(t *testing.T, param, value string) string {
	t.Helper()
	query := url.Values{wire.ParamAPIVersion: {"2018-02-01"}, wire.ParamResource: {vault}}
	if param != "" {
		query.Set(param, value)
	}
	return a.whose(t, query)
}

func (a *agent) whose(t *testing.T, query url.Values) string {
	t.Helper()
	got := a.get(t, wire.PathIMDSToken+"?"+query.Encode(), wire.HeaderMetadata, "true")
	if got.status != 200 {
		said := decode[wire.IMDSError](t, got.body)
		if strings.Contains(string(got.body), tokenText) || strings.Contains(said.Description, "secret") {
			t.Errorf("the refusal tells too much: %s", got.body)
		}
		return fmt.Sprintf("%d %s", got.status, said.Error)
	}
	name, _, _ := strings.Cut(decode[wire.IMDSToken](t, got.body).AccessToken.Reveal(), ".")
	if record := a.audit.lastRecord(t); record["decision"] != "issued" || record["identity"] != name {
		t.Errorf("audit %v for a token of %s", record, name)
	}
	return name
}

func TestAnIdentityIsFoundByEachOfItsIDs(t *testing.T) {
	s := newTenant()
	for name, ids := range s.ids {
		for param, value := range map[string]string{
			wire.ParamClientID: ids.ClientID, wire.ParamObjectID: ids.ObjectID,
			wire.ParamResourceID: ids.ResourceID, wire.ParamResourceIDAlias: strings.ToUpper(ids.ResourceID),
		} {
			if value == "" || name == "secret" {
				continue
			}
			want := name
			if name == "app" && param == wire.ParamObjectID {
				want = "400 identity_not_found" // no application is looked into for its object id
			}
			t.Run(name+" by "+param, func(t *testing.T) {
				a := startTenant(t, s, giving("own", "byarm", "byid", "byoid", "app"))
				for range 2 { // before and after anything is known
					if got := a.selects(t, param, value); got != want {
						t.Errorf("got %s, want %s", got, want)
					}
				}
			})
			t.Run(name+" by "+param+" where rules give another one only", func(t *testing.T) {
				a := startTenant(t, s, giving("app"))
				if name == "app" {
					a = startTenant(t, s, giving("own"))
				}
				if got := a.selects(t, param, value); got != "400 identity_not_found" {
					t.Errorf("got %s", got)
				}
			})
		}
	}
	t.Run("app by object id once a token has said it", func(t *testing.T) {
		a := startTenant(t, s, giving("own", "app"))
		a.selects(t, wire.ParamClientID, idOf("e"))
		if got := a.selects(t, wire.ParamObjectID, object("e")); got != "app" {
			t.Errorf("got %s", got)
		}
	})
}

// An id that nobody has is looked for once; afterwards everything is known.
func TestAnUnknownIDIsLookedForOnce(t *testing.T) {
	s := newTenant()
	a := startTenant(t, s, giving("own", "byarm", "byid", "app"))
	for i, want := range [][]string{{"own", "byarm"}, nil, nil} {
		if got := a.selects(t, wire.ParamClientID, idOf("9")); got != "400 identity_not_found" {
			t.Errorf("got %s", got)
		}
		if asked := s.requests(); !slices.Equal(asked, want) {
			t.Errorf("request %d: the source was asked for %q, want %q", i+1, asked, want)
		}
	}
}

// An id that was learnt from one caller's request does not give the identity to another caller, who
// has no rule for it.
func TestNoSelectorReachesBeyondTheRules(t *testing.T) {
	s := newTenant()
	rules := giving("own", "byarm")
	rules.Rules = append(rules.Rules,
		policy.Rule{Name: "other", UIDs: []uint32{4242}, Identities: []string{"secret", "byoid"}, Resources: []string{vault}, TokenTypes: []string{"bearer"}},
		policy.Rule{Name: "storage", UIDs: []uint32{uint32(os.Geteuid())}, Identities: []string{"byoid"}, Resources: []string{storage}, TokenTypes: []string{"bearer"}})
	a := startTenant(t, s, rules)
	for _, name := range []string{"secret", "byoid"} { // so that everything is known
		request := newRequest(wire.PathIMDSToken + "?api-version=2018-02-01&resource=" + vault + "&client_id=" + s.ids[name].ClientID)
		request.Header.Set(wire.HeaderMetadata, "true")
		reply := httptest.NewRecorder()
		a.server.HandlerFor(peer.Caller{UID: 4242, GID: 4242}).ServeHTTP(reply, request)
		if !strings.Contains(reply.Body.String(), name+"."+tokenText) {
			t.Fatalf("%d %s", reply.Code, reply.Body)
		}
	}
	s.requests()
	for param, value := range map[string]string{
		wire.ParamClientID: s.ids["secret"].ClientID, wire.ParamObjectID: s.ids["secret"].ObjectID, wire.ParamResourceID: s.ids["secret"].ResourceID,
	} {
		if got := a.selects(t, param, value); got != "400 identity_not_found" {
			t.Errorf("%s: got %s", param, got)
		}
	}
	if slices.Contains(s.requests(), "secret") {
		t.Error("a token was fetched that no rule gives the caller")
	}
	if got := a.selects(t, wire.ParamClientID, s.ids["byoid"].ClientID); got != "403 access_denied" {
		t.Errorf("an identity that rules give for another resource: got %s", got)
	}
	if slices.Contains(s.requests(), "byoid") {
		t.Error("a token was fetched for a resource that no rule gives the caller")
	}
}

// An identity of which nothing is known is not asked about for a resource that its rules do not
// give.
func TestNothingIsLearntByATokenThatNoRuleGives(t *testing.T) {
	s := newTenant()
	a := startTenant(t, s, giving("own", "byarm"))
	query := url.Values{wire.ParamAPIVersion: {"2018-02-01"}, wire.ParamResource: {storage}, wire.ParamClientID: {s.ids["byarm"].ClientID}}
	if got := a.whose(t, query); got != "400 identity_not_found" {
		t.Errorf("got %s", got)
	}
	if asked := s.requests(); asked != nil {
		t.Errorf("the source was asked for %q", asked)
	}
}

func TestALearntIDGoesWithTheIdentityThatHadIt(t *testing.T) {
	before, after := idsOf("a", "Microsoft.Compute/virtualMachines/vm"), idsOf("9", "Microsoft.Compute/virtualMachines/vm")
	for _, tt := range []struct {
		name            string
		param, old, new string
	}{
		{"client id", wire.ParamClientID, before.ClientID, after.ClientID},
		{"object id", wire.ParamObjectID, before.ObjectID, after.ObjectID},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newTenant()
			a := startTenant(t, s, giving("own", "app"))
			if got := a.selects(t, tt.param, tt.old); got != "own" {
				t.Fatalf("got %s", got)
			}
			s.become("own", after)
			for range 2 { // what is in memory says "own" first, and the token says otherwise
				if got := a.selects(t, tt.param, tt.old); got != "400 identity_not_found" {
					t.Errorf("by the id of the one before: got %s", got)
				}
			}
			if got := a.selects(t, tt.param, tt.new); got != "own" {
				t.Errorf("by its own id: got %s", got)
			}
		})
	}
	t.Run("object id that the next token does not say", func(t *testing.T) {
		s := newTenant()
		a := startTenant(t, s, giving("own", "app"))
		a.selects(t, wire.ParamObjectID, before.ObjectID)
		s.become("own", agentapi.Identity{ClientID: before.ClientID}) // an opaque token of the same identity
		if got := a.selects(t, wire.ParamObjectID, before.ObjectID); got != "own" {
			t.Errorf("of the same identity: got %s", got)
		}
		s.become("own", agentapi.Identity{ClientID: after.ClientID})
		if got := a.selects(t, wire.ParamObjectID, before.ObjectID); got != "400 identity_not_found" {
			t.Errorf("of another identity: got %s", got)
		}
		s.become("own", agentapi.Identity{})
		if got := a.selects(t, wire.ParamClientID, after.ClientID); got != "400 identity_not_found" {
			t.Errorf("of a token that says nothing: got %s", got)
		}
	})
}

// A token of another identity than the configuration means tells nothing about that identity.
func TestAnIDThatContradictsTheConfigurationIsNotLearnt(t *testing.T) {
	for name, ids := range map[string]agentapi.Identity{
		"byarm": idsOf("9", "Microsoft.ManagedIdentity/userAssignedIdentities/other"),
		"byoid": idsOf("9", ""),
		"byid":  idsOf("9", ""),
	} {
		s := newTenant()
		a := startTenant(t, s, giving(name, "app"))
		s.become(name, ids)
		if got := a.selects(t, wire.ParamClientID, ids.ClientID); got != "400 identity_not_found" {
			t.Errorf("%s: got %s", name, got)
		}
	}
}

// Two names of one managed identity: what the configuration says decides, and else the order.
func TestALearntIDChangesNoChoice(t *testing.T) {
	s := newTenant()
	s.become("byarm", agentapi.Identity{ClientID: idOf("c"), ObjectID: object("c"), ResourceID: s.ids["byarm"].ResourceID})
	s.become("own", agentapi.Identity{ClientID: idOf("c"), ObjectID: object("c")})
	for _, first := range []string{"", "byarm", "own"} {
		a := startTenant(t, s, giving("byid", "byarm", "own"))
		if first != "" {
			a.get(t, wire.PathToken+"?identity="+first+"&resource="+vault)
		}
		for range 2 {
			if got := a.selects(t, wire.ParamClientID, idOf("c")); got != "byid" {
				t.Errorf("by a configured id, after %q: got %s", first, got)
			}
			if got := a.selects(t, wire.ParamObjectID, object("c")); got != "own" {
				t.Errorf("by a learnt id, after %q: got %s", first, got)
			}
		}
	}
}

// An identity that cannot be looked at may be the one that is meant, so what keeps it away is the
// answer.
func TestAnIdentityThatCannotBeLookedAt(t *testing.T) {
	for _, tt := range []struct {
		name, param, value string
		err                error
		want               string
	}{
		{"for now, and another has the id", wire.ParamClientID, idOf("b"), &acquire.Error{Kind: acquire.KindUnavailable, Err: errors.New("down")}, "byarm"},
		{"for now", wire.ParamClientID, idOf("a"), &acquire.Error{Kind: acquire.KindUnavailable, Err: errors.New("down")}, "503 temporarily_unavailable"},
		{"too soon", wire.ParamObjectID, object("a"), &acquire.Error{Kind: acquire.KindThrottled, Err: errors.New("throttled")}, "429 too_many_requests"},
		{"for this resource", wire.ParamClientID, idOf("a"), &acquire.Error{Kind: acquire.KindInvalidResource, Err: errors.New("no such resource")}, "400 invalid_resource"},
		{"by a fault of the agent", wire.ParamClientID, idOf("a"), errors.New("a fault"), "400 identity_not_found"},
		{"for good", wire.ParamClientID, idOf("a"), &acquire.Error{Kind: acquire.KindUnknownIdentity, Err: errors.New("not of this VM")}, "400 identity_not_found"},
		{"for good, by refusal", wire.ParamResourceID, subscription + "x", &acquire.Error{Kind: acquire.KindRefused, Err: errors.New("no")}, "400 unauthorized_client"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newTenant()
			s.fails["own"] = tt.err
			a := startTenant(t, s, giving("own", "byarm"))
			if got := a.selects(t, tt.param, tt.value); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

func TestARequestWithoutSelector(t *testing.T) {
	for _, tt := range []struct {
		name  string
		given []string
		want  string
	}{
		{"the VM's own identity beside others", []string{"byarm", "app", "own", "byid"}, "own"},
		{"the VM's own identity alone", []string{"own"}, "own"},
		{"the VM's own identity beside one other", []string{"byid", "own"}, "own"},
		{"one user-assigned identity", []string{"byarm"}, "byarm"},
		{"one application", []string{"app"}, "app"},
		{"several, and none is the VM's own", []string{"byarm", "byid"}, "400 invalid_request"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newTenant()
			a := startTenant(t, s, giving(tt.given...))
			if got := a.selects(t, "", ""); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
	t.Run("the VM's own identity, given for another resource", func(t *testing.T) {
		s := newTenant()
		rules := giving("byarm")
		rules.Rules = append(rules.Rules, policy.Rule{
			Name: "own", UIDs: rules.Rules[0].UIDs, Identities: []string{"own"}, Resources: []string{storage}, TokenTypes: []string{"bearer"},
		})
		a := startTenant(t, s, rules)
		if got := a.selects(t, "", ""); got != "403 access_denied" {
			t.Errorf("got %s", got)
		}
	})
	t.Run("two names of the VM's own identity", func(t *testing.T) {
		s := newTenant()
		cfg := config(s.Token, giving("own", "again"))
		cfg.Identities = []agentapi.Identity{{Name: "own", Kind: wire.KindManagedIdentity}, {Name: "again", Kind: wire.KindManagedIdentity}}
		a := start(t, cfg)
		if got := a.selects(t, "", ""); got != "400 invalid_request" {
			t.Errorf("got %s", got)
		}
	})
	t.Run("an application without a client id is not the VM", func(t *testing.T) {
		s := newTenant()
		cfg := config(s.Token, giving("app", "byarm"))
		cfg.Identities = []agentapi.Identity{{Name: "app", Kind: wire.KindApplication}, {Name: "byarm", Kind: wire.KindManagedIdentity, ResourceID: "/x"}}
		a := start(t, cfg)
		if got := a.selects(t, "", ""); got != "400 invalid_request" {
			t.Errorf("got %s", got)
		}
	})
	t.Run("the native API still wants a name", func(t *testing.T) {
		a := startTenant(t, newTenant(), giving("own", "byarm"))
		if got := a.get(t, wire.PathToken+"?resource="+vault); got.status != 400 || got.problem(t).Code != wire.CodeAmbiguousIdentity {
			t.Errorf("%d %s", got.status, got.body)
		}
	})
}
