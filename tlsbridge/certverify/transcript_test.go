package certverify_test

import (
	"bytes"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"errors"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/cryptobyte"

	"github.com/keyagent/keyagent/tlsbridge/certverify"
)

// Kinds of handshake messages (RFC 5246, 7.4).
const (
	kindClientHello        = 1
	kindServerHello        = 2
	kindCertificate        = 11
	kindKeyExchange        = 12
	kindCertificateRequest = 13
	kindServerHelloDone    = 14
	kindCertificateVerify  = 15
	kindClientKeyExchange  = 16
	kindFinished           = 20
)

// frames are the messages of a handshake, each with its header.
func frames(t testing.TB, transcript []byte) [][]byte {
	t.Helper()
	var list [][]byte
	for rest := cryptobyte.String(transcript); !rest.Empty(); {
		start := rest
		var body cryptobyte.String
		if !rest.Skip(1) || !rest.ReadUint24LengthPrefixed(&body) {
			t.Fatal("not a handshake")
		}
		list = append(list, start[:len(start)-len(rest)])
	}
	return list
}

func frame(kind byte, body []byte) []byte {
	return append([]byte{kind, byte(len(body) >> 16), byte(len(body) >> 8), byte(len(body))}, body...)
}

// piece is one message of a handshake.
type piece struct {
	list [][]byte
	at   int
}

// part finds the first message of a kind.
func part(t testing.TB, transcript []byte, kind byte) piece {
	t.Helper()
	list := frames(t, transcript)
	at := slices.IndexFunc(list, func(f []byte) bool { return f[0] == kind })
	if at < 0 {
		t.Fatalf("there is no message %d", kind)
	}
	return piece{list, at}
}

// replace returns the handshake with another body in the place of the message's.
func (p piece) replace(change func([]byte) []byte) []byte {
	list := slices.Clone(p.list)
	list[p.at] = frame(list[p.at][0], change(slices.Clone(list[p.at][4:])))
	return slices.Concat(list...)
}

// with returns the handshake with one byte of the message's body changed.
func (p piece) with(offset int, value byte) []byte {
	return p.replace(func(b []byte) []byte { b[offset] = value; return b })
}

func swap(list [][]byte, i, j int) []byte {
	list = slices.Clone(list)
	list[i], list[j] = list[j], list[i]
	return slices.Concat(list...)
}

// Each is a handshake but for one thing.
func TestForm12(t *testing.T) {
	w := newWorld(t)
	good := w.handshake(t, tls.VersionTLS12, func(client, _ *tls.Config) { client.SessionTicketsDisabled = true })
	list := frames(t, good)
	hello, answer := part(t, good, kindClientHello), part(t, good, kindServerHello)
	suite := 2 + 32 + 1 + int(answer.list[answer.at][4+34]) // where ServerHello has the suite
	if _, err := certverify.Parse(good); err != nil {
		t.Fatal(err)
	}
	for name, message := range map[string][]byte{
		"a second handshake behind it":       slices.Concat(good, good),
		"a byte behind it":                   append(slices.Clone(good), 0),
		"CertificateVerify behind it":        append(slices.Clone(good), frame(kindCertificateVerify, make([]byte, 8))...),
		"Finished behind it":                 append(slices.Clone(good), frame(kindFinished, make([]byte, 12))...),
		"an assertion behind it":             append(slices.Clone(good), "eyJhbGciOiJQUzI1NiJ9.e30"...),
		"a HelloRequest before it":           append(frame(0, nil), good...),
		"spaces before it":                   append(bytes.Repeat([]byte(" "), 64), good...),
		"ServerHello before ClientHello":     swap(list, 0, 1),
		"Certificate before ServerHello":     swap(list, 1, 2),
		"without ClientHello":                slices.Concat(list[1:]...),
		"ClientHello twice":                  append(slices.Clone(list[0]), good...),
		"without ClientKeyExchange":          slices.Concat(list[:len(list)-1]...),
		"a server's CertificateVerify":       slices.Concat(list[:len(list)-2]...),
		"ClientHello of TLS 1.1":             hello.with(1, 2),
		"ClientHello of TLS 1.0":             hello.with(1, 1),
		"ClientHello of SSL 3":               hello.with(1, 0),
		"ClientHello of TLS 1.3, if it was":  hello.with(1, 4),
		"ServerHello of TLS 1.1":             answer.with(1, 2),
		"ServerHello of SSL 3":               answer.with(1, 0),
		"DTLS":                               hello.replace(func(b []byte) []byte { b[0], b[1] = 0xfe, 0xfd; return b }),
		"DTLS with its own headers":          append([]byte{1, 0, 0, 50, 0, 0, 0, 0, 0, 0, 0, 50}, list[0][4:]...),
		"a session id that is too long":      hello.with(34, 33),
		"a suite that was not offered":       answer.with(suite+1, 0xff),
		"compression":                        answer.with(suite+2, 1),
		"ClientHello is cut off":             hello.replace(func(b []byte) []byte { return b[:40] }),
		"ClientHello has a byte more":        hello.replace(func(b []byte) []byte { return append(b, 0) }),
		"a server name that is not one":      hello.replace(func(b []byte) []byte { return bytes.Replace(b, []byte("vault."), []byte("vault/"), 1) }),
		"TLS 1.3 was agreed on":              withExtension(t, good, 43, []byte{3, 4}),
		"an extension twice":                 withExtension(t, withExtension(t, good, 4711, nil), 4711, nil),
		"the server's certificates are none": part(t, good, kindCertificate).replace(func([]byte) []byte { return []byte{0, 0, 0} }),
		"one certificate is none":            part(t, good, kindCertificate).replace(func([]byte) []byte { return []byte{0, 0, 3, 0, 0, 0} }),
		"the client shows none":              piece{list, len(list) - 2}.replace(func([]byte) []byte { return []byte{0, 0, 0} }),
		"a key agreement of another form":    part(t, good, kindKeyExchange).with(0, 1),
		"a key agreement without signature":  part(t, good, kindKeyExchange).replace(func(b []byte) []byte { return b[:4+int(b[3])] }),
		"a CertificateRequest with more":     part(t, good, kindCertificateRequest).replace(func(b []byte) []byte { return append(b, 0) }),
		"a ServerHelloDone with a body":      part(t, good, kindServerHelloDone).replace(func([]byte) []byte { return []byte{0} }),
		"a ClientKeyExchange of RSA":         part(t, good, kindClientKeyExchange).replace(func([]byte) []byte { return make([]byte, 258) }),
		"a ClientKeyExchange without a key":  part(t, good, kindClientKeyExchange).replace(func([]byte) []byte { return []byte{0} }),
		"more than a handshake ever has":     part(t, good, kindCertificate).replace(func([]byte) []byte { return oversized() }),
		"more certificates than any has":     part(t, good, kindCertificate).replace(func(b []byte) []byte { return chainOf(t, b, 17) }),
	} {
		t.Run(name, func(t *testing.T) {
			if m, err := certverify.Parse(message); !errors.Is(err, certverify.ErrNotHandshake) || m != nil {
				t.Errorf("got %v, %v", m, err)
			}
		})
	}
	t.Run("cut off anywhere", func(t *testing.T) {
		for n := range good {
			if _, err := certverify.Parse(good[:n]); err == nil {
				t.Fatalf("%d of %d bytes are accepted", n, len(good))
			}
		}
	})
}

// withExtension adds an extension to ServerHello, which has some.
func withExtension(t *testing.T, transcript []byte, kind uint16, body []byte) []byte {
	t.Helper()
	return part(t, transcript, kindServerHello).replace(func(b []byte) []byte {
		at := 2 + 32 + 1 + int(b[34]) + 3
		more := binary.BigEndian.AppendUint16(nil, kind)
		more = append(binary.BigEndian.AppendUint16(more, uint16(len(body))), body...)
		binary.BigEndian.PutUint16(b[at:], binary.BigEndian.Uint16(b[at:])+uint16(len(more)))
		return append(b, more...)
	})
}

// withoutExtensions cuts them off ClientHello.
func withoutExtensions(t *testing.T, transcript []byte) []byte {
	t.Helper()
	return part(t, transcript, kindClientHello).replace(func(b []byte) []byte {
		at := 2 + 32 + 1 + int(b[34])
		at += 2 + int(binary.BigEndian.Uint16(b[at:]))
		return b[:at+1+int(b[at])]
	})
}

func oversized() []byte {
	return frame(0, frame(0, make([]byte, certverify.MaxBytes)))[1:] // a list of one certificate
}

// chainOf repeats the first certificate of a message Certificate.
func chainOf(t *testing.T, body []byte, times int) []byte {
	t.Helper()
	all, first := cryptobyte.String(body[3:]), cryptobyte.String(nil)
	if !all.ReadUint24LengthPrefixed(&first) {
		t.Fatal("no certificate")
	}
	return frame(0, bytes.Repeat(frame(0, first)[1:], times))[1:]
}

func TestVerifyServer(t *testing.T) {
	w, other := newWorld(t), newWorld(t)
	good := w.handshake(t, tls.VersionTLS12, nil)
	elsewhere := w.handshake(t, tls.VersionTLS12, func(_, server *tls.Config) {
		server.Certificates = []tls.Certificate{w.issue(t, serverName, x509.ExtKeyUsageServerAuth, ecKey(t, elliptic.P256()))}
	})
	exchange, hello := part(t, good, kindKeyExchange), part(t, good, kindClientHello)
	for _, tt := range []struct {
		name    string
		message []byte
		roots   *x509.CertPool
		at      time.Time
		ok      bool
	}{
		{"the server that it says", good, w.roots, time.Now(), true},
		{"an authority that is not trusted", good, other.roots, time.Now(), false},
		{"no authority at all", good, x509.NewCertPool(), time.Now(), false},
		{"the system's authorities", good, nil, time.Now(), false},
		{"a certificate that has expired", good, w.roots, time.Now().Add(2 * time.Hour), false},
		{"a certificate that is not valid yet", good, w.roots, time.Now().Add(-2 * time.Hour), false},
		{
			"another server's certificate put in", part(t, elsewhere, kindCertificate).replace(func([]byte) []byte {
				p := part(t, good, kindCertificate)
				return slices.Clone(p.list[p.at][4:])
			}), w.roots, time.Now(), false,
		},
		{"another key agreement put in", exchange.replace(func(b []byte) []byte { b[10] ^= 1; return b }), w.roots, time.Now(), false},
		{"another signature put in", exchange.replace(func(b []byte) []byte { b[len(b)-1] ^= 1; return b }), w.roots, time.Now(), false},
		{"another client's random put in", hello.replace(func(b []byte) []byte { b[20] ^= 1; return b }), w.roots, time.Now(), false},
		{"another server's random put in", part(t, good, kindServerHello).replace(func(b []byte) []byte { b[20] ^= 1; return b }), w.roots, time.Now(), false},
		{"another name put in", hello.replace(func(b []byte) []byte { return bytes.Replace(b, []byte("vault"), []byte("fault"), 1) }), w.roots, time.Now(), false},
		{"the certificates of client and server exchanged", swap(frames(t, good), part(t, good, kindCertificate).at, len(frames(t, good))-2), w.roots, time.Now(), false},
		{"a certificate that cannot be read", part(t, good, kindCertificate).replace(func([]byte) []byte { return []byte{0, 0, 4, 0, 0, 1, 0x30} }), w.roots, time.Now(), false},
		{"no name", withoutExtensions(t, good), w.roots, time.Now(), false},
		{"signed with SHA-1", exchange.replace(func(b []byte) []byte { n := 4 + int(b[3]); b[n], b[n+1] = 2, 3; return b }), w.roots, time.Now(), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m, err := certverify.Parse(tt.message)
			if err != nil {
				t.Fatal(err)
			}
			if err := m.VerifyServer(tt.roots, tt.at); (err == nil) != tt.ok {
				t.Errorf("got %v", err)
			}
		})
	}
	t.Run("a client's certificate in a server's place", func(t *testing.T) {
		client := w.issue(t, serverName, x509.ExtKeyUsageClientAuth, ecKey(t, elliptic.P256()))
		message := w.handshake(t, tls.VersionTLS12, func(cfg, server *tls.Config) {
			cfg.InsecureSkipVerify, server.Certificates = true, []tls.Certificate{client}
		})
		m, err := certverify.Parse(message)
		if err != nil {
			t.Fatal(err)
		}
		if m.VerifyServer(w.roots, time.Now()) == nil {
			t.Error("it is taken")
		}
	})
	t.Run("another client's certificate", func(t *testing.T) {
		m, err := certverify.Parse(good)
		if err != nil {
			t.Fatal(err)
		}
		if m.CheckClient(w.server.Certificate[0]) == nil || m.CheckClient(nil) == nil || new(certverify.Message).CheckClient(nil) == nil {
			t.Error("it is taken")
		}
	})
}

// A message brings its own certificates. One with a key of any size must not be verified with: that
// takes seconds, for whoever sends it.
func TestVerifyServerRefusesAKeyThatTakesLong(t *testing.T) {
	w := newWorld(t)
	good := w.handshake(t, tls.VersionTLS12, nil)
	maker := ecKey(t, elliptic.P256())
	now := time.Now()
	parent := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "large"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, PublicKey: maker.Public(),
	}
	large := &rsa.PublicKey{N: new(big.Int).Add(new(big.Int).Lsh(big.NewInt(1), 8192), big.NewInt(1)), E: 65537}
	der, err := x509.CreateCertificate(rand.Reader, parent, parent, large, maker)
	if err != nil {
		t.Fatal(err)
	}
	for name, chain := range map[string]func(leaf []byte) [][]byte{
		"as an authority": func(leaf []byte) [][]byte { return [][]byte{leaf, der} },
		"as the server's": func([]byte) [][]byte { return [][]byte{der} },
	} {
		message := part(t, good, kindCertificate).replace(func(b []byte) []byte {
			length := int(b[3])<<16 | int(b[4])<<8 | int(b[5])
			var list []byte
			for _, c := range chain(b[6 : 6+length]) {
				list = append(append(list, byte(len(c)>>16), byte(len(c)>>8), byte(len(c))), c...)
			}
			return append([]byte{byte(len(list) >> 16), byte(len(list) >> 8), byte(len(list))}, list...)
		})
		m, err := certverify.Parse(message)
		if err != nil {
			t.Fatal(err)
		}
		if err := m.VerifyServer(w.roots, now); err == nil || !strings.Contains(err.Error(), "8193 bits") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
