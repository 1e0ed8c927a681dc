package tlsbridge

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/tls"
	"errors"
	"io"

	"github.com/keyagent/keyagent/tlsbridge/certverify"
)

var _ crypto.MessageSigner = (*handshakeSigner)(nil)

// handshakeSigner signs for one handshake, within its time limit, and records the
// signature scheme: the standard library does not expose it afterwards.
//
// net/http lets a connection outlive the request that caused it, so the
// handshake's context has no deadline of a request; its time-out is the bound.
type handshakeSigner struct {
	ctx     context.Context
	bridge  *Bridge
	version uint16
}

// Public returns the public key.
func (s *handshakeSigner) Public() crypto.PublicKey { return s.bridge.pair.Signer(s.ctx).Public() }

// SignMessage signs a message of this connection's handshake, and nothing else. TLS hands the
// message to a key that has this method.
func (s *handshakeSigner) SignMessage(rand io.Reader, message []byte, opts crypto.SignerOpts) ([]byte, error) {
	m, err := certverify.Parse(message)
	if err != nil {
		return nil, err
	}
	if m.NamesServer() {
		if err := m.CheckClient(s.bridge.pair.Chain[0]); err != nil {
			return nil, err
		}
	}
	digest, opts, err := m.Digest(scheme(s.Public(), opts), s.Public())
	if err != nil {
		return nil, err
	}
	return s.sign(rand, digest, opts)
}

// Sign refuses: a digest does not show what it is of.
func (s *handshakeSigner) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, errors.New("tlsbridge: the key signs handshakes, not digests")
}

func (s *handshakeSigner) sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	ctx, cancel := context.WithTimeout(s.ctx, handshakeTimeout)
	defer cancel()
	end, err := s.bridge.turn(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	signature, err := s.bridge.pair.Signer(ctx).Sign(rand, digest, opts)
	if err != nil {
		return nil, err
	}
	s.bridge.handshake.Store(&Handshake{
		Version:   s.version,
		Signature: scheme(s.Public(), opts),
		Count:     s.bridge.signed.Add(1),
	})
	return signature, nil
}

// scheme names the scheme of a signature made with opts; 0 if TLS has none.
func scheme(public crypto.PublicKey, opts crypto.SignerOpts) tls.SignatureScheme {
	hash := opts.HashFunc()
	if _, ok := public.(*ecdsa.PublicKey); ok {
		return ecdsaSchemes[hash]
	}
	if _, ok := opts.(*rsa.PSSOptions); ok {
		return pssSchemes[hash]
	}
	return pkcs1Schemes[hash]
}

var (
	ecdsaSchemes = map[crypto.Hash]tls.SignatureScheme{
		crypto.SHA256: tls.ECDSAWithP256AndSHA256, crypto.SHA384: tls.ECDSAWithP384AndSHA384, crypto.SHA512: tls.ECDSAWithP521AndSHA512,
	}
	pssSchemes = map[crypto.Hash]tls.SignatureScheme{
		crypto.SHA256: tls.PSSWithSHA256, crypto.SHA384: tls.PSSWithSHA384, crypto.SHA512: tls.PSSWithSHA512,
	}
	pkcs1Schemes = map[crypto.Hash]tls.SignatureScheme{
		crypto.SHA256: tls.PKCS1WithSHA256, crypto.SHA384: tls.PKCS1WithSHA384, crypto.SHA512: tls.PKCS1WithSHA512,
	}
)
