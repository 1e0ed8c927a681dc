package latetls

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Types of records (RFC 5246, 6.2.1).
const (
	typeChangeCipherSpec = 20
	typeAlert            = 21
	typeHandshake        = 22
	typeData             = 23
)

const (
	version12     = 0x0303
	maxPlain      = 16 << 10
	maxCiphered   = maxPlain + 2048
	explicitBytes = 8 // of the nonce, sent with each record (RFC 5288, 3)
)

var (
	errRecord = errors.New("a record that is malformed, or was changed")
	errClosed = errors.New("the client has closed the connection")
)

// half is one direction of a connection. The zero value is before the first handshake.
type half struct {
	aead cipher.AEAD
	salt []byte
	seq  uint64
}

func newHalf(key, salt []byte) (half, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return half{}, err
	}
	aead, err := cipher.NewGCM(block)
	return half{aead: aead, salt: salt}, err
}

func (h *half) additional(kind byte, length int) []byte {
	a := binary.BigEndian.AppendUint64(nil, h.seq)
	a = append(a, kind, version12>>8, version12&0xff)
	return binary.BigEndian.AppendUint16(a, uint16(length))
}

// seal returns the body of a record.
func (h *half) seal(kind byte, plain []byte) []byte {
	if h.aead == nil {
		return plain
	}
	explicit := binary.BigEndian.AppendUint64(nil, h.seq)
	sealed := h.aead.Seal(explicit, append(h.salt[:4:4], explicit...), plain, h.additional(kind, len(plain)))
	h.seq++
	return sealed
}

// open is seal backwards.
func (h *half) open(kind byte, body []byte) ([]byte, error) {
	if h.aead == nil {
		return body, nil
	}
	length := len(body) - explicitBytes - h.aead.Overhead()
	if length < 0 {
		return nil, errRecord
	}
	nonce := append(h.salt[:4:4], body[:explicitBytes]...)
	plain, err := h.aead.Open(nil, nonce, body[explicitBytes:], h.additional(kind, length))
	if err != nil {
		return nil, errRecord
	}
	h.seq++
	return plain, nil
}

// readRecord returns the next record of the client. An alert is an error.
func (e *engine) readRecord() (kind byte, plain []byte, err error) {
	var header [5]byte
	if _, err := io.ReadFull(e.raw, header[:]); err != nil {
		return 0, nil, err
	}
	length := int(binary.BigEndian.Uint16(header[3:]))
	if header[1] != version12>>8 || length > maxCiphered {
		return 0, nil, errRecord
	}
	body := make([]byte, length)
	if _, err := io.ReadFull(e.raw, body); err != nil {
		return 0, nil, err
	}
	if plain, err = e.in.open(header[0], body); err != nil {
		return 0, nil, err
	}
	if header[0] != typeAlert {
		return header[0], plain, nil
	}
	if len(plain) == 2 && plain[1] == 0 { // close_notify
		return 0, nil, errClosed
	}
	return 0, nil, fmt.Errorf("the client sends alert %x", plain)
}

func (e *engine) writeRecord(kind byte, plain []byte) error {
	e.writing.Lock()
	defer e.writing.Unlock()
	for {
		part := plain[:min(len(plain), maxPlain)]
		plain = plain[len(part):]
		body := e.out.seal(kind, part)
		record := append([]byte{kind, version12 >> 8, version12 & 0xff}, byte(len(body)>>8), byte(len(body)))
		if _, err := e.raw.Write(append(record, body...)); err != nil || len(plain) == 0 {
			return err
		}
	}
}

// prf is the pseudorandom function with SHA-256 (RFC 5246, 5).
func prf(secret []byte, label string, seed []byte, length int) []byte {
	mac := func(parts ...[]byte) []byte {
		h := hmac.New(sha256.New, secret)
		for _, p := range parts {
			h.Write(p)
		}
		return h.Sum(nil)
	}
	seed = append([]byte(label), seed...)
	var out []byte
	for a := mac(seed); len(out) < length; a = mac(a) {
		out = append(out, mac(a, seed)...)
	}
	return out[:length]
}
