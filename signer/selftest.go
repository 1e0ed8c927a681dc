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

// selfTest finds out what the key can sign with: with the hash that it is used with first, it tries
// out each form, and other hashes only if none works with that. A wrong signature is a fault of the
// TPM and ends the test with an error; so does a key that signs with none of them.
//
// Where an earlier outcome is known, one signature of the form that is used first is enough: if it comes
// out as it did then, so would the rest, and each signature is verified anyway.
func (k *Key) selfTest(ctx context.Context, earlier offer) (offer, error) {
	if t, known := preferred(k.public, earlier); known {
		found, err := k.try(ctx, t)
		if err != nil {
			return nil, err
		}
		if found == earlier[t] {
			return earlier, nil
		}
	}
	var o offer
	for _, h := range hashesOf(k.public) {
		for _, f := range formsOf(k.public) {
			found, err := k.try(ctx, trial{f, h})
			if err != nil {
				return nil, err
			}
			o = o.with(trial{f, h}, found)
		}
		if o.works() {
			return o, nil
		}
	}
	return nil, fmt.Errorf("%w: the key signs with no scheme and hash that is known here", ErrUnsupported)
}

// preferred returns the trial that works and that the key is used with first.
func preferred(public crypto.PublicKey, o offer) (trial, bool) {
	for _, h := range hashesOf(public) {
		for _, f := range formsOf(public) {
			if o[trial{f, h}].works {
				return trial{f, h}, true
			}
		}
	}
	return trial{}, false
}

// try makes one signature. That the TPM does not know the form or the hash is a finding, not an error.
func (k *Key) try(ctx context.Context, t trial) (finding, error) {
	digest := testDigest(t.hash)
	var err error
	if t.form == pss {
		var salt int
		if salt, err = k.measureSalt(ctx, t.hash, digest); err == nil {
			return finding{works: salt == t.hash.Size(), salt: salt}, nil
		}
	} else if _, err = k.sign(ctx, t.hash, t.form, digest); err == nil {
		return finding{works: true, salt: -1}, nil
	}
	if err = supported(err); errors.Is(err, ErrUnsupported) {
		return finding{salt: -1}, nil
	}
	return finding{}, err
}

// measureSalt makes a PSS signature and returns the length of the salt that the TPM used.
func (k *Key) measureSalt(ctx context.Context, h crypto.Hash, digest []byte) (int, error) {
	signature, err := k.key.Sign(ctx, pss, h, digest)
	if err != nil {
		return 0, err
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
