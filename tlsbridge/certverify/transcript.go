package certverify

import (
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/crypto/cryptobyte"
)

// maxCertificates limits the certificates of each side.
const maxCertificates = 16

// transcript is a handshake of TLS 1.2 up to ClientKeyExchange, as far as it matters here.
type transcript struct {
	clientRandom, serverRandom []byte
	serverName                 string // in lower case; "" for a server that is called by its address
	offered                    []uint16
	suite                      uint16

	serverChain, clientChain [][]byte // DER, leaf first; never empty
	taken                    []tls.SignatureScheme

	agreement []byte // what the server has signed, besides the randoms
	scheme    tls.SignatureScheme
	signature []byte
}

// step is one message of the handshake (RFC 5246, 7.4).
type step struct {
	kind     uint8
	name     string
	optional bool
	read     func(*transcript, cryptobyte.String) bool // whether the body is well-formed
}

// handshake is all messages in their order, with a certificate on both sides and a key agreement
// that the server signs.
var handshake = []step{
	{kind: 1, name: "ClientHello", read: (*transcript).readClientHello},
	{kind: 2, name: "ServerHello", read: (*transcript).readServerHello},
	{kind: 11, name: "Certificate of the server", read: func(t *transcript, b cryptobyte.String) bool { return readChain(b, &t.serverChain) }},
	{kind: 22, name: "CertificateStatus", optional: true, read: readStatus},
	{kind: 12, name: "ServerKeyExchange", read: (*transcript).readKeyExchange},
	{kind: 13, name: "CertificateRequest", read: (*transcript).readCertificateRequest},
	{kind: 14, name: "ServerHelloDone", read: func(_ *transcript, b cryptobyte.String) bool { return b.Empty() }},
	{kind: 11, name: "Certificate of the client", read: func(t *transcript, b cryptobyte.String) bool { return readChain(b, &t.clientChain) }},
	{kind: 16, name: "ClientKeyExchange", read: readClientKey},
}

func readTranscript(message []byte) (*transcript, error) {
	t, rest := new(transcript), cryptobyte.String(message)
	for _, s := range handshake {
		var kind uint8
		var body cryptobyte.String
		if s.optional && (rest.Empty() || rest[0] != s.kind) {
			continue
		}
		if !rest.ReadUint8(&kind) || kind != s.kind || !rest.ReadUint24LengthPrefixed(&body) || !s.read(t, body) {
			return nil, fmt.Errorf("it has no well-formed %s where a handshake of TLS 1.2 has it", s.name)
		}
	}
	if !rest.Empty() {
		return nil, errors.New("there is more after ClientKeyExchange")
	}
	return t, nil
}

const (
	extensionServerName        = 0  // RFC 6066, 3
	extensionSupportedVersions = 43 // RFC 8446, 4.2.1
	nameTypeHost               = 0
)

// suites are those with ECDHE and authenticated encryption.
var suites = []uint16{
	tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
	tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
	tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
}

// readHello reads what both hellos begin with.
func readHello(b *cryptobyte.String, random *[]byte) bool {
	var version uint16
	var session cryptobyte.String
	return b.ReadUint16(&version) && version == tls.VersionTLS12 &&
		b.ReadBytes(random, 32) && b.ReadUint8LengthPrefixed(&session) && len(session) <= 32
}

func (t *transcript) readClientHello(b cryptobyte.String) bool {
	var compressions cryptobyte.String
	if !readHello(&b, &t.clientRandom) || !readNumbers(&b, &t.offered) || !b.ReadUint8LengthPrefixed(&compressions) {
		return false
	}
	extensions, ok := readExtensions(b)
	if !ok || !slices.Contains(compressions, 0) {
		return false
	}
	if name, there := extensions[extensionServerName]; there {
		t.serverName, ok = readServerName(name)
	}
	return ok
}

func (t *transcript) readServerHello(b cryptobyte.String) bool {
	var compression uint8
	if !readHello(&b, &t.serverRandom) || !b.ReadUint16(&t.suite) || !b.ReadUint8(&compression) {
		return false
	}
	extensions, ok := readExtensions(b)
	_, later := extensions[extensionSupportedVersions] // a handshake of TLS 1.3, which signs something else
	return ok && !later && compression == 0 && slices.Contains(t.offered, t.suite) && slices.Contains(suites, t.suite)
}

// readNumbers reads a list of 16-bit numbers that is not empty.
func readNumbers(b *cryptobyte.String, list *[]uint16) bool {
	var all cryptobyte.String
	if !b.ReadUint16LengthPrefixed(&all) || all.Empty() {
		return false
	}
	for !all.Empty() {
		var n uint16
		if !all.ReadUint16(&n) {
			return false
		}
		*list = append(*list, n)
	}
	return true
}

// readExtensions reads the extensions that a hello ends with, each there once at most.
func readExtensions(b cryptobyte.String) (map[uint16]cryptobyte.String, bool) {
	found := map[uint16]cryptobyte.String{}
	if b.Empty() {
		return found, true
	}
	var all cryptobyte.String
	if !b.ReadUint16LengthPrefixed(&all) || !b.Empty() {
		return nil, false
	}
	for !all.Empty() {
		var kind uint16
		var body cryptobyte.String
		if !all.ReadUint16(&kind) || !all.ReadUint16LengthPrefixed(&body) {
			return nil, false
		}
		if _, twice := found[kind]; twice {
			return nil, false
		}
		found[kind] = body
	}
	return found, true
}

// readServerName reads the one name of the extension server_name.
func readServerName(b cryptobyte.String) (string, bool) {
	var list, host cryptobyte.String
	var kind uint8
	if !b.ReadUint16LengthPrefixed(&list) || !b.Empty() ||
		!list.ReadUint8(&kind) || kind != nameTypeHost || !list.ReadUint16LengthPrefixed(&host) || !list.Empty() {
		return "", false
	}
	name := strings.ToLower(string(host))
	return name, isHostName(name)
}

// isHostName reports whether a name has letters, digits, hyphens, underscores and dots only, and no
// empty label.
func isHostName(name string) bool {
	if len(name) > 253 {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 {
			return false
		}
		for _, c := range []byte(label) {
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
				return false
			}
		}
	}
	return true
}

// readChain reads the body of a message Certificate, which must not be empty.
func readChain(b cryptobyte.String, chain *[][]byte) bool {
	var all cryptobyte.String
	if !b.ReadUint24LengthPrefixed(&all) || !b.Empty() || all.Empty() {
		return false
	}
	for !all.Empty() {
		var certificate cryptobyte.String
		if !all.ReadUint24LengthPrefixed(&certificate) || certificate.Empty() || len(*chain) == maxCertificates {
			return false
		}
		*chain = append(*chain, certificate)
	}
	return true
}

// readStatus reads an OCSP response, of which nothing is used (RFC 6066, 8).
func readStatus(_ *transcript, b cryptobyte.String) bool {
	var kind uint8
	var response cryptobyte.String
	return b.ReadUint8(&kind) && kind == 1 && b.ReadUint24LengthPrefixed(&response) && b.Empty()
}

// curveNamed is the only form of parameters of ECDHE that is in use (RFC 8422, 5.4).
const curveNamed = 3

func (t *transcript) readKeyExchange(b cryptobyte.String) bool {
	var form uint8
	var curve, scheme uint16
	var point, signature cryptobyte.String
	params := b
	if !b.ReadUint8(&form) || form != curveNamed || !b.ReadUint16(&curve) || !b.ReadUint8LengthPrefixed(&point) || point.Empty() {
		return false
	}
	t.agreement = params[:len(params)-len(b)]
	if !b.ReadUint16(&scheme) || !b.ReadUint16LengthPrefixed(&signature) || !b.Empty() {
		return false
	}
	t.scheme, t.signature = tls.SignatureScheme(scheme), signature
	return true
}

func (t *transcript) readCertificateRequest(b cryptobyte.String) bool {
	var kinds, authorities cryptobyte.String
	var taken []uint16
	if !b.ReadUint8LengthPrefixed(&kinds) || kinds.Empty() || !readNumbers(&b, &taken) || !b.ReadUint16LengthPrefixed(&authorities) || !b.Empty() {
		return false
	}
	for !authorities.Empty() {
		var name cryptobyte.String
		if !authorities.ReadUint16LengthPrefixed(&name) || name.Empty() {
			return false
		}
	}
	for _, scheme := range taken {
		t.taken = append(t.taken, tls.SignatureScheme(scheme))
	}
	return true
}

// readClientKey reads the client's share of the key agreement.
func readClientKey(_ *transcript, b cryptobyte.String) bool {
	var point cryptobyte.String
	return b.ReadUint8LengthPrefixed(&point) && !point.Empty() && b.Empty()
}
