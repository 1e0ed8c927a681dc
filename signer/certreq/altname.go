package certreq

import (
	"encoding/asn1"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strings"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// maxAltNameBytes bounds one subject alternative name. A DNS name has at most 253, URIs are
// longer.
const maxAltNameBytes = 2 << 10

// Kinds of GeneralName (RFC 5280, 4.2.1.6) with their context tags.
const (
	generalNameEmail = 1
	generalNameDNS   = 2
	generalNameURI   = 6
	generalNameIP    = 7
)

// SubjectAltName is a subject alternative name that was checked. It is immutable and comparable.
// The zero value is no name, and no request or certificate can be made with it.
type SubjectAltName struct {
	tag     uint8
	content string // the bytes to encode: ASCII, or the 4 or 16 bytes of an address
}

// ParseSubjectAltName reads one name in OpenSSL's notation, up to 2 KiB: DNS:app.example,
// URI:api://app, IP:10.0.0.1, email:app@example.com. The kind may have any case.
//
//   - DNS: a host name in preferred syntax (RFC 1034, 3.5); the first label may be *.
//   - URI: absolute (RFC 3986, 4.3), its host a name (underscores allowed) or an address. User
//     names and passwords are refused: certificates are public.
//   - IP: an address without zone. An IPv4 address in IPv6's form becomes IPv4.
//   - email: local part and domain (RFC 5321, 4.1.2), no quotes.
//
// Everything is ASCII; domains go in their xn-- form, other text of URIs percent-encoded.
func ParseSubjectAltName(text string) (SubjectAltName, error) {
	if len(text) > maxAltNameBytes {
		return SubjectAltName{}, fmt.Errorf("the subject alternative name has %d bytes, at most %d are read", len(text), maxAltNameBytes)
	}
	kind, value, ok := strings.Cut(text, ":")
	if !ok {
		return SubjectAltName{}, fmt.Errorf("subject alternative name %q has no kind; write for example DNS:app.example", clip(text))
	}
	name, err := newAltName(kind, value)
	if err != nil {
		return SubjectAltName{}, fmt.Errorf("subject alternative name %q: %w", clip(kind)+":"+withoutUser(value), err)
	}
	return name, nil
}

// withoutUser returns what a message may repeat of a name: nothing before an @, where a password
// may be.
func withoutUser(value string) string {
	if at := strings.LastIndexByte(value, '@'); at >= 0 {
		value = "..." + value[at:]
	}
	return clip(value)
}

func newAltName(kind, value string) (SubjectAltName, error) {
	switch strings.ToLower(kind) {
	case "dns":
		return SubjectAltName{generalNameDNS, value}, checkDNSName(value)
	case "uri":
		return SubjectAltName{generalNameURI, value}, checkURI(value)
	case "email":
		return SubjectAltName{generalNameEmail, value}, checkEmail(value)
	case "ip":
		address, err := netip.ParseAddr(value)
		if err != nil || address.Zone() != "" {
			return SubjectAltName{}, errors.New("not an IPv4 or IPv6 address; networks and zones cannot be named")
		}
		return SubjectAltName{generalNameIP, string(address.Unmap().AsSlice())}, nil
	}
	return SubjectAltName{}, errors.New("its kind is not DNS, URI, IP or email")
}

// String returns the name in OpenSSL's notation. ParseSubjectAltName reads it back.
func (n SubjectAltName) String() string {
	switch n.tag {
	case generalNameDNS:
		return "DNS:" + n.content
	case generalNameURI:
		return "URI:" + n.content
	case generalNameEmail:
		return "email:" + n.content
	case generalNameIP:
		if address, ok := netip.AddrFromSlice([]byte(n.content)); ok {
			return "IP:" + address.String()
		}
	}
	return ""
}

func checkDNSName(name string) error {
	if !hostName(strings.TrimPrefix(name, "*."), "-") {
		return errors.New("not one DNS name: labels of letters, digits and inner hyphens, 63 characters each, 253 in all")
	}
	return nil
}

// hostName checks length, labels and characters. Inner has the characters that a label may have
// besides letters and digits.
func hostName(name, inner string) bool {
	if len(name) > 253 {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || strings.Trim(label, "-") != label || strings.ContainsFunc(label, notIn(inner)) {
			return false
		}
	}
	return true
}

// notIn returns a function that is true for all but ASCII letters, digits and the characters more.
func notIn(more string) func(rune) bool {
	return func(r rune) bool {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
		return !letter && !strings.ContainsRune(more, r)
	}
}

func checkURI(text string) error {
	if strings.ContainsFunc(text, notIn("-._~:/?#[]@!$&'()*+,;=%")) { // RFC 3986, 2.2 and 2.3
		return errors.New("a character that no URI has; percent-encode it")
	}
	u, err := url.Parse(text)
	if err != nil {
		return errors.New("not a URI")
	}
	_, addressErr := netip.ParseAddr(u.Hostname())
	switch {
	case !u.IsAbs() || u.Opaque == "" && u.Host == "" && u.Path == "":
		return errors.New("not an absolute URI; write for example URI:api://app")
	case u.User != nil:
		return errors.New("a user name in a URI would be public in every certificate; leave it out")
	case u.Host != "" && addressErr != nil && !hostName(u.Hostname(), "-_"):
		return errors.New("the URI's host is neither a name nor an address")
	}
	return nil
}

func checkEmail(text string) error {
	local, domain, ok := strings.Cut(text, "@")
	wrong := local == "" || len(local) > 64 || strings.HasPrefix(local, ".") || strings.HasSuffix(local, ".") ||
		strings.Contains(local, "..") || strings.ContainsFunc(local, notIn(".!#$%&'*+-/=?^_`{|}~")) // RFC 5321, 4.1.2, Dot-string
	if !ok || wrong || !hostName(domain, "-") {
		return errors.New("not an address such as app@example.com")
	}
	return nil
}

// altNamesDER is the value of the extension subjectAltName: the names in the order given.
func altNamesDER(names []SubjectAltName) ([]byte, error) {
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		for _, n := range names {
			b.AddASN1(cbasn1.Tag(n.tag).ContextSpecific(), func(b *cryptobyte.Builder) { b.AddBytes([]byte(n.content)) })
		}
	})
	return b.Bytes()
}

// oidSubjectAltName is id-ce-subjectAltName (RFC 5280, 4.2.1.6).
var oidSubjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}
