package certreq

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// maxSubjectBytes bounds the text of a subject. The longest that people use have some 300 bytes.
const maxSubjectBytes = 4 << 10

// Subject is a distinguished name that was checked and encoded. It is immutable and comparable; two
// are equal if their encodings are. The zero value is the empty name.
type Subject struct {
	der  string // RDNSequence (RFC 5280, 4.1.2.4)
	text string
}

// ParseSubject reads a distinguished name of up to 4 KiB in one of two forms:
//
//   - RFC 4514, most specific first: CN=app,O=Contoso,C=DE. As that RFC demands, the encoding has
//     the reverse order: C, O, CN. Values are escaped as in its section 2.4, \2C and #hex included,
//     or stand in quotes, as in O="Contoso, Inc." (RFC 1779, 2.3), where Microsoft's tools double a
//     quote that is meant. Spaces around values are dropped.
//   - OpenSSL's, recognised by the slash at the beginning: /C=DE/O=Contoso/CN=app. The encoding has
//     the same order. A backslash takes the character after it literally; spaces stay.
//
// What "openssl x509 -subject" prints is taken with the word "subject=" in front: its "C = DE, O =
// Contoso, CN = app", with a space behind each comma, is in the order of the encoding. Without that
// word it cannot be told from RFC 4514, and is read as such.
//
// In both, + joins attributes of one relative distinguished name. Types are short names in any case
// (CN, O, OU, C, ST, L, DC, UID, serialNumber, emailAddress and some more) or dotted OIDs, also
// behind "OID.". Values get the string type of RFC 5280: PrintableString for C, serialNumber and
// dnQualifier, IA5String for DC and emailAddress, UTF8String for all others. Lengths are bounded as
// in RFC 5280, appendix A.1, except emailAddress, which has OpenSSL's bound of 128 characters.
func ParseSubject(text string) (Subject, error) {
	if len(text) > maxSubjectBytes {
		return Subject{}, fmt.Errorf("the subject has %d bytes, at most %d are read", len(text), maxSubjectBytes)
	}
	names, err := parseName(text)
	if err != nil {
		return Subject{}, fmt.Errorf("subject %q: %w", clip(text), err)
	}
	return newSubject(names)
}

// DER returns the encoded name, for x509.Certificate.RawSubject.
func (s Subject) DER() []byte {
	if s.der == "" {
		return []byte{0x30, 0}
	}
	return []byte(s.der)
}

// Empty reports whether the name has no attributes.
func (s Subject) Empty() bool { return s.der == "" }

// String returns the name in the form of RFC 4514. ParseSubject reads it back.
func (s Subject) String() string { return s.text }

// rdn is a relative distinguished name: attributes without an order.
type rdn []attribute

// notation is how a name is written.
type notation struct {
	quotes bool // whether a value may stand in quotes
	value  func(attributeType, string) (attribute, error)
}

// parseName returns the relative distinguished names in the order of the encoding.
func parseName(text string) ([]rdn, error) {
	text, printed := cutSubjectWord(text)
	if strings.TrimSpace(text) == "" {
		return nil, errors.New("it is empty; write for example CN=app,O=Contoso,C=DE")
	}
	if rest, ok := strings.CutPrefix(text, "/"); ok {
		return notation{false, slashAttribute}.parse(split(rest, '/', false))
	}
	parts := split(text, ',', true)
	names, err := notation{true, rfc4514Attribute}.parse(parts)
	spaced := !slices.ContainsFunc(parts[1:], func(part string) bool { return !strings.HasPrefix(part, " ") })
	if !printed || !spaced {
		slices.Reverse(names)
	}
	return names, err
}

// cutSubjectWord removes the word that OpenSSL prints in front of a name, and reports whether it
// was there.
func cutSubjectWord(text string) (rest string, found bool) {
	const word = "subject"
	rest = strings.TrimLeft(text, " ")
	if len(rest) < len(word) || !strings.EqualFold(rest[:len(word)], word) {
		return text, false
	}
	rest = strings.TrimLeft(rest[len(word):], " ")
	if rest == "" || rest[0] != '=' && rest[0] != ':' {
		return text, false
	}
	return strings.TrimLeft(rest[1:], " "), true
}

func (n notation) parse(parts []string) ([]rdn, error) {
	var names []rdn
	for _, part := range parts {
		var set rdn
		for _, pair := range split(part, '+', n.quotes) {
			a, err := parsePair(pair, n.value)
			if err != nil {
				return nil, err
			}
			if slices.ContainsFunc(set, func(b attribute) bool { return b.kind.oid.Equal(a.kind.oid) }) {
				return nil, fmt.Errorf("%s is there twice between two separators; + joins different types only", a.kind.names[0])
			}
			set = append(set, a)
		}
		names = append(names, set)
	}
	return names, nil
}

func parsePair(pair string, value func(attributeType, string) (attribute, error)) (attribute, error) {
	name, raw, ok := strings.Cut(pair, "=")
	if !ok {
		return attribute{}, fmt.Errorf("%q has no =; it needs a type, as in CN=app, or a backslash before the separator that is meant",
			clip(pair))
	}
	kind, err := parseAttributeType(strings.TrimSpace(name))
	if err != nil {
		return attribute{}, err
	}
	return value(kind, raw)
}

func rfc4514Attribute(kind attributeType, raw string) (attribute, error) {
	if encoded, ok := strings.CutPrefix(strings.Trim(raw, " "), "#"); ok {
		return newHexAttribute(kind, encoded)
	}
	return unescapedAttribute(kind, raw, unescapeRFC4514)
}

func slashAttribute(kind attributeType, raw string) (attribute, error) {
	return unescapedAttribute(kind, raw, unescapeSlash)
}

func unescapedAttribute(kind attributeType, raw string, unescape func(string) (string, error)) (attribute, error) {
	value, err := unescape(raw)
	if err != nil {
		return attribute{}, fmt.Errorf("%s: %w", kind.names[0], err)
	}
	return newAttribute(kind, value)
}

// split splits at separators that have no backslash before them and do not stand in quotes, and
// leaves backslashes and quotes. Quotes count where a value begins with one, and one that is
// doubled does not end them.
func split(text string, separator byte, quotes bool) []string {
	var parts []string
	start, quoted, last := 0, false, byte(0) // last is the latest character that is no space
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case c == '\\':
			i++
		case c == '"' && quotes:
			quoted = !quoted && (last == '=' || last == '"')
		case c == separator && !quoted:
			parts = append(parts, text[start:i])
			start = i + 1
		}
		if c != ' ' {
			last = c
		}
	}
	return append(parts, text[start:])
}

func newSubject(names []rdn) (Subject, error) {
	var b cryptobyte.Builder
	var texts []string
	var err error
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		for _, n := range names {
			var text string
			if text, err = n.add(b); err != nil {
				return
			}
			texts = append(texts, text)
		}
	})
	der, buildErr := b.Bytes()
	if err := errors.Join(err, buildErr); err != nil {
		return Subject{}, fmt.Errorf("encoding the subject: %w", err)
	}
	slices.Reverse(texts)
	return Subject{string(der), strings.Join(texts, ",")}, nil
}

// add encodes the attributes in the order that DER demands in a SET OF (X.690, 11.6), and returns
// their text in that order.
func (n rdn) add(b *cryptobyte.Builder) (string, error) {
	type encoded struct {
		der  []byte
		text string
	}
	var all []encoded
	for _, a := range n {
		der, err := a.der()
		if err != nil {
			return "", err
		}
		text, err := a.text()
		if err != nil {
			return "", err
		}
		all = append(all, encoded{der, text})
	}
	slices.SortFunc(all, func(x, y encoded) int { return bytes.Compare(x.der, y.der) })
	var texts []string
	b.AddASN1(cbasn1.SET, func(b *cryptobyte.Builder) {
		for _, e := range all {
			b.AddBytes(e.der)
			texts = append(texts, e.text)
		}
	})
	return strings.Join(texts, "+"), nil
}
