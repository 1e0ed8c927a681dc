package eventlog

import (
	"crypto/sha256"
	"crypto/x509"
	"unicode/utf16"
)

// Vendors of variables: EFI_GLOBAL_VARIABLE and EFI_IMAGE_SECURITY_DATABASE_GUID (UEFI 2.10, 3.3
// and 32.4.1), in the order of their bytes in memory.
const (
	globalVariable   = "\x61\xdf\xe4\x8b\xca\x93\xd2\x11\xaa\x0d\x00\xe0\x98\x03\x2b\x8c"
	securityDatabase = "\xcb\xb2\x19\xd7\x3a\x3d\x96\x45\xa3\xbc\xda\xd0\x0e\x67\x65\x6f"
)

// variable is a parsed UEFI_VARIABLE_DATA (PC Client Platform Firmware Profile 1.06, 10.2.6).
type variable struct {
	vendor  string
	name    string
	content []byte
}

const (
	guidSize    = 16
	maxNameSize = 512 // UTF-16 units
)

func parseVariable(data []byte) (variable, bool) {
	r := &reader{rest: data}
	vendor := r.bytes(guidSize)
	units, size := r.uint64(), r.uint64()
	if r.short || units > maxNameSize {
		return variable{}, false
	}
	name := make([]uint16, units)
	for i := range name {
		name[i] = r.uint16()
	}
	if r.short || size != uint64(len(r.rest)) {
		return variable{}, false
	}
	return variable{vendor: string(vendor), name: string(utf16.Decode(name)), content: r.rest}, true
}

// authority describes what authorised an image.
func (v variable) authority() Authority {
	sum := sha256.Sum256(v.content)
	a := Authority{Variable: v.name, SHA256: sum[:]}
	for _, der := range [][]byte{v.content[min(guidSize, len(v.content)):], v.content} {
		if cert, err := x509.ParseCertificate(der); err == nil {
			a.Subject = cert.Subject.String()
			break
		}
	}
	return a
}
