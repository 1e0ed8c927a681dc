package maa

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"github.com/keyagent/keyagent/attest/internal/strictjson"
	"github.com/keyagent/keyagent/internal/upstream"
)

// additionalData is what the envelope's AES-GCM authenticates besides the ciphertext.
const additionalData = "Transport Key"

// envelope is the encrypted token. Its members are standard base64.
type envelope struct {
	InnerKey   []byte           `json:"EncryptedInnerKey"`
	Params     encryptionParams `json:"EncryptionParams"`
	AuthTag    []byte           `json:"AuthenticationData"`
	Ciphertext []byte           `json:"Jwt"`
}

type encryptionParams struct {
	Cipher       string `json:"Cipher"`
	BlockMode    string `json:"BlockMode"`
	BlockPadding string `json:"BlockPadding"`
	KeyBits      int    `json:"KeySizeInBits"`
	IV           []byte `json:"Iv"`
}

// parseEnvelope reads the body of an answer. The parameters must be exactly those that the service
// uses; there is nothing to negotiate.
func parseEnvelope(body []byte) (*envelope, error) {
	answer, err := upstream.ParseMembers(body)
	if err != nil {
		return nil, fmt.Errorf("unusable answer: %w", err)
	}
	token, err := answer.Text("token")
	if err != nil {
		return nil, fmt.Errorf("unusable answer: %w", err)
	}
	if strings.ContainsAny(token, "\r\n") {
		return nil, errors.New("unusable answer: line break in the token")
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(strings.TrimRight(token, "="))
	if err != nil {
		return nil, errors.New("unusable answer: token is not base64url")
	}
	var e envelope
	if err := strictjson.UnmarshalAnswer(raw, &e); err != nil {
		return nil, fmt.Errorf("unusable answer: envelope: %w", err)
	}
	if err := e.check(); err != nil {
		return nil, fmt.Errorf("unusable answer: envelope: %w", err)
	}
	return &e, nil
}

func (e *envelope) check() error {
	const rsaSize, tagSize, ivSize = 256, 16, 12
	want := encryptionParams{Cipher: "AES", BlockMode: "ChainingModeGCM", BlockPadding: "PKCS7"}
	p := e.Params
	switch {
	case p.Cipher != want.Cipher || p.BlockMode != want.BlockMode || p.BlockPadding != want.BlockPadding:
		return fmt.Errorf("cipher %.20q, mode %.20q, padding %.20q are not %s, %s, %s",
			p.Cipher, p.BlockMode, p.BlockPadding, want.Cipher, want.BlockMode, want.BlockPadding)
	case p.KeyBits != 128 && p.KeyBits != 256:
		return fmt.Errorf("AES key of %d bits", p.KeyBits)
	case len(e.InnerKey) != rsaSize || len(e.AuthTag) != tagSize || len(p.IV) != ivSize:
		return fmt.Errorf("key, tag and IV of %d, %d and %d bytes, want %d, %d and %d",
			len(e.InnerKey), len(e.AuthTag), len(p.IV), rsaSize, tagSize, ivSize)
	}
	return nil
}

// open decrypts the envelope. The key's own errors do not depend on the ciphertext and are passed
// on; everything else is ErrNotOpened.
func (e *envelope) open(ctx context.Context, key TransportKey) ([]byte, error) {
	inner, err := key.Decrypt(ctx, e.InnerKey)
	if err != nil {
		return nil, err
	}
	defer clear(inner)
	if len(inner)*8 != e.Params.KeyBits {
		return nil, ErrNotOpened
	}
	block, err := aes.NewCipher(inner)
	if err != nil {
		return nil, ErrNotOpened
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		return nil, ErrNotOpened
	}
	plain, err := gcm.Open(nil, e.Params.IV, append(e.Ciphertext, e.AuthTag...), []byte(additionalData))
	if err != nil {
		return nil, ErrNotOpened
	}
	return plain, nil
}
