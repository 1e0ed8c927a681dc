package hcl

import (
	"crypto/rsa"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"strings"

	"github.com/keyagent/keyagent/attest/internal/strictjson"
)

// akKeyID is the kid under which the paravisor lists the attestation key.
const akKeyID = "HCLAkPub"

// akModulusSize is the size of the AK's modulus in bytes; the paravisor makes no other.
const akModulusSize = 256

// UserDataSize is the size of the guest's own input to the report (NV index 0x01400002), in bytes.
const UserDataSize = 64

// Claims are the runtime claims: what the paravisor says about the TPM and the virtual machine.
type Claims struct {
	AK              *rsa.PublicKey // the TPM's attestation key; 2048 bits, exponent 65537
	VMConfiguration VMConfiguration
	UserData        []byte // 64 bytes from NV 0x01400002; nil if the paravisor is too old to report them
}

// VMConfiguration is the part of the claims' vm-configuration that a policy can ask about. It is
// configuration: what happened at boot is in the PCRs. A nil member was absent.
type VMConfiguration struct {
	SecureBoot   *bool
	TPMPersisted *bool // TPM state survives a deallocation of the VM
	VMUniqueID   string
}

// claimsJSON is the wire form. Members come and go with paravisor releases; unknown ones are
// ignored.
type claimsJSON struct {
	Keys []struct {
		KeyID    string `json:"kid"`
		Type     string `json:"kty"`
		Modulus  string `json:"n"`
		Exponent string `json:"e"`
	} `json:"keys"`
	Configuration *struct {
		SecureBoot   *bool  `json:"secure-boot"`
		TPMPersisted *bool  `json:"tpm-persisted"`
		VMUniqueID   string `json:"vmUniqueId"`
	} `json:"vm-configuration"`
	UserData *string `json:"user-data"`
}

// ParseClaims reads the runtime claims and insists on exactly one usable attestation key in them.
func ParseClaims(b []byte) (*Claims, error) {
	if len(b) > MaxSize {
		return nil, fmt.Errorf("claims of %d bytes, want at most %d", len(b), MaxSize)
	}
	var doc claimsJSON
	if err := strictjson.UnmarshalOpen(b, &doc); err != nil {
		return nil, fmt.Errorf("runtime claims: %w", err)
	}
	if doc.Configuration == nil {
		return nil, errors.New("runtime claims: no vm-configuration")
	}
	c := &Claims{VMConfiguration: VMConfiguration{
		SecureBoot:   doc.Configuration.SecureBoot,
		TPMPersisted: doc.Configuration.TPMPersisted,
		VMUniqueID:   doc.Configuration.VMUniqueID,
	}}
	for _, k := range doc.Keys {
		if k.KeyID != akKeyID {
			continue
		}
		if c.AK != nil {
			return nil, errors.New("runtime claims: two keys called " + akKeyID)
		}
		ak, err := rsaKey(k.Type, k.Modulus, k.Exponent)
		if err != nil {
			return nil, fmt.Errorf("runtime claims: %s: %w", akKeyID, err)
		}
		c.AK = ak
	}
	if c.AK == nil {
		return nil, errors.New("runtime claims: no key called " + akKeyID)
	}
	return c, c.readUserData(doc.UserData)
}

// rsaKey reads a JWK's RSA members (RFC 7518, 6.3.1). The paravisor lists 256 zero bytes if it
// could not create the key.
func rsaKey(kty, n, e string) (*rsa.PublicKey, error) {
	if kty != "RSA" {
		return nil, fmt.Errorf("key type %.20q, want RSA", kty)
	}
	modulus, err := decodeBase64URL(n)
	if err != nil {
		return nil, fmt.Errorf("modulus: %w", err)
	}
	if len(modulus) != akModulusSize {
		return nil, fmt.Errorf("modulus of %d bytes, want %d", len(modulus), akModulusSize)
	}
	if modulus[0]&0x80 == 0 || modulus[akModulusSize-1]&1 == 0 {
		return nil, errors.New("modulus is not an odd number of 2048 bits")
	}
	if e != "AQAB" {
		return nil, fmt.Errorf("exponent %.20q, want AQAB (65537)", e)
	}
	return &rsa.PublicKey{N: new(big.Int).SetBytes(modulus), E: 65537}, nil
}

func (c *Claims) readUserData(s *string) error {
	if s == nil {
		return nil
	}
	b, err := hex.DecodeString(*s)
	if err != nil || len(b) != UserDataSize {
		return fmt.Errorf("runtime claims: user-data is not %d bytes in hexadecimal", UserDataSize)
	}
	c.UserData = b
	return nil
}

// decodeBase64URL accepts exactly one spelling per value: no padding, no line breaks, no stray bits
// at the end.
func decodeBase64URL(s string) ([]byte, error) {
	if strings.ContainsAny(s, "\r\n") {
		return nil, errors.New("line break in base64url")
	}
	return base64.RawURLEncoding.Strict().DecodeString(s)
}
