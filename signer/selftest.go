package signer

import (
	"context"
	"crypto"
	"crypto/rsa"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyagent/keyagent/tpm"
)

// selfTest signs with each hash and each scheme that the key may have, and finds out which of them
// work. A wrong signature is a fault of the TPM and ends the test with an error; so does a key that
// signs with none of them.
func (k *Key) selfTest(ctx context.Context, hashes []crypto.Hash) (offer, error) {
	o := offer{hashes: make(map[form][]crypto.Hash), salts: make(map[crypto.Hash]int)}
	for _, f := range formsOf(k.public) {
		for _, h := range hashes {
			err := k.try(ctx, &o, f, h)
			if err != nil && !errors.Is(err, ErrUnsupported) {
				return offer{}, err
			}
		}
	}
	if len(o.hashes) == 0 {
		return offer{}, fmt.Errorf("%w: the key signs with no scheme and hash that is known here", ErrUnsupported)
	}
	return o, nil
}

// try makes one signature and notes in the offer what it showed.
func (k *Key) try(ctx context.Context, o *offer, f form, h crypto.Hash) error {
	digest := testDigest(h)
	if f == pss {
		salt, err := k.measureSalt(ctx, h, digest)
		if err != nil {
			return err
		}
		o.salts[h] = salt
		if salt != h.Size() {
			return nil
		}
	} else if _, err := k.sign(ctx, h, f, digest); err != nil {
		return supported(err)
	}
	o.hashes[f] = append(o.hashes[f], h)
	return nil
}

// measureSalt makes a PSS signature and returns the length of the salt that the TPM used.
func (k *Key) measureSalt(ctx context.Context, h crypto.Hash, digest []byte) (int, error) {
	signature, err := k.key.Sign(ctx, pss, h, digest)
	if err != nil {
		return 0, supported(err)
	}
	public, ok := k.public.(*rsa.PublicKey)
	if !ok {
		return 0, ErrUnsupported
	}
	salt, err := pssSaltLength(public, h, signature)
	if err != nil {
		return 0, fmt.Errorf("%w: PSS: %w", ErrFault, err)
	}
	err = rsa.VerifyPSS(public, h, digest, signature, &rsa.PSSOptions{SaltLength: salt})
	if err != nil {
		return 0, fmt.Errorf("%w: PSS with a salt of %d: %w", ErrFault, salt, err)
	}
	return salt, nil
}

// supported adds ErrUnsupported to the TPM's errors for a scheme, a hash or a combination of them
// that it does not know.
func supported(err error) error {
	for _, code := range []tpm2.TPMRC{tpm2.TPMRCScheme, tpm2.TPMRCHash, tpm2.TPMRCValue, tpm2.TPMRCSize} {
		if errors.Is(err, code) && !errors.Is(err, tpm.ErrPolicy) { // with a policy, the same codes mean something else
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
