package tpm

import (
	"context"
	"crypto"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// Sign signs a digest with scheme RSASSA (PKCS #1 v1.5) or RSAPSS. The salt of PSS is the TPM's choice; go by what a
// self-test found. The signature was not verified.
//
// A context that ends returns at once; the TPM finishes nevertheless.
func (k *Key) Sign(ctx context.Context, scheme tpm2.TPMAlgID, hash crypto.Hash, digest []byte) ([]byte, error) {
	alg, err := hashAlg(hash)
	if err != nil {
		return nil, fmt.Errorf("signing with a TPM key: %w", err)
	}
	if scheme != tpm2.TPMAlgRSASSA && scheme != tpm2.TPMAlgRSAPSS {
		return nil, fmt.Errorf("signing with a TPM key: scheme 0x%04x is neither RSASSA nor RSAPSS", uint16(scheme))
	}
	if len(digest) != hash.Size() {
		return nil, fmt.Errorf("signing with a TPM key: digest of %d bytes, %v has %d", len(digest), hash, hash.Size())
	}
	var signature []byte
	err = k.use(ctx, func(t *turn, h tpm2.TPMHandle) error {
		rsp, err := t.send(signCommand(h, scheme, alg, digest))
		if err != nil {
			return err
		}
		signature, err = parseSignature(rsp, scheme, alg)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("signing with a TPM key: %w", explainSign(err))
	}
	return signature, nil
}

func explainSign(err error) error {
	if errors.Is(err, tpm2.TPMRCAuthFail) || errors.Is(err, tpm2.TPMRCBadAuth) {
		return fmt.Errorf("the key has a password, which is not supported: %w", err)
	}
	return err
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

// signCommand is TPM2_Sign (TPM 2.0 Part 3, 20.2), written by hand: it is the one command on the hot path, and go-tpm's
// reflection makes 650 allocations of it.
//
//	tag      TPM_ST_SESSIONS     size, code TPM_CC_Sign
//	handle   keyHandle
//	auth     size, TPM_RS_PW, no nonce, no attributes, empty password
//	digest   TPM2B_DIGEST
//	inScheme scheme, hash
//	ticket   TPM_ST_HASHCHECK, TPM_RH_NULL, empty: the TPM did not make the digest
func signCommand(h tpm2.TPMHandle, scheme, hash tpm2.TPMAlgID, digest []byte) []byte {
	const fixed = headerBytes + 4 + 4 + 9 + 2 + 4 + 8
	size := fixed + len(digest)
	be := binary.BigEndian
	b := make([]byte, 0, size)
	b = be.AppendUint16(b, uint16(tpm2.TPMSTSessions))
	b = be.AppendUint32(b, uint32(size)) // #nosec G115 -- at most fixed + 64
	b = be.AppendUint32(b, uint32(tpm2.TPMCCSign))
	b = be.AppendUint32(b, uint32(h))
	b = be.AppendUint32(b, 9)
	b = be.AppendUint32(b, uint32(tpm2.TPMRSPW))
	b = append(b, 0, 0, 0, 0, 0)
	b = be.AppendUint16(b, uint16(len(digest))) // #nosec G115 -- at most 64
	b = append(b, digest...)
	b = be.AppendUint16(b, uint16(scheme))
	b = be.AppendUint16(b, uint16(hash))
	b = be.AppendUint16(b, uint16(tpm2.TPMSTHashCheck))
	b = be.AppendUint32(b, uint32(tpm2.TPMRHNull))
	return append(b, 0, 0)
}

// parseSignature takes the signature out of the response to TPM2_Sign:
//
//	tag, size, code, parameterSize, TPMT_SIGNATURE{sigAlg, hash, size, sig}, auth{no nonce, attributes, no HMAC}
func parseSignature(rsp []byte, scheme, hash tpm2.TPMAlgID) ([]byte, error) {
	if code := responseCode(rsp); code != tpm2.TPMRCSuccess {
		return nil, code
	}
	const fixed, trailer = headerBytes + 4 + 6, 5
	if len(rsp) < fixed+trailer {
		return nil, fmt.Errorf("response of %d bytes is too short for a signature", len(rsp))
	}
	be := binary.BigEndian
	parameters := int(be.Uint32(rsp[headerBytes:]))
	size := int(be.Uint16(rsp[fixed-2:]))
	if parameters != 6+size || len(rsp) != fixed+size+trailer {
		return nil, fmt.Errorf("response of %d bytes does not hold a signature of %d", len(rsp), size)
	}
	sigAlg, hashAlg := tpm2.TPMAlgID(be.Uint16(rsp[fixed-6:])), tpm2.TPMAlgID(be.Uint16(rsp[fixed-4:]))
	if sigAlg != scheme || hashAlg != hash {
		return nil, fmt.Errorf("the TPM signed with scheme 0x%04x and hash 0x%04x, asked for were 0x%04x and 0x%04x", uint16(sigAlg), uint16(hashAlg), uint16(scheme), uint16(hash))
	}
	return rsp[fixed : fixed+size : fixed+size], nil
}
