// Program msalgo lets MSAL for Go get a token for each case that arrives, a JSON object on standard
// input, and prints what an app sees as another one. HOSTS leads its connections:
// {"login.microsoftonline.com:443":"127.0.0.1:8443"}; to a name that is not listed there is no way.
// It is a module of its own, with a go.mod for each release that it is built with: go
// build -modfile go-1.9.mod.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"

	"github.com/AzureAD/microsoft-authentication-library-for-go/apps/confidential"
	"github.com/AzureAD/microsoft-authentication-library-for-go/apps/managedidentity"
)

// request is one case.
type request struct {
	Kind         string   `json:"kind"`
	Authority    string   `json:"authority"`
	ClientID     string   `json:"client_id"`
	Key          string   `json:"key"`         // PEM
	Certificate  string   `json:"certificate"` // PEM, with its issuers
	X5C          bool     `json:"x5c"`
	Assertion    string   `json:"assertion"`
	Region       string   `json:"region"`
	Claims       string   `json:"claims"`
	Capabilities []string `json:"capabilities"`
	Scope        string   `json:"scope"` // for a managed identity: the resource
	Calls        []bool   `json:"calls"` // one call for each; true passes the cache over
	Identity     struct {
		ClientID   string `json:"client_id"`
		ObjectID   string `json:"object_id"`
		ResourceID string `json:"resource_id"`
	} `json:"identity"`
}

// answer is what an app sees.
type answer struct {
	Tokens []string `json:"tokens"`
	Error  string   `json:"error,omitempty"`
}

// acquire gets a token; fresh passes the cache over.
type acquire func(ctx context.Context, fresh bool) (string, error)

func main() {
	if err := run(os.Stdin, os.Stdout, []byte(os.Getenv("HOSTS"))); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(in io.Reader, out io.Writer, places []byte) error {
	var to hosts
	if err := json.Unmarshal(places, &to); err != nil {
		return err
	}
	way := &http.Client{Transport: &http.Transport{DialContext: to.dial}} // roots: SSL_CERT_FILE
	for requests := json.NewDecoder(in); ; {
		var r request
		switch err := requests.Decode(&r); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		if err := json.NewEncoder(out).Encode(r.answer(context.Background(), way)); err != nil {
			return err
		}
	}
}

// hosts is where names lead, host:port by host:port.
type hosts map[string]string

func (h hosts) dial(ctx context.Context, network, address string) (net.Conn, error) {
	place, ok := h[address]
	if !ok {
		return nil, fmt.Errorf("no way to %s from here", address)
	}
	return new(net.Dialer).DialContext(ctx, network, place)
}

func (r request) answer(ctx context.Context, way *http.Client) answer {
	a := answer{Tokens: []string{}}
	get, err := r.client(way)
	for _, fresh := range r.Calls {
		if err != nil {
			break
		}
		var token string
		if token, err = get(ctx, fresh); err == nil {
			a.Tokens = append(a.Tokens, token)
		}
	}
	if err != nil {
		a.Error = err.Error()
	}
	return a
}

func (r request) client(way *http.Client) (acquire, error) {
	if r.Kind == "managed_identity" {
		return r.managed(way)
	}
	return r.confidential(way)
}

func (r request) confidential(way *http.Client) (acquire, error) {
	credential, err := r.credential()
	if err != nil {
		return nil, err
	}
	options := []confidential.Option{confidential.WithHTTPClient(way)}
	if r.X5C {
		options = append(options, confidential.WithX5C())
	}
	if r.Region != "" {
		options = append(options, confidential.WithAzureRegion(r.Region))
	}
	if r.Capabilities != nil {
		options = append(options, confidential.WithClientCapabilities(r.Capabilities))
	}
	app, err := confidential.New(r.Authority, r.ClientID, credential, options...)
	if err != nil {
		return nil, err
	}
	var more []confidential.AcquireByCredentialOption
	if r.Claims != "" {
		more = append(more, confidential.WithClaims(r.Claims))
	}
	return func(ctx context.Context, fresh bool) (string, error) {
		if !fresh {
			if cached, err := app.AcquireTokenSilent(ctx, []string{r.Scope}); err == nil {
				return cached.AccessToken, nil
			}
		}
		result, err := app.AcquireTokenByCredential(ctx, []string{r.Scope}, more...)
		return result.AccessToken, err
	}, nil
}

func (r request) credential() (confidential.Credential, error) {
	if r.Assertion != "" {
		return confidential.NewCredFromAssertionCallback(func(context.Context, confidential.AssertionRequestOptions) (string, error) {
			return r.Assertion, nil
		}), nil
	}
	certificates, key, err := confidential.CertFromPEM([]byte(r.Key+r.Certificate), "")
	if err != nil {
		return confidential.Credential{}, err
	}
	return confidential.NewCredFromCert(certificates, key)
}

func (r request) managed(way *http.Client) (acquire, error) {
	var id managedidentity.ID = managedidentity.SystemAssigned()
	switch {
	case r.Identity.ClientID != "":
		id = managedidentity.UserAssignedClientID(r.Identity.ClientID)
	case r.Identity.ObjectID != "":
		id = managedidentity.UserAssignedObjectID(r.Identity.ObjectID)
	case r.Identity.ResourceID != "":
		id = managedidentity.UserAssignedResourceID(r.Identity.ResourceID)
	}
	client, err := managedidentity.New(id, managedidentity.WithHTTPClient(way))
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, fresh bool) (string, error) {
		var more []managedidentity.AcquireTokenOption
		if fresh { // MSAL has no other way past its cache
			more = append(more, managedidentity.WithClaims(`{"access_token":{}}`))
		}
		result, err := client.AcquireToken(ctx, r.Scope, more...)
		return result.AccessToken, err
	}, nil
}
