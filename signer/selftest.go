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
// Where an earlier outcome is known, one signature of the form that is used first is enough: if it
// comes out as it did then, so would the rest, and each signature is verified anyway. Forms that
// the outcome does not mention are tried again: the TPM refused them, or an interposer did in its
// name.
func (k *Key) selfTest(ctx context.Context, earlier offer) (offer, error) {
	if t, known := preferred(k.public, earlier); known {
		found, err := k.try(ctx, t)
		if err != nil {
			return nil, err
		}
		if found == earlier[t] {
			return k.complete(ctx, earlier, hashesOf(k.public)[0])
		}
	}
	var o offer
	for _, h := range hashesOf(k.public) {
		var err error
		if o, err = k.complete(ctx, o, h); err != nil {
			return nil, err
		}
		if o.works() {
			return o, nil
		}
	}
	return nil, fmt.Errorf("%w: the key signs with no scheme and hash that is known here", ErrUnsupported)
}

// complete tries out with a hash the forms of which the offer says nothing.
func (k *Key) complete(ctx context.Context, o offer, h crypto.Hash) (offer, error) {
	for _, f := range formsOf(k.public) {
		t := trial{f, h}
		if _, known := o[t]; known {
			continue
		}
		var err error
		if o, err = k.find(ctx, o, t); err != nil {
			return nil, err
		}
	}
	return o, nil
}

// find makes a trial and returns the offer with what a signature has shown. A refusal shows
// nothing, for a TPM's error response has no session and so no HMAC (TPM 2.0 Part 2, 6.9), and
// anyone between the TPM and the agent can forge it. It is only noted, so that the same trial is
// not made again at once. It is for one goroutine at a time.
func (k *Key) find(ctx context.Context, o offer, t trial) (offer, error) {
	found, err := k.try(ctx, t)
	if err != nil {
		return nil, err
	}
	if !found.shown() {
		k.refused[t] = k.now()
		return o, nil
	}
	return o.with(t, found), nil
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

// try makes one signature. That the TPM does not know the form or the hash is a finding, not an
// error.
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
