package signer

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

// Subject is a distinguished name, checked and encoded. It is immutable and comparable; two are equal if their encodings are.
// The zero value is the empty name.
type Subject struct {
	der  string // RDNSequence (RFC 5280, 4.1.2.4)
	text string
}

// ParseSubject reads a distinguished name of up to 4 KiB in one of two forms:
//
//   - RFC 4514, most specific first: CN=app,O=Contoso,C=DE. As that RFC demands, the encoding has the reverse order: C, O, CN.
//     Values are escaped as in its section 2.4, \2C and #hex included. Spaces around values are dropped.
//   - OpenSSL's, recognised by the slash at the beginning: /C=DE/O=Contoso/CN=app. The encoding has the same order. A backslash
//     takes the character after it literally; spaces stay.
//
// In both, + joins attributes of one relative distinguished name. Types are short names in any case (CN, O, OU, C, ST, L, DC, UID,
// serialNumber, emailAddress and some more) or dotted OIDs. Values get the string type of RFC 5280: PrintableString for C,
// serialNumber and dnQualifier, IA5String for DC and emailAddress, UTF8String for all others. Lengths are bounded as in RFC 5280,
// appendix A.1, except emailAddress, which has OpenSSL's bound of 128 characters.
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

// Empty says whether the name has no attributes.
func (s Subject) Empty() bool { return s.der == "" }

// String returns the name in the form of RFC 4514. ParseSubject reads it back.
func (s Subject) String() string { return s.text }

// rdn is a relative distinguished name: attributes without an order.
type rdn []attribute

// parseName returns the relative distinguished names in the order of the encoding.
func parseName(text string) ([]rdn, error) {
	if strings.TrimSpace(text) == "" {
		return nil, errors.New("it is empty; write for example CN=app,O=Contoso,C=DE")
	}
	if rest, ok := strings.CutPrefix(text, "/"); ok {
		return parseRDNs(rest, '/', slashAttribute)
	}
	names, err := parseRDNs(text, ',', rfc4514Attribute)
	slices.Reverse(names)
	return names, err
}

func parseRDNs(text string, separator byte, value func(attributeType, string) (attribute, error)) ([]rdn, error) {
	var names []rdn
	for _, part := range splitUnescaped(text, separator) {
		var n rdn
		for _, pair := range splitUnescaped(part, '+') {
			a, err := parsePair(pair, value)
			if err != nil {
				return nil, err
			}
			if slices.ContainsFunc(n, func(b attribute) bool { return b.kind.oid.Equal(a.kind.oid) }) {
				return nil, fmt.Errorf("%s stands twice between two separators; + joins different types only", a.kind.names[0])
			}
			n = append(n, a)
		}
		names = append(names, n)
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

// splitUnescaped splits at separators that have no backslash before them, and leaves the backslashes.
func splitUnescaped(text string, separator byte) []string {
	var parts []string
	start := 0
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '\\':
			i++
		case separator:
			parts = append(parts, text[start:i])
			start = i + 1
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

// add encodes the attributes in the order that DER demands of a SET OF (X.690, 11.6) and returns them as text in that order.
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
