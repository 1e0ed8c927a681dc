package tpm

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"

	"github.com/google/go-tpm/tpm2"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/keyagent/keyagent/internal/tcg"
	"github.com/keyagent/keyagent/tpm/internal/device"
	"github.com/keyagent/keyagent/tpm/internal/rc"
)

// Sign signs a digest: an RSA key with scheme RSASSA (PKCS #1 v1.5) or RSAPSS, an elliptic curve
// key with ECDSA, whose signature is an ECDSA-Sig-Value (RFC 3279, 2.2.3). The salt of PSS is the
// TPM's choice; go by what a self-test found. The signature was not verified.
//
// A context that ends returns at once; the TPM finishes nevertheless.
func (k *Key) Sign(ctx context.Context, scheme tpm2.TPMAlgID, hash crypto.Hash, digest []byte) ([]byte, error) {
	alg, err := hashAlg(hash)
	if err == nil {
		err = k.checkScheme(scheme)
	}
	if err == nil && len(digest) != hash.Size() {
		err = fmt.Errorf("digest of %d bytes, %v has %d", len(digest), hash, hash.Size())
	}
	if err != nil {
		return nil, fmt.Errorf("signing with a TPM key: %w", err)
	}
	var signature []byte
	err = k.use(ctx, func(t *turn, h tpm2.TPMHandle) error {
		return k.authorize(t, attrDecrypt, func(a *authorization) error {
			command, err := k.signCommand(h, scheme, alg, digest, a)
			if err != nil {
				return err
			}
			rsp, err := t.Send(command)
			if err != nil {
				return err
			}
			signature, err = parseSignature(rsp, scheme, alg, a)
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("signing with a TPM key: %w", k.explainAuth(err))
	}
	return signature, nil
}

func (k *Key) checkScheme(scheme tpm2.TPMAlgID) error {
	switch k.key.(type) {
	case *rsa.PublicKey:
		if scheme == tpm2.TPMAlgRSASSA || scheme == tpm2.TPMAlgRSAPSS {
			return nil
		}
		return fmt.Errorf("scheme %s is neither RSASSA nor RSAPSS", tcg.Algorithm(uint16(scheme)))
	case *ecdsa.PublicKey:
		if scheme == tpm2.TPMAlgECDSA {
			return nil
		}
		return fmt.Errorf("scheme %s is not ECDSA", tcg.Algorithm(uint16(scheme)))
	}
	return fmt.Errorf("a %T does not sign", k.key)
}

// explainAuth tells a caller that the authorization value was refused which the first session of a
// command carried.
func (k *Key) explainAuth(err error) error {
	var code tpm2.TPMRC
	if !errors.As(err, &code) || !rc.Is(code, tpm2.TPMRCAuthFail, tpm2.TPMRCBadAuth) {
		return err
	}
	if code&sessionMask == secondSession {
		return fmt.Errorf("the attestation key has a password: %w", err)
	}
	if rc.Is(code, tpm2.TPMRCAuthFail) {
		err = fmt.Errorf("the TPM counts such tries, and locks after a few: %w", err)
	}
	switch {
	case len(k.auth) == 0 && k.file.EmptyAuth:
		return fmt.Errorf("%w: its file says that the key has none, and none was given: the file is wrong (tpm2_encodeobject -p writes it so for keys that have one), "+
			"or somebody changes commands on their way to the TPM: %w", ErrAuthValue, err)
	case len(k.auth) == 0:
		return fmt.Errorf("%w: the key has a password, and none was given: %w", ErrAuthValue, err)
	case k.file.EmptyAuth:
		return fmt.Errorf("%w: the key was made without one, if its file is right, and one was given: %w", ErrAuthValue, err)
	}
	return fmt.Errorf("%w: the key's password is another than the one given: %w", ErrAuthValue, err)
}

// hashAlg maps a Go hash to the TPM's identifier (TPM 2.0 Part 2, 6.3).
func hashAlg(h crypto.Hash) (tpm2.TPMAlgID, error) {
	switch h {
	case crypto.SHA256:
		return tpm2.TPMAlgSHA256, nil
	case crypto.SHA384:
		return tpm2.TPMAlgSHA384, nil
	case crypto.SHA512:
		return tpm2.TPMAlgSHA512, nil
	}
	return 0, fmt.Errorf("hash %v is not SHA-256, SHA-384 or SHA-512", h)
}

// signCommand is TPM2_Sign (TPM 2.0 Part 3, 20.2), written by hand: it is the one command on the
// hot path, and go-tpm's reflection makes 650 allocations of it.
//
//	tag      TPM_ST_SESSIONS     size, code TPM_CC_Sign
//	handle   keyHandle
//	auth     size, session, nonceCaller, attributes, HMAC; or TPM_RS_PW, no nonce, no attributes, password
//	digest   TPM2B_DIGEST, encrypted in a session
//	inScheme scheme, hash
//	ticket   TPM_ST_HASHCHECK, TPM_RH_NULL, empty: the TPM did not make the digest
func (k *Key) signCommand(h tpm2.TPMHandle, scheme, hash tpm2.TPMAlgID, digest []byte, a *authorization) ([]byte, error) {
	area := 4 + 2 + 1 + 2 + len(k.auth)
	if a != nil {
		area = 4 + 2 + nonceBytes + 1 + 2 + macBytes
	}
	parameters := device.HeaderBytes + 4 + 4 + area
	size := parameters + 2 + len(digest) + 4 + 8
	be := binary.BigEndian
	b := make([]byte, parameters, size)
	be.PutUint16(b, uint16(tpm2.TPMSTSessions))
	be.PutUint32(b[2:], uint32(size)) // #nosec G115 -- a few hundred
	be.PutUint32(b[6:], uint32(tpm2.TPMCCSign))
	be.PutUint32(b[10:], uint32(h))
	be.PutUint32(b[14:], uint32(area))          // #nosec G115
	b = be.AppendUint16(b, uint16(len(digest))) // #nosec G115 -- at most 64
	b = append(b, digest...)
	b = be.AppendUint16(b, uint16(scheme))
	b = be.AppendUint16(b, uint16(hash))
	b = be.AppendUint16(b, uint16(tpm2.TPMSTHashCheck))
	b = be.AppendUint32(b, uint32(tpm2.TPMRHNull))
	b = append(b, 0, 0)
	if a == nil {
		password := b[device.HeaderBytes+8 : parameters] // no nonce, no attributes
		be.PutUint32(password, uint32(tpm2.TPMRSPW))
		be.PutUint16(password[7:], uint16(len(k.auth))) // #nosec G115 -- at most 32
		copy(password[9:], k.auth)
		return b, nil
	}
	return b, a.protect(tpm2.TPMCCSign, b[device.HeaderBytes+8:parameters], b[parameters:], k.object.name)
}

// protect encrypts the first of the parameters and fills in the session area of a command with one
// handle.
func (a *authorization) protect(code tpm2.TPMCC, area, parameters, name []byte) error {
	if err := a.NewNonceCaller(); err != nil {
		return err
	}
	size := binary.BigEndian.Uint16(parameters)
	if err := a.Encrypt(parameters[2 : 2+size]); err != nil {
		return err
	}
	be := binary.BigEndian
	b := be.AppendUint32(area[:0], uint32(a.handle))
	b = append(be.AppendUint16(b, nonceBytes), a.nonceCaller...)
	b = append(b, a.attributes)
	_ = append(be.AppendUint16(b, macBytes), a.commandMAC(code, parameters, name)...) // it ends at the end of area
	return nil
}

// parseSignature takes the signature out of the response to TPM2_Sign:
//
//	tag, size, code, parameterSize, TPMT_SIGNATURE, auth{nonceTPM, attributes, HMAC}
//
// In a session, nothing of it is believed before the HMAC was found right.
func parseSignature(rsp []byte, scheme, hash tpm2.TPMAlgID, a *authorization) ([]byte, error) {
	if code := device.ResponseCode(rsp); code != tpm2.TPMRCSuccess {
		return nil, code
	}
	s := cryptobyte.String(rsp[device.HeaderBytes:])
	var parameters, nonce, mac cryptobyte.String
	var size uint32
	var attributes uint8
	if !s.ReadUint32(&size) || size > device.MaxResponseBytes || !s.ReadBytes((*[]byte)(&parameters), int(size)) || !s.ReadUint16LengthPrefixed(&nonce) || !s.ReadUint8(&attributes) ||
		!s.ReadUint16LengthPrefixed(&mac) || !s.Empty() {
		return nil, fmt.Errorf("response of %d bytes does not hold parameters and one session", len(rsp))
	}
	if a != nil {
		if err := a.accept(tpm2.TPMCCSign, parameters, nonce, attributes, mac); err != nil {
			return nil, err
		}
	} else if len(nonce) != 0 || len(mac) != 0 {
		return nil, errors.New("response to a command with a password has a nonce or an HMAC")
	}
	return signature(parameters, scheme, hash)
}

// signature reads a TPMT_SIGNATURE (TPM 2.0 Part 2, 11.3.4).
func signature(s cryptobyte.String, scheme, hash tpm2.TPMAlgID) ([]byte, error) {
	var sigAlg, hashAlg uint16
	if !s.ReadUint16(&sigAlg) || !s.ReadUint16(&hashAlg) {
		return nil, errors.New("response is too short for a signature")
	}
	if tpm2.TPMAlgID(sigAlg) != scheme || tpm2.TPMAlgID(hashAlg) != hash {
		return nil, fmt.Errorf("the TPM signed with scheme %s and hash %s, asked for were %s and %s",
			tcg.Algorithm(sigAlg), tcg.Algorithm(hashAlg), tcg.Algorithm(uint16(scheme)), tcg.Algorithm(uint16(hash)))
	}
	var first, second cryptobyte.String
	if !s.ReadUint16LengthPrefixed(&first) || scheme == tpm2.TPMAlgECDSA && !s.ReadUint16LengthPrefixed(&second) || !s.Empty() {
		return nil, errors.New("response does not hold one signature")
	}
	if scheme != tpm2.TPMAlgECDSA {
		return first[:len(first):len(first)], nil
	}
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1BigInt(new(big.Int).SetBytes(first))
		b.AddASN1BigInt(new(big.Int).SetBytes(second))
	})
	return b.Bytes()
}
