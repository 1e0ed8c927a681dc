// Program goapps is an app whose library asks for a managed identity's token, as it is released and
// without a line about the agent: what leads it there is its environment.
//
//	goapps LIBRARY RESOURCE [client_id=ID | object_id=ID | resource_id=ID]
//
// It asks twice, and prints as JSON what an app sees. It is a module of its own, because what the
// libraries require together is not what each requires.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/go-autorest/autorest/adal"
	"github.com/AzureAD/microsoft-authentication-library-for-go/apps/managedidentity"
	"github.com/hashicorp/go-azure-sdk/sdk/auth"
	"github.com/hashicorp/go-azure-sdk/sdk/environments"
	"github.com/prometheus/prometheus/storage/remote/azuread"
)

// answer is what an app sees that asks its library twice.
type answer struct {
	Token   string `json:"token"`
	Again   string `json:"again"`
	Expires int64  `json:"expires"` // Unix seconds; 0: the library does not say
	Refresh int64  `json:"refresh"` // when the library will ask anew, likewise
	Error   string `json:"error,omitempty"`
}

// token is what a library returns.
type token struct {
	text             string
	expires, refresh time.Time
}

// acquire asks a library, as often as it is called.
type acquire func(context.Context) (token, error)

// app is what is wanted of a library.
type app struct {
	resource        string
	selector, value string // at most one
}

// id returns the value of the selector that a library takes.
func (a app) id(selector string) string {
	if a.selector == selector {
		return a.value
	}
	return ""
}

func libraries() map[string]func(app) (acquire, error) {
	return map[string]func(app) (acquire, error){
		"azidentity":             azidentityManaged,
		"DefaultAzureCredential": azidentityDefault,
		"msal":                   msal,
		"go-azure-sdk":           hashicorp,
		"adal":                   autorest,
		"prometheus":             prometheus,
	}
}

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: goapps LIBRARY RESOURCE [SELECTOR=ID]")
		os.Exit(2)
	}
	a := app{resource: os.Args[2]}
	if len(os.Args) > 3 {
		a.selector, a.value, _ = strings.Cut(os.Args[3], "=")
	}
	if err := json.NewEncoder(os.Stdout).Encode(ask(os.Args[1], a)); err != nil {
		os.Exit(1)
	}
}

func ask(library string, a app) answer {
	prepare := libraries()[library]
	if prepare == nil {
		return answer{Error: "no library " + library}
	}
	get, err := prepare(a)
	if err != nil {
		return answer{Error: err.Error()}
	}
	first, err := get(context.Background())
	if err != nil {
		return answer{Error: err.Error()}
	}
	second, err := get(context.Background())
	if err != nil {
		return answer{Error: err.Error()}
	}
	return answer{first.text, second.text, seconds(first.expires), seconds(first.refresh), ""}
}

func seconds(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

// fromCredential asks any credential of the Azure SDK.
func fromCredential(c azcore.TokenCredential, a app) acquire {
	return func(ctx context.Context) (token, error) {
		t, err := c.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{a.resource + "/.default"}})
		return token{t.Token, t.ExpiresOn, t.RefreshOn}, err
	}
}

func azidentityManaged(a app) (acquire, error) {
	options := &azidentity.ManagedIdentityCredentialOptions{}
	switch a.selector {
	case "client_id":
		options.ID = azidentity.ClientID(a.value)
	case "object_id":
		options.ID = azidentity.ObjectID(a.value)
	case "resource_id":
		options.ID = azidentity.ResourceID(a.value)
	}
	c, err := azidentity.NewManagedIdentityCredential(options)
	return fromCredential(c, a), err
}

// azidentityDefault takes the identity from AZURE_CLIENT_ID.
func azidentityDefault(a app) (acquire, error) {
	c, err := azidentity.NewDefaultAzureCredential(nil)
	return fromCredential(c, a), err
}

func msal(a app) (acquire, error) {
	id := managedidentity.SystemAssigned()
	switch a.selector {
	case "client_id":
		id = managedidentity.UserAssignedClientID(a.value)
	case "object_id":
		id = managedidentity.UserAssignedObjectID(a.value)
	case "resource_id":
		id = managedidentity.UserAssignedResourceID(a.value)
	}
	c, err := managedidentity.New(id)
	return func(ctx context.Context) (token, error) {
		r, err := c.AcquireToken(ctx, a.resource)
		return token{r.AccessToken, r.ExpiresOn, r.Metadata.RefreshOn}, err
	}, err
}

// hashicorp reads no environment, the programs that use it do. Terraform's azurerm provider has the
// endpoint in ARM_MSI_ENDPOINT and speaks as to IMDS; with settings for version and header, the
// library also speaks as to App Service.
func hashicorp(a app) (acquire, error) {
	options := auth.ManagedIdentityAuthorizerOptions{
		Api:                           environments.NewApiEndpoint("test", a.resource, nil).WithResourceIdentifier(a.resource),
		ClientId:                      a.id("client_id"),
		CustomManagedIdentityEndpoint: os.Getenv("ARM_MSI_ENDPOINT"),
	}
	if options.CustomManagedIdentityEndpoint == "" {
		options.CustomManagedIdentityEndpoint = os.Getenv("IDENTITY_ENDPOINT")
		options.CustomManagedIdentityAPIVersion = "2019-08-01"
		options.CustomManagedIdentityHeaders = map[string][]string{"X-IDENTITY-HEADER": {os.Getenv("IDENTITY_HEADER")}}
	}
	authorizer, err := auth.NewManagedIdentityAuthorizer(context.Background(), options)
	return func(ctx context.Context) (token, error) {
		t, err := authorizer.Token(ctx, nil)
		if err != nil {
			return token{}, err
		}
		return token{text: t.AccessToken, expires: t.Expiry}, nil
	}, err
}

func autorest(a app) (acquire, error) {
	principal, err := adal.NewServicePrincipalTokenFromManagedIdentity(a.resource, &adal.ManagedIdentityOptions{
		ClientID: a.id("client_id"), IdentityResourceID: a.id("resource_id"),
	})
	return func(ctx context.Context) (token, error) {
		if err := principal.EnsureFreshWithContext(ctx); err != nil {
			return token{}, err
		}
		t := principal.Token()
		return token{text: t.AccessToken, expires: t.Expires()}, nil
	}, err
}

// prometheus shows the token of a remote write to a transport that goes nowhere.
func prometheus(a app) (acquire, error) {
	seen := &authorization{}
	transport, err := azuread.NewAzureADRoundTripper(&azuread.AzureADConfig{
		Cloud: "AzurePublic", Scope: a.resource + "/.default", ManagedIdentity: &azuread.ManagedIdentityConfig{ClientID: a.id("client_id")},
	}, seen)
	return func(ctx context.Context) (token, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://remote.write.example/", nil)
		if err != nil {
			return token{}, err
		}
		_, err = transport.RoundTrip(req) //nolint:bodyclose // there is no answer
		if errors.Is(err, errSeen) {
			err = nil
		}
		return token{text: strings.TrimPrefix(seen.header, "Bearer ")}, err
	}, err
}

type authorization struct{ header string }

var errSeen = errors.New("seen")

func (a *authorization) RoundTrip(r *http.Request) (*http.Response, error) {
	a.header = r.Header.Get("Authorization")
	return nil, errSeen
}
