package certs_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf16"

	"github.com/keyagent/keyagent/internal/certs"
	"github.com/keyagent/keyagent/internal/pemfile"
	"github.com/keyagent/keyagent/internal/tooltest"
)

// party has a certificate and its key.
type party struct {
	*x509.Certificate
	key *ecdsa.PrivateKey
}

// issue makes a certificate below another, or one signed by itself below nil.
func issue(t testing.TB, by *party, name string, edit func(*x509.Certificate)) *party {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(0x4d), Subject: pkix.Name{CommonName: name, Organization: []string{"Contoso"}},
		NotBefore: time.Unix(1_700_000_000, 0), NotAfter: time.Unix(1_900_000_000, 0), BasicConstraintsValid: true,
	}
	edit(template)
	if by == nil {
		by = &party{template, key}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, by.Certificate, key.Public(), by.key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &party{c, key}
}

func authority(c *x509.Certificate) { c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign }
func leaf(c *x509.Certificate)      { c.KeyUsage = x509.KeyUsageDigitalSignature }

func inPEM(label string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: label, Bytes: der}))
}

func (p *party) pem() string { return inPEM("CERTIFICATE", p.Raw) }

func (p *party) pkcs8(t testing.TB) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(p.key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// negative makes the serial number 0x4d that of -77.
func negative(t testing.TB, p *party) []byte {
	t.Helper()
	serial := []byte{2, 1, 0x4d}
	if bytes.Count(p.Raw[:32], serial) != 1 {
		t.Fatal("no serial number at the beginning")
	}
	return bytes.Replace(p.Raw, serial, []byte{2, 1, 0xb3}, 1)
}

func openssl(t testing.TB, dir string, args ...string) []byte {
	t.Helper()
	run := exec.CommandContext(t.Context(), tooltest.Tool(t, "openssl"), args...)
	run.Dir = dir
	var complaint strings.Builder
	run.Stderr = &complaint
	out, err := run.Output()
	if err != nil {
		t.Fatalf("openssl %s: %v\n%s", strings.Join(args, " "), err, complaint.String())
	}
	return out
}

func write(t testing.TB, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestAuthoritiesAreTaken(t *testing.T) {
	t.Parallel()
	root := issue(t, nil, "Root", authority)
	issuing := issue(t, root, "Issuing", authority)
	server := issue(t, nil, "server", leaf)
	own := issue(t, nil, "server", func(c *x509.Certificate) { c.IsCA, c.KeyUsage = true, x509.KeyUsageDigitalSignature })
	for name, text := range map[string]string{
		"a root and what is below it":            root.pem() + issuing.pem(),
		"indented, with a mark, of Windows":      "\ufeff  " + strings.ReplaceAll(root.pem()+issuing.pem(), "\n", "\r\n  "),
		"OpenSSL's old label":                    inPEM("X509 CERTIFICATE", root.Raw) + issuing.pem(),
		"the same twice, of files put together":  root.pem() + root.pem(),
		"a server's own, which is trusted alone": root.pem() + server.pem(),
		"one that says it is an authority":       root.pem() + own.pem(),
		"an authority of no stated key usage":    root.pem() + issue(t, root, "Other", func(c *x509.Certificate) { c.IsCA = true }).pem(),
	} {
		if got, err := certs.Authorities([]byte(text)); err != nil || len(got) != 2 || !got[0].Equal(root.Certificate) {
			t.Errorf("%s: %d certificates, %v", name, len(got), err)
		}
	}
}

// What distributions ship is taken, all of it.
func TestTheListOfADistributionIsTaken(t *testing.T) {
	t.Parallel()
	list, err := os.ReadFile(tooltest.File(t, "/etc/ssl/certs/ca-certificates.crt"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := certs.Authorities(list)
	if err != nil || len(got) != bytes.Count(list, []byte("BEGIN CERTIFICATE")) {
		t.Errorf("%d certificates, %v", len(got), err)
	}
}

func TestAFileOfAuthoritiesIsRefusedAsAWhole(t *testing.T) {
	t.Parallel()
	root := issue(t, nil, "Root", authority)
	good := root.pem()
	lines := strings.Count(good, "\n")
	second := lines + 1
	client := issue(t, root, "app", leaf)
	request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "app"}}, client.key)
	if err != nil {
		t.Fatal(err)
	}
	noSigning := issue(t, root, "Sealed", func(c *x509.Certificate) { c.IsCA, c.KeyUsage = true, x509.KeyUsageCRLSign })
	for _, tt := range []struct {
		name, text string
		line       int
		want       []string
	}{
		{"the second is cut off", good + client.pem()[:300], second, []string{"cut off"}},
		{"the second is commented out", good + "# " + client.pem(), second, []string{"commented out"}},
		{"the second is garbage", good + inPEM("CERTIFICATE", []byte("garbage")), second, []string{"certificate 2 cannot be read"}},
		{"the second has bytes behind it", good + inPEM("CERTIFICATE", append(bytes.Clone(root.Raw), 0)), second, []string{"certificate 2", "CN=Root,O=Contoso", "trailing data"}},
		{"the second has a negative serial number", good + inPEM("CERTIFICATE", negative(t, root)), second, []string{"certificate 2", "CN=Root,O=Contoso", "-77", "negative"}},
		{"the second is of an unknown version", good + inPEM("CERTIFICATE", bytes.Replace(root.Raw, []byte{0xa0, 3, 2, 1, 2}, []byte{0xa0, 3, 2, 1, 7}, 1)), second,
			[]string{"certificate 2", "CN=Root,O=Contoso", "version"}},
		{"a leaf", good + client.pem(), second, []string{"certificate 2", "CN=app,O=Contoso", "may not issue"}},
		{"an authority that may not sign certificates", good + noSigning.pem(), second, []string{"certificate 2", "CN=Sealed", "key usage"}},
		{"a private key", good + inPEM("PRIVATE KEY", client.pkcs8(t)), second, []string{"private key", "secret"}},
		{"a private key that is damaged", good + "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\n!\n-----END RSA PRIVATE KEY-----\n", second, []string{"private key"}},
		{"a private key under another label", good + inPEM("CERTIFICATE", client.pkcs8(t)), second, []string{"private key"}},
		{"a private key in DER", string(client.pkcs8(t)), 0, []string{"private key"}},
		{"a private key in base64", base64.StdEncoding.EncodeToString(client.pkcs8(t)), 0, []string{"private key"}},
		{"a key of a TPM", good + inPEM("TSS2 PRIVATE KEY", []byte{0x30, 0}), second, []string{"TSS2 PRIVATE KEY", "sed -n"}},
		{"a request", good + inPEM("CERTIFICATE REQUEST", request), second, []string{"certificate request"}},
		{"trust settings", good + inPEM("TRUSTED CERTIFICATE", root.Raw), second, []string{"TRUSTED CERTIFICATE", "trust settings", "openssl storeutl"}},
		{"a revocation list", good + inPEM("X509 CRL", root.Raw), second, []string{`"X509 CRL"`, "take it out"}},
		{"a public key", good + inPEM("PUBLIC KEY", root.RawSubjectPublicKeyInfo), second, []string{`"PUBLIC KEY"`}},
		{"PKCS #7", good + inPEM("PKCS7", []byte("x")), second, []string{"PKCS #7", "openssl pkcs7"}},
		{"DER", string(root.Raw), 0, []string{"DER", "openssl x509 -inform DER -in FILE"}},
		{"base64 alone", base64.StdEncoding.EncodeToString(root.Raw), 0, []string{"BEGIN CERTIFICATE", "base64 -di FILE | openssl x509 -inform DER"}},
		{"nothing", "", 0, []string{"empty"}},
		{"too much", strings.Repeat("\n", 1<<20+1), 0, []string{"more than 1024 KiB"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := certs.Authorities([]byte(tt.text))
			if err == nil {
				t.Fatalf("%d authorities", len(got))
			}
			e, ok := errors.AsType[*pemfile.Error](err)
			if !ok || e.Line != tt.line {
				t.Errorf("%v: want line %d", err, tt.line)
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%v: does not say %q", err, want)
				}
			}
		})
	}
}

func TestOneCertificateThatCannotBeReadIsNamed(t *testing.T) {
	t.Parallel()
	root := issue(t, nil, "Root", authority)
	for want, der := range map[string][]byte{
		`certificate, "CN=Root,O=Contoso", cannot be read: its serial number, -77, is negative`: negative(t, root),
		`certificate, "CN=Root,O=Contoso", cannot be read: x509: trailing data`:                 append(bytes.Clone(root.Raw), 0),
		"certificate cannot be read: x509: malformed certificate":                               []byte("garbage"),
	} {
		if _, err := certs.Parse(der); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%v; want %s", err, want)
		}
	}
	if c, err := certs.Parse(root.Raw); err != nil || !c.Equal(root.Certificate) {
		t.Error(err)
	}
}

func TestHowManyCertificatesAreRead(t *testing.T) {
	t.Parallel()
	root := issue(t, nil, "Root", authority)
	rules := certs.Rules{MaxBytes: 1 << 20, MaxCertificates: 2, Bare: true}
	for name, text := range map[string]string{"PEM": strings.Repeat(root.pem(), 3), "DER": strings.Repeat(string(root.Raw), 3)} {
		if _, err := certs.Read([]byte(text), rules); err == nil || !strings.Contains(err.Error(), "3 certificates, at most 2") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A private key is known by its shape in every format, under every label.
func TestPrivateKeysAreKnownWhateverTheirLabel(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	openssl(t, dir, "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", "rsa.pem")
	openssl(t, dir, "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", "ec.pem")
	openssl(t, dir, "genpkey", "-algorithm", "ED25519", "-out", "ed.pem")
	for name, args := range map[string][]string{
		"PKCS #8":             {"pkcs8", "-topk8", "-nocrypt", "-in", "rsa.pem"},
		"PKCS #8 of ECDSA":    {"pkcs8", "-topk8", "-nocrypt", "-in", "ec.pem"},
		"PKCS #8 of Ed25519":  {"pkcs8", "-topk8", "-nocrypt", "-in", "ed.pem"},
		"PKCS #8, encrypted":  {"pkcs8", "-topk8", "-passout", "pass:x", "-in", "rsa.pem"},
		"PKCS #1":             {"rsa", "-traditional", "-in", "rsa.pem"},
		"SEC 1":               {"ec", "-in", "ec.pem"},
		"SEC 1 without curve": {"ec", "-no_public", "-in", "ec.pem"},
	} {
		der := openssl(t, dir, append(args, "-outform", "DER")...)
		for form, text := range map[string]string{
			"DER": string(der), "base64": base64.StdEncoding.EncodeToString(der), "CERTIFICATE": inPEM("CERTIFICATE", der), "DATA": inPEM("DATA", der),
		} {
			_, err := certs.Read([]byte(text), certs.Rules{MaxBytes: 1 << 20, MaxCertificates: 10, Bare: true})
			if err == nil || !strings.Contains(err.Error(), "private key") {
				t.Errorf("%s as %s: %v", name, form, err)
			}
		}
	}
}

// What errors advise makes files that are read.
func TestTheAdvisedCommandsUnwrapCertificates(t *testing.T) {
	t.Parallel()
	root := issue(t, nil, "Root", authority)
	issuing := issue(t, root, "Issuing", authority)
	dir := t.TempDir()
	write(t, dir, "two.pem", root.pem()+issuing.pem())
	write(t, dir, "root.pem", root.pem())
	write(t, dir, "key.pem", inPEM("PRIVATE KEY", root.pkcs8(t)))
	p7 := string(openssl(t, dir, "crl2pkcs7", "-nocrl", "-certfile", "two.pem"))
	p7DER := openssl(t, dir, "crl2pkcs7", "-nocrl", "-certfile", "two.pem", "-outform", "DER")
	pfx := openssl(t, dir, "pkcs12", "-export", "-in", "two.pem", "-inkey", "key.pem", "-passout", "pass:")
	trusted := string(openssl(t, dir, "x509", "-in", "root.pem", "-trustout", "-addtrust", "clientAuth"))
	inBase64 := base64.StdEncoding.EncodeToString
	for name, text := range map[string]string{
		"PKCS #7": p7,
		"PKCS #7 with the label of a certificate": strings.ReplaceAll(p7, "PKCS7", "CERTIFICATE"),
		"PKCS #7 of Windows":                      strings.ReplaceAll(p7, "\n", "\r\n"),
		"PKCS #7 in DER":                          string(p7DER),
		"PKCS #7 in base64 without label":         inBase64(p7DER),
		"PKCS #7 in UTF-16":                       utf16Of(p7),
		"PKCS #7 on one line":                     strings.ReplaceAll(p7, "\n", ""),
		"PKCS #7 on one line with spaces":         strings.ReplaceAll(p7, "\n", " "),
		"PKCS #7 out of JSON":                     strings.ReplaceAll(p7, "\n", `\n`),
		"PKCS #7 out of JSON in JSON":             strings.ReplaceAll(p7, "\n", `\\r\\n`),
		"PKCS #7 indented":                        "    " + strings.ReplaceAll(p7, "\n", "\n    "),
		"PKCS #7 with the label of CMS":           strings.ReplaceAll(p7, "PKCS7", "CMS"),
		"PKCS #12":                                string(pfx),
		"PKCS #12 in base64, as Key Vault has it": inBase64(pfx),
		"DER":                  string(root.Raw),
		"base64 without label": inBase64(root.Raw),
		"base64 without label, in lines of Windows": inBase64(root.Raw)[:64] + "\r\n" + inBase64(root.Raw)[64:] + "\r\n",
		"trust settings":               trusted,
		"trust settings of one of two": issuing.pem() + trusted,
		"a key of a TPM beside it":     inPEM("TSS2 PRIVATE KEY", bytes.Repeat([]byte{0x30}, 200)) + root.pem(),
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, "a file", text)
			_, err := certs.Authorities([]byte(text))
			if err == nil {
				t.Fatal("it was read as it is")
			}
			_, command, _ := strings.Cut(pemfile.Named("a file", err).Error(), "unwrap it: ")
			if strings.Contains(command, "pkcs12") {
				command = strings.Replace(command, "-nokeys", "-nokeys -passin pass:", 1) // openssl would ask for it
			}
			run := exec.CommandContext(t.Context(), tooltest.Tool(t, "sh"), "-c", command)
			run.Dir = dir
			if out, err := run.CombinedOutput(); err != nil {
				t.Fatalf("%s: %v\n%s", command, err, out)
			}
			unwrapped, err := os.ReadFile(filepath.Join(dir, "unwrapped.pem"))
			if err != nil {
				t.Fatal(err)
			}
			got, err := certs.Authorities(unwrapped)
			if err != nil || !slices.ContainsFunc(got, root.Equal) {
				t.Errorf("%s: %d certificates, %v", command, len(got), err)
			}
		})
	}
}

// utf16Of is a text as Windows PowerShell writes it.
func utf16Of(text string) string {
	out := []byte{0xff, 0xfe}
	for _, c := range utf16.Encode([]rune(text)) {
		out = binary.LittleEndian.AppendUint16(out, c)
	}
	return string(out)
}

// FuzzAuthorities: whatever is read is there as often as "BEGIN", and may issue others or made
// itself.
func FuzzAuthorities(f *testing.F) {
	root := issue(f, nil, "Root", authority)
	server := issue(f, nil, "server", leaf)
	for _, text := range []string{
		root.pem(), root.pem() + server.pem(), root.pem() + issue(f, root, "app", leaf).pem(), inPEM("CERTIFICATE", negative(f, root)), string(root.Raw),
		inPEM("TRUSTED CERTIFICATE", root.Raw), root.pem()[:200], inPEM("PRIVATE KEY", root.pkcs8(f)), "",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := certs.Authorities(data)
		if err != nil {
			if _, ok := errors.AsType[*pemfile.Error](err); !ok || strings.Contains(err.Error(), "\n") || len(err.Error()) > 2<<10 {
				t.Fatalf("%v", err)
			}
			return
		}
		for _, c := range got {
			if !c.IsCA && !certs.Equal(c.RawIssuer, c.RawSubject) {
				t.Fatalf("%s is trusted", c.Subject)
			}
		}
	})
}
