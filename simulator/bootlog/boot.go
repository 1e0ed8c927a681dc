package bootlog

import (
	"bytes"
	"encoding/binary"
	"unicode/utf16"
)

// Machine has the values that differ from boot to boot.
type Machine struct {
	SecureBoot bool
	// CommandLine is the kernel's, beginning with its path as GRUB measures it.
	CommandLine string
	// DBX is the content of the variable that forbids images.
	DBX []byte
}

// Vendors of UEFI variables, as they lie in memory.
const (
	globalVariable   = "\x61\xdf\xe4\x8b\xca\x93\xd2\x11\xaa\x0d\x00\xe0\x98\x03\x2b\x8c"
	securityDatabase = "\xcb\xb2\x19\xd7\x3a\x3d\x96\x45\xa3\xbc\xda\xd0\x0e\x67\x65\x6f"
)

// Boot is the log of an ordinary boot.
func Boot(m Machine) *Log {
	l := &Log{}
	l.firmware()
	l.secureBoot(m)
	for pcr := range 8 {
		l.Measure(pcr, Separator, make([]byte, 4))
	}
	if m.SecureBoot {
		l.Measure(7, VariableAuthority, Variable(securityDatabase, "db", SignatureList("vendor")[signatureAt:]))
	}
	for _, image := range []string{"shim", "grub", "kernel"} {
		l.MeasureAs(4, BootApplication, Image(image), loadedImage(image))
	}
	l.grub(m.CommandLine)
	return l
}

func (l *Log) firmware() {
	l.Measure(0, SCRTMVersion, utf16le("Simulated UEFI Release v4.1"))
	l.MeasureAs(0, FirmwareBlob, bytes.Repeat([]byte("firmware"), 64), make([]byte, 16))
	l.Measure(4, Action, []byte("Calling EFI Application from Boot Option"))
	l.Measure(5, Action, []byte("Exit Boot Services Invocation"))
}

func (l *Log) secureBoot(m Machine) {
	on := []byte{0}
	if m.SecureBoot {
		on = []byte{1}
	}
	l.Measure(7, VariableDriverConfig, Variable(globalVariable, "SecureBoot", on))
	l.Measure(7, VariableDriverConfig, Variable(globalVariable, "PK", SignatureList("platform")))
	l.Measure(7, VariableDriverConfig, Variable(globalVariable, "KEK", SignatureList("exchange")))
	l.Measure(7, VariableDriverConfig, Variable(securityDatabase, "db", SignatureList("vendor")))
	l.Measure(7, VariableDriverConfig, Variable(securityDatabase, "dbx", m.DBX))
}

// grub measures its commands and the kernel's command line into PCR 8, without their labels, and
// the files that it reads into PCR 9.
func (l *Log) grub(commandLine string) {
	for _, text := range []struct{ label, text string }{
		{"grub_cmd: ", "set root=hd0,gpt1"},
		{"grub_cmd: ", "linux " + commandLine},
		{"kernel_cmdline: ", commandLine},
		{"grub_cmd: ", "boot"},
	} {
		l.MeasureAs(8, IPL, []byte(text.text), []byte(text.label+text.text+"\x00"))
	}
	l.MeasureAs(9, IPL, Image("kernel"), []byte("(hd0,gpt1)/boot/vmlinuz\x00"))
}

// Image is the content of an image of the boot, for tests that need its digest.
func Image(name string) []byte { return bytes.Repeat([]byte(name), 100) }

// Variable is a UEFI_VARIABLE_DATA: the vendor's GUID, two lengths, the name in UTF-16, the
// content.
func Variable(vendor, name string, content []byte) []byte {
	units := utf16.Encode([]rune(name))
	b := []byte(vendor)
	b = binary.LittleEndian.AppendUint64(b, uint64(len(units)))
	b = binary.LittleEndian.AppendUint64(b, uint64(len(content)))
	for _, u := range units {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return append(b, content...)
}

// signatureAt is where the first entry of a signature list begins.
const signatureAt = 28

// SignatureList is an EFI_SIGNATURE_LIST with one SHA-256 entry that is made of name.
func SignatureList(name string) []byte {
	const entry = 16 + 32
	b := []byte("\x26\x16\xc4\xc1\x4c\x50\x92\x40\xac\xa9\x41\xf9\x36\x93\x43\x28") // EFI_CERT_SHA256_GUID
	b = binary.LittleEndian.AppendUint32(b, signatureAt+entry)
	b = binary.LittleEndian.AppendUint32(b, 0)
	b = binary.LittleEndian.AppendUint32(b, entry)
	b = append(b, make([]byte, entry)...)
	copy(b[signatureAt+16:], name)
	return b
}

// loadedImage is an EFI_IMAGE_LOAD_EVENT with a device path that names a file.
func loadedImage(name string) []byte {
	path := utf16le(`\EFI\` + name + ".efi\x00")
	node := []byte{4, 4}
	node = binary.LittleEndian.AppendUint16(node, uint16(4+len(path)))
	node = append(append(node, path...), 0x7f, 0xff, 4, 0)
	b := make([]byte, 24)
	b = binary.LittleEndian.AppendUint64(b, uint64(len(node)))
	return append(b, node...)
}

func utf16le(s string) []byte {
	var b []byte
	for _, u := range utf16.Encode([]rune(s)) {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return b
}
