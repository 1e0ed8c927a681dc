package certs

import (
	"crypto/x509"
	"errors"
	"fmt"
	"strings"

	"github.com/keyagent/keyagent/internal/pemfile"
)

// Limits of a file of authorities: a distribution's list has 250 KB and some 150 certificates.
const (
	maxAuthorityBytes = 1 << 20
	maxAuthorities    = 1000
)

// Rules say what a file of certificates may be.
type Rules struct {
	MaxBytes        int
	MaxCertificates int
	Bare            bool // also DER, and base64 without the lines of PEM
}

// Read returns the certificates of a file in its order, at least one. A file with anything but
// certificates is refused. The error is a [*pemfile.Error].
func Read(data []byte, rules Rules) ([]*x509.Certificate, error) {
	all, err := read(data, rules)
	return plain(all), err
}

// Authorities returns the certificates of a file of trusted authorities, PEM of at most 1 MiB and
// 1,000 certificates, in its order. Each is that of an authority, or names itself as issuer. The
// error is a [*pemfile.Error].
func Authorities(data []byte) ([]*x509.Certificate, error) {
	all, err := read(data, Rules{MaxBytes: maxAuthorityBytes, MaxCertificates: maxAuthorities})
	if err != nil {
		return nil, err
	}
	for _, c := range all {
		if reason := notAuthority(c.Certificate); reason != "" {
			return nil, &pemfile.Error{Line: c.line, Problem: fmt.Sprintf("certificate %d, %s, %s; take it out", c.number, quote(c.RawSubject), reason)}
		}
	}
	return plain(all), nil
}

// placed is a certificate with its place in the file.
type placed struct {
	*x509.Certificate
	number, line int
}

func plain(all []placed) []*x509.Certificate {
	var list []*x509.Certificate
	for _, c := range all {
		list = append(list, c.Certificate)
	}
	return list
}

func read(data []byte, rules Rules) ([]placed, error) {
	blocks, err := pemfile.Read(data, rules.MaxBytes)
	if err != nil {
		return nil, err
	}
	var all []placed
	for _, block := range blocks {
		if err := checkBlock(block, rules.Bare); err != nil {
			return nil, err
		}
		found, err := parse(block, len(all))
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	if len(all) > rules.MaxCertificates {
		return nil, &pemfile.Error{Problem: fmt.Sprintf("it has %d certificates, at most %d are read", len(all), rules.MaxCertificates)}
	}
	return all, nil
}

// parse reads the certificate of a PEM block, or those of a file of DER. before is how many the
// file has in front of it.
func parse(block pemfile.Block, before int) ([]placed, error) {
	rest, line := block.Bytes, block.Line
	var all []placed
	for len(rest) > 0 {
		der := rest
		if block.Form != pemfile.PEM {
			der = element(rest)
		}
		number := before + len(all) + 1
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, &pemfile.Error{Line: line, Problem: fmt.Sprintf("certificate %d%s", number, unreadable(der, err))}
		}
		all, rest = append(all, placed{c, number, line}), rest[len(der):]
	}
	return all, nil
}

// checkBlock refuses a block that is no certificate; the error names what it is.
func checkBlock(block pemfile.Block, bare bool) error {
	kind := kindOf(block.Bytes)
	refuse := func(problem, command string) error {
		return &pemfile.Error{Line: block.Line, Problem: problem, Command: command}
	}
	switch label := block.Label; {
	case block.SoftwareKey() || kind == kindPrivateKey:
		return refuse("there is a private key in it: a certificate over a key that was in a file is of no use here; "+
			"take the certificates alone, and treat the file as a secret", "")
	case strings.HasSuffix(label, "PRIVATE KEY"):
		return refuse(fmt.Sprintf("a block %q is a private key of a TPM; take the certificates alone", label),
			"sed -n '/BEGIN CERT/,/END CERT/p' FILE > unwrapped.pem")
	case strings.HasSuffix(label, "CERTIFICATE REQUEST") || kind == kindRequest:
		return refuse("it is a certificate request, which is for the issuer; take the certificate that the issuer returns", "")
	case kind == kindPKCS7 || strings.HasPrefix(label, "PKCS7") || strings.HasPrefix(label, "PKCS #7"):
		return refuse("it is PKCS #7 (.p7b)", convert(block, "openssl pkcs7 -print_certs"))
	case kind == kindPKCS12:
		return refuse("it is PKCS #12 (.pfx)", convert(block, "openssl pkcs12 -nokeys"))
	case label == "TRUSTED CERTIFICATE":
		return refuse("a TRUSTED CERTIFICATE has OpenSSL's trust settings, which are not followed here", "openssl storeutl -certs -out unwrapped.pem FILE")
	case block.Form != pemfile.PEM && kind != kindCertificate:
		return refuse("there is neither PEM nor a certificate in DER in it, or it is cut off", "")
	case block.Form == pemfile.DER && !bare:
		return refuse("it is DER, not PEM", convert(block, "openssl x509"))
	case block.Form == pemfile.Base64 && !bare:
		return refuse("it is base64 without the lines BEGIN CERTIFICATE and END CERTIFICATE", convert(block, "openssl x509"))
	case block.Form == pemfile.PEM && label != "CERTIFICATE" && label != "X509 CERTIFICATE": // the second is OpenSSL's old name for the first
		return refuse(fmt.Sprintf("a block %q is no certificate; take it out", label), "")
	}
	return nil
}

// convert completes an openssl command that reads one file and writes another.
func convert(block pemfile.Block, openssl string) string {
	const to = " -out unwrapped.pem"
	pkcs12 := strings.Contains(openssl, "pkcs12") // which is DER always
	switch {
	case block.Form == pemfile.Base64 && pkcs12:
		return "base64 -di FILE | " + openssl + to
	case block.Form == pemfile.Base64:
		return "base64 -di FILE | " + openssl + " -inform DER" + to
	case block.Form == pemfile.DER && !pkcs12:
		return openssl + " -inform DER -in FILE" + to
	case block.Form == pemfile.PEM && !(block.Plain && opensslKnows(block.Label)):
		// The command keeps the file's base64 and drops anything around it: UTF-16's zero bytes,
		// labels, escaped line ends, spaces.
		return `tr -d '\000' <FILE | sed 's/-----[^-]*-----//g; s/\\\\*[rn]//g' | base64 -di | ` + openssl + " -inform DER" + to
	}
	return openssl + " -in FILE" + to
}

// opensslKnows reports whether "openssl pkcs7" reads a block with this label.
func opensslKnows(label string) bool {
	return label == "PKCS7" || label == "PKCS #7 SIGNED DATA" || label == "CERTIFICATE"
}

// notAuthority says why a certificate must not be trusted as an issuer; empty if it may be. One
// that names itself as issuer may always be trusted: as a root, of version 1 too, or as a server's
// own, which is trusted alone.
func notAuthority(c *x509.Certificate) string {
	switch {
	case Equal(c.RawIssuer, c.RawSubject):
		return ""
	case !c.BasicConstraintsValid || !c.IsCA:
		return "is not an authority's: it may not issue others"
	case c.KeyUsage != 0 && c.KeyUsage&x509.KeyUsageCertSign == 0:
		return "is the certificate of an authority, and its key usage does not let it issue others"
	}
	return ""
}

// Parse reads one certificate in DER from a foreign source: one with a key that [CheckKey] refuses
// is an error. The error names the certificate's subject.
func Parse(der []byte) (*x509.Certificate, error) {
	c, err := x509.ParseCertificate(der)
	if err == nil {
		err = CheckKey(c.PublicKey)
	}
	if err != nil {
		return nil, errors.New("certificate" + unreadable(der, err))
	}
	return c, nil
}
