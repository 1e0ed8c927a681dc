package azcred

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/client"
)

// maxSources limits for how many scopes tokens are kept. A program has one for each kind of service
// that it calls.
const maxSources = 64

// defaultPermissions ends every scope that an application can ask for: all that it was granted.
const defaultPermissions = "/.default"

// Options choose the identity.
type Options struct {
	// Identity is a name in the agent's configuration. Empty if the agent's rules grant only one.
	Identity string
	// TenantID is the id of the identity's tenant. Empty: the one that the token says. A request
	// for another tenant, as after a challenge of a service, is refused.
	TenantID string
}

// Credential gets tokens from the agent. It is safe for concurrent use and meant to be shared among
// clients: it keeps tokens, and refreshes them ahead of time.
type Credential struct {
	agent   *client.Client
	options Options

	mu      sync.Mutex
	sources map[want]*client.TokenSource
}

// want is what tokens are kept by.
type want struct {
	scope string
	cae   bool
}

var _ azcore.TokenCredential = (*Credential)(nil)

// New returns a credential. It does not ask for a token yet. Nil options are the zero Options.
func New(agent *client.Client, options *Options) (*Credential, error) {
	if agent == nil {
		return nil, errors.New("a credential needs a client of the agent")
	}
	if options == nil {
		options = &Options{}
	}
	if strings.Contains(options.TenantID, ".") {
		return nil, fmt.Errorf("%q is a domain: name the tenant by its id, as tokens do", options.TenantID)
	}
	return &Credential{agent: agent, options: *options, sources: map[want]*client.TokenSource{}}, nil
}

// GetToken implements azcore.TokenCredential. With EnableCAE the token may be one that a resource
// can revoke, which the pipelines of the Azure SDK handle. Claims make the agent get a new token.
func (c *Credential) GetToken(ctx context.Context, o policy.TokenRequestOptions) (azcore.AccessToken, error) {
	if err := c.check(o); err != nil {
		return azcore.AccessToken{}, &Error{err}
	}
	source := c.source(want{o.Scopes[0], o.EnableCAE})
	token, err := tokenFrom(ctx, source, o.Claims)
	if err == nil {
		err = c.checkTenant(token, o.TenantID)
	}
	if err != nil {
		return azcore.AccessToken{}, &Error{err}
	}
	return azcore.AccessToken{Token: token.AccessToken.Reveal(), ExpiresOn: token.Expiry(), RefreshOn: source.RefreshOn()}, nil
}

func tokenFrom(ctx context.Context, source *client.TokenSource, claims string) (client.Token, error) {
	if claims == "" {
		return source.Token(ctx)
	}
	return source.Renew(ctx, client.Token{}, claims) // azcore does not say which token was rejected
}

// check refuses what no agent could answer, before it is asked.
func (c *Credential) check(o policy.TokenRequestOptions) error {
	if len(o.Scopes) != 1 {
		return fmt.Errorf("%d scopes were asked for: a token is for exactly one", len(o.Scopes))
	}
	if resource, ok := strings.CutSuffix(o.Scopes[0], defaultPermissions); !ok || resource == "" {
		return fmt.Errorf("the scope %q does not end in %s: an application gets all permissions that it was granted, no single ones", o.Scopes[0], defaultPermissions)
	}
	if c.options.TenantID != "" && o.TenantID != "" && !strings.EqualFold(c.options.TenantID, o.TenantID) {
		return otherTenant(o.TenantID, c.options.TenantID)
	}
	return nil
}

func otherTenant(asked, is string) error {
	return fmt.Errorf("a token of tenant %q was asked for, and the identity is of tenant %q", asked, is)
}

// checkTenant compares the tenants that are named with what the token says. Whether that is true is
// for the service to decide: here it can only keep a token from being sent in vain.
func (c *Credential) checkTenant(token client.Token, asked string) error {
	if asked == "" {
		asked = c.options.TenantID
	}
	if asked == "" {
		return nil
	}
	is, ok := tenantOf(token.AccessToken.Reveal())
	if !ok {
		return fmt.Errorf("a token of tenant %q was asked for, and the agent's token does not say its tenant", asked)
	}
	if !strings.EqualFold(is, asked) {
		return otherTenant(asked, is)
	}
	return nil
}

// tenantOf reads the claim tid of a JSON Web Token, without a check of its signature.
func tenantOf(token string) (string, bool) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return "", false
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return "", false
	}
	var claims struct {
		TenantID string `json:"tid"`
	}
	err = json.Unmarshal(payload, &claims)
	return claims.TenantID, err == nil && claims.TenantID != ""
}

// source returns the source of tokens for a scope. Beyond the limit it is one that nobody keeps.
func (c *Credential) source(w want) *client.TokenSource {
	c.mu.Lock()
	defer c.mu.Unlock()
	if source := c.sources[w]; source != nil {
		return source
	}
	request := client.TokenRequest{Identity: c.options.Identity, Scope: w.scope}
	if w.cae {
		request.Capabilities = []string{wire.CapabilityCP1}
	}
	source := c.agent.TokenSource(request)
	if len(c.sources) < maxSources {
		c.sources[w] = source
	}
	return source
}

// Error is why there is no token. azcore does not retry it: the credential itself has retried where
// that can help.
type Error struct{ err error }

// Error implements error.
func (e *Error) Error() string { return "keyagent credential: " + e.err.Error() + hint(e.err) }

// Unwrap returns an error of package client, as errors.Is and errors.As want it.
func (e *Error) Unwrap() error { return e.err }

// NonRetriable marks the error for azcore.
func (*Error) NonRetriable() {}

// hint is the agent's own, if it gave one.
func hint(err error) string {
	if said, ok := errors.AsType[*client.Error](err); ok && said.Problem.Hint != "" {
		return " (" + said.Problem.Hint + ")"
	}
	return ""
}
