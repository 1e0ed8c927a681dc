package tlsbridge

import (
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/tls"
	"io"
)

// handshakeSigner signs for one handshake, within its time, and notes what was
// signed: the standard library does not tell afterwards.
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

// Sign signs the handshake's digest.
func (s *handshakeSigner) Sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	ctx, cancel := context.WithTimeout(s.ctx, handshakeTimeout)
	defer cancel()
	signature, err := s.bridge.pair.Signer(ctx).Sign(rand, digest, opts)
	if err != nil {
		return nil, err
	}
	s.bridge.handshake.Store(&Handshake{
		Version:   s.version,
		Signature: rsaScheme(opts),
		Count:     s.bridge.signed.Add(1),
	})
	return signature, nil
}

// rsaScheme names the scheme of an RSA signature made with opts; 0 if TLS has none.
func rsaScheme(opts crypto.SignerOpts) tls.SignatureScheme {
	pkcs1 := map[crypto.Hash]tls.SignatureScheme{
		crypto.SHA256: tls.PKCS1WithSHA256, crypto.SHA384: tls.PKCS1WithSHA384, crypto.SHA512: tls.PKCS1WithSHA512,
	}
	pss := map[crypto.Hash]tls.SignatureScheme{
		crypto.SHA256: tls.PSSWithSHA256, crypto.SHA384: tls.PSSWithSHA384, crypto.SHA512: tls.PSSWithSHA512,
	}
	if _, ok := opts.(*rsa.PSSOptions); ok {
		return pss[opts.HashFunc()]
	}
	return pkcs1[opts.HashFunc()]
}
