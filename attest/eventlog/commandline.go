package eventlog

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// CommandLine is a text that is, or may be, the command line of a kernel.
type CommandLine struct {
	PCR  int    `json:"pcr"`
	Text string `json:"text"`
}

// Registers of the boot loaders: GRUB measures its commands and the command line into the first,
// systemd-stub the command line into the second (systemd up to 250 into the first, too).
const (
	grubPCR = 8
	stubPCR = 12
)

// labels stand before the text in what GRUB shows, and are not measured. The older ones are those
// of Fedora's and Google's GRUB.
func labels() []string {
	return []string{"kernel_cmdline: ", "grub_cmd: ", "module_cmdline: ", "grub_kernel_cmdline ", "grub_cmd ", ""}
}

// commandLines reads the texts of a loader's register. It fails if one cannot be read: that could
// be the one which matters.
//
// A label is covered by no digest. What counts as a command line is therefore told by the text: a
// kernel's begins with the path of its file, in quotes if there is a space in it, and none of
// GRUB's commands does. GRUB reads some file systems, archives among them, by paths that begin with
// any character: then a command line cannot be told from a command. So it fails as well if a
// command that loads something has such a path.
func commandLines(pcr int, events []Event) ([]CommandLine, error) {
	var out []CommandLine
	for _, e := range events {
		if e.Type == separator && e.covered() && len(e.Data) == 4 {
			continue
		}
		text, wide, ok := readText(e)
		if !ok {
			return nil, fmt.Errorf("an event of type %#x in PCR %d has a text that its digest does not cover", uint32(e.Type), pcr)
		}
		if file, loads := loaded(text); loads && !isPath(file) {
			return nil, fmt.Errorf("PCR %d has a command that loads %.100q, whose command line cannot be told from a command", pcr, file)
		}
		if wide || pcr == stubPCR || isPath(strings.TrimPrefix(text, `"`)) {
			out = append(out, CommandLine{PCR: pcr, Text: text})
		}
	}
	return out, nil
}

// isPath reports whether a text begins as GRUB's paths do: on the root device, or on a named one.
func isPath(text string) bool { return strings.HasPrefix(text, "/") || strings.HasPrefix(text, "(") }

// loaded returns the file that one of GRUB's commands loads: a kernel, what goes with it, or
// another loader. What looks like an option is taken for the file: most of these commands have
// none, and open a file of that name.
func loaded(command string) (file string, loads bool) {
	words := strings.Fields(command)
	if len(words) == 0 {
		return "", false
	}
	command = strings.TrimPrefix(words[0], "legacy_")
	for _, name := range []string{"linux", "initrd", "multiboot", "module", "xen_", "chainloader", "kernel"} {
		loads = loads || strings.HasPrefix(command, name)
	}
	if len(words) == 1 { // Ubuntu's configuration has an initrd without a file
		return "", loads && !strings.HasPrefix(command, "initrd")
	}
	return words[1], loads
}

// readText returns the text that the digest covers, and whether it is of 16-bit characters.
func readText(e Event) (text string, wide, ok bool) {
	for _, label := range labels() {
		shown, found := bytes.CutPrefix(e.Data, []byte(label))
		if !found {
			continue
		}
		for _, measured := range [][]byte{shown, bytes.TrimSuffix(shown, []byte{0})} {
			if covers(e.Digest, measured) {
				return decode(measured)
			}
		}
	}
	return "", false, false
}

// decode reads UTF-8 without zeros but one at the end, or else UTF-16.
func decode(b []byte) (text string, wide, ok bool) {
	if narrow := bytes.TrimSuffix(b, []byte{0}); !bytes.Contains(narrow, []byte{0}) {
		return string(narrow), false, utf8.Valid(narrow) && printable(string(narrow))
	}
	if len(b)%2 != 0 {
		return "", false, false
	}
	var units []uint16
	for i := 0; i < len(b); i += 2 {
		units = append(units, binary.LittleEndian.Uint16(b[i:]))
	}
	text = strings.TrimSuffix(string(utf16.Decode(units)), "\x00")
	return text, true, printable(text)
}

// printable keeps control characters out of what an operator is shown. GRUB measures line breaks of
// its scripts.
func printable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool {
		return r == unicode.ReplacementChar || unicode.IsControl(r) && r != '\n' && r != '\t'
	})
}
