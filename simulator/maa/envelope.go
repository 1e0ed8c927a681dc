package maa

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// additionalData is what the envelope's AES-GCM authenticates besides the ciphertext.
const additionalData = "Transport Key"

const (
	innerKeySize = 32
	gcmTagSize   = 16
)

// envelope is the answer's inner JSON; byte slices are standard base64.
type envelope struct {
	EncryptedInnerKey  []byte
	EncryptionParams   encryptionParams
	AuthenticationData []byte
	Jwt                []byte
}

type encryptionParams struct {
	Cipher        string
	BlockMode     string
	BlockPadding  string
	KeySizeInBits int
	Iv            []byte
}

// seal encrypts token so that only the TPM which holds the transport key can read it: AES-256-GCM
// under a fresh key, that key with RSAES-PKCS1-v1_5 under the transport key (TPMT_PUBLIC).
func seal(token string, transport []byte) (string, error) {
	public, err := publicKey(transport)
	if err != nil {
		return "", err
	}
	inner := make([]byte, innerKeySize)
	if _, err := rand.Read(inner); err != nil {
		return "", fmt.Errorf("sealing the attestation token: %w", err)
	}
	//lint:ignore SA1019 the service's envelope is RSAES-PKCS1-v1_5
	wrapped, err := rsa.EncryptPKCS1v15(rand.Reader, public, inner)
	if err != nil {
		return "", fmt.Errorf("sealing the attestation token: %w", err)
	}
	iv, ciphertext, tag, err := encrypt(inner, token)
	if err != nil {
		return "", fmt.Errorf("sealing the attestation token: %w", err)
	}
	data, err := json.Marshal(envelope{
		EncryptedInnerKey: wrapped,
		EncryptionParams: encryptionParams{
			Cipher: "AES", BlockMode: "ChainingModeGCM", BlockPadding: "PKCS7", KeySizeInBits: innerKeySize * 8, Iv: iv,
		},
		AuthenticationData: tag,
		Jwt:                ciphertext,
	})
	if err != nil {
		return "", fmt.Errorf("sealing the attestation token: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(data), nil
}

func encrypt(key []byte, text string) (iv, ciphertext, tag []byte, err error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, nil, nil, err
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		return nil, nil, nil, err
	}
	iv = make([]byte, gcm.NonceSize())
	if _, err := rand.Read(iv); err != nil {
		return nil, nil, nil, err
	}
	sealed := gcm.Seal(nil, iv, []byte(text), []byte(additionalData))
	at := len(sealed) - gcmTagSize
	return iv, sealed[:at], sealed[at:], nil
}

// publicKey reads the RSA key out of a TPMT_PUBLIC.
func publicKey(area []byte) (*rsa.PublicKey, error) {
	public, err := tpm2.Unmarshal[tpm2.TPMTPublic](area)
	if err != nil {
		return nil, fmt.Errorf("transport key: %w", err)
	}
	parms, err := public.Parameters.RSADetail()
	if err != nil {
		return nil, fmt.Errorf("transport key: %w", err)
	}
	unique, err := public.Unique.RSA()
	if err != nil {
		return nil, fmt.Errorf("transport key: %w", err)
	}
	key, err := tpm2.RSAPub(parms, unique)
	if err != nil {
		return nil, errors.New("transport key: not an RSA key")
	}
	return key, nil
}
