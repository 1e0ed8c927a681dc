package certs_test

import (
	"bytes"
	"crypto/x509/pkix"
	"encoding/asn1"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/keyagent/keyagent/internal/certs"
)

// value is an attribute's: type, tag, bytes.
type value struct {
	Type  asn1.ObjectIdentifier
	Value asn1.RawValue
}

var (
	commonName   = asn1.ObjectIdentifier{2, 5, 4, 3}
	organization = asn1.ObjectIdentifier{2, 5, 4, 10}
)

func attribute(oid asn1.ObjectIdentifier, tag int, text string) value {
	return value{oid, asn1.RawValue{Tag: tag, Bytes: []byte(text)}}
}

func utf8(text string) value { return attribute(commonName, asn1.TagUTF8String, text) }

func printable(text string) value { return attribute(commonName, asn1.TagPrintableString, text) }

func bmp(text string) value {
	var b []byte
	for _, unit := range utf16.Encode([]rune(text)) {
		b = append(b, byte(unit>>8), byte(unit))
	}
	return attribute(commonName, asn1.TagBMPString, string(b))
}

type relativeNameSET []value

// name encodes relative names of one attribute each.
func name(t testing.TB, values ...value) []byte {
	t.Helper()
	var sets []relativeNameSET
	for _, v := range values {
		sets = append(sets, relativeNameSET{v})
	}
	return sequence(t, sets...)
}

func sequence(t testing.TB, sets ...relativeNameSET) []byte {
	t.Helper()
	der, err := asn1.Marshal(sets)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestNamesAreComparedAsRFC5280Says(t *testing.T) {
	t.Parallel()
	o := attribute(organization, asn1.TagUTF8String, "Contoso")
	long := strings.Repeat("a", 600)
	for _, tt := range []struct {
		what string
		a, b []byte
		same bool
	}{
		{"the same", name(t, o, utf8("Issuing")), name(t, o, utf8("Issuing")), true},
		{"another string type", name(t, o, utf8("Issuing CA")), name(t, o, printable("Issuing CA")), true},
		{"an older string type", name(t, utf8("Bücher")), name(t, bmp("Bücher")), true},
		{"another case", name(t, utf8("ISSUING CA")), name(t, utf8("issuing ca")), true},
		{"another case beyond ASCII", name(t, utf8("STRASSE ÜBER")), name(t, utf8("Straße über")), true},
		{"white space around and more of it inside", name(t, utf8(" Issuing   CA ")), name(t, printable("Issuing CA")), true},
		{"another kind of white space", name(t, utf8("Issuing\u00a0CA")), name(t, utf8("Issuing CA")), true},
		{"another normal form", name(t, utf8("Caf\u00e9")), name(t, utf8("Cafe\u0301")), true},
		{"letters of another width", name(t, utf8("\uff23\uff21")), name(t, utf8("CA")), true},
		{"a soft hyphen", name(t, utf8("Iss\u00aduing")), name(t, utf8("Issuing")), true},
		{"attributes of one relative name in another order", sequence(t, relativeNameSET{o, utf8("a")}), sequence(t, relativeNameSET{utf8("A"), o}), true},
		{"a domain in another case", name(t, attribute(commonName, asn1.TagIA5String, "CONTOSO")), name(t, attribute(commonName, asn1.TagIA5String, "contoso")), true},

		{"another value", name(t, utf8("Issuing 1")), name(t, utf8("Issuing 2")), false},
		{"no space and one", name(t, utf8("IssuingCA")), name(t, utf8("Issuing CA")), false},
		{"another type with the same value", name(t, utf8("a")), name(t, attribute(organization, asn1.TagUTF8String, "a")), false},
		{"another order", name(t, o, utf8("a")), name(t, utf8("a"), o), false},
		{"one more", name(t, o, utf8("a")), name(t, o), false},
		{"one less", name(t, o), name(t, o, utf8("a")), false},
		{"two in one relative name, and in two", sequence(t, relativeNameSET{o, utf8("a")}), name(t, o, utf8("a")), false},
		{"one twice in place of two", sequence(t, relativeNameSET{o, o}), sequence(t, relativeNameSET{o, utf8("a")}), false},
		{"letters of another alphabet", name(t, utf8("CONTOSO")), name(t, utf8("C\u041eNTOSO")), false},
		{"a difference beyond what is printed", name(t, utf8(long+"1")), name(t, utf8(long+"2")), false},
		{"a difference behind what is printed", name(t, utf8(long), utf8("1")), name(t, utf8(long), utf8("2")), false},
		{"a string type that is not read", name(t, attribute(commonName, asn1.TagT61String, "Contoso")), name(t, utf8("Contoso")), false},
		{"bytes that are no string", name(t, attribute(commonName, asn1.TagOctetString, "a")), name(t, utf8("a")), false},
		{"one that cannot be read", name(t, utf8("a")), []byte("garbage"), false},
		{"two that cannot be read", []byte("garbage 1"), []byte("garbage 2"), false},
		{"two that cannot be read, the same", []byte("garbage"), []byte("garbage"), true},
	} {
		t.Run(tt.what, func(t *testing.T) {
			if got := certs.Equal(tt.a, tt.b); got != tt.same || certs.Equal(tt.b, tt.a) != got {
				t.Errorf("equal is %v", got)
			}
			if tt.same {
				return
			}
			a, b := certs.TellApart(tt.a, tt.b)
			if a == b || strings.ContainsAny(a+b, "\n\x1b") {
				t.Errorf("%s and %s", a, b)
			}
		})
	}
}

// Names that print alike are told apart by their string types and bytes.
func TestNamesThatPrintAlikeAreToldApart(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		a, b         []byte
		wantA, wantB string
	}{
		{name(t, attribute(commonName, asn1.TagT61String, "Contoso")), name(t, utf8("Contoso")),
			`"CN=Contoso" (2.5.4.3 is TeletexString 436f6e746f736f)`, `"CN=Contoso" (2.5.4.3 is UTF8String 436f6e746f736f)`},
		{name(t, utf8("CONTOSO")), name(t, utf8("C\u041eNTOSO")),
			`"CN=CONTOSO" (2.5.4.3 is UTF8String 434f4e544f534f)`, `"CN=C` + "\u041e" + `NTOSO" (2.5.4.3 is UTF8String 43d09e4e544f534f)`},
		{name(t, utf8(strings.Repeat("a", 500)+"1")), name(t, utf8(strings.Repeat("a", 500)+"2")), "UTF8String ..6161616131)", "UTF8String ..6161616132)"},
	} {
		a, b := certs.TellApart(tt.a, tt.b)
		if !strings.HasSuffix(a, tt.wantA) || !strings.HasSuffix(b, tt.wantB) {
			t.Errorf("%s and %s", a, b)
		}
	}
	a, b := certs.TellApart(name(t, utf8("one")), name(t, utf8("two")))
	if a != `"CN=one"` || b != `"CN=two"` {
		t.Errorf("%s and %s need no more", a, b)
	}
}

// FuzzEqual: a name equals itself and another both ways or none, and two that are not equal are
// printed as two texts of one line.
func FuzzEqual(f *testing.F) {
	f.Add(name(f, utf8("a")), name(f, printable("A ")))
	f.Add(name(f, bmp("ü")), name(f, attribute(organization, asn1.TagT61String, "\xfc")))
	f.Add([]byte("x"), []byte{})
	f.Add(name(f, utf8(strings.Repeat("a", 500)+"1")), name(f, utf8(strings.Repeat("a", 500)+"2")))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		if !certs.Equal(a, a) || certs.Equal(a, b) != certs.Equal(b, a) {
			t.Fatal("not an equivalence")
		}
		if certs.Equal(a, b) {
			return
		}
		x, y := certs.TellApart(a, b)
		if x == y || strings.ContainsAny(x+y, "\n\x00") || len(x)+len(y) > 20<<10 {
			t.Fatalf("%s and %s", x, y)
		}
		var n pkix.RDNSequence
		if rest, err := asn1.Unmarshal(a, &n); err == nil && len(rest) == 0 && bytes.Equal(a, b) {
			t.Fatal("the same bytes are not equal")
		}
	})
}
