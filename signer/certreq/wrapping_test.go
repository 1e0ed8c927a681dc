package certreq_test

import (
	"crypto"
	"crypto/elliptic"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/binary"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/keyagent/keyagent/signer/certreq"
	"github.com/keyagent/keyagent/signer/internal/signertest"
)

// Certificates come out of portals, environments and other tools' files.
func TestWrappedCertificatesAreTaken(t *testing.T) {
	t.Parallel()
	a, b := someCertificate(t, "CN=a"), someCertificate(t, "CN=b")
	text := string(signertest.EncodePEM(a, b))
	utf16LE := []byte{0xff, 0xfe}
	for _, unit := range utf16.Encode([]rune(text)) {
		utf16LE = binary.LittleEndian.AppendUint16(utf16LE, unit)
	}
	for name, data := range map[string][]byte{
		"a byte order mark":      []byte("\ufeff" + text),
		"UTF-16":                 utf16LE,
		"indented":               []byte("    " + strings.ReplaceAll(text, "\n", "\n    ")),
		"one line":               []byte(strings.ReplaceAll(text, "\n", " ")),
		"escaped newlines":       []byte(strings.ReplaceAll(text, "\n", `\n`)),
		"OpenSSL's older label":  []byte(strings.ReplaceAll(text, " CERT", " X509 CERT")),
		"base64 without a label": []byte(base64.StdEncoding.EncodeToString(slices.Concat(a.Raw, b.Raw))),
		"no line feed between":   []byte(strings.Replace(text, "-----\n-----BEGIN", "----------BEGIN", 1)),
		"Bag Attributes":         []byte("Bag Attributes\n    friendlyName: app\n" + text),
	} {
		got, err := certreq.ParseCertificates(data)
		if err != nil || !slices.EqualFunc(got, []*x509.Certificate{a, b}, (*x509.Certificate).Equal) {
			t.Errorf("%s: %d certificates, %v", name, len(got), err)
		}
	}
}

func TestCertificatesAreArranged(t *testing.T) {
	t.Parallel()
	key := signertest.ECKey(t, elliptic.P256())
	root := signertest.NewIssuer(t, nil, "root")
	middle := signertest.NewIssuer(t, root, "middle")
	namesake := signertest.NewIssuer(t, root, "middle")
	stranger := signertest.NewIssuer(t, nil, "stranger").Certificate
	leaf := middle.Issue(t, key.Public(), signertest.Template("app", signertest.Client))
	chain := []*x509.Certificate{leaf, middle.Certificate, root.Certificate}
	self := selfIssued(t, key, signertest.Client)
	for _, tt := range []struct {
		name        string
		given, want []*x509.Certificate
		bad         bool
	}{
		{"in order", chain, chain, false},
		{"root first", []*x509.Certificate{root.Certificate, middle.Certificate, leaf}, chain, false},
		{"no order", []*x509.Certificate{middle.Certificate, root.Certificate, leaf}, chain, false},
		{"the leaf twice", []*x509.Certificate{leaf, leaf, middle.Certificate}, chain[:2], false},
		{"each twice", slices.Concat(chain, chain), chain, false},
		{"an issuer of the same name in front of the right one", []*x509.Certificate{leaf, namesake.Certificate, middle.Certificate},
			[]*x509.Certificate{leaf, middle.Certificate, namesake.Certificate}, true},
		{"a self-signed one", []*x509.Certificate{self}, []*x509.Certificate{self}, false},
		{"a stranger first", append([]*x509.Certificate{stranger}, chain...), append(slices.Clone(chain), stranger), true},
		{"a stranger behind an incomplete chain", []*x509.Certificate{stranger, leaf}, []*x509.Certificate{leaf, stranger}, true},
		{"no certificate over the key", []*x509.Certificate{root.Certificate, middle.Certificate, root.Certificate},
			[]*x509.Certificate{root.Certificate, middle.Certificate, root.Certificate}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			given := slices.Clone(tt.given)
			got := certreq.Arrange(given, key.Public())
			if !slices.EqualFunc(got, tt.want, (*x509.Certificate).Equal) {
				t.Errorf("%v", subjects(got))
			}
			if !slices.Equal(given, tt.given) {
				t.Error("what was given is another now")
			}
			if err := certreq.CheckCertificate(got, key.Public(), signertest.Now()); (err != nil) != tt.bad {
				t.Errorf("checked: %v", err)
			}
		})
	}
}

func subjects(chain []*x509.Certificate) []string {
	var names []string
	for _, c := range chain {
		names = append(names, c.Subject.CommonName)
	}
	return names
}

// renamed is a certificate with another encoding of its issuer's name than the issuer's certificate
// has.
func renamed(t *testing.T, by *signertest.Issuer, public crypto.PublicKey, tag int, name string) *x509.Certificate {
	t.Helper()
	raw, err := asn1.Marshal(pkix.RDNSequence{{{Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: asn1.RawValue{Tag: tag, Bytes: []byte(name)}}}})
	if err != nil {
		t.Fatal(err)
	}
	other := *by.Certificate
	other.RawSubject = raw
	return (&signertest.Issuer{Certificate: &other, Key: by.Key}).Issue(t, public, signertest.Template("app", signertest.Client))
}

// RFC 5280, 7.1: issuers change the string type or the case of their names between two
// certificates.
func TestAnIssuersNameMayBeEncodedOtherwise(t *testing.T) {
	t.Parallel()
	key := signertest.ECKey(t, elliptic.P256())
	middle := signertest.NewIssuer(t, nil, "Middle CA")
	for _, tt := range []struct {
		name string
		tag  int
		good bool
	}{
		{"Middle CA", asn1.TagUTF8String, true},
		{"middle ca", asn1.TagPrintableString, true},
		{"  Middle   CA", asn1.TagUTF8String, true},
		{"Middle CA", asn1.TagT61String, false},
		{"M\u0456ddle CA", asn1.TagUTF8String, false},
	} {
		leaf := renamed(t, middle, key.Public(), tt.tag, tt.name)
		chain := certreq.Arrange([]*x509.Certificate{middle.Certificate, leaf}, key.Public())
		err := certreq.CheckCertificate(chain, key.Public(), signertest.Now())
		if (err == nil) != tt.good {
			t.Errorf("%q of type %d: %v", tt.name, tt.tag, err)
		}
		if err == nil {
			continue
		}
		has, is, _ := strings.Cut(err.Error(), ", certificate 2 is ")
		_, has, _ = strings.Cut(has, "certificate has ")
		is, _, _ = strings.Cut(is, ";")
		if has == is || has == "" || is == "" {
			t.Errorf("%v tells a name from itself", err)
		}
	}
}

// crypto/x509 has no name for these and calls them 0.
func TestASignatureThatCannotBeVerifiedIsNamed(t *testing.T) {
	t.Parallel()
	for want, args := range map[string][]string{
		"RSASSA-PSS with SHA-256, mask SHA-256 and a salt of 222 bytes": {"-sha256", "-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:222"},
		"RSASSA-PSS with SHA-512, mask SHA-512 and a salt of 20 bytes":  {"-sha512", "-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:20"},
		"SHA224-RSA (1.2.840.113549.1.1.14)":                            {"-sha224"},
	} {
		key := rsaKey(t, 2048)
		pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		file := signertest.WriteFile(t, "key.pem", signertest.PEM("PRIVATE KEY", pkcs8))
		chain, err := certreq.ParseCertificates(runOpenSSL(t, append([]string{"req", "-x509", "-new", "-key", file, "-subj", "/CN=app"}, args...)...))
		if err != nil {
			t.Fatal(err)
		}
		err = certreq.CheckCertificate(chain, key.Public(), chain[0].NotBefore)
		if err == nil || !strings.Contains(err.Error(), "a signature "+want) || !strings.Contains(err.Error(), "issued again") {
			t.Errorf("%v: does not say %q", err, want)
		}
	}
}
