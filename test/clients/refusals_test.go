package clients_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/AzureAD/microsoft-authentication-library-for-go/apps/confidential"
	"github.com/AzureAD/microsoft-authentication-library-for-go/apps/managedidentity"
	"github.com/google/uuid"

	"github.com/keyagent/keyagent/simulator/entra"
	"github.com/keyagent/keyagent/simulator/imds"
)

// What the services refuse has to arrive in the libraries' errors: it is all that a developer sees.
func TestARefusalOfEntraArrivesInTheLibrarysError(t *testing.T) {
	w := newWorld(t)
	app, federated := w.application(certificateApp), w.application(federatedApp)
	tenant, nobody := w.info.TenantID, uuid.NewString()
	good, stranger, expired := w.registered(t, certificateApp), newPair(t, time.Hour), newPair(t, -time.Hour)
	if err := w.RegisterCertificate(certificateApp, expired.certificate); err != nil {
		t.Fatal(err)
	}
	text := func(s string) func(context.Context) (string, error) {
		return func(context.Context) (string, error) { return s, nil }
	}
	mixed := pair{key: stranger.key, certificate: good.certificate} // signed by another key than the certificate's
	for name, c := range map[string]struct {
		ask  func(context.Context) (string, error)
		want string
	}{
		"MSAL, another certificate":          {w.msal(tenant, app.ClientID, w.msalFromCertificate(stranger)), "AADSTS700027"},
		"MSAL, another certificate in chain": {w.msal(tenant, app.ClientID, w.msalFromCertificate(stranger), confidential.WithX5C()), "AADSTS700027"},
		"MSAL, another app's certificate":    {w.msal(tenant, federated.ClientID, w.msalFromCertificate(good)), "AADSTS700027"},
		"MSAL, another key":                  {w.msal(tenant, app.ClientID, msalFromSigner(mixed)), "AADSTS700027"},
		"MSAL, an expired certificate":       {w.msal(tenant, app.ClientID, w.msalFromCertificate(expired)), "AADSTS1000502"},
		"MSAL, an unknown app":               {w.msal(tenant, nobody, w.msalFromCertificate(good)), "AADSTS700016"},
		"MSAL, an unknown tenant":            {w.msal(nobody, app.ClientID, w.msalFromCertificate(good)), "AADSTS90002"},
		"azidentity, another certificate":    {w.azidentityFromCertificate(app.ClientID, stranger, false), "AADSTS700027"},
		"azidentity, an unknown app":         {w.azidentityFromCertificate(nobody, good, false), "AADSTS700016"},
		"azidentity, no assertion at all":    {w.azidentityFromAssertion(federated.ClientID, text("x.y.z")), "AADSTS50027"},
	} {
		t.Run(name, func(t *testing.T) {
			token, err := c.ask(t.Context())
			if err == nil || token != "" || !strings.Contains(err.Error(), c.want) {
				t.Errorf("token %t, error %v, want %s", token != "", err, c.want)
			}
		})
	}
}

// The VM has another identity, which the application does not trust: the attacker is a program on
// the same VM that may use it.
func TestAnotherIdentitysTokenIsNoAssertion(t *testing.T) {
	w := newWorld(t)
	way := w.azure()
	for name, c := range map[string]struct {
		scope string
		want  string
	}{
		"of the VM itself":     {entra.TokenExchange + "/.default", "AADSTS700213"},
		"for another resource": {vaultScope, "AADSTS70022204"},
	} {
		t.Run(name, func(t *testing.T) {
			ask := w.azidentityFromAssertion(w.application(federatedApp).ClientID, azidentityManagedIdentity(way, nil, c.scope))
			token, err := ask(t.Context())
			var failed *azidentity.AuthenticationFailedError
			if token != "" || !errors.As(err, &failed) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("token %t, error %v, want %s", token != "", err, c.want)
			}
			if failed != nil && (failed.RawResponse == nil || failed.RawResponse.StatusCode != http.StatusUnauthorized) {
				t.Errorf("the library took the answer for %+v", failed.RawResponse)
			}
		})
	}
}

func TestARevokedCertificateStopsWorking(t *testing.T) {
	w := newWorld(t)
	app, p := w.application(certificateApp), w.registered(t, certificateApp)
	ask := w.msal(w.info.TenantID, app.ClientID, w.msalFromCertificate(p))
	if _, err := ask(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.Revoke(p.thumbprint())
	if _, err := ask(t.Context()); err == nil || !strings.Contains(err.Error(), "AADSTS7000214") {
		t.Errorf("got %v", err)
	}
}

func TestARefusalOfIMDSArrivesInTheLibrarysError(t *testing.T) {
	w := newWorld(t)
	way := w.azure()
	nobody := uuid.NewString()
	for name, c := range map[string]struct {
		ask  func(context.Context) (string, error)
		want string
	}{
		"MSAL, an unknown identity":              {msalManagedIdentity(way, managedidentity.UserAssignedClientID(nobody), vault), "Identity not found"},
		"MSAL, an unknown resource":              {msalManagedIdentity(way, managedidentity.SystemAssigned(), "https://nobody.example"), "AADSTS500011"},
		"azidentity, an unknown identity":        {azidentityManagedIdentity(way, azidentity.ClientID(nobody), vaultScope), "identity isn't assigned"},
		"azidentity, an unknown object":          {azidentityManagedIdentity(way, azidentity.ObjectID(nobody), vaultScope), "identity isn't assigned"},
		"azidentity, an unknown resource":        {azidentityManagedIdentity(way, nil, "https://nobody.example/.default"), "AADSTS500011"},
		"azidentity, an app that is no identity": {azidentityManagedIdentity(way, azidentity.ClientID(w.application(federatedApp).ClientID), vaultScope), "identity isn't assigned"},
	} {
		t.Run(name, func(t *testing.T) {
			before := len(w.Journal().Operation(imds.OpToken))
			token, err := c.ask(t.Context())
			if err == nil || token != "" || !strings.Contains(err.Error(), c.want) {
				t.Errorf("token %t, error %v, want %s", token != "", err, c.want)
			}
			if n := len(w.Journal().Operation(imds.OpToken)) - before; n != 1 {
				t.Errorf("the library asked %d times: it took a refusal for a temporary failure", n)
			}
		})
	}
}
