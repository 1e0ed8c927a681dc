package tee_test

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-sev-guest/kds"
	sevtest "github.com/google/go-sev-guest/testing"

	"github.com/keyagent/keyagent/attest/tee"
)

// amdID is an extension of AMD's.
func amdID(n ...int) asn1.ObjectIdentifier {
	return append(asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1}, n...)
}

func der(t *testing.T, v any, params string) []byte {
	t.Helper()
	b, err := asn1.MarshalWithParams(v, params)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// provider makes the extensions of the ordinary VLEK of a cloud provider.
func provider(name string) []pkix.Extension {
	return sevtest.CustomExtensions(kds.DecomposeTCBVersion(forgedTCB), nil, name, "Milan")
}

func without(list []pkix.Extension, id asn1.ObjectIdentifier) []pkix.Extension {
	return slices.DeleteFunc(list, func(e pkix.Extension) bool { return e.Id.Equal(id) })
}

func with(list []pkix.Extension, id asn1.ObjectIdentifier, value []byte) []pkix.Extension {
	return append(without(list, id), pkix.Extension{Id: id, Value: value})
}

// TestAnEndorsementIsWhole: AMD's certificates have each extension once and of its type, and
// nothing that is not known. The refusal names the extension.
func TestAnEndorsementIsWhole(t *testing.T) {
	t.Parallel()
	vcek := func() []pkix.Extension { return hardwareID(chip(7)) }
	number := func(n int) []byte { return der(t, n, "") }
	text := func(s string) []byte { return der(t, s, "ia5") }
	type row struct {
		name       string
		extensions []pkix.Extension
		want       string // "": it is read
	}
	rows := []row{
		{"a VCEK", vcek(), ""},
		{"a VLEK", provider("csp"), ""},
		{"another's extension", with(vcek(), asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3705, 1}, number(0)), ""},
		{"a tagged hardware id", with(vcek(), amdID(4), der(t, chip(7), "")), ""},

		{"no extension", nil, amdID(1).String() + " is missing"},
		{"an unknown one", with(vcek(), amdID(6), number(0)), "unknown extension " + amdID(6).String()},
		{"an unknown component", with(vcek(), amdID(3, 9), number(0)), "unknown extension " + amdID(3, 9).String()},
		{"a component below a component", with(vcek(), amdID(3, 1, 1), number(0)), "unknown extension " + amdID(3, 1, 1).String()},

		{"a structure version that is a text", with(vcek(), amdID(1), text("0")), amdID(1).String() + " is not an integer"},
		{"a structure version that is negative", with(vcek(), amdID(1), number(-1)), amdID(1).String() + " is not an integer"},
		{"a structure version with bytes after it", with(vcek(), amdID(1), append(number(0), 0)), amdID(1).String() + " is not an integer"},
		{"a structure version to come", with(vcek(), amdID(1), number(2)), "structure version 2 is not supported"},
		{"Turin's structure version on Milan", with(vcek(), amdID(1), number(1)), "does not go with product"},
		{"Turin with Milan's structure version", with(vcek(), amdID(2), text("Turin-A0")), "does not go with product"},
		{"a product that is a number", with(vcek(), amdID(2), number(1)), amdID(2).String() + " is not an IA5String"},
		{"a product in UTF-8", with(vcek(), amdID(2), der(t, "Milan-B0", "utf8")), amdID(2).String() + " is not an IA5String"},
		{"a product with bytes after it", with(vcek(), amdID(2), append(text("Milan-B0"), 0)), amdID(2).String() + " is not an IA5String"},
		{"a component that is a text", with(vcek(), amdID(3, 1), text("4")), amdID(3, 1).String() + " is not an integer"},
		{"a component above a byte", with(vcek(), amdID(3, 8), number(256)), amdID(3, 8).String() + " is not an integer"},
		{"a reserved component in use", with(vcek(), amdID(3, 4), number(1)), "reserved components"},

		{"neither chip nor provider", without(vcek(), amdID(4)), "neither or both"},
		{"chip and provider", with(vcek(), amdID(5), text("csp")), "neither or both"},
		{"a short hardware id", with(vcek(), amdID(4), chip(7)[1:]), "hardware id is not 64 bytes"},
		{"Turin's hardware id on Milan", with(vcek(), amdID(4), chip(7)[:8]), "hardware id is not 64 bytes"},
		{"a tagged hardware id with bytes after it", with(vcek(), amdID(4), append(der(t, chip(7), ""), 0)), "hardware id is not 64 bytes"},
		{"a provider that is a number", with(provider("csp"), amdID(5), number(1)), amdID(5).String() + " is not an IA5String"},
		{"a provider without a name", with(provider("csp"), amdID(5), text("")), "the provider's name is empty"},
	}
	for _, id := range []asn1.ObjectIdentifier{
		amdID(1), amdID(2), amdID(3, 1), amdID(3, 2), amdID(3, 3), amdID(3, 4),
		amdID(3, 5), amdID(3, 6), amdID(3, 7), amdID(3, 8),
	} {
		twice := append(vcek(), vcek()[slices.IndexFunc(vcek(), func(e pkix.Extension) bool { return e.Id.Equal(id) })])
		rows = append(rows,
			row{"no " + id.String(), without(vcek(), id), id.String() + " is missing"},
			row{"two of " + id.String(), twice, id.String() + " occurs twice"})
	}
	for _, tt := range rows {
		e, err := tee.ParseEndorsement(&x509.Certificate{Extensions: tt.extensions})
		switch {
		case tt.want == "" && err != nil, tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		case err == nil && (e.TCB != forgedTCB || e.CSP == "" && !bytes.Equal(e.HWID, chip(7))):
			t.Errorf("%s: %+v", tt.name, e)
		}
	}
}
