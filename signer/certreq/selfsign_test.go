package certreq_test

import (
	"bytes"
	"crypto"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"io"
	"math/big"
	"testing"
	"testing/iotest"
	"time"

	"github.com/keyagent/keyagent/signer/certreq"
	"github.com/keyagent/keyagent/signer/internal/signertest"
)

func selfSign(t testing.TB, key crypto.Signer, opts certreq.SelfSignOptions) *x509.Certificate {
	t.Helper()
	der, err := certreq.SelfSign(key, opts)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestSelfSign(t *testing.T) {
	t.Parallel()
	who := names(t, "CN=app,O=Contoso,C=DE", "DNS:app.example", "URI:api://app")
	for _, tt := range signingCases(t) {
		t.Run(tt.name, func(t *testing.T) {
			c := selfSign(t, tt.key, certreq.SelfSignOptions{Names: who, Now: signertest.Now, SignatureAlgorithm: tt.algorithm})
			file := signertest.WriteFile(t, "certificate.pem", signertest.EncodePEM(c))
			wantLines(t, string(runOpenSSL(t, "x509", "-in", file, "-noout", "-text")), "Version: 3 (0x2)", "Signature Algorithm: "+tt.openssl,
				"Issuer: C = DE, O = Contoso, CN = app", "Not Before: Mar  1 11:55:00 2026 GMT", "Not After : Mar  1 11:55:00 2027 GMT",
				"Subject: C = DE, O = Contoso, CN = app", "Key Usage: critical", "Digital Signature\n", "Extended Key Usage: \n", "TLS Web Client Authentication\n",
				"Basic Constraints: critical", "CA:FALSE", "Subject Key Identifier: \n", "Subject Alternative Name: \n", "DNS:app.example, URI:api://app")
			runOpenSSL(t, "verify", "-x509_strict", "-purpose", "sslclient", "-attime", "1772366400", "-CAfile", file, file)

			if err := certreq.CheckCertificate([]*x509.Certificate{c}, tt.key.Public(), signertest.Now()); err != nil {
				t.Error(err)
			}
			roots := x509.NewCertPool()
			roots.AddCert(c)
			_, err := c.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: signertest.Now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
			if err != nil || c.SignatureAlgorithm != tt.is {
				t.Errorf("%v, signed with %v", err, c.SignatureAlgorithm)
			}
			checkKeyID(t, c)
		})
	}
}

// checkKeyID reads the public key's bits with encoding/asn1.
func checkKeyID(t *testing.T, c *x509.Certificate) {
	t.Helper()
	var info struct {
		Algorithm asn1.RawValue
		Key       asn1.BitString
	}
	if _, err := asn1.Unmarshal(c.RawSubjectPublicKeyInfo, &info); err != nil {
		t.Fatal(err)
	}
	if sum := sha256.Sum256(info.Key.Bytes); !bytes.Equal(c.SubjectKeyId, sum[:20]) {
		t.Errorf("subject key identifier %x", c.SubjectKeyId)
	}
}

func TestSelfSignedValidity(t *testing.T) {
	t.Parallel()
	key := signertest.ECKey(t, elliptic.P256())
	now := signertest.Now()
	day := func(year int, month time.Month, day int) time.Time {
		return time.Date(year, month, day, 0, 0, 0, 0, time.UTC)
	}
	for _, tt := range []struct {
		name                string
		notBefore, notAfter time.Time
		long                bool
		wantFrom, wantTo    time.Time // zero: refused
	}{
		{"nothing said", time.Time{}, time.Time{}, false, now.Add(-5 * time.Minute).Truncate(time.Second), time.Date(2027, 3, 1, 11, 55, 0, 0, time.UTC)},
		{"a beginning", day(2026, 5, 1), time.Time{}, false, day(2026, 5, 1), day(2027, 5, 1)},
		{"an end", time.Time{}, day(2026, 3, 2), false, now.Add(-5 * time.Minute).Truncate(time.Second), day(2026, 3, 2)},
		{"exactly two years", day(2026, 3, 1), day(2028, 3, 1), false, day(2026, 3, 1), day(2028, 3, 1)},
		{"a second more than two years", day(2026, 3, 1), day(2028, 3, 1).Add(time.Second), false, time.Time{}, time.Time{}},
		{"ten years, meant", day(2026, 3, 1), day(2036, 3, 1), true, day(2026, 3, 1), day(2036, 3, 1)},
		{"beyond 2050, where the encoding changes", day(2049, 12, 31), day(2050, 1, 2), false, day(2049, 12, 31), day(2050, 1, 2)},
		{"beyond 9999", day(2026, 3, 1), day(10000, 1, 1), true, time.Time{}, time.Time{}},
		{"fractions and zones", day(2026, 3, 1).Add(time.Millisecond).In(time.FixedZone("", 3600)), day(2027, 3, 1), false, day(2026, 3, 1), day(2027, 3, 1)},
		{"no time at all", day(2026, 5, 1), day(2026, 5, 1), false, time.Time{}, time.Time{}},
		{"backwards", day(2026, 5, 1), day(2026, 4, 1), false, time.Time{}, time.Time{}},
		{"over already", day(2026, 1, 1), day(2026, 2, 1), false, time.Time{}, time.Time{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			der, err := certreq.SelfSign(key, certreq.SelfSignOptions{Names: names(t, "CN=app"), NotBefore: tt.notBefore, NotAfter: tt.notAfter, LongLived: tt.long, Now: signertest.Now})
			if refused := err != nil; refused != tt.wantTo.IsZero() {
				t.Fatal(err)
			}
			if err != nil {
				return
			}
			c, err := x509.ParseCertificate(der)
			if err != nil || !c.NotBefore.Equal(tt.wantFrom) || !c.NotAfter.Equal(tt.wantTo) {
				t.Errorf("%v: %v to %v", err, c.NotBefore, c.NotAfter)
			}
		})
	}
}

func TestSelfSignRefuses(t *testing.T) {
	t.Parallel()
	p256 := signertest.ECKey(t, elliptic.P256())
	broken := errors.New("no entropy")
	for _, tt := range []struct {
		name string
		key  crypto.Signer
		opts certreq.SelfSignOptions
		is   error
	}{
		{"no subject", p256, certreq.SelfSignOptions{Names: names(t, "", "DNS:app.example")}, nil},
		{"an empty alternative name", p256, certreq.SelfSignOptions{Names: certreq.Names{Subject: parseSubject(t, "CN=app"), AltNames: make([]certreq.SubjectAltName, 1)}}, nil},
		{"P-521", signertest.ECKey(t, elliptic.P521()), certreq.SelfSignOptions{Names: names(t, "CN=app")}, certreq.ErrUnsupported},
		{"an algorithm of another kind of key", p256, certreq.SelfSignOptions{Names: names(t, "CN=app"), SignatureAlgorithm: x509.SHA256WithRSAPSS}, certreq.ErrUnsupported},
		{"no randomness", p256, certreq.SelfSignOptions{Names: names(t, "CN=app"), Rand: iotest.ErrReader(broken)}, broken},
		{"too little randomness", p256, certreq.SelfSignOptions{Names: names(t, "CN=app"), Rand: bytes.NewReader(make([]byte, 19))}, io.ErrUnexpectedEOF},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := certreq.SelfSign(tt.key, tt.opts); err == nil || tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestSerialNumbers(t *testing.T) {
	t.Parallel()
	key := signertest.ECKey(t, elliptic.P256())
	for _, tt := range []struct {
		name   string
		random []byte
		want   string
	}{
		{"zeros become a positive number of full length", make([]byte, 20), "0x4000000000000000000000000000000000000000"},
		{"ones do not become a negative one", bytes.Repeat([]byte{0xff}, 20), "0x7fffffffffffffffffffffffffffffffffffffff"},
		{"all other bits are random", []byte("\x811234567890123456789"), "0x4131323334353637383930313233343536373839"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := selfSign(t, key, certreq.SelfSignOptions{Names: names(t, "CN=app"), Rand: io.MultiReader(bytes.NewReader(tt.random), rand.Reader)})
			want, ok := new(big.Int).SetString(tt.want, 0)
			if !ok || c.SerialNumber.Cmp(want) != 0 {
				t.Errorf("%x, want %s", c.SerialNumber, tt.want)
			}
		})
	}
	if a, b := selfSign(t, key, certreq.SelfSignOptions{Names: names(t, "CN=app")}), selfSign(t, key, certreq.SelfSignOptions{Names: names(t, "CN=app")}); a.SerialNumber.Cmp(b.SerialNumber) == 0 {
		t.Error("two certificates have one serial number")
	}
}
