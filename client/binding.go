package client

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"

	"github.com/keyagent/keyagent/agentapi/wire"
)

// signTimeout bounds a signature: longer than any TPM takes, and about as long as servers wait.
const signTimeout = 15 * time.Second

// Binding is the certificate of an identity that tokens of type mtls_pop are bound to, together
// with its key, which stays where the agent keeps it. It is immutable, and safe for concurrent use.
type Binding struct {
	client  *Client
	said    wire.BoundCertificate
	leaf    *x509.Certificate
	schemes []tls.SignatureScheme
}

// Binding asks for the certificate that the next token of type mtls_pop of an identity will be
// bound to. The agent obtains one if there is none yet.
func (c *Client) Binding(ctx context.Context, identity string) (*Binding, error) {
	return c.bindingOf(ctx, identity, "")
}

// bindingOf asks for the certificate with a thumbprint; "" for the one of the next token.
func (c *Client) bindingOf(ctx context.Context, identity, thumbprint string) (*Binding, error) {
	query := ""
	if thumbprint != "" {
		query = url.Values{wire.ParamThumbprint: {thumbprint}}.Encode()
	}
	path, err := bindingPath(wire.PathBinding, identity)
	if err != nil {
		return nil, err
	}
	body, err := c.get(ctx, path, query)
	if err != nil {
		return nil, err
	}
	var said wire.BoundCertificate
	if err := json.Unmarshal(body, &said); err != nil {
		return nil, fmt.Errorf("reading the agent's binding: %w", err)
	}
	return c.newBinding(said, identity, thumbprint)
}

// bindingPath is a path of an identity, whose name must be one segment of it.
func bindingPath(pattern, identity string) (string, error) {
	if identity == "" || strings.ContainsAny(identity, "/?#%") {
		return "", fmt.Errorf("%q is not the name of an identity", identity)
	}
	return strings.Replace(pattern, wire.PathParamIdentity, identity, 1), nil
}

// newBinding checks what the agent says against itself.
func (c *Client) newBinding(said wire.BoundCertificate, identity, thumbprint string) (*Binding, error) {
	if len(said.Chain) == 0 {
		return nil, errors.New("reading the agent's binding: there is no certificate")
	}
	leaf, err := x509.ParseCertificate(said.Chain[0])
	if err != nil {
		return nil, fmt.Errorf("reading the agent's binding: %w", err)
	}
	sum := sha256.Sum256(leaf.Raw)
	if own := base64.RawURLEncoding.EncodeToString(sum[:]); own != said.Thumbprint || thumbprint != "" && own != thumbprint {
		return nil, errors.New("reading the agent's binding: it is of another certificate")
	}
	b := &Binding{client: c, said: said, leaf: leaf}
	b.said.Identity = identity
	for _, name := range said.Algorithms {
		if scheme, ok := schemeNamed[name]; ok {
			b.schemes = append(b.schemes, scheme)
		}
	}
	return b, nil
}

// Identity is the name of the identity.
func (b *Binding) Identity() string { return b.said.Identity }

// Leaf is the certificate. It must not be changed.
func (b *Binding) Leaf() *x509.Certificate { return b.leaf }

// Thumbprint is the x5t#S256 of the certificate, as in the claim cnf of tokens that are bound to
// it.
func (b *Binding) Thumbprint() string { return b.said.Thumbprint }

// Strength says how well the key is protected: one of [wire.Strengths].
func (b *Binding) Strength() string { return b.said.Strength }

// Expires is when the certificate ceases to be of use. The agent replaces it before.
func (b *Binding) Expires() time.Time { return b.said.Expires }

// Signer is the key, for TLS clients only: it signs the message of a handshake
// ([crypto.MessageSigner]), and no digest. The agent makes the signatures, for callers whom a rule
// lets (sign: true). They end with the context, and in any case after 15 seconds. Errors are those
// of [Client.Token].
func (b *Binding) Signer(ctx context.Context) crypto.MessageSigner {
	return &remoteSigner{binding: b, ctx: ctx}
}

// Certificate returns the certificate with its key, for a handshake with the context.
func (b *Binding) Certificate(ctx context.Context) *tls.Certificate {
	return b.certificate(&remoteSigner{binding: b, ctx: ctx})
}

func (b *Binding) certificate(key *remoteSigner) *tls.Certificate {
	return &tls.Certificate{Certificate: b.said.Chain, Leaf: b.leaf, PrivateKey: key, SupportedSignatureAlgorithms: b.schemes}
}

// TLSConfig returns the configuration of a TLS client that presents the certificate of an identity
// to servers that ask for one. The certificate is asked for at each handshake, so that the one that
// is current is presented, and a program need not be restarted when it is replaced.
//
// A server that asks for the certificate only after the handshake, as Azure Key Vault does, needs
// TLS 1.2 and Renegotiation besides; [Client.HTTPClient] knows that.
func (c *Client) TLSConfig(identity string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetClientCertificate: func(info *tls.CertificateRequestInfo) (*tls.Certificate, error) {
			ctx, cancel := context.WithTimeout(info.Context(), signTimeout)
			defer cancel()
			b, err := c.Binding(ctx, identity)
			if err != nil {
				return nil, err
			}
			return b.Certificate(info.Context()), nil
		},
	}
}

// remoteSigner signs for handshakes that have a context.
type remoteSigner struct {
	binding *Binding
	ctx     context.Context
	failed  func(error) // is told why there is no signature, or nil: TLS keeps the text of an error only
}

var errDigest = errors.New("the agent signs handshakes, not digests: it has to see what it signs")

// Public implements [crypto.Signer].
func (s *remoteSigner) Public() crypto.PublicKey { return s.binding.leaf.PublicKey }

// Sign implements [crypto.Signer], and always fails.
func (s *remoteSigner) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, errDigest
}

// SignMessage implements [crypto.MessageSigner].
func (s *remoteSigner) SignMessage(_ io.Reader, message []byte, opts crypto.SignerOpts) ([]byte, error) {
	ctx, cancel := context.WithTimeout(s.ctx, signTimeout)
	defer cancel()
	signature, err := s.binding.sign(ctx, message, opts)
	if err != nil && s.failed != nil {
		s.failed(err)
	}
	return signature, err
}

func (b *Binding) sign(ctx context.Context, message []byte, opts crypto.SignerOpts) ([]byte, error) {
	scheme, ok := schemeFor(b.leaf.PublicKey, opts)
	if !ok {
		return nil, errors.New("TLS has no such signature scheme")
	}
	path, err := bindingPath(wire.PathBindingSign, b.said.Identity)
	if err != nil {
		return nil, err
	}
	request, err := json.Marshal(wire.SignRequest{Thumbprint: b.said.Thumbprint, Scheme: scheme, Message: message})
	if err != nil {
		return nil, err
	}
	body, err := b.client.do(ctx, "POST", path, "", bytes.NewReader(request))
	if err != nil {
		return nil, fmt.Errorf("having the handshake signed: %w", err)
	}
	var said wire.SignResponse
	if err := json.Unmarshal(body, &said); err != nil || len(said.Signature) == 0 {
		return nil, errors.New("reading the agent's reply: it is not a signature")
	}
	return said.Signature, nil
}

// schemeNamed are the signature schemes of TLS by their names (RFC 8446, 4.2.3).
var schemeNamed = map[string]tls.SignatureScheme{
	"rsa_pss_rsae_sha256": tls.PSSWithSHA256, "rsa_pss_rsae_sha384": tls.PSSWithSHA384, "rsa_pss_rsae_sha512": tls.PSSWithSHA512,
	"rsa_pkcs1_sha256": tls.PKCS1WithSHA256, "rsa_pkcs1_sha384": tls.PKCS1WithSHA384, "rsa_pkcs1_sha512": tls.PKCS1WithSHA512,

	"ecdsa_secp256r1_sha256": tls.ECDSAWithP256AndSHA256,
	"ecdsa_secp384r1_sha384": tls.ECDSAWithP384AndSHA384,
	"ecdsa_secp521r1_sha512": tls.ECDSAWithP521AndSHA512,
}

// schemeFor names the scheme by which crypto/tls wants a signature.
func schemeFor(key crypto.PublicKey, opts crypto.SignerOpts) (name string, ok bool) {
	_, pss := opts.(*rsa.PSSOptions)
	hash := strings.ReplaceAll(strings.ToLower(opts.HashFunc().String()), "-", "") // as in sha256
	switch key := key.(type) {
	case *rsa.PublicKey:
		if pss {
			name = "rsa_pss_rsae_" + hash
		} else {
			name = "rsa_pkcs1_" + hash
		}
	case *ecdsa.PublicKey:
		name = fmt.Sprintf("ecdsa_secp%dr1_%s", key.Params().BitSize, hash)
	}
	_, ok = schemeNamed[name]
	return name, ok
}
