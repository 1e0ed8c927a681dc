package clients_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/AzureAD/microsoft-authentication-library-for-go/apps/confidential"
	"github.com/AzureAD/microsoft-authentication-library-for-go/apps/managedidentity"
	"github.com/go-jose/go-jose/v4"

	"github.com/keyagent/keyagent/simulator/entra"
	"github.com/keyagent/keyagent/simulator/imds"
	"github.com/keyagent/keyagent/simulator/journal"
)

func TestAnAppGetsATokenWithWhatItsLibrarySigns(t *testing.T) {
	w := newWorld(t)
	app := w.application(certificateApp)
	p := w.registered(t, certificateApp)
	tenant := w.info.TenantID
	for name, ask := range map[string]func(context.Context) (string, error){
		"MSAL, certificate":                w.msal(tenant, app.ClientID, w.msalFromCertificate(p)),
		"MSAL, certificate and its chain":  w.msal(tenant, app.ClientID, w.msalFromCertificate(p), confidential.WithX5C()),
		"MSAL, no discovery":               w.msal(tenant, app.ClientID, w.msalFromCertificate(p), confidential.WithInstanceDiscovery(false)),
		"MSAL, capabilities":               w.msal(tenant, app.ClientID, w.msalFromCertificate(p), confidential.WithClientCapabilities([]string{"cp1"})),
		"MSAL, in a region":                w.msal(tenant, app.ClientID, w.msalFromCertificate(p), confidential.WithAzureRegion("westeurope")),
		"MSAL, a signer of the app's":      w.msal(tenant, app.ClientID, msalFromSigner(p)),
		"azidentity, certificate":          w.azidentityFromCertificate(app.ClientID, p, false),
		"azidentity, certificate in chain": w.azidentityFromCertificate(app.ClientID, p, true),
		"azidentity, a signer of the app's": w.azidentityFromAssertion(app.ClientID, func(context.Context) (string, error) {
			return assertion(signer{p.key}, p.certificate, app.ClientID, "https://login.microsoftonline.com/"+tenant+"/oauth2/v2.0/token")
		}),
	} {
		t.Run(name, func(t *testing.T) {
			token, err := ask(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if got := w.caller(t, token); got.ClientID != app.ClientID || got.TenantID != tenant || got.Bound {
				t.Errorf("the resource saw %+v", got)
			}
			if e := w.last(t, entra.OpLogin); e.Outcome != journal.OK || e.Detail["flow"] != "certificate" || e.Detail["assertion_type"] != "jwt-bearer" {
				t.Errorf("Entra saw %+v", e)
			}
		})
	}
	if n := len(w.Journal().Operation(entra.OpToken)); n > 0 {
		t.Errorf("%d requests over mutual TLS", n)
	}
}

func TestAnAppGetsATokenForATokenThatItTrusts(t *testing.T) {
	w := newWorld(t)
	app := w.application(federatedApp)
	way := w.azure()
	fromIssuer := w.trustedIssuer(t)
	fromVM := azidentityManagedIdentity(way, azidentity.ClientID(w.info.Identities[1].ClientID), entra.TokenExchange+"/.default")
	callback := func(get func(context.Context) (string, error)) confidential.Credential {
		return confidential.NewCredFromAssertionCallback(func(ctx context.Context, _ confidential.AssertionRequestOptions) (string, error) {
			return get(ctx)
		})
	}
	for name, ask := range map[string]func(context.Context) (string, error){
		"MSAL, the VM's identity":       w.msal(w.info.TenantID, app.ClientID, callback(fromVM)),
		"MSAL, another issuer":          w.msal(w.info.TenantID, app.ClientID, callback(fromIssuer)),
		"azidentity, the VM's identity": w.azidentityFromAssertion(app.ClientID, fromVM),
		"azidentity, another issuer":    w.azidentityFromAssertion(app.ClientID, fromIssuer),
	} {
		t.Run(name, func(t *testing.T) {
			token, err := ask(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if got := w.caller(t, token); got.ClientID != app.ClientID || got.Bound {
				t.Errorf("the resource saw %+v", got)
			}
			if e := w.last(t, entra.OpLogin); e.Outcome != journal.OK || e.Detail["flow"] != "federated" {
				t.Errorf("Entra saw %+v", e)
			}
		})
	}
}

// trustedIssuer is a cluster whose service account the application trusts, and signs an assertion
// for it each time.
func (w *world) trustedIssuer(t *testing.T) func(context.Context) (string, error) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	const issuer, subject = "https://cluster.example", "system:serviceaccount:reports:reports"
	keys := &jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "1", Algorithm: "PS256", Use: "sig"}}}
	credential := entra.FederatedCredential{Issuer: issuer, Subject: subject, Audience: entra.TokenExchange}
	if err := w.Federate(federatedApp, credential, keys); err != nil {
		t.Fatal(err)
	}
	return func(context.Context) (string, error) {
		now := time.Now().Unix()
		return sign(key, map[string]any{"alg": "PS256", "typ": "JWT", "kid": "1"}, map[string]any{
			"iss": issuer, "sub": subject, "aud": entra.TokenExchange, "nbf": now, "exp": now + 600,
		})
	}
}

func TestAManagedIdentityGetsATokenFromIMDS(t *testing.T) {
	w := newWorld(t)
	way := w.azure()
	vm, user := w.info.Identities[0], w.info.Identities[1]
	for name, c := range map[string]struct {
		ask  func(context.Context) (string, error)
		want string
	}{
		"MSAL, system-assigned":          {msalManagedIdentity(way, managedidentity.SystemAssigned(), vault), vm.ClientID},
		"MSAL, by client id":             {msalManagedIdentity(way, managedidentity.UserAssignedClientID(user.ClientID), vault), user.ClientID},
		"MSAL, by object id":             {msalManagedIdentity(way, managedidentity.UserAssignedObjectID(user.ObjectID), vault), user.ClientID},
		"MSAL, by resource id":           {msalManagedIdentity(way, managedidentity.UserAssignedResourceID(user.ResourceID), vault), user.ClientID},
		"azidentity, system-assigned":    {azidentityManagedIdentity(way, nil, vaultScope), vm.ClientID},
		"azidentity, by client id":       {azidentityManagedIdentity(way, azidentity.ClientID(user.ClientID), vaultScope), user.ClientID},
		"azidentity, by object id":       {azidentityManagedIdentity(way, azidentity.ObjectID(user.ObjectID), vaultScope), user.ClientID},
		"azidentity, by resource id":     {azidentityManagedIdentity(way, azidentity.ResourceID(user.ResourceID), vaultScope), user.ClientID},
		"azidentity, in capital letters": {azidentityManagedIdentity(way, azidentity.ClientID(strings.ToUpper(user.ClientID)), vaultScope), user.ClientID},
	} {
		t.Run(name, func(t *testing.T) {
			before := len(w.Journal().Operation(imds.OpToken))
			token, err := c.ask(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if got := w.caller(t, token); got.ClientID != c.want || got.Bound {
				t.Errorf("the resource saw %+v, want %s", got, c.want)
			}
			if n := len(w.Journal().Operation(imds.OpToken)) - before; n != 1 {
				t.Errorf("IMDS was asked %d times", n)
			}
		})
	}
}
