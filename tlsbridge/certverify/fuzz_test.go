package certverify_test

import (
	"bytes"
	"crypto/rsa"
	"crypto/tls"
	"testing"
	"time"

	"github.com/keyagent/keyagent/tlsbridge/certverify"
)

// Whatever is accepted, nothing can be added to it or left out, and it begins as only a handshake
// does.
func FuzzParse(f *testing.F) {
	w := newWorld(f)
	f.Add(w.handshake(f, tls.VersionTLS12, nil))
	f.Add(w.handshake(f, tls.VersionTLS13, nil))
	f.Add(message13("TLS 1.3, server CertificateVerify", 32))
	f.Add([]byte("eyJhbGciOiJQUzI1NiJ9.e30"))
	key := w.client.Leaf.PublicKey.(*rsa.PublicKey)
	f.Fuzz(func(t *testing.T, message []byte) {
		m, err := certverify.Parse(message)
		if err != nil {
			return
		}
		if len(message) < 130 || message[0] != 1 && !bytes.HasPrefix(message, message13(clientContext, 0)) {
			t.Errorf("%q is accepted", message)
		}
		for name, other := range map[string][]byte{
			"a byte less": message[:len(message)-1], "a byte more": append(bytes.Clone(message), 0), "a byte before": append([]byte(" "), message...),
		} {
			if _, err := certverify.Parse(other); err == nil {
				t.Errorf("with %s it is accepted, too", name)
			}
		}
		_ = m.VerifyServer(w.roots, time.Now())
		_ = m.CheckClient(w.client.Certificate[0])
		for scheme := range 0x0900 {
			if digest, opts, err := m.Digest(tls.SignatureScheme(scheme), key); err == nil && len(digest) != opts.HashFunc().Size() {
				t.Errorf("scheme %x: %d bytes", scheme, len(digest))
			}
		}
	})
}
