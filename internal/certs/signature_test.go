package certs_test

import (
	"crypto/x509"
	"testing"

	"github.com/keyagent/keyagent/internal/certs"
)

// openssl signs with algorithms that crypto/x509 has no name for.
func TestEveryAlgorithmOfASignatureHasAText(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	openssl(t, dir, "genrsa", "-out", "rsa.pem", "2048")
	openssl(t, dir, "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", "ec.pem")
	openssl(t, dir, "genpkey", "-algorithm", "ED448", "-out", "ed448.pem")
	for _, tt := range []struct {
		want, key string
		args      []string
	}{
		{"SHA256-RSA", "rsa.pem", nil},
		{"SHA384-RSAPSS", "rsa.pem", []string{"-sha384", "-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:digest"}},
		{"RSASSA-PSS with SHA-256, mask SHA-256 and a salt of 222 bytes", "rsa.pem", []string{"-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:222"}},
		{"RSASSA-PSS with SHA-256, mask SHA-512 and a salt of 32 bytes", "rsa.pem",
			[]string{"-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:32", "-sigopt", "rsa_mgf1_md:sha512"}},
		{"RSASSA-PSS with SHA-1, mask SHA-1 and a salt of 20 bytes", "rsa.pem", []string{"-sha1", "-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:20"}},
		{"SHA224-RSA (1.2.840.113549.1.1.14)", "rsa.pem", []string{"-sha224"}},
		{"ECDSA-SHA224 (1.2.840.10045.4.3.1)", "ec.pem", []string{"-sha224"}},
		{"2.16.840.1.101.3.4.3.10", "ec.pem", []string{"-sha3-256"}},
		{"Ed448 (1.3.101.113)", "ed448.pem", nil},
	} {
		t.Run(tt.want, func(t *testing.T) {
			args := append([]string{"req", "-x509", "-new", "-key", tt.key, "-subj", "/CN=x", "-outform", "DER"}, tt.args...)
			c, err := x509.ParseCertificate(openssl(t, dir, args...))
			if err != nil {
				t.Fatal(err)
			}
			if got := certs.SignatureText(c); got != tt.want {
				t.Errorf("got %q", got)
			}
		})
	}
}
