package maa

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"strings"
	"time"

	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/attest/hcl"
	"github.com/keyagent/keyagent/attest/internal/strictjson"
)

// claims are the few members of the token that are looked at. The service sorts members and adds new ones: values are compared, never
// hashes, and unknown members are ignored.
type claims struct {
	Expires int64 `json:"exp"`
	Runtime struct {
		ClientPayload struct {
			Nonce string `json:"nonce"`
		} `json:"client-payload"`
	} `json:"x-ms-runtime"`
	Isolation struct {
		Runtime struct {
			Keys []jwk `json:"keys"`
		} `json:"x-ms-runtime"`
	} `json:"x-ms-isolation-tee"`
}

type jwk struct {
	KeyID   string `json:"kid"`
	Modulus string `json:"n"`
}

// check looks into a token without judging it: it must be of the form of a JWT, say when it expires, and answer r.
func checkToken(jwt string, r Request) (expires time.Time, err error) {
	parts := strings.Split(jwt, ".")
	if len(parts) != 3 {
		return expires, fmt.Errorf("%w: it has %d parts, not the 3 of a JWT", ErrWrongToken, len(parts))
	}
	payload, err := base64.RawURLEncoding.Strict().DecodeString(parts[1])
	if err != nil {
		return expires, fmt.Errorf("%w: its claims are not base64url", ErrWrongToken)
	}
	var c claims
	if err := strictjson.UnmarshalOpen(payload, &c); err != nil {
		return expires, fmt.Errorf("%w: its claims: %w", ErrWrongToken, err)
	}
	if c.Expires <= 0 {
		return expires, fmt.Errorf("%w: it does not say when it expires", ErrWrongToken)
	}
	if err := c.answers(r); err != nil {
		return expires, err
	}
	return time.Unix(c.Expires, 0), nil
}

func (c *claims) answers(r Request) error {
	nonce, err := base64.StdEncoding.Strict().DecodeString(c.Runtime.ClientPayload.Nonce)
	if err != nil || !bytes.Equal(nonce, r.Challenge.Nonce) {
		return fmt.Errorf("%w: it repeats another nonce", ErrWrongToken)
	}
	modulus, err := akModulus(r.Evidence)
	if err != nil {
		return err
	}
	named := false
	for _, key := range c.Isolation.Runtime.Keys {
		if key.KeyID != "HCLAkPub" {
			continue
		}
		if key.Modulus != modulus {
			return fmt.Errorf("%w: it is about another attestation key", ErrWrongToken)
		}
		named = true
	}
	if !named {
		return fmt.Errorf("%w: it names no attestation key", ErrWrongToken)
	}
	return nil
}

// akModulus is the attestation key's modulus as a JWK has it.
func akModulus(e *attest.Evidence) (string, error) {
	_, raw, err := e.Hardware()
	if err != nil {
		return "", err
	}
	c, err := hcl.ParseClaims(raw)
	if err != nil {
		return "", err
	}
	return base64.RawURLEncoding.EncodeToString(c.AK.N.Bytes()), nil
}
