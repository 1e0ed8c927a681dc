package clients_test

import (
	"context"
	"net/http"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/AzureAD/microsoft-authentication-library-for-go/apps/confidential"
	"github.com/AzureAD/microsoft-authentication-library-for-go/apps/managedidentity"
)

// anew is a claims challenge that asks for nothing. The libraries keep a managed identity's tokens
// for the whole process, one for both of them, and a challenge makes them ask again.
const anew = `{"access_token":{}}`

// msal is an app's client of MSAL.
func (w *world) msal(tenant, clientID string, credential confidential.Credential, options ...confidential.Option) func(context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		options := append([]confidential.Option{confidential.WithHTTPClient(w.azure())}, options...)
		app, err := confidential.New("https://login.microsoftonline.com/"+tenant, clientID, credential, options...)
		if err != nil {
			return "", err
		}
		result, err := app.AcquireTokenByCredential(ctx, []string{vaultScope})
		return result.AccessToken, err
	}
}

// msalFromCertificate is the credential of a key and its certificate.
func (w *world) msalFromCertificate(p pair) confidential.Credential {
	credential, err := confidential.NewCredFromCert(certificates(p), p.key)
	if err != nil {
		w.t.Fatal(err)
	}
	return credential
}

// msalFromSigner is the credential of a key that does not come out.
func msalFromSigner(p pair) confidential.Credential {
	return confidential.NewCredFromAssertionCallback(func(_ context.Context, o confidential.AssertionRequestOptions) (string, error) {
		return assertion(signer{p.key}, p.certificate, o.ClientID, o.TokenEndpoint)
	})
}

// msalManagedIdentity asks IMDS, which is where a client leads.
func msalManagedIdentity(way *http.Client, id managedidentity.ID, resource string) func(context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		c, err := managedidentity.New(id, managedidentity.WithHTTPClient(way))
		if err != nil {
			return "", err
		}
		result, err := c.AcquireToken(ctx, resource, managedidentity.WithClaims(anew))
		return result.AccessToken, err
	}
}

// options are the Azure SDK's options for the transport.
func options(way *http.Client) azcore.ClientOptions { return azcore.ClientOptions{Transport: way} }

// get gets a token from any of the Azure SDK's credentials.
func get(ctx context.Context, credential azcore.TokenCredential, err error, o policy.TokenRequestOptions) (string, error) {
	if err != nil {
		return "", err
	}
	token, err := credential.GetToken(ctx, o)
	return token.Token, err
}

func (w *world) azidentityFromCertificate(clientID string, p pair, chain bool) func(context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		credential, err := azidentity.NewClientCertificateCredential(w.info.TenantID, clientID, certificates(p), p.key,
			&azidentity.ClientCertificateCredentialOptions{ClientOptions: options(w.azure()), SendCertificateChain: chain})
		return get(ctx, credential, err, policy.TokenRequestOptions{Scopes: []string{vaultScope}})
	}
}

func (w *world) azidentityFromAssertion(clientID string, assertion func(context.Context) (string, error)) func(context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		credential, err := azidentity.NewClientAssertionCredential(w.info.TenantID, clientID, assertion,
			&azidentity.ClientAssertionCredentialOptions{ClientOptions: options(w.azure())})
		return get(ctx, credential, err, policy.TokenRequestOptions{Scopes: []string{vaultScope}})
	}
}

// azidentityManagedIdentity asks IMDS, which is where a client leads. A nil id is the
// system-assigned one.
func azidentityManagedIdentity(way *http.Client, id azidentity.ManagedIDKind, scope string) func(context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		credential, err := azidentity.NewManagedIdentityCredential(&azidentity.ManagedIdentityCredentialOptions{ClientOptions: options(way), ID: id})
		return get(ctx, credential, err, policy.TokenRequestOptions{Scopes: []string{scope}, Claims: anew})
	}
}
