package collect

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/tpm"
)

// aesKeySize is the size in bytes of the plaintext of a valid ciphertext.
const aesKeySize = 32

// TransportKey is a decryption key of the TPM for one answer of an attestation service, usable only
// while the PCRs of the policy are what they were. It holds one of the TPM's few slots until Close.
//
// Its certify statement carries no qualifyingData, as that of Microsoft's own clients: the service
// answers to whichever key it is shown, and the answer is fresh because no other key can open it.
type TransportKey struct {
	key       *tpm.DecryptionKey
	certified attest.Certified
}

// NewTransportKey makes a transport key. It takes as long as the TPM needs for making an RSA key: a
// tenth of a second to several seconds. The caller closes the key.
func (c *Collector) NewTransportKey(ctx context.Context) (*TransportKey, error) {
	key, statement, err := c.cfg.TPM.NewCertifiedDecryptionKey(ctx, c.cfg.Policy.PCRs, HandleAK, nil)
	if err != nil {
		return nil, fmt.Errorf("making a transport key: %w", err)
	}
	certified := attest.Certified{Public: key.PublicArea(), Attest: statement.Attest, Signature: statement.Signature}
	return &TransportKey{key: key, certified: certified}, nil
}

// Certified returns the key's public area and the attestation key's statement about it.
func (k *TransportKey) Certified() attest.Certified { return k.certified }

// Decrypt opens an RSAES-PKCS1-v1_5 ciphertext of 256 bytes inside the TPM.
//
// A ciphertext that the TPM cannot open gives 32 random bytes and no error, so that the sender of a
// ciphertext cannot learn whether its padding was right (implicit rejection, as TLS 1.2 does for
// RSA key exchange: RFC 5246, 7.4.7.1). The error says that the key cannot be used, whatever the
// ciphertext: [tpm.ErrKeyGone], [tpm.ErrPCRsChanged], [tpm.ErrTampered], [tpm.ErrUnavailable].
func (k *TransportKey) Decrypt(ctx context.Context, ciphertext []byte) ([]byte, error) {
	message, err := k.key.Decrypt(ctx, ciphertext)
	if errors.Is(err, tpm.ErrCiphertext) {
		message = make([]byte, aesKeySize)
		_, err = rand.Read(message)
	}
	if errors.Is(err, tpm.ErrPCRsChanged) { // the advice in this error is for permanent keys
		err = fmt.Errorf("%w since it was made; the next attestation makes a new key", tpm.ErrPCRsChanged)
	}
	if err != nil {
		return nil, fmt.Errorf("opening with the transport key: %w", err)
	}
	return message, nil
}

// Close gives the key up. It does not wait for the TPM. The error is always nil; it is there for
// io.Closer.
func (k *TransportKey) Close() error { return k.key.Close() }
