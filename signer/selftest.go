package signer

import (
	"context"
	"crypto"
	"crypto/rsa"
	"errors"
	"fmt"
	"slices"

	"github.com/google/go-tpm/tpm2"
)

// selfTest signs with each hash and both paddings. PKCS #1 v1.5 with SHA-256 must work; everything else is found out. A wrong
// signature is a fault of the TPM and ends the test.
func (k *Key) selfTest(ctx context.Context, hashes []crypto.Hash) (offer, error) {
	o := offer{salts: make(map[crypto.Hash]int)}
	for _, h := range hashes {
		digest := testDigest(h)
		err := supported(k.probe(ctx, h, false, digest))
		if err == nil {
			o.pkcs1 = append(o.pkcs1, h)
		} else if !errors.Is(err, ErrUnsupported) {
			return offer{}, err
		}
		salt, err := k.measureSalt(ctx, h, digest)
		if errors.Is(err, ErrUnsupported) {
			continue
		}
		if err != nil {
			return offer{}, err
		}
		o.salts[h] = salt
		if salt == h.Size() {
			o.pss = append(o.pss, h)
		}
	}
	if !slices.Contains(o.pkcs1, crypto.SHA256) {
		return offer{}, fmt.Errorf("%w: PKCS #1 v1.5 with SHA-256", ErrUnsupported)
	}
	return o, nil
}

// probe makes one signature that leaves nothing but its verdict.
func (k *Key) probe(ctx context.Context, h crypto.Hash, pss bool, digest []byte) error {
	_, err := k.sign(ctx, h, pss, digest)
	return err
}

// measureSalt makes a PSS signature and returns the length of the salt that the TPM took.
func (k *Key) measureSalt(ctx context.Context, h crypto.Hash, digest []byte) (int, error) {
	signature, err := k.key.Sign(ctx, tpm2.TPMAlgRSAPSS, h, digest)
	if err != nil {
		return 0, supported(err)
	}
	salt, err := pssSaltLength(k.public, h, signature)
	if err != nil {
		return 0, fmt.Errorf("%w: PSS: %w", ErrFault, err)
	}
	err = rsa.VerifyPSS(k.public, h, digest, signature, &rsa.PSSOptions{SaltLength: salt})
	if err != nil {
		return 0, fmt.Errorf("%w: PSS with a salt of %d: %w", ErrFault, salt, err)
	}
	return salt, nil
}

// supported marks the TPM's ways of saying that it does not know a scheme, a hash or their combination.
func supported(err error) error {
	for _, code := range []tpm2.TPMRC{tpm2.TPMRCScheme, tpm2.TPMRCHash, tpm2.TPMRCValue, tpm2.TPMRCSize} {
		if errors.Is(err, code) {
			return fmt.Errorf("%w: %w", ErrUnsupported, err)
		}
	}
	return err
}

func testDigest(h crypto.Hash) []byte {
	digest := h.New()
	digest.Write([]byte("keyagent self-test"))
	return digest.Sum(nil)
}
