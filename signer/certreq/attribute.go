package certreq

import (
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// tagIA5String is one that cryptobyte/asn1 lacks.
const tagIA5String = cbasn1.Tag(asn1.TagIA5String)

// attributeType is a type of attribute as X.520 and RFC 4519 define it.
type attributeType struct {
	names []string // the first one is written; all are read, in any case
	oid   asn1.ObjectIdentifier
	tag   cbasn1.Tag // string type that RFC 5280, 4.1.2.4 and appendix A.1, demand
	least int        // characters
	most  int        // characters, the upper bound of RFC 5280, appendix A.1, or X.520; 0: none
}

// attributeTypes has the types of RFC 4514, section 3, then others that OpenSSL and Microsoft's
// tools write.
var attributeTypes = []attributeType{
	{[]string{"CN", "commonName"}, asn1.ObjectIdentifier{2, 5, 4, 3}, cbasn1.UTF8String, 1, 64},
	{[]string{"O", "organizationName"}, asn1.ObjectIdentifier{2, 5, 4, 10}, cbasn1.UTF8String, 1, 64},
	{[]string{"OU", "organizationalUnitName"}, asn1.ObjectIdentifier{2, 5, 4, 11}, cbasn1.UTF8String, 1, 64},
	{[]string{"C", "countryName"}, asn1.ObjectIdentifier{2, 5, 4, 6}, cbasn1.PrintableString, 2, 2},
	{[]string{"ST", "S", "stateOrProvinceName"}, asn1.ObjectIdentifier{2, 5, 4, 8}, cbasn1.UTF8String, 1, 128},
	{[]string{"L", "localityName"}, asn1.ObjectIdentifier{2, 5, 4, 7}, cbasn1.UTF8String, 1, 128},
	{[]string{"STREET", "streetAddress"}, asn1.ObjectIdentifier{2, 5, 4, 9}, cbasn1.UTF8String, 1, 128},
	{[]string{"DC", "domainComponent"}, asn1.ObjectIdentifier{0, 9, 2342, 19200300, 100, 1, 25}, tagIA5String, 1, 0},
	{[]string{"UID", "userId"}, asn1.ObjectIdentifier{0, 9, 2342, 19200300, 100, 1, 1}, cbasn1.UTF8String, 1, 256},
	{[]string{"serialNumber"}, asn1.ObjectIdentifier{2, 5, 4, 5}, cbasn1.PrintableString, 1, 64},
	{[]string{"emailAddress", "E"}, asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 1}, tagIA5String, 1, 128},
	{[]string{"SN", "surname"}, asn1.ObjectIdentifier{2, 5, 4, 4}, cbasn1.UTF8String, 1, 0},
	{[]string{"GN", "G", "givenName"}, asn1.ObjectIdentifier{2, 5, 4, 42}, cbasn1.UTF8String, 1, 0},
	{[]string{"initials", "I"}, asn1.ObjectIdentifier{2, 5, 4, 43}, cbasn1.UTF8String, 1, 0},
	{[]string{"title", "T"}, asn1.ObjectIdentifier{2, 5, 4, 12}, cbasn1.UTF8String, 1, 64},
	{[]string{"description"}, asn1.ObjectIdentifier{2, 5, 4, 13}, cbasn1.UTF8String, 1, 1024},
	{[]string{"businessCategory"}, asn1.ObjectIdentifier{2, 5, 4, 15}, cbasn1.UTF8String, 1, 128},
	{[]string{"postalCode"}, asn1.ObjectIdentifier{2, 5, 4, 17}, cbasn1.UTF8String, 1, 40},
	{[]string{"dnQualifier"}, asn1.ObjectIdentifier{2, 5, 4, 46}, cbasn1.PrintableString, 1, 0},
	{[]string{"organizationIdentifier"}, asn1.ObjectIdentifier{2, 5, 4, 97}, cbasn1.UTF8String, 1, 0},
}

// attribute is an AttributeTypeAndValue that was checked.
type attribute struct {
	kind  attributeType
	tag   cbasn1.Tag
	value string
}

// parseAttributeType finds a type by name or dotted OID. A type that is not in the table has any
// UTF8String as its value.
func parseAttributeType(text string) (attributeType, error) {
	byName := func(k attributeType) bool {
		return slices.ContainsFunc(k.names, func(n string) bool { return strings.EqualFold(n, text) })
	}
	if i := slices.IndexFunc(attributeTypes, byName); i >= 0 {
		return attributeTypes[i], nil
	}
	dotted := text
	if len(text) > 4 && strings.EqualFold(text[:4], "OID.") { // RFC 2253, 4; the tools of Microsoft and Java print it
		dotted = text[4:]
	}
	oid, ok := parseOID(dotted)
	if !ok {
		return attributeType{}, fmt.Errorf("attribute type %q is not known; known are %s, any other goes by its dotted OID",
			clip(text), knownAttributeTypes())
	}
	if i := slices.IndexFunc(attributeTypes, func(k attributeType) bool { return k.oid.Equal(oid) }); i >= 0 {
		return attributeTypes[i], nil
	}
	return attributeType{names: []string{oid.String()}, oid: oid, tag: cbasn1.UTF8String, least: 1}, nil
}

func knownAttributeTypes() string {
	var names []string
	for _, k := range attributeTypes {
		names = append(names, k.names[0])
	}
	return strings.Join(names, ", ")
}

// parseOID reads the dotted form (RFC 4512, 1.4, numericoid). It refuses arcs that encoding/asn1
// could not read back.
func parseOID(text string) (asn1.ObjectIdentifier, bool) {
	var oid asn1.ObjectIdentifier
	for arc := range strings.SplitSeq(text, ".") {
		n, err := strconv.ParseUint(arc, 10, 31)
		if err != nil || arc != strconv.FormatUint(n, 10) {
			return nil, false
		}
		oid = append(oid, int(n))
	}
	if len(oid) < 2 || oid[0] > 2 || oid[0] < 2 && oid[1] >= 40 || oid[1] > math.MaxInt32-80 {
		return nil, false
	}
	return oid, true
}

// newAttribute makes an attribute with the string type of its type.
func newAttribute(kind attributeType, value string) (attribute, error) {
	a := attribute{kind, kind.tag, value}
	return a, a.check()
}

// newHexAttribute reads the form #hex of RFC 4514, 2.4: the DER of the value, which includes its
// string type. It accepts the string types that RFC 5280 allows in new certificates.
func newHexAttribute(kind attributeType, text string) (attribute, error) {
	encoded, err := hex.DecodeString(text)
	if err != nil {
		return attribute{}, fmt.Errorf("%s: the text after # is not hexadecimal; put a backslash before a # that is meant", kind.names[0])
	}
	var value cryptobyte.String
	var tag cbasn1.Tag
	in := cryptobyte.String(encoded)
	if !in.ReadAnyASN1(&value, &tag) || !in.Empty() {
		return attribute{}, fmt.Errorf("%s: the text after # is not one DER value", kind.names[0])
	}
	unknown := kind.names[0] == kind.oid.String()
	directoryString := kind.tag == cbasn1.UTF8String && tag == cbasn1.PrintableString
	if tag != kind.tag && !directoryString && !(unknown && tag == tagIA5String) {
		return attribute{}, fmt.Errorf("%s: DER tag %#02x after # is not a string type that it can have", kind.names[0], uint8(tag))
	}
	a := attribute{kind, tag, string(value)}
	return a, a.check()
}

// check refuses values that the attribute cannot have. Control characters do not belong in a name;
// a NUL in one has fooled programs for which it ends a string.
func (a attribute) check() error {
	name, n := a.kind.names[0], utf8.RuneCountInString(a.value)
	switch {
	case a.value == "":
		return fmt.Errorf("%s has no value", name)
	case !utf8.ValidString(a.value):
		return fmt.Errorf("%s is not UTF-8", name)
	case strings.ContainsFunc(a.value, unicode.IsControl):
		return fmt.Errorf("%s has a control character", name)
	case a.tag == cbasn1.PrintableString && strings.ContainsFunc(a.value, notPrintableString):
		return fmt.Errorf("%s %q: only A-Z, a-z, 0-9, space and '()+,-./:=? can be in it", name, clip(a.value))
	case a.tag == tagIA5String && strings.ContainsFunc(a.value, notASCII):
		return fmt.Errorf("%s %q: only ASCII can be in it; write a domain in its xn-- form", name, clip(a.value))
	case n < a.kind.least || a.kind.most > 0 && n > a.kind.most:
		return fmt.Errorf("%s %q has %d characters, %s", name, clip(a.value), n, a.kind.bounds())
	}
	return nil
}

func (k attributeType) bounds() string {
	if k.least == k.most {
		return fmt.Sprintf("it must have %d", k.most)
	}
	return fmt.Sprintf("it can have %d", k.most)
}

func notASCII(r rune) bool { return r > unicode.MaxASCII }

// notPrintableString is true for what X.680, 41.4, does not list.
func notPrintableString(r rune) bool {
	letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
	return !letter && !strings.ContainsRune(" '()+,-./:=?", r)
}

func (a attribute) der() ([]byte, error) {
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(a.kind.oid)
		a.addValue(b)
	})
	return b.Bytes()
}

func (a attribute) addValue(b *cryptobyte.Builder) {
	b.AddASN1(a.tag, func(b *cryptobyte.Builder) { b.AddBytes([]byte(a.value)) })
}

// text returns the attribute in the form of RFC 4514, 2.3 and 2.4.
func (a attribute) text() (string, error) {
	if a.tag == a.kind.tag {
		return a.kind.names[0] + "=" + escapeRFC4514(a.value), nil
	}
	var b cryptobyte.Builder
	a.addValue(&b)
	encoded, err := b.Bytes()
	return a.kind.names[0] + "=#" + hex.EncodeToString(encoded), err
}

// escapeRFC4514 puts a backslash before each character that would end the value or be trimmed (RFC
// 4514, 2.4).
func escapeRFC4514(value string) string {
	var b strings.Builder
	for i, r := range value {
		edge := r == ' ' && (i == 0 || i == len(value)-1) || r == '#' && i == 0
		if edge || strings.ContainsRune(`"+,;<>\`, r) {
			b.WriteByte('\\')
		}
		b.WriteRune(r)
	}
	return b.String()
}

// unescapeRFC4514 is the inverse. Spaces around a value are dropped unless they are escaped, as RFC
// 2253 told implementations to do: people write "CN=app, O=Contoso".
func unescapeRFC4514(raw string) (string, error) {
	raw = strings.TrimLeft(raw, " ")
	if strings.HasPrefix(raw, `"`) {
		return unquote(raw[1:])
	}
	var b strings.Builder
	keep := 0 // bytes up to and with the last that is no bare space
	for i := 0; i < len(raw); i++ {
		c := raw[i]
		if c == ';' {
			return "", errors.New(`a comma, not ";", separates attributes; write \; for one in a value`)
		}
		if strings.IndexByte(`"<>`, c) >= 0 {
			return "", fmt.Errorf(`%q in a value needs a backslash: \%c`, c, c)
		}
		escaped := c == '\\'
		if escaped {
			n := 0
			if c, n = unescapeOne(raw[i+1:]); n == 0 {
				return "", errors.New(badEscape)
			}
			i += n
		}
		b.WriteByte(c)
		if escaped || c != ' ' {
			keep = b.Len()
		}
	}
	return b.String()[:keep], nil
}

// unquote reads a value in quotes, after the first quote: literally, except for escapes and doubled
// quotes.
func unquote(raw string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(raw); i++ {
		c := raw[i]
		switch {
		case c == '\\':
			escaped, n := unescapeOne(raw[i+1:])
			if n == 0 {
				return "", errors.New(badEscape)
			}
			b.WriteByte(escaped)
			i += n
		case c != '"':
			b.WriteByte(c)
		case strings.HasPrefix(raw[i+1:], `"`):
			b.WriteByte(c)
			i++
		case strings.Trim(raw[i+1:], " ") != "":
			return "", errors.New(`something stands behind the quote that ends the value; write \" for a quote in a value`)
		default:
			return b.String(), nil
		}
	}
	return "", errors.New(`the value begins with a quote, and no quote ends it; write \" for a quote in a value`)
}

const badEscape = `a backslash stands before one of " + , ; < > \ # = or space, or before two hexadecimal digits`

// unescapeOne decodes what follows a backslash. Taken is the number of bytes that it used, 0 if
// they are no escape.
func unescapeOne(rest string) (c byte, taken int) {
	if rest != "" && strings.IndexByte(`"+,;<>\#= `, rest[0]) >= 0 {
		return rest[0], 1
	}
	if len(rest) < 2 {
		return 0, 0
	}
	b, err := hex.DecodeString(rest[:2])
	if err != nil {
		return 0, 0
	}
	return b[0], 2
}

// unescapeSlash takes any character after a backslash as itself, as openssl does.
func unescapeSlash(raw string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(raw); i++ {
		if raw[i] == '\\' {
			if i++; i == len(raw) {
				return "", errors.New("a backslash stands at the end")
			}
		}
		b.WriteByte(raw[i])
	}
	return b.String(), nil
}

// clip bounds how much of somebody else's text a message repeats.
func clip(text string) string {
	const most = 100
	if len(text) <= most {
		return text
	}
	return text[:most] + "..."
}
