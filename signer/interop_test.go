package signer_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/keyagent/keyagent/internal/tooltest"
	"github.com/keyagent/keyagent/signer"
	"github.com/keyagent/keyagent/signer/internal/signertest"
	"github.com/keyagent/keyagent/tpm"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

// In this file, users of a crypto.Signer get a key of each kind, and other programs check what they
// make with it.

// kind is a kind of key, what it must offer, and a TPM that has it.
type kind struct {
	algorithm tpm.Algorithm
	machine   func(testing.TB) tpmtest.Machine
	schemes   []tls.SignatureScheme
	requests  []x509.SignatureAlgorithm
	tokens    []jose.SignatureAlgorithm
}

func kinds() []kind {
	schemes := []tls.SignatureScheme{tls.PSSWithSHA256, tls.PSSWithSHA384, tls.PSSWithSHA512, tls.PKCS1WithSHA256, tls.PKCS1WithSHA384, tls.PKCS1WithSHA512}
	requests := []x509.SignatureAlgorithm{x509.SHA256WithRSA, x509.SHA512WithRSA, x509.SHA256WithRSAPSS, x509.SHA384WithRSAPSS}
	tokens := []jose.SignatureAlgorithm{jose.RS256, jose.PS256}
	return []kind{
		{tpm.RSA2048, tpmtest.SimulatorMachine, schemes, requests, tokens},
		{tpm.RSA3072, tpmtest.SwtpmMachine, schemes, requests, tokens},
		{tpm.ECDSAP256, tpmtest.SimulatorMachine, []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256}, []x509.SignatureAlgorithm{x509.ECDSAWithSHA256}, []jose.SignatureAlgorithm{jose.ES256}},
		{tpm.ECDSAP384, tpmtest.SimulatorMachine, []tls.SignatureScheme{tls.ECDSAWithP384AndSHA384}, []x509.SignatureAlgorithm{x509.ECDSAWithSHA384}, []jose.SignatureAlgorithm{jose.ES384}},
	}
}

func TestOtherProgramsAcceptKeysOfEachKind(t *testing.T) {
	t.Parallel()
	for _, k := range kinds() {
		t.Run(string(k.algorithm), func(t *testing.T) {
			on := tpmtest.Connect(t, k.machine(t).Device())
			key, err := signer.Open(t.Context(), signer.Config{TPM: on, KeyFile: signertest.KeyPath(t), Options: tpm.KeyOptions{Algorithm: k.algorithm}})
			if err != nil {
				t.Fatal(err)
			}
			defer key.Close()
			if got := key.SignatureSchemes(t.Context()); !slices.Equal(got, k.schemes) {
				t.Errorf("it offers %v", got)
			}
			for _, use := range []struct {
				name string
				with func(*testing.T, *signer.Key, kind)
			}{
				{"certificate requests", requestsForOpenSSL},
				{"certificates and revocation lists", issuesForOpenSSL},
				{"tokens", tokensForJOSE},
				{"TLS client of Go", clientOfGo},
				{"TLS client of OpenSSL", clientOfOpenSSL},
				{"TLS client of nginx", clientOfNginx},
				{"TLS server", serverForOthers},
			} {
				t.Run(use.name, func(t *testing.T) { use.with(t, key, k) })
			}
		})
	}
}

func requestsForOpenSSL(t *testing.T, key *signer.Key, k kind) {
	for _, algorithm := range k.requests {
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "vm"}, SignatureAlgorithm: algorithm}, key)
		if err != nil {
			t.Fatal(err)
		}
		path := signertest.WriteFile(t, "csr.pem", signertest.PEM("CERTIFICATE REQUEST", der))
		out, err := exec.CommandContext(t.Context(), tooltest.Tool(t, "openssl"), "req", "-verify", "-noout", "-in", path).CombinedOutput() // #nosec G204 -- it checks our work
		if err != nil || !strings.Contains(string(out), "verify OK") {
			t.Errorf("%v: %v: %s", algorithm, err, out)
		}
	}
}

// issuesForOpenSSL has the key issue a certificate, and then revoke it.
func issuesForOpenSSL(t *testing.T, key *signer.Key, k kind) {
	for _, algorithm := range k.requests {
		root := signertest.Template("root", signertest.Authority, signertest.Current, func(c *x509.Certificate) {
			c.KeyUsage |= x509.KeyUsageCRLSign
			c.SignatureAlgorithm, c.SubjectKeyId = algorithm, []byte{1}
		})
		root = issueBy(t, key, root, root, key.Public())
		leaf := issueBy(t, key, root, signertest.Template("leaf", signertest.Client, signertest.Current, func(c *x509.Certificate) {
			c.SerialNumber, c.SignatureAlgorithm = big.NewInt(7), algorithm
		}), signertest.ECKey(t, elliptic.P256()).Public())
		if said, ok := openSSLFindsUnrevoked(t, key, root, leaf, algorithm); !ok {
			t.Errorf("%v: %s", algorithm, said)
		}
		said, ok := openSSLFindsUnrevoked(t, key, root, leaf, algorithm, leaf.SerialNumber)
		if ok || !strings.Contains(said, "certificate revoked") {
			t.Errorf("%v, revoked: %s", algorithm, said)
		}
	}
}

func issueBy(t *testing.T, key crypto.Signer, parent, template *x509.Certificate, public crypto.PublicKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// openSSLFindsUnrevoked lets the root's key revoke serial numbers, and openssl check the leaf.
func openSSLFindsUnrevoked(t *testing.T, key crypto.Signer, root, leaf *x509.Certificate, algorithm x509.SignatureAlgorithm, revoked ...*big.Int) (said string, ok bool) {
	t.Helper()
	list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: root.NotBefore, NextUpdate: root.NotAfter, SignatureAlgorithm: algorithm}
	for _, serial := range revoked {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: serial, RevocationTime: root.NotBefore})
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, root, key)
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), tooltest.Tool(t, "openssl"), "verify", "-crl_check", // #nosec G204 -- it checks our work
		"-CAfile", signertest.WriteFile(t, "root.pem", signertest.EncodePEM(root)), "-CRLfile", signertest.WriteFile(t, "crl.pem", signertest.PEM("X509 CRL", der)),
		signertest.WriteFile(t, "leaf.pem", signertest.EncodePEM(leaf))).CombinedOutput()
	return string(out), err == nil
}

// joseSigner gives go-jose a crypto.Signer, as a program that signs assertions would.
type joseSigner struct {
	key        crypto.Signer
	algorithms []jose.SignatureAlgorithm
}

func (s joseSigner) Public() *jose.JSONWebKey        { return &jose.JSONWebKey{Key: s.key.Public()} }
func (s joseSigner) Algs() []jose.SignatureAlgorithm { return s.algorithms }

func (s joseSigner) SignPayload(payload []byte, algorithm jose.SignatureAlgorithm) ([]byte, error) {
	hash := crypto.SHA256
	if algorithm == jose.ES384 {
		hash = crypto.SHA384
	}
	var opts crypto.SignerOpts = hash
	if algorithm == jose.PS256 {
		opts = &rsa.PSSOptions{Hash: hash, SaltLength: rsa.PSSSaltLengthEqualsHash}
	}
	signature, err := s.key.Sign(rand.Reader, signertest.Digest(hash, string(payload)), opts)
	public, isECDSA := s.key.Public().(*ecdsa.PublicKey)
	if err != nil || !isECDSA {
		return signature, err
	}
	return fixedSize(signature, (public.Params().BitSize+7)/8)
}

// fixedSize makes of an ECDSA-Sig-Value what JWS has (RFC 7518, 3.4): two numbers of the curve's
// size.
func fixedSize(signature []byte, size int) ([]byte, error) {
	var seq cryptobyte.String
	r, s := new(big.Int), new(big.Int)
	input := cryptobyte.String(signature)
	if !input.ReadASN1(&seq, asn1.SEQUENCE) || !input.Empty() || !seq.ReadASN1Integer(r) || !seq.ReadASN1Integer(s) || !seq.Empty() {
		return nil, fmt.Errorf("%x is no ECDSA-Sig-Value", signature)
	}
	return append(r.FillBytes(make([]byte, size)), s.FillBytes(make([]byte, size))...), nil
}

func tokensForJOSE(t *testing.T, key *signer.Key, k kind) {
	for _, algorithm := range k.tokens {
		signing, err := jose.NewSigner(jose.SigningKey{Algorithm: algorithm, Key: joseSigner{key, k.tokens}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		token, err := signing.Sign([]byte(`{"sub":"vm"}`))
		if err != nil {
			t.Fatalf("%s: %v", algorithm, err)
		}
		text, err := token.CompactSerialize()
		if err != nil {
			t.Fatal(err)
		}
		parsed, err := jose.ParseSignedCompact(text, []jose.SignatureAlgorithm{algorithm})
		if err != nil {
			t.Fatal(err)
		}
		if payload, err := parsed.Verify(key.Public()); err != nil || string(payload) != `{"sub":"vm"}` {
			t.Errorf("%s: %q, %v", algorithm, payload, err)
		}
	}
}
