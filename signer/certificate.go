package signer

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"
)

const (
	// maxCertificateFileBytes bounds what is parsed; a chain of three has some 6 KB in PEM.
	maxCertificateFileBytes = 64 << 10

	// maxChain is the number of certificates in a file. Chains of more than four are hardly seen.
	maxChain = 10

	// maxExpiryWarning is when the warning comes at the latest; shorter-lived certificates are warned of in their last third.
	maxExpiryWarning = 30 * 24 * time.Hour

	certificateBlock = "CERTIFICATE" // RFC 7468, 5.1
	pemBegin         = "-----BEGIN "
)

var (
	errPrivateKey = errors.New("there is a private key in it; a key that was in a file is not the TPM's, and a certificate over " +
		"it is of no use here: take the certificates alone, and treat the file as a secret")
	errRequest = errors.New("it is a certificate request, which is for the issuer; import the certificate that the issuer returns")
)

// ParseCertificates reads the certificates of a file in the order in which they stand there: PEM (text around the blocks is
// skipped) or DER, one or more after each other. The limits are 64 KiB and 10 certificates. A file that contains anything
// else, or PEM that is damaged, is refused as a whole. Nothing is verified; see [CheckCertificate].
func ParseCertificates(data []byte) ([]*x509.Certificate, error) {
	if len(data) > maxCertificateFileBytes {
		return nil, fmt.Errorf("certificate file: more than %d KiB; a chain has far less", maxCertificateFileBytes>>10)
	}
	parse := parseDER
	if bytes.Contains(data, []byte(pemBegin)) {
		parse = parsePEM
	}
	chain, err := parse(data)
	if err != nil {
		return nil, fmt.Errorf("certificate file: %w", err)
	}
	if n := len(chain); n == 0 || n > maxChain {
		return nil, fmt.Errorf("certificate file: %d certificates; there must be 1 to %d, the one over the TPM key first", n, maxChain)
	}
	return chain, nil
}

func parsePEM(data []byte) ([]*x509.Certificate, error) {
	var chain []*x509.Certificate
	begun := bytes.Count(data, []byte(pemBegin))
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if err := checkBlock(block.Type); err != nil {
			return nil, err
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d: %w", len(chain)+1, err)
		}
		chain = append(chain, c)
	}
	// pem.Decode passes over blocks that it cannot read.
	if len(chain) != begun {
		return nil, fmt.Errorf("%d PEM blocks begin in it, but only %d can be read; it is damaged or cut off", begun, len(chain))
	}
	return chain, nil
}

func checkBlock(kind string) error {
	switch {
	case kind == certificateBlock:
		return nil
	case strings.HasSuffix(kind, "PRIVATE KEY"):
		return errPrivateKey
	case strings.HasSuffix(kind, "CERTIFICATE REQUEST"):
		return errRequest
	case strings.HasPrefix(kind, "PKCS7"):
		return errors.New("it is PKCS #7; convert it with: openssl pkcs7 -print_certs")
	}
	return fmt.Errorf("a PEM block %q, only %q is expected", clip(kind), certificateBlock)
}

func parseDER(data []byte) ([]*x509.Certificate, error) {
	chain, err := x509.ParseCertificates(data)
	if err == nil {
		return chain, nil
	}
	if _, err := x509.ParseCertificateRequest(data); err == nil {
		return nil, errRequest
	}
	if privateKeyDER(data) {
		return nil, errPrivateKey
	}
	return nil, fmt.Errorf("neither PEM nor certificates in DER: %w; convert .p7b with: openssl pkcs7 -inform DER -print_certs, "+
		".pfx with: openssl pkcs12 -nokeys", err)
}

func privateKeyDER(data []byte) bool {
	_, err8 := x509.ParsePKCS8PrivateKey(data)
	_, err1 := x509.ParsePKCS1PrivateKey(data)
	_, errEC := x509.ParseECPrivateKey(data)
	return err8 == nil || err1 == nil || errEC == nil
}

// ExpiresSoon says whether it is time to warn: the last third of a certificate's life or its last 30 days, whichever is
// shorter, and everything after. It looks at notAfter only.
func ExpiresSoon(c *x509.Certificate, now time.Time) bool {
	ahead := max(0, min(c.NotAfter.Sub(c.NotBefore)/3, maxExpiryWarning))
	return !now.Before(c.NotAfter.Add(-ahead))
}
