package certverify_test

import (
	"bytes"
	"crypto"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keyagent/keyagent/tlsbridge/certverify"
)

// What Go's own client signs is understood, and the signature is accepted by Go's own server.
func TestWhatClientsSign(t *testing.T) {
	w := newWorld(t)
	rsaServer := w.issue(t, serverName, x509.ExtKeyUsageServerAuth, w.client.PrivateKey.(crypto.Signer))
	for _, tt := range []struct {
		name    string
		version uint16
		change  func(client, server *tls.Config)
	}{
		{"TLS 1.3", tls.VersionTLS13, nil},
		{"TLS 1.2", tls.VersionTLS12, nil},
		{"TLS 1.2, the server's key is RSA", tls.VersionTLS12, func(_, server *tls.Config) { server.Certificates = []tls.Certificate{rsaServer} }},
		{"TLS 1.2 with a stapled OCSP response", tls.VersionTLS12, func(_, server *tls.Config) { server.Certificates[0].OCSPStaple = []byte("response") }},
		{"TLS 1.2 with a chain", tls.VersionTLS12, func(_, server *tls.Config) {
			chain := append(slices.Clone(w.server.Certificate), w.issuer.Raw)
			server.Certificates = []tls.Certificate{{Certificate: chain, PrivateKey: w.server.PrivateKey}}
		}},
		{"TLS 1.2, a client that takes either version", tls.VersionTLS12, func(client, server *tls.Config) {
			client.MaxVersion, server.MaxVersion = tls.VersionTLS13, tls.VersionTLS12
		}},
		{"TLS 1.2, the name in upper case", tls.VersionTLS12, func(client, _ *tls.Config) { client.ServerName = strings.ToUpper(serverName) }},
		{"TLS 1.2 without session tickets, HTTP by ALPN", tls.VersionTLS12, func(client, server *tls.Config) {
			client.SessionTicketsDisabled, client.NextProtos, server.NextProtos = true, []string{"http/1.1"}, []string{"http/1.1"}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m, err := certverify.Parse(w.handshake(t, tt.version, tt.change))
			if err != nil {
				t.Fatal(err)
			}
			if m.Version() != tt.version || m.NamesServer() != (tt.version == tls.VersionTLS12) {
				t.Errorf("version %x, names the server: %v", m.Version(), m.NamesServer())
			}
			if !m.NamesServer() {
				if m.ServerName() != "" || m.VerifyServer(w.roots, time.Now()) == nil || m.CheckClient(w.client.Certificate[0]) == nil {
					t.Error("TLS 1.3 does not say who takes part")
				}
				return
			}
			if m.ServerName() != serverName {
				t.Errorf("server %q", m.ServerName())
			}
			if err := m.VerifyServer(w.roots, time.Now()); err != nil {
				t.Error(err)
			}
			if err := m.CheckClient(w.client.Certificate[0]); err != nil {
				t.Error(err)
			}
		})
	}
}

func message13(context string, hash int) []byte {
	return []byte(strings.Repeat(" ", 64) + context + "\x00" + strings.Repeat("h", hash))
}

const clientContext = "TLS 1.3, client CertificateVerify"

func TestForm13(t *testing.T) {
	request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, ecKey(t, elliptic.P256()))
	if err != nil {
		t.Fatal(err)
	}
	jwt := "eyJhbGciOiJQUzI1NiJ9.eyJhdWQiOiJodHRwczovL2xvZ2luLm1pY3Jvc29mdG9ubGluZS5jb20ifQ"
	good := message13(clientContext, 32)
	for _, tt := range []struct {
		name    string
		message []byte
		ok      bool
	}{
		{"a hash of SHA-256", good, true},
		{"a hash of SHA-384", message13(clientContext, 48), true},

		{"nothing", nil, false},
		{"no hash", message13(clientContext, 0), false},
		{"a hash of SHA-1", message13(clientContext, 20), false},
		{"a hash of SHA-512, which no suite has", message13(clientContext, 64), false},
		{"a byte less", good[:len(good)-1], false},
		{"a byte more", append(slices.Clone(good), 0), false},
		{"63 spaces", good[1:], false},
		{"65 spaces", append([]byte(" "), good...), false},
		{"a tab among the spaces", bytes.Replace(good, []byte(" "), []byte("\t"), 1), false},
		{"a server's", message13("TLS 1.3, server CertificateVerify", 32), false},
		{"an exported authenticator's", message13("Exported Authenticator", 32), false},
		{"no zero byte after the context", bytes.Replace(good, []byte("\x00"), []byte(" "), 1), false},
		{"the context in other letters", message13(strings.ToLower(clientContext), 32), false},
		{"a digest alone", good[len(good)-32:], false},

		{"an assertion", []byte(jwt), false},
		{"an assertion behind 64 spaces", []byte(strings.Repeat(" ", 64) + jwt), false},
		{"an assertion behind all that comes before the hash", append(message13(clientContext, 0), jwt...), false},
		{"a certificate request", request, false},
		{"a certificate request in the place of the hash", append(message13(clientContext, 0), request...), false},
		{"much", bytes.Repeat([]byte(" "), certverify.MaxBytes+1), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m, err := certverify.Parse(tt.message)
			if (err == nil) != tt.ok || err != nil && (!errors.Is(err, certverify.ErrNotHandshake) || m != nil) {
				t.Errorf("got %v, %v", m, err)
			}
		})
	}
}

func TestDigest(t *testing.T) {
	w := newWorld(t)
	rsaKey := w.client.PrivateKey.(crypto.Signer).Public()
	p256, p384 := ecKey(t, elliptic.P256()).Public(), ecKey(t, elliptic.P384()).Public()
	m13, err := certverify.Parse(message13(clientContext, 48))
	if err != nil {
		t.Fatal(err)
	}
	m12, err := certverify.Parse(w.handshake(t, tls.VersionTLS12, nil))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		m      *certverify.Message
		scheme tls.SignatureScheme
		key    crypto.PublicKey
		hash   crypto.Hash // 0: refused
		pss    bool
	}{
		{"1.3, PSS", m13, tls.PSSWithSHA256, rsaKey, crypto.SHA256, true},
		{"1.3, PSS with a longer hash", m13, tls.PSSWithSHA512, rsaKey, crypto.SHA512, true},
		{"1.3, ECDSA", m13, tls.ECDSAWithP384AndSHA384, p384, crypto.SHA384, false},
		{"1.3, PKCS #1 v1.5, which is for certificates only there", m13, tls.PKCS1WithSHA256, rsaKey, 0, false},
		{"1.3, SHA-1", m13, tls.PKCS1WithSHA1, rsaKey, 0, false},
		{"1.3, ECDSA with another curve", m13, tls.ECDSAWithP256AndSHA256, p384, 0, false},
		{"1.3, ECDSA with an RSA key", m13, tls.ECDSAWithP256AndSHA256, rsaKey, 0, false},
		{"1.3, PSS with an EC key", m13, tls.PSSWithSHA256, p256, 0, false},
		{"1.3, no scheme", m13, 0, rsaKey, 0, false},
		{"1.3, no key", m13, tls.PSSWithSHA256, nil, 0, false},
		{"1.2, PSS", m12, tls.PSSWithSHA384, rsaKey, crypto.SHA384, true},
		{"1.2, PKCS #1 v1.5", m12, tls.PKCS1WithSHA256, rsaKey, crypto.SHA256, false},
		{"1.2, ECDSA", m12, tls.ECDSAWithP256AndSHA256, p256, crypto.SHA256, false},
		{"1.2, SHA-1", m12, tls.PKCS1WithSHA1, rsaKey, 0, false},
		{"1.2, Ed25519", m12, tls.Ed25519, rsaKey, 0, false},
		{"the zero message", new(certverify.Message), tls.PSSWithSHA256, rsaKey, 0, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			digest, opts, err := tt.m.Digest(tt.scheme, tt.key)
			if tt.hash == 0 {
				if err == nil || digest != nil || opts != nil {
					t.Errorf("got %x, %v, %v", digest, opts, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			_, pss := opts.(*rsa.PSSOptions)
			if len(digest) != tt.hash.Size() || opts.HashFunc() != tt.hash || pss != tt.pss {
				t.Errorf("%d bytes, %v", len(digest), opts)
			}
		})
	}
	t.Run("a scheme that the server has not listed", func(t *testing.T) {
		taken := part(t, w.handshake(t, tls.VersionTLS12, nil), kindCertificateRequest)
		m, err := certverify.Parse(taken.replace(func(b []byte) []byte { return bytes.Replace(b, []byte{0x08, 0x04}, []byte{0x08, 0x05}, 1) }))
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := m.Digest(tls.PSSWithSHA256, rsaKey); err == nil {
			t.Error("it is signed")
		}
	})
}
