package attest_test

import (
	"crypto/x509"
	"encoding/asn1"
	"testing"

	"github.com/keyagent/keyagent/attest"
	at "github.com/keyagent/keyagent/attest/internal/attesttest"
)

func akForgeries() map[string][]forgery {
	issued := func(change func(*x509.Certificate)) func(*testing.T, *trial) {
		return func(t *testing.T, x *trial) {
			x.ChangeEvidence = func(e *attest.Evidence) { e.AKCertificate = x.CA.Issue(t, &x.AK.PublicKey, change) }
		}
	}
	return map[string][]forgery{
		attest.CheckAKPublic: {
			{name: "a key that is not in the claims", forge: func(_ *testing.T, x *trial) {
				x.ChangeEvidence = func(e *attest.Evidence) { e.AKPublic = attest.AKPublicArea(x.w.keys.Other.N.Bytes()) }
			}},
			{name: "the key with other attributes", forge: func(_ *testing.T, x *trial) {
				x.ChangeEvidence = func(e *attest.Evidence) { e.AKPublic[5] &^= 1 }
			}},
			{name: "bytes after the public area", forge: func(_ *testing.T, x *trial) {
				x.ChangeEvidence = func(e *attest.Evidence) { e.AKPublic = append(e.AKPublic, 0) }
			}},
		},
		attest.CheckAKCertificate: {
			{name: "for another key", forge: func(t *testing.T, x *trial) {
				x.ChangeEvidence = func(e *attest.Evidence) { e.AKCertificate = x.CA.Issue(t, &x.w.keys.Other.PublicKey, nil) }
			}},
			{name: "by another CA", forge: func(t *testing.T, x *trial) {
				x.ChangeEvidence = func(e *attest.Evidence) { e.AKCertificate = at.NewCA(t).Issue(t, &x.AK.PublicKey, nil) }
			}},
			{name: "of a Trusted Launch VM", forge: func(t *testing.T, x *trial) {
				policy, err := x509.OIDFromInts([]uint64{1, 3, 6, 1, 4, 1, 311, 108})
				if err != nil {
					t.Fatal(err)
				}
				issued(func(c *x509.Certificate) { c.Policies = []x509.OID{policy} })(t, x)
			}},
			{name: "not for attestation keys", forge: issued(func(c *x509.Certificate) {
				c.UnknownExtKeyUsage = []asn1.ObjectIdentifier{{1, 3, 6, 1, 4, 1, 311, 10, 3, 12}}
			})},
			{name: "of a CA", forge: issued(func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true })},
			{name: "not for signing", forge: issued(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment })},
			{name: "expired", forge: issued(func(c *x509.Certificate) { c.NotAfter = at.Epoch().AddDate(0, 0, -1) })},
			{name: "bytes after the certificate", forge: func(_ *testing.T, x *trial) {
				x.ChangeEvidence = func(e *attest.Evidence) { e.AKCertificate = append(e.AKCertificate, 0, 0, 1) }
			}},
			{name: "no certificate", forge: func(_ *testing.T, x *trial) {
				x.ChangeEvidence = func(e *attest.Evidence) { e.AKCertificate = make([]byte, 4096) }
			}},
			{name: "an intermediate that is none", forge: func(_ *testing.T, x *trial) {
				x.ChangeEvidence = func(e *attest.Evidence) { e.AKIntermediates = [][]byte{{1, 2, 3}} }
			}},
		},
	}
}
