package imds

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/google/uuid"

	"github.com/keyagent/keyagent/internal/upstream"
)

// PlatformMetadata is what IMDS says about the VM and one of its identities.
type PlatformMetadata struct {
	ClientID string // GUID, subject CN of the certificate request
	TenantID string // GUID, subject DC of the certificate request

	// ComputeUnitID is the "cuId" object as compact JSON in the order received,
	// without members that are null or empty: IMDS refuses a request that
	// repeats those.
	ComputeUnitID string

	// AttestationEndpoint is the base URL of the Azure Attestation instance that
	// the issuer of binding certificates works with, without trailing slash.
	AttestationEndpoint string
}

// PlatformMetadata requests the platform's metadata. It blocks for as long as the retry schedule
// takes; see the package comment.
func (c *Client) PlatformMetadata(ctx context.Context, sel Selector) (*PlatformMetadata, error) {
	answer, err := c.callV2(ctx, v2Request(opMetadata, sel, nil))
	if err != nil {
		return nil, err
	}
	meta, err := c.metadata(answer, sel)
	if err != nil {
		return nil, badAnswer(opMetadata, err)
	}
	return meta, nil
}

func (c *Client) metadata(answer upstream.Members, sel Selector) (*PlatformMetadata, error) {
	meta := &PlatformMetadata{}
	unit, err := answer.Raw("cuId")
	if err == nil {
		meta.ComputeUnitID, err = compactComputeUnit(unit)
	}
	if err == nil {
		meta.ClientID, err = guid(answer, "clientId")
	}
	if err == nil {
		meta.TenantID, err = guid(answer, "tenantId")
	}
	if err == nil {
		err = checkAsked(sel, meta.ClientID)
	}
	if err == nil {
		meta.AttestationEndpoint, err = endpoint(answer, "attestationEndpoint", c.hosts.Load().attestation)
	}
	return meta, err
}

// endpoint returns a member that is the URL of a trusted host.
func endpoint(answer upstream.Members, name string, trusted HostList) (string, error) {
	text, err := answer.Text(name)
	if err != nil {
		return "", err
	}
	checked, err := trusted.Check(text)
	if err != nil {
		return "", fmt.Errorf("%s: %w", name, err)
	}
	return checked, nil
}

// checkAsked refuses an answer about another identity than the requested one: a server in IMDS'
// place could swap the VM's identities, and a caller would get tokens of an identity that no rule
// gives it. Only a client id can be compared; the other selectors do not appear in any answer.
func checkAsked(sel Selector, clientID string) error {
	if sel.ClientID != "" && !strings.EqualFold(sel.ClientID, clientID) {
		return fmt.Errorf("the answer is about client id %q, and %q was requested", clientID, sel.ClientID)
	}
	return nil
}

// guid returns a member that is an id in the 36-character form: it ends up in a
// certificate subject and in a URL path.
func guid(answer upstream.Members, name string) (string, error) {
	id, err := answer.Text(name)
	if err != nil {
		return "", err
	}
	return id, checkGUID(name, id)
}

func checkGUID(name, id string) error {
	if len(id) != 36 || uuid.Validate(id) != nil {
		return fmt.Errorf("%s %q is not a GUID", name, upstream.Text(id))
	}
	return nil
}

// maxComputeUnitBytes is generous: a real one holds one or two GUIDs.
const maxComputeUnitBytes = 1024

func compactComputeUnit(raw json.RawMessage) (string, error) {
	if len(raw) > maxComputeUnitBytes {
		return "", fmt.Errorf("cuId has more than %d bytes", maxComputeUnitBytes)
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	if opening, err := dec.Token(); err != nil || opening != json.Delim('{') {
		return "", fmt.Errorf("cuId is not a JSON object")
	}
	out := bytes.NewBufferString("{")
	seen := map[string]bool{}
	for dec.More() {
		if err := appendMember(out, dec, seen); err != nil {
			return "", err
		}
	}
	if !seen["vmId"] && !seen["vmssId"] {
		return "", fmt.Errorf("cuId names neither vmId nor vmssId")
	}
	return out.String() + "}", nil
}

// appendMember copies the next member of the object, if it has a value.
func appendMember(out *bytes.Buffer, dec *json.Decoder, seen map[string]bool) error {
	token, err := dec.Token()
	if err != nil {
		return fmt.Errorf("cuId: %w", err)
	}
	name, _ := token.(string)
	var value json.RawMessage
	if err := dec.Decode(&value); err != nil {
		return fmt.Errorf("cuId: %w", err)
	}
	if seen[name] {
		return fmt.Errorf("cuId member %q appears twice", upstream.Text(name))
	}
	if text := string(value); text == "null" || text == `""` {
		return nil
	}
	if len(seen) > 0 {
		out.WriteByte(',')
	}
	seen[name] = true
	if err := appendName(out, name); err != nil {
		return fmt.Errorf("cuId: %w", err)
	}
	return json.Compact(out, value)
}

func appendName(out *bytes.Buffer, name string) error {
	enc := json.NewEncoder(out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(name); err != nil {
		return err
	}
	out.Truncate(out.Len() - 1) // Encode ends with a newline
	out.WriteByte(':')
	return nil
}
