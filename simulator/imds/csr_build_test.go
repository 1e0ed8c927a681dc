package imds_test

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"testing"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

const tagIA5String = cbasn1.Tag(asn1.TagIA5String)

// csr describes a certificate request, so that a test can get any single part of it wrong.
type csr struct {
	version          int64
	tenant, client   string
	tenantTag        cbasn1.Tag
	clientTag        cbasn1.Tag
	clientFirst      bool
	extraRDN         bool
	spki             []byte // nil: of the key
	attribute        asn1.ObjectIdentifier
	attributeTag     cbasn1.Tag
	attributeValues  []string
	secondAttribute  bool
	hashNull         bool // SHA-256 identifiers with NULL parameters
	salt             int
	declaredSalt     int64
	trailer          bool
	pkcs1            bool // signed with sha256WithRSAEncryption
	corruptSignature bool
	trailing         []byte // after the request
}

// goodCSR is the request that the real issuer is known to take.
func goodCSR() csr {
	return csr{
		tenant: tenantID, client: systemClientID, tenantTag: tagIA5String, clientTag: cbasn1.UTF8String,
		attribute: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 90, 2, 10}, attributeTag: cbasn1.UTF8String,
		attributeValues: []string{`{"vmId":"` + vmID + `"}`}, salt: 32, declaredSalt: 32,
	}
}

// sign encodes the request and signs it.
func (c csr) sign(t testing.TB, key *rsa.PrivateKey) []byte {
	t.Helper()
	info := c.info(t, key)
	digest := sha256.Sum256(info)
	signature, err := rsa.SignPSS(rand.Reader, key, crypto.SHA256, digest[:], &rsa.PSSOptions{SaltLength: c.salt})
	if c.pkcs1 {
		signature, err = rsa.SignPKCS1v15(nil, key, crypto.SHA256, digest[:])
	}
	if err != nil {
		t.Fatal(err)
	}
	if c.corruptSignature {
		signature[100] ^= 1
	}
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(info)
		c.addAlgorithm(b)
		b.AddASN1BitString(signature)
	})
	return append(b.BytesOrPanic(), c.trailing...)
}

func (c csr) info(t testing.TB, key *rsa.PrivateKey) []byte {
	t.Helper()
	spki := c.spki
	if spki == nil {
		var err error
		if spki, err = x509.MarshalPKIXPublicKey(key.Public()); err != nil {
			t.Fatal(err)
		}
	}
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1Int64(c.version)
		b.AddASN1(cbasn1.SEQUENCE, c.addSubject)
		b.AddBytes(spki)
		b.AddASN1(cbasn1.Tag(0).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
			c.addAttribute(b)
			if c.secondAttribute {
				c.addAttribute(b)
			}
		})
	})
	return b.BytesOrPanic()
}

func (c csr) addSubject(b *cryptobyte.Builder) {
	dc := func() { addRDN(b, asn1.ObjectIdentifier{0, 9, 2342, 19200300, 100, 1, 25}, c.tenantTag, c.tenant) }
	cn := func() { addRDN(b, asn1.ObjectIdentifier{2, 5, 4, 3}, c.clientTag, c.client) }
	order := []func(){dc, cn}
	if c.clientFirst {
		order = []func(){cn, dc}
	}
	if c.extraRDN {
		order = append(order, cn)
	}
	for _, add := range order {
		add()
	}
}

func addRDN(b *cryptobyte.Builder, oid asn1.ObjectIdentifier, tag cbasn1.Tag, value string) {
	b.AddASN1(cbasn1.SET, func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(oid)
			b.AddASN1(tag, func(b *cryptobyte.Builder) { b.AddBytes([]byte(value)) })
		})
	})
}

func (c csr) addAttribute(b *cryptobyte.Builder) {
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(c.attribute)
		b.AddASN1(cbasn1.SET, func(b *cryptobyte.Builder) {
			for _, v := range c.attributeValues {
				b.AddASN1(c.attributeTag, func(b *cryptobyte.Builder) { b.AddBytes([]byte(v)) })
			}
		})
	})
}

func (c csr) addAlgorithm(b *cryptobyte.Builder) {
	if c.pkcs1 {
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11})
			b.AddASN1NULL()
		})
		return
	}
	hash := func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1})
			if c.hashNull {
				b.AddASN1NULL()
			}
		})
	}
	explicit := func(b *cryptobyte.Builder, n uint8, content cryptobyte.BuilderContinuation) {
		b.AddASN1(cbasn1.Tag(n).ContextSpecific().Constructed(), content)
	}
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 10})
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			explicit(b, 0, hash)
			explicit(b, 1, func(b *cryptobyte.Builder) {
				b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
					b.AddASN1ObjectIdentifier(asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 8})
					hash(b)
				})
			})
			explicit(b, 2, func(b *cryptobyte.Builder) { b.AddASN1Int64(c.declaredSalt) })
			if c.trailer {
				explicit(b, 3, func(b *cryptobyte.Builder) { b.AddASN1Int64(1) })
			}
		})
	})
}
