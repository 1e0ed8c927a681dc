package eventlog

import (
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// HexBytes are written in hexadecimal in JSON and text.
type HexBytes []byte

// MarshalText encodes the bytes.
func (h HexBytes) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, h), nil }

// UnmarshalText decodes them.
func (h *HexBytes) UnmarshalText(text []byte) (err error) {
	*h, err = hex.AppendDecode(nil, text)
	return err
}

// Facts are what a log shows about registers that it replays to. They are as trustworthy as the
// register values: nothing, unless the values were quoted by a TPM that is itself proven.
type Facts struct {
	Events  int `json:"events"`
	Padding int `json:"padding_bytes"` // zeros and 0xFF that were cut from the end

	Replayed    []int `json:"replayed_pcrs"`               // quoted registers that the log explains
	NotReplayed []int `json:"not_replayed_pcrs,omitempty"` // quoted registers that it does not

	SecureBoot       SecureBoot `json:"secure_boot"`
	SecureBootReason string     `json:"secure_boot_reason,omitempty"` // why it is not stated

	// SHA-256 of the content of the Secure Boot variables; nil if one was not measured.
	PK  HexBytes `json:"pk_sha256,omitempty"`
	KEK HexBytes `json:"kek_sha256,omitempty"`
	DB  HexBytes `json:"db_sha256,omitempty"`
	DBX HexBytes `json:"dbx_sha256,omitempty"`

	// Authorities are those of the boot in the order in which they were used. A program in the
	// guest can add more at the end.
	Authorities []Authority `json:"authorities,omitempty"`

	// BootLoaders are the digests of everything in PCR 4 that is not a constant of the
	// specification: Authenticode hashes of the images that were started, in order, by the hash of
	// the quoted bank. A program in the guest can add more at the end, and take none away.
	BootLoaders       []HexBytes `json:"boot_loaders,omitempty"`
	BootLoadersReason string     `json:"boot_loaders_reason,omitempty"` // why they are not known

	// CommandLines are those of kernels (and of modules that GRUB loads). If the reason is not
	// empty, there may be others.
	CommandLines       []CommandLine `json:"command_lines,omitempty"`
	CommandLinesReason string        `json:"command_lines_reason,omitempty"` // why they may not be all
}

// Read parses a log, replays it to the quoted registers of one bank, SHA-256 (32 bytes each) or
// SHA-384 (48), and reads the facts from the registers that it replays to. It fails if the log
// cannot be parsed or has no digests of the bank; a log that replays to nothing gives no facts. It
// is pure and keeps no part of its arguments.
func Read(log []byte, quoted map[int][]byte) (*Facts, error) {
	l, err := parse(log, bankOf(quoted))
	if err != nil {
		return nil, err
	}
	r := l.replayTo(quoted)
	f := &Facts{
		Events: len(l.Events), Padding: l.Padding,
		Replayed: slices.Sorted(maps.Keys(r.matching)), NotReplayed: r.failed,
	}
	f.readSecureBoot(r)
	f.readBootLoaders(r)
	f.readCommandLines(r)
	return f, nil
}

// of returns the events of a register, or why they are not known.
func (r replay) of(pcr int) ([]Event, error) {
	if events, ok := r.matching[pcr]; ok {
		return events, nil
	}
	if slices.Contains(r.failed, pcr) {
		return nil, fmt.Errorf("the log does not replay to PCR %d", pcr)
	}
	return nil, fmt.Errorf("PCR %d is not quoted", pcr)
}

func (f *Facts) readSecureBoot(r replay) {
	f.SecureBoot = SecureBootNotStated
	events, err := r.of(secureBootPCR)
	if err != nil {
		f.SecureBootReason = err.Error()
		return
	}
	s, err := readBootState(events)
	if err != nil {
		f.SecureBootReason = err.Error()
		return
	}
	f.PK, f.KEK = s.hash(globalVariable, "PK"), s.hash(globalVariable, "KEK")
	f.DB, f.DBX = s.hash(securityDatabase, "db"), s.hash(securityDatabase, "dbx")
	f.Authorities = s.authorities
	if f.SecureBoot, err = s.state(); err != nil {
		f.SecureBootReason = err.Error()
	}
}

// loaderPCR is the register of the images that firmware starts.
const loaderPCR = 4

func (f *Facts) readBootLoaders(r replay) {
	events, err := r.of(loaderPCR)
	if err != nil {
		f.BootLoadersReason = err.Error()
		return
	}
	for _, e := range events {
		if !loaderConstant(e) {
			f.BootLoaders = append(f.BootLoaders, slices.Clone(e.Digest))
		}
	}
}

// loaderConstant reports whether an event in PCR 4 is one of the texts that firmware measures
// there. Whatever else it claims to be, its digest may be that of an image.
func loaderConstant(e Event) bool {
	switch string(e.Data) {
	case "\x00\x00\x00\x00", "\xff\xff\xff\xff",
		"Calling EFI Application from Boot Option", "Returning from EFI Application from Boot Option":
		return e.covered()
	}
	return false
}

func (f *Facts) readCommandLines(r replay) {
	var missing []error
	for _, pcr := range []int{grubPCR, stubPCR} {
		events, err := r.of(pcr)
		if err == nil {
			var lines []CommandLine
			lines, err = commandLines(pcr, events)
			f.CommandLines = append(f.CommandLines, lines...)
		}
		if err != nil {
			missing = append(missing, err)
		}
	}
	if err := errors.Join(missing...); err != nil {
		f.CommandLinesReason = err.Error()
	}
}
