package certs

import (
	"bytes"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf16"

	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"
)

// maxNameText is how much of a name is repeated, in characters.
const maxNameText = 120

// rawName is a Name (RFC 5280, 4.1.2.4) whose values keep their string types.
type rawName []relativeNameSET

type relativeNameSET []attribute

type attribute struct {
	Type  asn1.ObjectIdentifier
	Value asn1.RawValue
}

// Equal says whether two encoded names are the same one by RFC 5280, 7.1: with the same attributes
// in the same order, whatever string type, case, white space or normalisation they are written in.
// Values of other types than PrintableString, UTF8String, IA5String and BMPString are the same only
// with the same encoding. Names that cannot be read are the same if their bytes are.
//
// crypto/x509 itself compares bytes when it builds a chain.
func Equal(a, b []byte) bool {
	if bytes.Equal(a, b) {
		return true
	}
	x, okX := parseName(a)
	y, okY := parseName(b)
	return okX && okY && slices.EqualFunc(x, y, sameRelativeName)
}

// parseName reads a name strictly. One that is larger than any in use is not read.
func parseName(der []byte) (rawName, bool) {
	const most = 16 << 10
	var n rawName
	if len(der) > most {
		return nil, false
	}
	rest, err := asn1.Unmarshal(der, &n)
	return n, err == nil && len(rest) == 0
}

// sameRelativeName compares sets: each attribute of one has its own equal in the other.
func sameRelativeName(x, y relativeNameSET) bool {
	if len(x) != len(y) {
		return false
	}
	left := slices.Clone(y)
	for _, a := range x {
		i := slices.IndexFunc(left, a.same)
		if i < 0 {
			return false
		}
		left = slices.Delete(left, i, i+1)
	}
	return true
}

func (a attribute) same(b attribute) bool {
	if !a.Type.Equal(b.Type) {
		return false
	}
	if bytes.Equal(a.Value.FullBytes, b.Value.FullBytes) {
		return true
	}
	x, okX := text(a.Value)
	y, okY := text(b.Value)
	return okX && okY && prepare(x) == prepare(y)
}

// text returns a value that is a string of a known type.
func text(v asn1.RawValue) (string, bool) {
	if v.Class != asn1.ClassUniversal || v.IsCompound {
		return "", false
	}
	switch v.Tag {
	case asn1.TagUTF8String, asn1.TagPrintableString, asn1.TagIA5String:
		return string(v.Bytes), true
	case asn1.TagBMPString:
		var units []uint16
		for i := 0; i+1 < len(v.Bytes); i += 2 {
			units = append(units, uint16(v.Bytes[i])<<8|uint16(v.Bytes[i+1]))
		}
		return string(utf16.Decode(units)), len(v.Bytes)%2 == 0
	}
	return "", false
}

// prepare makes a value comparable (RFC 4518, 2): case folded, in normal form KC, white space
// around it dropped and runs of it inside made one space, invisible characters left out.
func prepare(value string) string {
	seen := strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case unicode.In(r, unicode.Cf, unicode.Cc, unicode.Variation_Selector):
			return -1
		}
		return r
	}, value)
	return strings.Join(strings.Fields(norm.NFKC.String(cases.Fold().String(norm.NFKC.String(seen)))), " ")
}

// NameText returns an encoded name as RFC 4514 writes it, of foreign content and at most 120
// characters.
func NameText(der []byte) string {
	var n pkix.RDNSequence
	if rest, err := asn1.Unmarshal(der, &n); err != nil || len(rest) > 0 {
		return "name that cannot be read"
	}
	all := []rune(n.String())
	if len(all) <= maxNameText {
		return string(all)
	}
	return string(all[:maxNameText]) + "..."
}

func quote(der []byte) string { return fmt.Sprintf("%q", NameText(der)) }

// TellApart returns two names that are not [Equal] as quoted texts that differ, also to the eye:
// where two attributes print alike, their string types and bytes are added.
func TellApart(a, b []byte) (string, string) {
	x, y := NameText(a), NameText(b)
	if !alike(x, y) {
		return fmt.Sprintf("%q", x), fmt.Sprintf("%q", y)
	}
	return fmt.Sprintf("%q (%s)", x, difference(a, b)), fmt.Sprintf("%q (%s)", y, difference(b, a))
}

// alike says whether people would take two texts for the same.
func alike(x, y string) bool {
	return prepare(x) == prepare(y) || strings.ContainsFunc(x+y, func(r rune) bool { return r > unicode.MaxASCII })
}

// difference shows the first attribute of one name that is not that of the other.
func difference(of, from []byte) string {
	x, okX := parseName(of)
	y, okY := parseName(from)
	if !okX || !okY {
		return "encoded as " + clippedHex(of, from)
	}
	for i, relative := range x {
		if i >= len(y) {
			return fmt.Sprintf("%d parts", len(x))
		}
		if sameRelativeName(relative, y[i]) {
			continue
		}
		for j, a := range relative {
			if j >= len(y[i]) || !a.same(y[i][j]) {
				return a.encoding(y[i], j)
			}
		}
		return fmt.Sprintf("%d attributes in part %d", len(relative), i+1)
	}
	return fmt.Sprintf("%d parts", len(x))
}

// encoding is an attribute's type, string type and bytes, from where it differs.
func (a attribute) encoding(other relativeNameSET, i int) string {
	var b []byte
	if i < len(other) && other[i].Type.Equal(a.Type) && other[i].Value.Tag == a.Value.Tag {
		b = other[i].Value.Bytes
	}
	return fmt.Sprintf("%v is %s %s", a.Type, stringType(a.Value), clippedHex(a.Value.Bytes, b))
}

// clippedHex is the hexadecimal form of up to 24 bytes, from shortly before the first that differs
// from other.
func clippedHex(b, other []byte) string {
	const before, most = 4, 24
	from := 0
	for from < len(b) && from < len(other) && b[from] == other[from] {
		from++
	}
	from = max(0, from-before)
	part := hex.EncodeToString(b[from:min(len(b), from+most)])
	if from > 0 {
		part = ".." + part
	}
	if len(b) > from+most {
		part += ".."
	}
	return part
}

func stringType(v asn1.RawValue) string {
	names := map[int]string{
		asn1.TagUTF8String: "UTF8String", asn1.TagPrintableString: "PrintableString", asn1.TagIA5String: "IA5String",
		asn1.TagT61String: "TeletexString", asn1.TagBMPString: "BMPString", 28: "UniversalString",
	}
	if name, ok := names[v.Tag]; ok && v.Class == asn1.ClassUniversal {
		return name
	}
	return fmt.Sprintf("tag %d", v.Tag)
}
