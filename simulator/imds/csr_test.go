package imds_test

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"encoding/binary"
	"testing"

	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/keyagent/keyagent/simulator/imds"
)

// badCSR is a certificate request with one thing wrong, and what the refusal must name.
type badCSR struct {
	change func(*csr)
	why    string
}

func badCSRs(t *testing.T) map[string]badCSR {
	t.Helper()
	small, err := x509.MarshalPKIXPublicKey(rsaKey(t, 3072).Public())
	if err != nil {
		t.Fatal(err)
	}
	another, err := x509.MarshalPKIXPublicKey(rsaKey(t, 2048).Public())
	if err != nil {
		t.Fatal(err)
	}
	return map[string]badCSR{
		"version 1":                            {func(c *csr) { c.version = 1 }, "version"},
		"DC as PrintableString":                {func(c *csr) { c.tenantTag = cbasn1.PrintableString }, "string type"},
		"DC as UTF8String":                     {func(c *csr) { c.tenantTag = cbasn1.UTF8String }, "string type"},
		"CN as IA5String":                      {func(c *csr) { c.clientTag = tagIA5String }, "string type"},
		"CN before DC":                         {func(c *csr) { c.clientFirst = true }, "order"},
		"a third name":                         {func(c *csr) { c.extraRDN = true }, "more than DC and CN"},
		"DC of another tenant":                 {func(c *csr) { c.tenant = vmID }, "tenant id"},
		"CN of another identity":               {func(c *csr) { c.client = userClientID }, "client id"},
		"attribute challengePassword":          {func(c *csr) { c.attribute = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 7} }, "attribute"},
		"attribute as PrintableString":         {func(c *csr) { c.attributeTag = cbasn1.PrintableString }, "UTF8String"},
		"attribute with two values":            {func(c *csr) { c.attributeValues = append(c.attributeValues, "{}") }, "UTF8String"},
		"attribute without value":              {func(c *csr) { c.attributeValues = nil }, "UTF8String"},
		"attribute twice":                      {func(c *csr) { c.secondAttribute = true }, "more attributes"},
		"attribute of another VM":              {func(c *csr) { c.attributeValues = []string{`{"vmId":"` + tenantID + `"}`} }, "cuId"},
		"attribute with white space":           {func(c *csr) { c.attributeValues = []string{`{"vmId": "` + vmID + `"}`} }, "cuId"},
		"attribute with an empty vmssId":       {func(c *csr) { c.attributeValues = []string{`{"vmId":"` + vmID + `","vmssId":""}`} }, "cuId"},
		"attribute with a null vmssId":         {func(c *csr) { c.attributeValues = []string{`{"vmId":"` + vmID + `","vmssId":null}`} }, "cuId"},
		"key of 3072 bits":                     {func(c *csr) { c.spki = small }, "2048 bits"},
		"key that did not sign":                {func(c *csr) { c.spki = another }, "signature does not verify"},
		"corrupt signature":                    {func(c *csr) { c.corruptSignature = true }, "signature does not verify"},
		"signature with another salt length":   {func(c *csr) { c.salt = 222 }, "signature does not verify"},
		"another salt length declared":         {func(c *csr) { c.declaredSalt = 222 }, "signature algorithm"},
		"hash identifiers with NULL":           {func(c *csr) { c.hashNull = true }, "signature algorithm"},
		"trailer field spelled out":            {func(c *csr) { c.trailer = true }, "signature algorithm"},
		"signature of PKCS #1 v1.5":            {func(c *csr) { c.pkcs1 = true }, "signature algorithm"},
		"bytes after the request":              {func(c *csr) { c.trailing = []byte{0} }, "PKCS#10"},
		"more bytes than a request ever needs": {func(c *csr) { c.trailing = make([]byte, 8<<10) }, "at most"},
	}
}

func TestPSSKeyTypeIsRefused(t *testing.T) {
	key := rsaKey(t, 2048)
	plain, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	r := goodCSR()
	// rsaEncryption (…1.1.1) becomes id-RSASSA-PSS (…1.1.10): same length, another promise.
	r.spki = bytes.Replace(plain, []byte{0xf7, 0x0d, 1, 1, 1}, []byte{0xf7, 0x0d, 1, 1, 10}, 1)
	if _, err := imds.ParseCertificateRequest(r.sign(t, key)); err == nil {
		t.Error("a key of type id-RSASSA-PSS was accepted")
	}
}

func TestPublicKeyWithMoreInsideIsRefused(t *testing.T) {
	key := rsaKey(t, 2048)
	plain, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	r := goodCSR()
	r.spki = append(bytes.Clone(plain), 5, 0)                                     // a NULL at the end …
	binary.BigEndian.PutUint16(r.spki[2:], binary.BigEndian.Uint16(r.spki[2:])+2) // … of the SEQUENCE (30 82 length)
	if _, err := imds.ParseCertificateRequest(r.sign(t, key)); err == nil {
		t.Error("a public key with an element that does not belong there was accepted")
	}
}

func FuzzParseCertificateRequest(f *testing.F) {
	key := rsaKey(f, 2048)
	f.Add(goodCSR().sign(f, key))
	f.Add([]byte{0x30, 0x80})
	f.Fuzz(func(t *testing.T, der []byte) {
		id, err := imds.ParseCertificateRequest(der)
		if err == nil && id == "" {
			t.Error("accepted a request that says nothing")
		}
	})
}
