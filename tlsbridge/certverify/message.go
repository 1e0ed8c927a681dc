package certverify

import (
	"bytes"
	"crypto"
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// MaxBytes limits a message. A handshake of TLS 1.2 has some 5 kB; servers that list all
// authorities that they trust send more.
const MaxBytes = 128 << 10

// ErrNotHandshake means that a message is not what a TLS client signs.
var ErrNotHandshake = errors.New("this is not what a TLS client signs")

// Message is what a TLS client signs. Its zero value is nothing.
type Message struct {
	raw        []byte
	version    uint16
	transcript *transcript // of TLS 1.2
}

// context13 is what stands before the hash in TLS 1.3.
var context13 = []byte(strings.Repeat(" ", 64) + "TLS 1.3, client CertificateVerify\x00")

// Parse reads a message, or returns an error that wraps [ErrNotHandshake]. It keeps the slice,
// which must not be changed any more.
func Parse(message []byte) (*Message, error) {
	if len(message) > MaxBytes {
		return nil, fmt.Errorf("%w: it has %d bytes, more than %d", ErrNotHandshake, len(message), MaxBytes)
	}
	if hash, ok := bytes.CutPrefix(message, context13); ok {
		if n := len(hash); n != crypto.SHA256.Size() && n != crypto.SHA384.Size() { // those of the suites, RFC 8446, B.4
			return nil, fmt.Errorf("%w: a hash of %d bytes", ErrNotHandshake, n)
		}
		return &Message{raw: message, version: tls.VersionTLS13}, nil
	}
	t, err := readTranscript(message)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotHandshake, err)
	}
	return &Message{raw: message, version: tls.VersionTLS12, transcript: t}, nil
}

// Version is tls.VersionTLS12 or tls.VersionTLS13.
func (m *Message) Version() uint16 { return m.version }

// NamesServer reports whether the message says who the server is: [Message.VerifyServer] and
// [Message.CheckClient] are for such messages only.
func (m *Message) NamesServer() bool { return m.transcript != nil }

// ServerName is the name of the server that the client has asked for, in lower case; "" if the
// message does not say it, as that of a client that calls the server by its address.
func (m *Message) ServerName() string {
	if m.transcript == nil {
		return ""
	}
	return m.transcript.serverName
}

var errNoTranscript = errors.New("the message does not name the parties of the handshake")

// CheckClient refuses a message whose client does not show this certificate, in DER.
func (m *Message) CheckClient(leaf []byte) error {
	if m.transcript == nil {
		return errNoTranscript
	}
	if shown := m.transcript.clientChain; !bytes.Equal(shown[0], leaf) {
		return errors.New("the client shows another certificate in this handshake")
	}
	return nil
}

// Digest returns what a key signs, and how, to sign the message by a scheme of TLS. It refuses
// schemes that the version does not have, that the server does not take, as far as the message says
// so, and that are not for this kind of key.
func (m *Message) Digest(scheme tls.SignatureScheme, key crypto.PublicKey) ([]byte, crypto.SignerOpts, error) {
	known, ok := schemes[scheme]
	switch {
	case m.version == 0:
		return nil, nil, ErrNotHandshake
	case !ok:
		return nil, nil, fmt.Errorf("signature scheme %v is not used here", scheme)
	case !known.fits(key):
		return nil, nil, fmt.Errorf("signature scheme %v is not for a key of type %T", scheme, key)
	case m.version == tls.VersionTLS13 && known.only12:
		return nil, nil, fmt.Errorf("TLS 1.3 does not have signature scheme %v", scheme)
	case m.transcript != nil && !slices.Contains(m.transcript.taken, scheme):
		return nil, nil, fmt.Errorf("the server does not take signature scheme %v", scheme)
	}
	h := known.hash.New()
	h.Write(m.raw)
	return h.Sum(nil), known.options(), nil
}
