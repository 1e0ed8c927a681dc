package latetls

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	_ "crypto/sha512" // for crypto.Hash.New
	"crypto/subtle"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"slices"

	"golang.org/x/crypto/cryptobyte"
)

// Handshake messages (RFC 5246, 7.4).
const (
	helloRequest       = 0
	clientHello        = 1
	serverHello        = 2
	certificate        = 11
	serverKeyExchange  = 12
	certificateRequest = 13
	serverHelloDone    = 14
	certificateVerify  = 15
	clientKeyExchange  = 16
	finished           = 20
)

const (
	suiteECDSA       = 0xc02b // TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
	suiteRenegotiate = 0x00ff // TLS_EMPTY_RENEGOTIATION_INFO_SCSV
	groupP256        = 23
	extRenegotiation = 0xff01
	finishedBytes    = 12
	maxMessage       = 64 << 10
)

var errHandshake = errors.New("the client's handshake is not right")

// signatureSchemes are those by which clients may sign (RFC 8446, 4.2.3).
var signatureSchemes = []struct {
	id   uint16
	hash crypto.Hash
	kind string
}{
	{0x0804, crypto.SHA256, "pss"}, {0x0805, crypto.SHA384, "pss"}, {0x0403, crypto.SHA256, "ec"}, {0x0503, crypto.SHA384, "ec"},
	{0x0401, crypto.SHA256, "pkcs1"}, {0x0501, crypto.SHA384, "pkcs1"},
}

// handshake is one handshake on a connection.
type handshake struct {
	*engine
	transcript   []byte
	clientRandom []byte
	serverRandom []byte
	certificates []*x509.Certificate
	master       []byte
}

// message builds a handshake message.
func message(kind byte, body func(b *cryptobyte.Builder)) []byte {
	b := cryptobyte.NewBuilder([]byte{kind})
	b.AddUint24LengthPrefixed(body)
	return b.BytesOrPanic()
}

func (h *handshake) send(kind byte, body func(b *cryptobyte.Builder)) error {
	m := message(kind, body)
	h.transcript = append(h.transcript, m...)
	return h.writeRecord(typeHandshake, m)
}

// next returns the body of the client's next message, which must be of a kind.
func (h *handshake) next(kind byte) (cryptobyte.String, error) {
	m, err := h.nextMessage()
	if err != nil {
		return nil, err
	}
	if m[0] != kind {
		return nil, errHandshake
	}
	h.transcript = append(h.transcript, m...)
	return m[4:], nil
}

// run makes the handshake that a ClientHello begins.
func (h *handshake) run(hello []byte, ask bool) error {
	h.transcript = slices.Clone(hello)
	if err := h.readHello(hello[4:]); err != nil {
		return err
	}
	share, err := h.sendFlight(ask)
	if err != nil {
		return err
	}
	if err := h.readFlight(share, ask); err != nil {
		return err
	}
	return h.finish()
}

func (h *handshake) readHello(body cryptobyte.String) error {
	var version uint16
	var session, suites, compressions, extensions cryptobyte.String
	if !body.ReadUint16(&version) || version != version12 || !body.ReadBytes(&h.clientRandom, 32) || !body.ReadUint8LengthPrefixed(&session) ||
		!body.ReadUint16LengthPrefixed(&suites) || !body.ReadUint8LengthPrefixed(&compressions) ||
		!body.ReadUint16LengthPrefixed(&extensions) || !body.Empty() {
		return errHandshake
	}
	offered := map[uint16]bool{}
	for !suites.Empty() {
		var suite uint16
		if !suites.ReadUint16(&suite) {
			return errHandshake
		}
		offered[suite] = true
	}
	secure := offered[suiteRenegotiate] && h.verified == nil
	for !extensions.Empty() {
		var kind uint16
		var data, info cryptobyte.String
		if !extensions.ReadUint16(&kind) || !extensions.ReadUint16LengthPrefixed(&data) {
			return errHandshake
		}
		if kind == extRenegotiation {
			var before []byte
			if h.verified != nil {
				before = h.verified[:finishedBytes]
			}
			secure = data.ReadUint8LengthPrefixed(&info) && data.Empty() && subtle.ConstantTimeCompare(info, before) == 1
		}
	}
	if !secure || !offered[suiteECDSA] {
		return errHandshake
	}
	return nil
}

// sendFlight sends what the server says first, and returns its share of the key agreement.
func (h *handshake) sendFlight(ask bool) (*ecdh.PrivateKey, error) {
	h.serverRandom = make([]byte, 32)
	_, _ = rand.Read(h.serverRandom) // never fails
	share, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	params := append([]byte{3, 0, groupP256, 65}, share.PublicKey().Bytes()...)
	digest := sha256.Sum256(slices.Concat(h.clientRandom, h.serverRandom, params))
	signature, err := h.certificate.PrivateKey.(crypto.Signer).Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		return nil, err
	}
	problems := []error{
		h.send(serverHello, h.writeHello),
		h.send(certificate, func(b *cryptobyte.Builder) {
			b.AddUint24LengthPrefixed(func(b *cryptobyte.Builder) {
				for _, der := range h.certificate.Certificate {
					b.AddUint24LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(der) })
				}
			})
		}),
		h.send(serverKeyExchange, func(b *cryptobyte.Builder) {
			b.AddBytes(params)
			b.AddUint16(0x0403) // ECDSA with SHA-256
			b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(signature) })
		}),
	}
	if ask {
		problems = append(problems, h.send(certificateRequest, writeRequest))
	}
	return share, errors.Join(append(problems, h.send(serverHelloDone, func(*cryptobyte.Builder) {}))...)
}

func (h *handshake) writeHello(b *cryptobyte.Builder) {
	b.AddUint16(version12)
	b.AddBytes(h.serverRandom)
	b.AddUint8(0) // no session to resume
	b.AddUint16(suiteECDSA)
	b.AddUint8(0) // no compression
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
		b.AddUint16(extRenegotiation)
		b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
			b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(h.verified) })
		})
	})
}

func writeRequest(b *cryptobyte.Builder) {
	b.AddBytes([]byte{2, 1, 64}) // two types: rsa_sign, ecdsa_sign
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
		for _, scheme := range signatureSchemes {
			b.AddUint16(scheme.id)
		}
	})
	b.AddUint16(0) // any authority will do
}

// readFlight reads what the client answers up to its keys, and makes the master secret.
func (h *handshake) readFlight(share *ecdh.PrivateKey, ask bool) error {
	if ask {
		if err := h.readCertificates(); err != nil {
			return err
		}
	}
	body, err := h.next(clientKeyExchange)
	if err != nil {
		return err
	}
	var point cryptobyte.String
	if !body.ReadUint8LengthPrefixed(&point) || !body.Empty() {
		return errHandshake
	}
	theirs, err := ecdh.P256().NewPublicKey(point)
	if err != nil {
		return errHandshake
	}
	secret, err := share.ECDH(theirs)
	if err != nil {
		return errHandshake
	}
	h.master = prf(secret, "master secret", slices.Concat(h.clientRandom, h.serverRandom), 48)
	if len(h.certificates) == 0 {
		return nil
	}
	return h.readVerify()
}

func (h *handshake) readCertificates() error {
	body, err := h.next(certificate)
	if err != nil {
		return err
	}
	var all cryptobyte.String
	if !body.ReadUint24LengthPrefixed(&all) || !body.Empty() {
		return errHandshake
	}
	for !all.Empty() {
		var der cryptobyte.String
		if !all.ReadUint24LengthPrefixed(&der) {
			return errHandshake
		}
		one, err := x509.ParseCertificate(der)
		if err != nil {
			return errHandshake
		}
		h.certificates = append(h.certificates, one)
	}
	return nil
}

func (h *handshake) readVerify() error {
	signed := slices.Clone(h.transcript)
	body, err := h.next(certificateVerify)
	if err != nil {
		return err
	}
	var scheme uint16
	var signature cryptobyte.String
	if !body.ReadUint16(&scheme) || !body.ReadUint16LengthPrefixed(&signature) || !body.Empty() {
		return errHandshake
	}
	for _, s := range signatureSchemes {
		if s.id == scheme {
			digest := s.hash.New()
			digest.Write(signed)
			return verify(h.certificates[0].PublicKey, s.kind, s.hash, digest.Sum(nil), signature)
		}
	}
	return errHandshake
}

func verify(key any, kind string, hash crypto.Hash, digest, signature []byte) error {
	good := false
	switch key := key.(type) {
	case *rsa.PublicKey:
		good = kind == "pss" && rsa.VerifyPSS(key, hash, digest, signature, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}) == nil ||
			kind == "pkcs1" && rsa.VerifyPKCS1v15(key, hash, digest, signature) == nil
	case *ecdsa.PublicKey:
		good = kind == "ec" && ecdsa.VerifyASN1(key, digest, signature)
	}
	if !good {
		return errors.New("the client's signature does not verify")
	}
	return nil
}

// finish exchanges the keys of the connection for those of the handshake.
func (h *handshake) finish() error {
	keys := cryptobyte.String(prf(h.master, "key expansion", slices.Concat(h.serverRandom, h.clientRandom), 2*16+2*4))
	var clientKey, serverKey, clientSalt, serverSalt []byte
	if !keys.ReadBytes(&clientKey, 16) || !keys.ReadBytes(&serverKey, 16) || !keys.ReadBytes(&clientSalt, 4) || !keys.ReadBytes(&serverSalt, 4) {
		return errHandshake
	}
	in, errIn := newHalf(clientKey, clientSalt)
	out, errOut := newHalf(serverKey, serverSalt)
	if err := errors.Join(errIn, errOut); err != nil {
		return err
	}
	kind, body, err := h.readRecord()
	if err != nil {
		return err
	}
	if kind != typeChangeCipherSpec || !bytes.Equal(body, []byte{1}) || len(h.pending) > 0 {
		return errHandshake
	}
	h.in = in
	want := h.verifyData("client finished")
	theirs, err := h.next(finished)
	if err != nil {
		return err
	}
	if subtle.ConstantTimeCompare(theirs, want) != 1 {
		return errHandshake
	}
	if err := h.writeRecord(typeChangeCipherSpec, []byte{1}); err != nil {
		return err
	}
	h.writing.Lock()
	h.out = out
	h.writing.Unlock()
	own := h.verifyData("server finished")
	h.verified = append(want, own...)
	return h.send(finished, func(b *cryptobyte.Builder) { b.AddBytes(own) })
}

func (h *handshake) verifyData(label string) []byte {
	digest := sha256.Sum256(h.transcript)
	return prf(h.master, label, digest[:], finishedBytes)
}

// nextMessage returns the client's next handshake message with its header.
func (e *engine) nextMessage() ([]byte, error) {
	for {
		if len(e.pending) >= 4 {
			length := 4 + int(binary.BigEndian.Uint32(e.pending)&0xffffff)
			if length > maxMessage {
				return nil, errHandshake
			}
			if len(e.pending) >= length {
				m := e.pending[:length:length]
				e.pending = e.pending[length:]
				return m, nil
			}
		}
		kind, body, err := e.readRecord()
		if err != nil {
			return nil, err
		}
		if kind != typeHandshake || len(body) == 0 {
			return nil, errHandshake
		}
		e.pending = append(e.pending, body...)
	}
}
