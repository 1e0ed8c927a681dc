package maa_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"

	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/attest/maa"
)

// softKey is a transport key outside of a TPM, that behaves as the TPM's does: a bad ciphertext
// gives random bytes.
type softKey struct {
	key       *rsa.PrivateKey
	certified attest.Certified
	err       error
}

func (k *softKey) Certified() attest.Certified { return k.certified }

func (k *softKey) Decrypt(_ context.Context, ciphertext []byte) ([]byte, error) {
	if k.err != nil {
		return nil, k.err
	}
	//lint:ignore SA1019 the service's envelope is RSAES-PKCS1-v1_5
	message, err := rsa.DecryptPKCS1v15(nil, k.key, ciphertext)
	if err != nil {
		message = make([]byte, 32)
		_, err = rand.Read(message)
	}
	return message, err
}

var _ maa.TransportKey = (*softKey)(nil)
