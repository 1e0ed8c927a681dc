package certreq_test

import (
	"bytes"
	"crypto/elliptic"
	"crypto/x509"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keyagent/keyagent/signer/certreq"
	"github.com/keyagent/keyagent/signer/internal/signertest"
)

// someCertificate is a fresh self-signed one.
func someCertificate(t testing.TB, subject string) *x509.Certificate {
	t.Helper()
	return selfSign(t, signertest.ECKey(t, elliptic.P256()), certreq.SelfSignOptions{Names: names(t, subject), Now: signertest.Now})
}

func TestParseCertificates(t *testing.T) {
	t.Parallel()
	a, b := someCertificate(t, "CN=a"), someCertificate(t, "CN=b")
	ten := slices.Repeat([]*x509.Certificate{a}, 10)
	for _, tt := range []struct {
		name string
		data []byte
		want []*x509.Certificate
	}{
		{"one in PEM", signertest.EncodePEM(a), []*x509.Certificate{a}},
		{"two in PEM keep their order", signertest.EncodePEM(b, a), []*x509.Certificate{b, a}},
		{"text around PEM", slices.Concat([]byte("Certificate:\n  Data:\n"), signertest.EncodePEM(a), []byte("\nissuer\n"), signertest.EncodePEM(b), []byte("end\n")), []*x509.Certificate{a, b}},
		{"PEM of Windows", bytes.ReplaceAll(signertest.EncodePEM(a), []byte("\n"), []byte("\r\n")), []*x509.Certificate{a}},
		{"one in DER", a.Raw, []*x509.Certificate{a}},
		{"two in DER", slices.Concat(a.Raw, b.Raw), []*x509.Certificate{a, b}},
		{"as many as there may be", signertest.EncodePEM(ten...), ten},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := certreq.ParseCertificates(tt.data)
			if err != nil || !slices.EqualFunc(got, tt.want, (*x509.Certificate).Equal) {
				t.Errorf("%d certificates, %v", len(got), err)
			}
		})
	}
}

func TestParseCertificatesRefuses(t *testing.T) {
	t.Parallel()
	c := someCertificate(t, "CN=a")
	inPEM := signertest.EncodePEM(c)
	key := signertest.ECKey(t, elliptic.P256())
	request, err := certreq.NewCertificateRequest(key, certreq.RequestOptions{Names: names(t, "CN=app")})
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	sec1, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	damaged := bytes.Replace(inPEM, []byte("\n"), []byte("\n!"), 1)
	for _, tt := range []struct {
		name string
		data []byte
		hint string
	}{
		{"nothing", nil, "empty"},
		{"garbage", []byte("not a certificate"), "neither PEM nor"},
		{"a private key before the certificate", append(signertest.PEM("PRIVATE KEY", pkcs8), inPEM...), "private key"},
		{"a private key behind the certificate", append(bytes.Clone(inPEM), signertest.PEM("EC PRIVATE KEY", sec1)...), "private key"},
		{"an encrypted private key", signertest.PEM("ENCRYPTED PRIVATE KEY", pkcs8), "private key"},
		{"a TPM's key file", signertest.PEM("TSS2 PRIVATE KEY", []byte{0x30, 0}), "private key"},
		{"a PKCS #8 key in DER", pkcs8, "private key"},
		{"a SEC 1 key in DER", sec1, "private key"},
		{"a PKCS #1 key in DER", x509.MarshalPKCS1PrivateKey(rsaKey(t, 2048)), "private key"},
		{"a request", signertest.PEM("CERTIFICATE REQUEST", request), "certificate request"},
		{"a request under Microsoft's label", signertest.PEM("NEW CERTIFICATE REQUEST", request), "certificate request"},
		{"a request in DER", request, "certificate request"},
		{"PKCS #7", signertest.PEM("PKCS7", c.Raw), "pkcs7 -print_certs"},
		{"a certificate with OpenSSL's trust settings", signertest.PEM("TRUSTED CERTIFICATE", c.Raw), "TRUSTED CERTIFICATE"},
		{"a revocation list beside the certificate", append(bytes.Clone(inPEM), signertest.PEM("X509 CRL", nil)...), "X509 CRL"},
		{"a block that is no certificate", signertest.PEM("CERTIFICATE", []byte("not a certificate")), "certificate 1"},
		{"a second block that is a request", append(bytes.Clone(inPEM), signertest.PEM("CERTIFICATE", request)...), "it is a certificate request"},
		{"a block with more than the certificate", signertest.PEM("CERTIFICATE", append(bytes.Clone(c.Raw), 0)), "certificate 1"},
		{"PEM that is cut off", inPEM[:len(inPEM)-40], "damaged"},
		{"a damaged block before a good one", append(damaged, inPEM...), "damaged"},
		{"DER that is cut off", c.Raw[:len(c.Raw)-1], "neither PEM nor"},
		{"DER with more behind", append(bytes.Clone(c.Raw), 0), "certificate 2"},
		{"too many", bytes.Repeat(inPEM, 11), "11 certificates"},
		{"too large", append(bytes.Clone(inPEM), make([]byte, 64<<10)...), "more than 64 KiB"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			chain, err := certreq.ParseCertificates(tt.data)
			if err == nil {
				t.Fatalf("%d certificates", len(chain))
			}
			if !strings.Contains(err.Error(), tt.hint) {
				t.Errorf("%v: does not say %q", err, tt.hint)
			}
		})
	}
}

func TestExpiresSoon(t *testing.T) {
	t.Parallel()
	from := signertest.Now().Truncate(time.Second)
	const day = 24 * time.Hour
	for _, tt := range []struct {
		name string
		life time.Duration
		warn time.Duration // from the beginning
	}{
		{"a year: the last 30 days", 365 * day, 335 * day},
		{"90 days: both are the same", 90 * day, 60 * day},
		{"15 days: the last third", 15 * day, 10 * day},
		{"an hour", time.Hour, 40 * time.Minute},
		{"a life that ends before it begins: from its end", -time.Hour, -time.Hour},
		{"centuries, more than a Duration can hold", 1<<63 - 1, 1<<63 - 1 - 30*day},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := &x509.Certificate{NotBefore: from, NotAfter: from.Add(tt.life)}
			at := from.Add(tt.warn)
			if certreq.ExpiresSoon(c, at.Add(-time.Nanosecond)) || !certreq.ExpiresSoon(c, at) || !certreq.ExpiresSoon(c, c.NotAfter.Add(day)) {
				t.Errorf("not from %v on", at)
			}
		})
	}
}

// FuzzParseCertificates: what is accepted is accepted again, as the same, in PEM; and checking it
// ends with all problems told.
func FuzzParseCertificates(f *testing.F) {
	key := signertest.ECKey(f, elliptic.P256())
	a := selfSign(f, key, certreq.SelfSignOptions{Names: names(f, "CN=a", "URI:api://a"), Now: signertest.Now})
	b := someCertificate(f, "CN=b")
	for _, data := range [][]byte{
		a.Raw, slices.Concat(a.Raw, b.Raw), signertest.EncodePEM(a), signertest.EncodePEM(a, b), signertest.EncodePEM(a)[:100],
		signertest.PEM("PRIVATE KEY", nil), signertest.PEM("CERTIFICATE REQUEST", nil), signertest.PEM("CERTIFICATE", nil), nil,
	} {
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		chain, err := certreq.ParseCertificates(data)
		if err != nil {
			return
		}
		inPEM := signertest.EncodePEM(chain...)
		if len(inPEM) <= 64<<10 {
			again, err := certreq.ParseCertificates(inPEM)
			if err != nil || !slices.EqualFunc(again, chain, (*x509.Certificate).Equal) {
				t.Fatalf("%d certificates became %d, %v", len(chain), len(again), err)
			}
		}
		err = certreq.CheckCertificate(chain, key.Public(), signertest.Now())
		var wrong *certreq.CertificateError
		if err != nil && (!errors.As(err, &wrong) || len(wrong.Problems) == 0 || strings.Count(err.Error(), "\n") != len(wrong.Problems)) {
			t.Fatalf("%v", err)
		}
		if err == nil && !key.PublicKey.Equal(chain[0].PublicKey) {
			t.Fatalf("a certificate over another key passed: %x", chain[0].Raw)
		}
	})
}

func TestUrgencyGrowsWithTheDaysThatAreLeft(t *testing.T) {
	t.Parallel()
	from := signertest.Now().Truncate(time.Second)
	const day = 24 * time.Hour
	for _, tt := range []struct {
		life, passed time.Duration
		urgency      int
		left         int
	}{
		{365 * day, 335*day - time.Second, 0, 30},
		{365 * day, 335 * day, 1, 30},
		{365 * day, 351 * day, 2, 14},
		{365 * day, 358 * day, 3, 7},
		{365 * day, 362 * day, 4, 3},
		{365 * day, 364 * day, 5, 1},
		{365 * day, 365 * day, 5, 0},
		{365 * day, 365*day + time.Second, 6, -1},
		{365 * day, 367 * day, 6, -2},
		{6 * day, 4*day - time.Second, 0, 2},
		{6 * day, 4 * day, 4, 2},
		{time.Hour, 41 * time.Minute, 5, 0},
	} {
		c := &x509.Certificate{NotBefore: from, NotAfter: from.Add(tt.life)}
		now := from.Add(tt.passed)
		if got := certreq.Urgency(c, now); got != tt.urgency {
			t.Errorf("life %v, after %v: urgency %d, want %d", tt.life, tt.passed, got, tt.urgency)
		}
		if got := certreq.DaysLeft(c.NotAfter, now); got != tt.left {
			t.Errorf("life %v, after %v: %d days left, want %d", tt.life, tt.passed, got, tt.left)
		}
	}
}
