package formats_test

import (
	"crypto/x509"
	"encoding/asn1"
	"testing"
)

// tcgStatement is what a reader takes from one statement.
type tcgStatement struct {
	Type  string
	Parts [][]byte
}

// tcgReader reads an attribute with types of its own, by encoding/asn1, and skips what it does not
// know, the last statement with its long OID included.
func tcgReader(t *testing.T, attribute []byte) ([]tcgStatement, []*x509.Certificate) {
	t.Helper()
	var outer struct {
		Type   asn1.ObjectIdentifier
		Values []struct {
			Attestations []struct {
				Type, Statement asn1.RawValue
			}
			Certificates []asn1.RawValue `asn1:"optional"`
		} `asn1:"set"`
	}
	if rest, err := asn1.Unmarshal(attribute, &outer); err != nil || len(rest) > 0 {
		t.Fatalf("%v, %d bytes left", err, len(rest))
	}
	if outer.Type.String() != "1.2.840.113549.1.9.16.2.59" || len(outer.Values) != 1 {
		t.Fatalf("attribute %v with %d values", outer.Type, len(outer.Values))
	}
	var found []tcgStatement
	for _, s := range outer.Values[0].Attestations {
		var kind asn1.ObjectIdentifier
		if _, err := asn1.Unmarshal(s.Type.FullBytes, &kind); err != nil {
			continue
		}
		var parts [][]byte
		if _, err := asn1.Unmarshal(s.Statement.FullBytes, &parts); err != nil {
			t.Fatal(err)
		}
		found = append(found, tcgStatement{kind.String(), parts})
	}
	var chain []*x509.Certificate
	for _, c := range outer.Values[0].Certificates {
		cert, err := x509.ParseCertificate(c.FullBytes)
		if err != nil {
			t.Fatal(err)
		}
		chain = append(chain, cert)
	}
	return found, chain
}
