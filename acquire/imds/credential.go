package imds

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"

	"github.com/keyagent/keyagent/internal/secret"
	"github.com/keyagent/keyagent/internal/upstream"
)

// CredentialRequest is the body of issuecredential.
type CredentialRequest struct {
	CSR              []byte        // PKCS#10, DER
	AttestationToken secret.String // JWT; the zero value leaves the member out
	BypassCache      bool          // ask IMDS for a new certificate, not one it has kept
}

// Credential is an issued binding certificate.
type Credential struct {
	ClientID     string // GUID that the token request uses
	TenantID     string // GUID
	Certificate  []byte // leaf certificate, DER, not parsed here
	IdentityType string // "SystemAssigned" or "UserAssigned"

	// MTLSEndpoint is the regional base URL of Entra's mutual-TLS token
	// endpoint, without tenant and without trailing slash.
	MTLSEndpoint string
}

// IssueCredential requests a binding certificate. It blocks for as long as the retry schedule
// takes; see the package comment.
func (c *Client) IssueCredential(ctx context.Context, sel Selector, req CredentialRequest) (*Credential, error) {
	payload, err := json.Marshal(struct {
		CSR              string `json:"csr"`
		AttestationToken string `json:"attestation_token,omitempty"`
	}{base64.StdEncoding.EncodeToString(req.CSR), req.AttestationToken.Reveal()})
	if err != nil {
		return nil, fmt.Errorf("encoding request for IMDS %s: %w", opCredential, err)
	}
	r := v2Request(opCredential, sel, payload)
	call := c.callV2
	if req.BypassCache {
		call = c.callBypassing
	}
	answer, err := call(ctx, r)
	if err != nil {
		return nil, err
	}
	cred, err := c.credential(answer)
	if err != nil {
		return nil, badAnswer(opCredential, err)
	}
	return cred, nil
}

// callBypassing asks IMDS not to use its own cache. Whether every host knows the parameter is not
// documented, so a request that a host refuses is made once more without it.
func (c *Client) callBypassing(ctx context.Context, r request) (upstream.Members, error) {
	bypassing := r
	bypassing.query = maps.Clone(r.query)
	bypassing.query.Set("bypass_cache", "true")
	answer, err := c.callV2(ctx, bypassing)
	if e, ok := errors.AsType[*Error](err); ok && e.Status == http.StatusBadRequest {
		return c.callV2(ctx, r)
	}
	return answer, err
}

func (c *Client) credential(answer upstream.Members) (*Credential, error) {
	cred := &Credential{}
	var err error
	if cred.ClientID, err = guid(answer, "client_id"); err != nil {
		return nil, err
	}
	if cred.TenantID, err = guid(answer, "tenant_id"); err != nil {
		return nil, err
	}
	encoded, err := answer.Text("certificate")
	if err != nil {
		return nil, err
	}
	if cred.Certificate, err = base64.StdEncoding.Strict().DecodeString(encoded); err != nil {
		return nil, errors.New("certificate is not base64")
	}
	kind, err := answer.Text("identity_type")
	if err != nil {
		return nil, err
	}
	cred.IdentityType = upstream.Text(kind)
	cred.MTLSEndpoint, err = endpoint(answer, "mtls_authentication_endpoint", c.hosts.Load().mtls)
	return cred, err
}
