package signer_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keyagent/keyagent/internal/tooltest"
	"github.com/keyagent/keyagent/signer"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

// issuer is a certificate authority.
type issuer struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

// certTemplate is valid for 100 days around certNow.
func certTemplate(commonName string, edit ...func(*x509.Certificate)) *x509.Certificate {
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: commonName},
		NotBefore:    certNow().Truncate(time.Second).AddDate(0, 0, -50),
		NotAfter:     certNow().Truncate(time.Second).AddDate(0, 0, 50),
	}
	for _, e := range edit {
		e(c)
	}
	return c
}

func authority(c *x509.Certificate) {
	c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign
}

// client is what a certificate needs to pass.
func client(c *x509.Certificate) {
	c.BasicConstraintsValid, c.KeyUsage, c.ExtKeyUsage = true, x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
}

// newIssuer makes an authority below another, or a root below nil.
func newIssuer(t testing.TB, above *issuer, commonName string, edit ...func(*x509.Certificate)) *issuer {
	t.Helper()
	i := &issuer{key: ecKey(t, elliptic.P256())}
	template := certTemplate(commonName, append([]func(*x509.Certificate){authority}, edit...)...)
	if above == nil {
		above = &issuer{template, i.key}
	}
	i.certificate = above.issue(t, i.key.Public(), template)
	return i
}

func (i *issuer) issue(t testing.TB, public crypto.PublicKey, template *x509.Certificate) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, i.certificate, public, i.key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// selfIssued is a certificate over the key in the name of itself.
func selfIssued(t testing.TB, key *ecdsa.PrivateKey, edit ...func(*x509.Certificate)) *x509.Certificate {
	t.Helper()
	template := certTemplate("app", edit...)
	return (&issuer{template, key}).issue(t, key.Public(), template)
}

// openSSLAccepts asks openssl about a chain that ends with its trust anchor, for a TLS client.
func openSSLAccepts(t *testing.T, chain []*x509.Certificate) bool {
	t.Helper()
	anchor := writeFile(t, "anchor.pem", asCertificatePEM(chain[len(chain)-1]))
	between := writeFile(t, "chain.pem", asCertificatePEM(chain...))
	leaf := writeFile(t, "leaf.pem", asCertificatePEM(chain[0]))
	out, err := exec.CommandContext(t.Context(), tooltest.Tool(t, "openssl"), "verify", "-purpose", "sslclient", "-attime", fmt.Sprint(certNow().Unix()),
		"-partial_chain", "-CAfile", anchor, "-untrusted", between, leaf).CombinedOutput()
	t.Logf("%s", out)
	return err == nil
}

func TestCheckCertificateAccepts(t *testing.T) {
	t.Parallel()
	key := ecKey(t, elliptic.P256())
	root := newIssuer(t, nil, "root")
	middle := newIssuer(t, root, "middle")
	leaf := middle.issue(t, key.Public(), certTemplate("app", client))
	unsigned := *root.certificate
	unsigned.Signature = make([]byte, 64)
	atTheEdge := func(c *x509.Certificate) { c.NotAfter = certNow().Truncate(time.Second) }
	for _, tt := range []struct {
		name  string
		chain []*x509.Certificate
		now   time.Time
	}{
		{"the leaf alone", []*x509.Certificate{leaf}, certNow()},
		{"a chain without its root", []*x509.Certificate{leaf, middle.certificate}, certNow()},
		{"a chain with its root", []*x509.Certificate{leaf, middle.certificate, root.certificate}, certNow()},
		{"a root whose own signature is of no account", []*x509.Certificate{leaf, middle.certificate, &unsigned}, certNow()},
		{"a self-signed one", []*x509.Certificate{selfIssued(t, key, client)}, certNow()},
		{"no key usage and no extended key usage", []*x509.Certificate{selfIssued(t, key)}, certNow()},
		{"more usages than needed", []*x509.Certificate{selfIssued(t, key, client, func(c *x509.Certificate) {
			c.KeyUsage |= x509.KeyUsageKeyEncipherment
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
		})}, certNow()},
		{"the first second", []*x509.Certificate{leaf}, leaf.NotBefore},
		{"the last second", []*x509.Certificate{selfIssued(t, key, client, atTheEdge)}, certNow().Truncate(time.Second)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := signer.CheckCertificate(tt.chain, key.Public(), tt.now); err != nil {
				t.Error(err)
			}
			if len(tt.chain) != 1 && !openSSLAccepts(t, tt.chain) {
				t.Error("openssl refuses")
			}
		})
	}
}

// refusal is a chain with one thing wrong.
type refusal struct {
	name  string
	chain []*x509.Certificate
	now   time.Time
	place int
	field string
	says  string
}

func refusals(t *testing.T, key *ecdsa.PrivateKey) []refusal {
	t.Helper()
	root := newIssuer(t, nil, "root")
	middle := newIssuer(t, root, "middle")
	now := certNow()
	leaf := middle.issue(t, key.Public(), certTemplate("app", client))
	below := func(i *issuer, behind ...*x509.Certificate) []*x509.Certificate {
		return append([]*x509.Certificate{i.issue(t, key.Public(), certTemplate("app", client))}, behind...)
	}
	alone := func(edit ...func(*x509.Certificate)) []*x509.Certificate {
		return []*x509.Certificate{selfIssued(t, key, append([]func(*x509.Certificate){client}, edit...)...)}
	}
	usage := func(u ...x509.ExtKeyUsage) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.ExtKeyUsage = u }
	}
	edKey, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	noAuthority := newIssuer(t, root, "middle", func(c *x509.Certificate) { c.IsCA = false })
	mayNotSign := newIssuer(t, root, "middle", func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign })
	namesake := newIssuer(t, root, "middle")
	huge := *middle.certificate
	huge.PublicKey = &rsa.PublicKey{N: new(big.Int).Lsh(big.NewInt(1), 9000), E: 65537}
	late := newIssuer(t, root, "middle", func(c *x509.Certificate) { c.NotAfter = now.AddDate(0, 0, -1) })
	early := newIssuer(t, root, "middle", func(c *x509.Certificate) { c.NotBefore = now.AddDate(0, 0, 1) })
	self := alone()[0]
	other := ecKey(t, elliptic.P256())
	forged := (&issuer{certTemplate("app"), other}).issue(t, key.Public(), certTemplate("app", client))
	return []refusal{
		{"another key", []*x509.Certificate{selfIssued(t, other, client)}, now, 0, signer.FieldPublicKey, "TPM key is ECDSA P-256 sha256:"},
		{"a key of a kind that is not the TPM's", []*x509.Certificate{root.issue(t, edKey, certTemplate("app", client))}, now, 0, signer.FieldPublicKey, "ed25519"},
		{"expired", alone(), self.NotAfter.Add(time.Second), 0, signer.FieldValidity, "expired"},
		{"not yet valid", alone(), self.NotBefore.Add(-time.Nanosecond), 0, signer.FieldValidity, "not yet valid"},
		{"an issuer that expired", below(late, late.certificate), now, 1, signer.FieldValidity, "certificate 2 has"},
		{"an issuer that is not yet valid", below(early, early.certificate), now, 1, signer.FieldValidity, "not yet valid"},
		{"a key usage for encryption", alone(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment | x509.KeyUsageDataEncipherment }), now, 0,
			signer.FieldKeyUsage, "keyEncipherment, dataEncipherment, digitalSignature is needed"},
		{"a key usage of nothing", alone(func(c *x509.Certificate) {
			c.KeyUsage = 0
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 15}, Critical: true, Value: []byte{3, 1, 0}}}
		}), now, 0, signer.FieldKeyUsage, "certificate has none"},
		{"an extended key usage for servers", alone(usage(x509.ExtKeyUsageServerAuth)), now, 0, signer.FieldExtKeyUsage, "serverAuth, clientAuth is needed"},
		{"an extended key usage for anything", alone(usage(x509.ExtKeyUsageAny)), now, 0, signer.FieldExtKeyUsage, "anyExtendedKeyUsage"},
		{"an extended key usage that nobody knows", alone(func(c *x509.Certificate) {
			c.ExtKeyUsage, c.UnknownExtKeyUsage = nil, []asn1.ObjectIdentifier{{1, 2, 3}}
		}), now, 0, signer.FieldExtKeyUsage, "1.2.3"},
		{"an authority", alone(func(c *x509.Certificate) { c.IsCA = true }), now, 0, signer.FieldBasicConstraints, "CA:FALSE is needed"},
		{"a stranger behind the leaf", []*x509.Certificate{leaf, root.certificate}, now, 0, signer.FieldIssuer, `"CN=middle", certificate 2 is "CN=root"`},
		{"a stranger at the end", []*x509.Certificate{leaf, middle.certificate, newIssuer(t, nil, "stranger").certificate}, now, 1, signer.FieldIssuer, `certificate 3 is "CN=stranger"`},
		{"something behind a self-signed one", []*x509.Certificate{self, root.certificate}, now, 0, signer.FieldIssuer, `certificate 2 is "CN=root"`},
		{"the root twice", []*x509.Certificate{leaf, middle.certificate, root.certificate, root.certificate}, now, 2, signer.FieldIssuer, "the same once more"},
		{"an issuer of the right name with another key", []*x509.Certificate{leaf, namesake.certificate}, now, 0, signer.FieldSignature, "certificate 2 did not make it"},
		{"an issuer that is no authority", below(noAuthority, noAuthority.certificate), now, 0, signer.FieldSignature, "may not"},
		{"an issuer that may not sign certificates", below(mayNotSign, mayNotSign.certificate), now, 0, signer.FieldSignature, "may not"},
		{"an issuer with a key that takes long", []*x509.Certificate{leaf, &huge}, now, 0, signer.FieldSignature, "8192 bits"},
		{"a self-signed one by another key", []*x509.Certificate{forged}, now, 0, signer.FieldSignature, "not by its own key"},
	}
}

// Each case is wrong in one thing only, and together they know every field.
func TestCheckCertificateRefuses(t *testing.T) {
	t.Parallel()
	key := ecKey(t, elliptic.P256())
	fields := []string{signer.FieldPublicKey, signer.FieldValidity, signer.FieldKeyUsage, signer.FieldExtKeyUsage, signer.FieldBasicConstraints,
		signer.FieldIssuer, signer.FieldSignature}
	for _, tt := range refusals(t, key) {
		fields = slices.DeleteFunc(fields, func(f string) bool { return f == tt.field })
		t.Run(tt.name, func(t *testing.T) {
			err := signer.CheckCertificate(tt.chain, key.Public(), tt.now)
			var wrong *signer.CertificateError
			if !errors.As(err, &wrong) || len(wrong.Problems) != 1 {
				t.Fatalf("%v", err)
			}
			p := wrong.Problems[0]
			if p.Field != tt.field || p.Certificate != tt.place || !strings.Contains(p.String(), tt.says) {
				t.Errorf("%+v, want %s of certificate %d with %q", p, tt.field, tt.place+1, tt.says)
			}
		})
	}
	if len(fields) > 0 {
		t.Errorf("nothing is refused for %q alone", fields)
	}
}

// What we refuse about usages and signatures, openssl does not take from a TLS client either.
func TestOpenSSLRefusesTheSame(t *testing.T) {
	t.Parallel()
	key := ecKey(t, elliptic.P256())
	root := newIssuer(t, nil, "root")
	issue := func(edit func(*x509.Certificate)) []*x509.Certificate {
		return []*x509.Certificate{root.issue(t, key.Public(), certTemplate("app", client, edit)), root.certificate}
	}
	for _, tt := range []struct {
		name  string
		chain []*x509.Certificate
		good  bool
	}{
		{"as it should be", issue(func(*x509.Certificate) {}), true},
		{"no extended key usage", issue(func(c *x509.Certificate) { c.ExtKeyUsage = nil }), true},
		{"an extended key usage for servers", issue(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }), false},
		{"an extended key usage for anything", issue(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} }), false},
		{"a key usage for encryption", issue(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment }), false},
		{"an issuer of the right name with another key", []*x509.Certificate{issue(func(*x509.Certificate) {})[0], newIssuer(t, nil, "root").certificate}, false},
		{"expired", issue(func(c *x509.Certificate) { c.NotAfter = certNow().AddDate(0, 0, -1) }), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if good := openSSLAccepts(t, tt.chain); good != tt.good {
				t.Errorf("openssl: %v", good)
			}
			if err := signer.CheckCertificate(tt.chain, key.Public(), certNow()); (err == nil) != tt.good {
				t.Errorf("ours: %v", err)
			}
		})
	}
}

func TestCheckCertificateTellsEverythingAtOnce(t *testing.T) {
	t.Parallel()
	key := open(t, tpmtest.Open(t), keyPath(t))
	other := ecKey(t, elliptic.P384())
	bad := selfIssued(t, other, authority, func(c *x509.Certificate) {
		c.NotAfter = certNow().AddDate(0, 0, -1)
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}
	})
	root := newIssuer(t, nil, "root", func(c *x509.Certificate) { c.NotBefore = certNow().AddDate(0, 0, 1) })
	err := signer.CheckCertificate([]*x509.Certificate{bad, root.certificate}, key.Public(), certNow())
	want := "the certificate cannot be used with this TPM key:\n" +
		"  public key: certificate has ECDSA P-384 sha256:" + spkiHash(t, other.Public()) + ".., TPM key is RSA-2048 sha256:" + spkiHash(t, key.Public()) + "..\n" +
		"  key usage: certificate has keyCertSign, digitalSignature is needed: the key signs TLS handshakes\n" +
		"  extended key usage: certificate has codeSigning, clientAuth is needed\n" +
		"  basic constraints: certificate has CA:TRUE, CA:FALSE is needed: it is to be a client's, not an issuer's\n" +
		"  validity: certificate has 2026-01-10T12:00:00Z to 2026-02-28T12:00:00Z, now is 2026-03-01T12:00:00Z: expired; it must be renewed\n" +
		"  issuer: certificate has \"CN=app\", certificate 2 is \"CN=root\"; each must be followed by its issuer\n" +
		"  validity: certificate 2 has 2026-03-02T12:00:00Z to 2026-04-20T12:00:00Z, now is 2026-03-01T12:00:00Z: not yet valid; is this machine's clock right?"
	if err == nil {
		t.Fatal("accepted")
	}
	if diff := cmp.Diff(want, err.Error()); diff != "" {
		t.Errorf("text differs (-want +got):\n%s", diff)
	}
}

// spkiHash is how "openssl pkey -pubin -outform DER | sha256sum" begins.
func spkiHash(t *testing.T, public crypto.PublicKey) string {
	t.Helper()
	spki, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	file := writeFile(t, "public.der", spki)
	sum := sha256.Sum256(runOpenSSL(t, "pkey", "-pubin", "-inform", "DER", "-in", file, "-pubout", "-outform", "DER"))
	return hex.EncodeToString(sum[:8])
}

// A name in a foreign certificate must not write to the operator's terminal.
func TestForeignNamesAreQuotedAndClipped(t *testing.T) {
	t.Parallel()
	key := ecKey(t, elliptic.P256())
	evil := newIssuer(t, nil, "\x1b[2J"+strings.Repeat("x", 5000))
	err := signer.CheckCertificate([]*x509.Certificate{selfIssued(t, key, client), evil.certificate}, key.Public(), certNow())
	if err == nil || strings.Contains(err.Error(), "\x1b") || len(err.Error()) > 400 {
		t.Errorf("%q", err)
	}
}

func TestNoCertificateIsNoCertificateForTheKey(t *testing.T) {
	t.Parallel()
	if err := signer.CheckCertificate(nil, ecKey(t, elliptic.P256()).Public(), certNow()); err == nil {
		t.Error("an empty chain was accepted")
	}
}
