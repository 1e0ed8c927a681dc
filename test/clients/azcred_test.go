package clients_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"

	"github.com/keyagent/keyagent/client"
	"github.com/keyagent/keyagent/client/azcred"
	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/simulator/entra"
)

// pipeline sends requests as a client of the Azure SDK with this credential does.
func (w *world) pipeline(credential azcore.TokenCredential) func(t *testing.T) (int, error) {
	p := runtime.NewPipeline("test", "v1", runtime.PipelineOptions{
		PerRetry: []policy.Policy{runtime.NewBearerTokenPolicy(credential, []string{vaultScope}, nil)},
	}, &policy.ClientOptions{Transport: w.client(direct)})
	return func(t *testing.T) (int, error) {
		t.Helper()
		req, err := runtime.NewRequest(t.Context(), http.MethodGet, w.info.Resource+"/secrets")
		if err != nil {
			t.Fatal(err)
		}
		resp, err := p.Do(req)
		if err != nil {
			return 0, err
		}
		_, err = io.Copy(io.Discard, resp.Body)
		return resp.StatusCode, errors.Join(err, resp.Body.Close())
	}
}

// A client of the Azure SDK with our credential: it gets tokens, and one challenge of the service
// later a new one, which neither azidentity nor MSAL gets for a managed identity.
func TestAClientOfTheAzureSDKWithOurCredentialMeetsAChallenge(t *testing.T) {
	w := newWorld(t)
	agent := client.New(client.Config{Socket: w.startAgent()})
	defer agent.Close()
	for _, identity := range []string{"vm", federatedApp} {
		t.Run(identity, func(t *testing.T) {
			credential, err := azcred.New(agent, &azcred.Options{Identity: identity, TenantID: w.info.TenantID})
			if err != nil {
				t.Fatal(err)
			}
			send := w.pipeline(credential)
			want := func(status, requests int) {
				t.Helper()
				before := len(w.Journal().Operation(entra.OpToken))
				got, err := send(t)
				if err != nil || got != status {
					t.Errorf("status %d, %v, want %d", got, err, status)
				}
				if n := len(w.Journal().Operation(entra.OpToken)) - before; requests >= 0 && n != requests {
					t.Errorf("Entra was asked %d times, want %d", n, requests)
				}
			}
			want(http.StatusOK, -1)
			want(http.StatusOK, 0)
			w.challenge(t, `{"access_token":{"acrs":{"essential":true,"value":"c1"}}}`)
			want(http.StatusOK, -1)
			want(http.StatusOK, 0)
			w.challenge(t, `{}`)
		})
	}
}

func (w *world) challenge(t *testing.T, claims string) {
	t.Helper()
	if err := w.Challenge(claims); err != nil {
		t.Fatal(err)
	}
}

func TestOurCredentialPassesARefusalOn(t *testing.T) {
	w := newWorld(t)
	agent := client.New(client.Config{Socket: w.startAgentWith(io.Discard, func(c *config.Config) { c.Rules[0].Identities = []string{"vm"} })})
	defer agent.Close()
	credential, err := azcred.New(agent, &azcred.Options{Identity: federatedApp})
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.pipeline(credential)(t)
	if !errors.Is(err, client.ErrRefused) {
		t.Errorf("got %v", err)
	}
	if got, err := w.pipeline(mustHave(t, agent, "vm"))(t); err != nil || got != http.StatusOK {
		t.Errorf("what the rules allow: status %d, %v", got, err)
	}
}

func mustHave(t *testing.T, agent *client.Client, identity string) azcore.TokenCredential {
	t.Helper()
	credential, err := azcred.New(agent, &azcred.Options{Identity: identity})
	if err != nil {
		t.Fatal(err)
	}
	return credential
}

// direct connects to where the platform says that it is.
func direct(ctx context.Context, address string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "tcp", address)
}
