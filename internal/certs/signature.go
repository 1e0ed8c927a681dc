package certs

import (
	"crypto/x509"
	encoding_asn1 "encoding/asn1"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// SignatureText names the algorithm with which a certificate is signed, also where crypto/x509 does
// not know it and says 0: the dotted OID with a name for the usual ones, or the parameters of
// RSASSA-PSS (RFC 4055, 3.1).
func SignatureText(c *x509.Certificate) string {
	if c.SignatureAlgorithm != x509.UnknownSignatureAlgorithm {
		return c.SignatureAlgorithm.String()
	}
	in := cryptobyte.String(c.Raw)
	var certificate, algorithm, parameters cryptobyte.String
	var oid encoding_asn1.ObjectIdentifier
	ok := in.ReadASN1(&certificate, asn1.SEQUENCE) && certificate.SkipASN1(asn1.SEQUENCE) &&
		certificate.ReadASN1(&algorithm, asn1.SEQUENCE) && algorithm.ReadASN1ObjectIdentifier(&oid)
	if !ok {
		return "of an unknown algorithm"
	}
	if oid.String() == "1.2.840.113549.1.1.10" {
		if !algorithm.ReadASN1(&parameters, asn1.SEQUENCE) {
			return "RSASSA-PSS without parameters"
		}
		return pssText(parameters)
	}
	names := map[string]string{
		"1.3.101.113": "Ed448", "1.2.840.113549.1.1.14": "SHA224-RSA", "1.2.840.10045.4.3.1": "ECDSA-SHA224", "1.2.156.10197.1.501": "SM2-SM3",
		"2.16.840.1.101.3.4.3.17": "ML-DSA-44", "2.16.840.1.101.3.4.3.18": "ML-DSA-65", "2.16.840.1.101.3.4.3.19": "ML-DSA-87",
	}
	if name, ok := names[oid.String()]; ok {
		return fmt.Sprintf("%s (%v)", name, oid)
	}
	return fmt.Sprintf("%v", oid)
}

// pssText describes the parameters; the defaults of missing ones are SHA-1 and 20 bytes.
func pssText(parameters cryptobyte.String) string {
	var hash, mask, salt, generator cryptobyte.String
	var oid encoding_asn1.ObjectIdentifier
	bytes := 20
	ok := parameters.ReadOptionalASN1(&hash, nil, asn1.Tag(0).ContextSpecific().Constructed()) &&
		parameters.ReadOptionalASN1(&mask, nil, asn1.Tag(1).ContextSpecific().Constructed()) &&
		parameters.ReadOptionalASN1(&salt, nil, asn1.Tag(2).ContextSpecific().Constructed()) &&
		(mask.Empty() || mask.ReadASN1(&generator, asn1.SEQUENCE) && generator.ReadASN1ObjectIdentifier(&oid)) &&
		(salt.Empty() || salt.ReadASN1Integer(&bytes))
	if !ok {
		return "RSASSA-PSS with damaged parameters"
	}
	return fmt.Sprintf("RSASSA-PSS with %s, mask %s and a salt of %d bytes", hashName(hash), hashName(generator), bytes)
}

// hashName reads an AlgorithmIdentifier.
func hashName(in cryptobyte.String) string {
	var algorithm cryptobyte.String
	var oid encoding_asn1.ObjectIdentifier
	if in.Empty() {
		return "SHA-1"
	}
	if !in.ReadASN1(&algorithm, asn1.SEQUENCE) || !algorithm.ReadASN1ObjectIdentifier(&oid) {
		return "unknown"
	}
	names := map[string]string{
		"1.3.14.3.2.26": "SHA-1", "2.16.840.1.101.3.4.2.1": "SHA-256", "2.16.840.1.101.3.4.2.2": "SHA-384", "2.16.840.1.101.3.4.2.3": "SHA-512",
		"2.16.840.1.101.3.4.2.4": "SHA-224",
	}
	if name, ok := names[oid.String()]; ok {
		return name
	}
	return oid.String()
}
