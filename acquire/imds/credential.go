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

// CredentialRequest is the body of leg 2.
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

// IssueCredential asks for leg 2. It blocks for as long as the retry schedule
// takes; see the package comment.
func (c *Client) IssueCredential(ctx context.Context, sel Selector, req CredentialRequest) (*Credential, error) {
	payload, err := json.Marshal(struct {
		CSR              string `json:"csr"`
		AttestationToken string `json:"attestation_token,omitempty"`
	}{base64.StdEncoding.EncodeToString(req.CSR), req.AttestationToken.Reveal()})
	if err != nil {
		return nil, fmt.Errorf("encoding request for IMDS %s: %w", legCredential, err)
	}
	r := v2Request(legCredential, sel, payload)
	var wire credentialAnswer
	if req.BypassCache {
		err = c.callBypassing(ctx, r, &wire)
	} else {
		err = c.callV2(ctx, r, &wire)
	}
	if err != nil {
		return nil, err
	}
	return c.credential(wire)
}

// callBypassing asks past IMDS' own cache. Whether every host knows the parameter is
// not documented, so a host that refuses the request gets it once more without.
func (c *Client) callBypassing(ctx context.Context, r request, out any) error {
	bypassing := r
	bypassing.query = maps.Clone(r.query)
	bypassing.query.Set("bypass_cache", "true")
	err := c.callV2(ctx, bypassing, out)
	if e, ok := errors.AsType[*Error](err); ok && e.Status == http.StatusBadRequest {
		return c.callV2(ctx, r, out)
	}
	return err
}

// credentialAnswer is the wire form of leg 2's answer.
type credentialAnswer struct {
	ClientID     string `json:"client_id"`
	TenantID     string `json:"tenant_id"`
	Certificate  string `json:"certificate"`
	IdentityType string `json:"identity_type"`
	MTLSEndpoint string `json:"mtls_authentication_endpoint"`
}

func (c *Client) credential(wire credentialAnswer) (*Credential, error) {
	const leg = legCredential
	if err := checkGUIDs(wire.ClientID, wire.TenantID); err != nil {
		return nil, fmt.Errorf("IMDS %s: %w: %w", leg, ErrBadAnswer, err)
	}
	certificate, err := base64.StdEncoding.Strict().DecodeString(wire.Certificate)
	if err != nil || len(certificate) == 0 {
		return nil, fmt.Errorf("IMDS %s: %w: certificate is not base64", leg, ErrBadAnswer)
	}
	if wire.IdentityType == "" {
		return nil, fmt.Errorf("IMDS %s: %w: no identity_type", leg, ErrBadAnswer)
	}
	endpoint, err := c.mtlsHosts.Check(wire.MTLSEndpoint)
	if err != nil {
		return nil, fmt.Errorf("IMDS %s: %w: mtls_authentication_endpoint: %w", leg, ErrBadAnswer, err)
	}
	return &Credential{
		ClientID:     wire.ClientID,
		TenantID:     wire.TenantID,
		Certificate:  certificate,
		IdentityType: upstream.Text(wire.IdentityType),
		MTLSEndpoint: endpoint,
	}, nil
}
