package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"github.com/keyagent/keyagent/agentapi/wire"
)

// EvidenceRequest says what attestation evidence is wanted; Nonce and Audience are required.
type EvidenceRequest = wire.EvidenceRequest

// Evidence asks for attestation evidence of a key of the agent: a bundle as docs/evidence.md
// describes it, to be passed on to the verifier whose nonce it was made for. It is made if a rule
// lets the caller have it (evidence: true), in about a second.
func (c *Client) Evidence(ctx context.Context, req EvidenceRequest) ([]byte, error) {
	text, err := json.Marshal(req)
	if err != nil {
		return nil, err
	}
	bundle, err := c.doUpTo(ctx, wire.MaxEvidenceBytes, http.MethodPost, wire.PathEvidence, "", bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	if !json.Valid(bundle) {
		return nil, errors.New("reading the agent's reply: it is not a bundle of evidence")
	}
	return bundle, nil
}
