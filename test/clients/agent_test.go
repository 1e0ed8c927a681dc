package clients_test

import (
	"context"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/AzureAD/microsoft-authentication-library-for-go/apps/managedidentity"
	"github.com/google/uuid"

	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/simulator/entra"
	"github.com/keyagent/keyagent/simulator/imds"
	"github.com/keyagent/keyagent/simulator/journal"
)

// An app that is written for IMDS gets its token from the agent, obtained with a credential
// that is bound to the VM's TPM. Where it asks for a managed identity, an app registration may
// answer: its client id selects it.
func TestTheAgentIsIMDSToALibrary(t *testing.T) {
	w := newWorld(t)
	way := w.agentAsIMDS(w.startAgent())
	app, own, user := w.application(federatedApp), w.info.Identities[0], w.info.Identities[1]
	for name, c := range map[string]struct {
		ask  func(context.Context) (string, error)
		want string
	}{
		"MSAL, an application":              {msalManagedIdentity(way, managedidentity.UserAssignedClientID(app.ClientID), vault), app.ClientID},
		"MSAL, a managed identity":          {msalManagedIdentity(way, managedidentity.UserAssignedClientID(user.ClientID), vault), user.ClientID},
		"azidentity, an application":        {azidentityManagedIdentity(way, azidentity.ClientID(app.ClientID), vaultScope), app.ClientID},
		"azidentity, a managed identity":    {azidentityManagedIdentity(way, azidentity.ClientID(user.ClientID), vaultScope), user.ClientID},
		"MSAL, no selector":                 {msalManagedIdentity(way, managedidentity.SystemAssigned(), vault), own.ClientID},
		"azidentity, no selector":           {azidentityManagedIdentity(way, nil, vaultScope), own.ClientID},
		"MSAL, an object id":                {msalManagedIdentity(way, managedidentity.UserAssignedObjectID(user.ObjectID), vault), user.ClientID},
		"azidentity, a resource id":         {azidentityManagedIdentity(way, azidentity.ResourceID(user.ResourceID), vaultScope), user.ClientID},
		"azidentity, the VM's own by id":    {azidentityManagedIdentity(way, azidentity.ClientID(own.ClientID), vaultScope), own.ClientID},
		"azidentity, a capital letter more": {azidentityManagedIdentity(way, azidentity.ClientID(strings.ToUpper(app.ClientID)), vaultScope), app.ClientID},
	} {
		t.Run(name, func(t *testing.T) {
			token, err := c.ask(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if got := w.caller(t, token); got.ClientID != c.want || got.Bound {
				t.Errorf("the resource saw %+v, want %s", got, c.want)
			}
		})
	}
	if n := len(w.Journal().Operation(entra.OpLogin)) + len(w.Journal().Operation(imds.OpToken)); n > 0 {
		t.Errorf("%d tokens were obtained without a bound credential", n)
	}
	unbound := func(e journal.Entry) bool { return e.Outcome != journal.OK || e.ClientCertThumbprint == "" }
	if asked := w.Journal().Operation(entra.OpToken); len(asked) == 0 || slices.ContainsFunc(asked, unbound) {
		t.Errorf("Entra saw %+v", asked)
	}
}

// A library does not repeat a request that the agent has refused.
func TestTheAgentsRefusalArrivesInTheLibrarysError(t *testing.T) {
	w := newWorld(t)
	socket := w.startAgentWith(io.Discard, func(cfg *config.Config) {
		cfg.Rules[0].Identities = slices.DeleteFunc(cfg.Rules[0].Identities, func(name string) bool { return name == "vm" })
	})
	asked := &counter{next: w.agentAsIMDS(socket).Transport}
	way := &http.Client{Transport: asked}
	app, nobody := w.application(federatedApp).ClientID, uuid.NewString()
	for name, c := range map[string]struct {
		ask  func(context.Context) (string, error)
		want string
	}{
		"MSAL, an unknown identity":           {msalManagedIdentity(way, managedidentity.UserAssignedClientID(nobody), vault), "Identity not found"},
		"MSAL, no identity of several":        {msalManagedIdentity(way, managedidentity.SystemAssigned(), vault), "identities"},
		"MSAL, what no rule allows":           {msalManagedIdentity(way, managedidentity.UserAssignedClientID(app), "https://graph.microsoft.com"), "rule"},
		"azidentity, an unknown identity":     {azidentityManagedIdentity(way, azidentity.ClientID(nobody), vaultScope), "identity isn't assigned"},
		"azidentity, what no rule allows":     {azidentityManagedIdentity(way, azidentity.ClientID(app), "https://graph.microsoft.com/.default"), "rule"},
		"azidentity, no identity of several":  {azidentityManagedIdentity(way, nil, vaultScope), "identities"},
		"azidentity, an application's object": {azidentityManagedIdentity(way, azidentity.ObjectID(w.application(federatedApp).ObjectID), vaultScope), "identity isn't assigned"},
	} {
		t.Run(name, func(t *testing.T) {
			asked.requests = 0
			token, err := c.ask(t.Context())
			if err == nil || token != "" || !strings.Contains(err.Error(), c.want) {
				t.Errorf("token %t, error %v, want %q", token != "", err, c.want)
			}
			if asked.requests != 1 {
				t.Errorf("the library asked %d times: it took a refusal for a temporary failure", asked.requests)
			}
		})
	}
	// One is to learn the object id of the one managed identity that the rules give.
	if n := len(w.Journal().Operation(entra.OpToken)); n > 1 {
		t.Errorf("what was refused cost Entra %d requests", n)
	}
}

// counter counts requests. It is not for concurrent use.
type counter struct {
	next     http.RoundTripper
	requests int
}

func (c *counter) RoundTrip(r *http.Request) (*http.Response, error) {
	c.requests++
	return c.next.RoundTrip(r)
}
