package imds

import (
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// clockSkew is how far the attestation service's clock may be off.
const clockSkew = time.Minute

// compliant is the only compliance status that gets a certificate.
const compliant = "azure-compliant-cvm"

// bindingKeyID is the kid under which the attestation service lists the key that it saw certified.
const bindingKeyID = "BindingKey"

// attestationClaims are the claims of an attestation token that the issuer decides on.
type attestationClaims struct {
	Type    string `json:"x-ms-attestation-type"`
	VMID    string `json:"x-ms-azurevm-vmid"`
	Runtime struct {
		Keys []struct {
			KeyID    string `json:"kid"`
			KeyType  string `json:"kty"`
			Modulus  string `json:"n"`
			Exponent string `json:"e"`
		} `json:"keys"`
	} `json:"x-ms-runtime"`
	Isolation struct {
		Type       string `json:"x-ms-attestation-type"`
		Compliance string `json:"x-ms-compliance-status"`
	} `json:"x-ms-isolation-tee"`
}

// checkAttestation checks that token vouches for this VM, and for key living in its TPM.
func (s *Server) checkAttestation(token string, key *rsa.PublicKey) error {
	claims, err := s.verifyAttestationToken(token)
	if err != nil {
		return err
	}
	switch {
	case claims.Type != "azurevm":
		return fmt.Errorf("attestation type %q, want azurevm", claims.Type)
	case claims.Isolation.Type != s.isolation():
		return fmt.Errorf("isolation type %q, want %s", claims.Isolation.Type, s.isolation())
	case claims.Isolation.Compliance != compliant:
		return fmt.Errorf("compliance status %q, want %s", claims.Isolation.Compliance, compliant)
	case !strings.EqualFold(claims.VMID, s.cfg.VMID):
		return errors.New("it was issued to another VM")
	}
	attested, err := claims.bindingKey()
	if err != nil {
		return err
	}
	if !attested.Equal(key) {
		return errors.New("it is about another key than that of the certificate request")
	}
	return nil
}

// verifyAttestationToken checks signature, issuer and time. The keys are configured; the header's
// jku is compared, never followed.
func (s *Server) verifyAttestationToken(token string) (*attestationClaims, error) {
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.RS256})
	if err != nil {
		return nil, errors.New("not a JWT signed with RS256")
	}
	header := parsed.Headers[0]
	keys := s.cfg.AttestationKeys.Key(header.KeyID)
	if len(keys) != 1 {
		return nil, errors.New("signed by an unknown key")
	}
	if header.ExtraHeaders["jku"] != s.cfg.AttestationEndpoint+"/certs" {
		return nil, errors.New("header jku is not the issuer's")
	}
	var registered jwt.Claims
	claims := &attestationClaims{}
	if err := parsed.Claims(keys[0].Key, &registered, claims); err != nil {
		return nil, errors.New("signature does not verify")
	}
	if registered.Issuer != s.cfg.AttestationEndpoint {
		return nil, errors.New("issuer is not the attestation service of this VM")
	}
	if registered.Expiry == nil || registered.NotBefore == nil {
		return nil, errors.New("it has no exp or no nbf")
	}
	if err := registered.ValidateWithLeeway(jwt.Expected{Time: s.cfg.Now()}, clockSkew); err != nil {
		return nil, fmt.Errorf("it is outside its validity: %w", err)
	}
	return claims, nil
}

// bindingKey returns the one key that the token says to live in the TPM.
func (c *attestationClaims) bindingKey() (*rsa.PublicKey, error) {
	var found []*rsa.PublicKey
	for _, k := range c.Runtime.Keys {
		if k.KeyID != bindingKeyID {
			continue
		}
		n, errN := base64.RawURLEncoding.DecodeString(k.Modulus)
		e, errE := base64.RawURLEncoding.DecodeString(k.Exponent)
		if err := errors.Join(errN, errE); err != nil || k.KeyType != "RSA" || len(e) > 4 || len(n) > 512 {
			return nil, errors.New("its binding key cannot be read")
		}
		found = append(found, &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(new(big.Int).SetBytes(e).Int64())})
	}
	if len(found) != 1 {
		return nil, errors.New("it vouches for no binding key")
	}
	return found[0], nil
}
