package maa

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/attest/hcl"
	"github.com/keyagent/keyagent/internal/upstream"
)

// checkToken reads a token without validating its signature: it must have the form of a JWT,
// contain its expiry, and answer r.
func checkToken(jwt string, r Request) (expires time.Time, err error) {
	parts := strings.Split(jwt, ".")
	if len(parts) != 3 {
		return expires, fmt.Errorf("%w: it has %d parts, not the 3 of a JWT", ErrWrongToken, len(parts))
	}
	payload, err := base64.RawURLEncoding.Strict().DecodeString(parts[1])
	if err != nil {
		return expires, fmt.Errorf("%w: its claims are not base64url", ErrWrongToken)
	}
	c, err := upstream.ParseMembers(payload)
	if err != nil {
		return expires, fmt.Errorf("%w: its claims: %w", ErrWrongToken, err)
	}
	seconds, err := c.Number("exp")
	if err == nil && seconds <= 0 {
		err = errors.New("exp is not a time")
	}
	if err != nil {
		return expires, fmt.Errorf("%w: it does not say when it expires: %w", ErrWrongToken, err)
	}
	modulus, err := akModulus(r.Evidence)
	if err != nil {
		return expires, err
	}
	if err := answers(c, r.Challenge.Nonce, modulus); err != nil {
		return expires, fmt.Errorf("%w: %w", ErrWrongToken, err)
	}
	return time.Unix(seconds, 0), nil
}

// answers compares the few claims that say which question the token answers. The service sorts
// claims and adds new ones: values are compared, never hashes.
func answers(c upstream.Members, nonce []byte, akModulus string) error {
	said, err := inside(c, "x-ms-runtime", "client-payload")
	if err != nil {
		return err
	}
	encoded, err := said.Text("nonce")
	if err != nil {
		return err
	}
	repeated, err := base64.StdEncoding.Strict().DecodeString(encoded)
	if err != nil || !bytes.Equal(repeated, nonce) {
		return errors.New("it repeats another nonce")
	}
	about, err := inside(c, "x-ms-isolation-tee", "x-ms-runtime")
	if err != nil {
		return err
	}
	keys, err := about.List("keys")
	if err != nil {
		return err
	}
	return checkKeys(keys, akModulus)
}

// inside returns an object in an object.
func inside(c upstream.Members, outer, inner string) (upstream.Members, error) {
	o, err := c.Object(outer)
	if err != nil {
		return nil, err
	}
	i, err := o.Object(inner)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", outer, err)
	}
	return i, nil
}

// checkKeys wants the attestation key among the JWKs, and no other by its name.
func checkKeys(keys []json.RawMessage, akModulus string) error {
	named := false
	for _, raw := range keys {
		key, err := upstream.ParseMembers(raw)
		if err != nil {
			continue
		}
		if id, _ := key.Text("kid"); id != "HCLAkPub" {
			continue
		}
		if n, err := key.Text("n"); err != nil || n != akModulus {
			return errors.New("it is about another attestation key")
		}
		named = true
	}
	if !named {
		return errors.New("it names no attestation key")
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
