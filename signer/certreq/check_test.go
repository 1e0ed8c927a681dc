package certreq_test

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
	"github.com/keyagent/keyagent/signer/certreq"
	"github.com/keyagent/keyagent/signer/internal/signertest"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

// selfIssued is a certificate over the key in the name of itself.
func selfIssued(t testing.TB, key *ecdsa.PrivateKey, edit ...func(*x509.Certificate)) *x509.Certificate {
	t.Helper()
	template := signertest.Template("app", edit...)
	return (&signertest.Issuer{Certificate: template, Key: key}).Issue(t, key.Public(), template)
}

// openSSLAccepts asks openssl about a chain that ends with its trust anchor, for a TLS client.
func openSSLAccepts(t *testing.T, chain []*x509.Certificate) bool {
	t.Helper()
	anchor := signertest.WriteFile(t, "anchor.pem", signertest.EncodePEM(chain[len(chain)-1]))
	between := signertest.WriteFile(t, "chain.pem", signertest.EncodePEM(chain...))
	leaf := signertest.WriteFile(t, "leaf.pem", signertest.EncodePEM(chain[0]))
	out, err := exec.CommandContext(t.Context(), tooltest.Tool(t, "openssl"), "verify", "-purpose", "sslclient", "-attime", fmt.Sprint(signertest.Now().Unix()),
		"-partial_chain", "-CAfile", anchor, "-untrusted", between, leaf).CombinedOutput()
	t.Logf("%s", out)
	return err == nil
}

func TestCheckCertificateAccepts(t *testing.T) {
	t.Parallel()
	key := signertest.ECKey(t, elliptic.P256())
	root := signertest.NewIssuer(t, nil, "root")
	middle := signertest.NewIssuer(t, root, "middle")
	leaf := middle.Issue(t, key.Public(), signertest.Template("app", signertest.Client))
	unsigned := *root.Certificate
	unsigned.Signature = make([]byte, 64)
	atTheEdge := func(c *x509.Certificate) { c.NotAfter = signertest.Now().Truncate(time.Second) }
	for _, tt := range []struct {
		name  string
		chain []*x509.Certificate
		now   time.Time
	}{
		{"the leaf alone", []*x509.Certificate{leaf}, signertest.Now()},
		{"a chain without its root", []*x509.Certificate{leaf, middle.Certificate}, signertest.Now()},
		{"a chain with its root", []*x509.Certificate{leaf, middle.Certificate, root.Certificate}, signertest.Now()},
		{"a root whose own signature is of no account", []*x509.Certificate{leaf, middle.Certificate, &unsigned}, signertest.Now()},
		{"a self-signed one", []*x509.Certificate{selfIssued(t, key, signertest.Client)}, signertest.Now()},
		{"no key usage and no extended key usage", []*x509.Certificate{selfIssued(t, key)}, signertest.Now()},
		{"more usages than needed", []*x509.Certificate{selfIssued(t, key, signertest.Client, func(c *x509.Certificate) {
			c.KeyUsage |= x509.KeyUsageKeyEncipherment
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
		})}, signertest.Now()},
		{"the first second", []*x509.Certificate{leaf}, leaf.NotBefore},
		{"the last second", []*x509.Certificate{selfIssued(t, key, signertest.Client, atTheEdge)}, signertest.Now().Truncate(time.Second)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := certreq.CheckCertificate(tt.chain, key.Public(), tt.now); err != nil {
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
	root := signertest.NewIssuer(t, nil, "root")
	middle := signertest.NewIssuer(t, root, "middle")
	now := signertest.Now()
	leaf := middle.Issue(t, key.Public(), signertest.Template("app", signertest.Client))
	below := func(i *signertest.Issuer, behind ...*x509.Certificate) []*x509.Certificate {
		return append([]*x509.Certificate{i.Issue(t, key.Public(), signertest.Template("app", signertest.Client))}, behind...)
	}
	alone := func(edit ...func(*x509.Certificate)) []*x509.Certificate {
		return []*x509.Certificate{selfIssued(t, key, append([]func(*x509.Certificate){signertest.Client}, edit...)...)}
	}
	usage := func(u ...x509.ExtKeyUsage) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.ExtKeyUsage = u }
	}
	edKey, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	noAuthority := signertest.NewIssuer(t, root, "middle", func(c *x509.Certificate) { c.IsCA = false })
	mayNotSign := signertest.NewIssuer(t, root, "middle", func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign })
	namesake := signertest.NewIssuer(t, root, "middle")
	huge := *middle.Certificate
	huge.PublicKey = &rsa.PublicKey{N: new(big.Int).Lsh(big.NewInt(1), 9000), E: 65537}
	late := signertest.NewIssuer(t, root, "middle", func(c *x509.Certificate) { c.NotAfter = now.AddDate(0, 0, -1) })
	early := signertest.NewIssuer(t, root, "middle", func(c *x509.Certificate) { c.NotBefore = now.AddDate(0, 0, 1) })
	self := alone()[0]
	other := signertest.ECKey(t, elliptic.P256())
	forged := (&signertest.Issuer{Certificate: signertest.Template("app"), Key: other}).Issue(t, key.Public(), signertest.Template("app", signertest.Client))
	return []refusal{
		{"another key", []*x509.Certificate{selfIssued(t, other, signertest.Client)}, now, 0, certreq.FieldPublicKey, "TPM key is ECDSA P-256 sha256:"},
		{"a key of a kind that is not the TPM's", []*x509.Certificate{root.Issue(t, edKey, signertest.Template("app", signertest.Client))}, now, 0, certreq.FieldPublicKey, "ed25519"},
		{"expired", alone(), self.NotAfter.Add(time.Second), 0, certreq.FieldValidity, "expired"},
		{"not yet valid", alone(), self.NotBefore.Add(-time.Nanosecond), 0, certreq.FieldValidity, "not yet valid"},
		{"an issuer that expired", below(late, late.Certificate), now, 1, certreq.FieldValidity, "certificate 2 has"},
		{"an issuer that is not yet valid", below(early, early.Certificate), now, 1, certreq.FieldValidity, "not yet valid"},
		{"a key usage for encryption", alone(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment | x509.KeyUsageDataEncipherment }), now, 0,
			certreq.FieldKeyUsage, "keyEncipherment, dataEncipherment, digitalSignature is needed"},
		{"a key usage of nothing", alone(func(c *x509.Certificate) {
			c.KeyUsage = 0
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 15}, Critical: true, Value: []byte{3, 1, 0}}}
		}), now, 0, certreq.FieldKeyUsage, "certificate has none"},
		{"an extended key usage for servers", alone(usage(x509.ExtKeyUsageServerAuth)), now, 0, certreq.FieldExtKeyUsage, "serverAuth, clientAuth is needed"},
		{"an extended key usage for anything", alone(usage(x509.ExtKeyUsageAny)), now, 0, certreq.FieldExtKeyUsage, "anyExtendedKeyUsage"},
		{"an extended key usage that nobody knows", alone(func(c *x509.Certificate) {
			c.ExtKeyUsage, c.UnknownExtKeyUsage = nil, []asn1.ObjectIdentifier{{1, 2, 3}}
		}), now, 0, certreq.FieldExtKeyUsage, "1.2.3"},
		{"an authority", alone(func(c *x509.Certificate) { c.IsCA = true }), now, 0, certreq.FieldBasicConstraints, "CA:FALSE is needed"},
		{"a stranger behind the leaf", []*x509.Certificate{leaf, root.Certificate}, now, 0, certreq.FieldIssuer, `"CN=middle", certificate 2 is "CN=root"`},
		{"a stranger at the end", []*x509.Certificate{leaf, middle.Certificate, signertest.NewIssuer(t, nil, "stranger").Certificate}, now, 1, certreq.FieldIssuer, `certificate 3 is "CN=stranger"`},
		{"something behind a self-signed one", []*x509.Certificate{self, root.Certificate}, now, 0, certreq.FieldIssuer, `certificate 2 is "CN=root"`},
		{"the root twice", []*x509.Certificate{leaf, middle.Certificate, root.Certificate, root.Certificate}, now, 2, certreq.FieldIssuer, "the same once more"},
		{"an issuer of the right name with another key", []*x509.Certificate{leaf, namesake.Certificate}, now, 0, certreq.FieldSignature, "certificate 2 did not sign it"},
		{"an issuer that is no authority", below(noAuthority, noAuthority.Certificate), now, 0, certreq.FieldSignature, "may not"},
		{"an issuer that may not sign certificates", below(mayNotSign, mayNotSign.Certificate), now, 0, certreq.FieldSignature, "may not"},
		{"an issuer with a key that takes long", []*x509.Certificate{leaf, &huge}, now, 0, certreq.FieldSignature, "8192 bits"},
		{"a self-signed one by another key", []*x509.Certificate{forged}, now, 0, certreq.FieldSignature, "not by its own key"},
	}
}

// Each case is wrong in one thing only, and together they know every field.
func TestCheckCertificateRefuses(t *testing.T) {
	t.Parallel()
	key := signertest.ECKey(t, elliptic.P256())
	fields := []string{certreq.FieldPublicKey, certreq.FieldValidity, certreq.FieldKeyUsage, certreq.FieldExtKeyUsage, certreq.FieldBasicConstraints,
		certreq.FieldIssuer, certreq.FieldSignature}
	for _, tt := range refusals(t, key) {
		fields = slices.DeleteFunc(fields, func(f string) bool { return f == tt.field })
		t.Run(tt.name, func(t *testing.T) {
			err := certreq.CheckCertificate(tt.chain, key.Public(), tt.now)
			var wrong *certreq.CertificateError
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
	key := signertest.ECKey(t, elliptic.P256())
	root := signertest.NewIssuer(t, nil, "root")
	issue := func(edit func(*x509.Certificate)) []*x509.Certificate {
		return []*x509.Certificate{root.Issue(t, key.Public(), signertest.Template("app", signertest.Client, edit)), root.Certificate}
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
		{"an issuer of the right name with another key", []*x509.Certificate{issue(func(*x509.Certificate) {})[0], signertest.NewIssuer(t, nil, "root").Certificate}, false},
		{"expired", issue(func(c *x509.Certificate) { c.NotAfter = signertest.Now().AddDate(0, 0, -1) }), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if good := openSSLAccepts(t, tt.chain); good != tt.good {
				t.Errorf("openssl: %v", good)
			}
			if err := certreq.CheckCertificate(tt.chain, key.Public(), signertest.Now()); (err == nil) != tt.good {
				t.Errorf("ours: %v", err)
			}
		})
	}
}

func TestCheckCertificateTellsEverythingAtOnce(t *testing.T) {
	t.Parallel()
	key := signertest.Open(t, tpmtest.Open(t), signertest.KeyPath(t))
	other := signertest.ECKey(t, elliptic.P384())
	bad := selfIssued(t, other, signertest.Authority, func(c *x509.Certificate) {
		c.NotAfter = signertest.Now().AddDate(0, 0, -1)
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}
	})
	root := signertest.NewIssuer(t, nil, "root", func(c *x509.Certificate) { c.NotBefore = signertest.Now().AddDate(0, 0, 1) })
	err := certreq.CheckCertificate([]*x509.Certificate{bad, root.Certificate}, key.Public(), signertest.Now())
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
	file := signertest.WriteFile(t, "public.der", spki)
	sum := sha256.Sum256(runOpenSSL(t, "pkey", "-pubin", "-inform", "DER", "-in", file, "-pubout", "-outform", "DER"))
	return hex.EncodeToString(sum[:8])
}

// A name in a foreign certificate must not write to the operator's terminal.
func TestForeignNamesAreQuotedAndClipped(t *testing.T) {
	t.Parallel()
	key := signertest.ECKey(t, elliptic.P256())
	evil := signertest.NewIssuer(t, nil, "\x1b[2J"+strings.Repeat("x", 5000))
	err := certreq.CheckCertificate([]*x509.Certificate{selfIssued(t, key, signertest.Client), evil.Certificate}, key.Public(), signertest.Now())
	if err == nil || strings.Contains(err.Error(), "\x1b") || len(err.Error()) > 400 {
		t.Errorf("%q", err)
	}
}

func TestNoCertificateIsNoCertificateForTheKey(t *testing.T) {
	t.Parallel()
	if err := certreq.CheckCertificate(nil, signertest.ECKey(t, elliptic.P256()).Public(), signertest.Now()); err == nil {
		t.Error("an empty chain was accepted")
	}
}
