package bootlog

import (
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
)

// Algorithms of the banks that are written (TPM 2.0 Part 2, TPM_ALG_ID).
const (
	AlgSHA1   = 0x0004
	AlgSHA256 = 0x000B
	AlgSHA384 = 0x000C
)

// Event types (PC Client Platform Firmware Profile 1.06, table 27).
const (
	NoAction             = 0x00000003
	Separator            = 0x00000004
	EventTag             = 0x00000006
	SCRTMVersion         = 0x00000008
	IPL                  = 0x0000000D
	VariableDriverConfig = 0x80000001
	BootApplication      = 0x80000003
	Action               = 0x80000007
	FirmwareBlob         = 0x80000008
	VariableAuthority    = 0x800000E0
)

// Event is one measurement. Measured is what the digests are made of, Data what the log shows: the
// same bytes for some types of events, and not for others.
type Event struct {
	PCR      int
	Type     uint32
	Measured []byte
	Data     []byte
}

// Digests are those of the event, by algorithm.
func (e Event) Digests() map[uint16][]byte {
	s1 := sha1.Sum(e.Measured)
	s256, s384 := sha256.Sum256(e.Measured), sha512.Sum384(e.Measured)
	return map[uint16][]byte{AlgSHA1: s1[:], AlgSHA256: s256[:], AlgSHA384: s384[:]}
}

// Log is a measured boot, in the order in which it happened.
type Log struct{ Events []Event }

// Measure adds an event whose digest covers what the log shows.
func (l *Log) Measure(pcr int, typ uint32, data []byte) {
	l.Events = append(l.Events, Event{PCR: pcr, Type: typ, Measured: data, Data: data})
}

// MeasureAs adds an event whose digest covers other bytes than the log shows.
func (l *Log) MeasureAs(pcr int, typ uint32, measured, data []byte) {
	l.Events = append(l.Events, Event{PCR: pcr, Type: typ, Measured: measured, Data: data})
}

// PCRs are the registers of the SHA-256 bank after the boot, 0 to 15. EV_NO_ACTION extends none.
func (l *Log) PCRs() map[int][]byte { return l.Bank(AlgSHA256) }

// Bank is PCRs for any of the banks.
func (l *Log) Bank(alg uint16) map[int][]byte {
	const registers = 16
	digest := func(b []byte) []byte { return Event{Measured: b}.Digests()[alg] }
	out := make(map[int][]byte, registers)
	for i := range registers {
		out[i] = make([]byte, len(digest(nil)))
	}
	for _, e := range l.Events {
		if e.Type != NoAction {
			out[e.PCR] = digest(append(out[e.PCR], digest(e.Measured)...))
		}
	}
	return out
}

// Bytes writes the log in the crypto agile format: little-endian, a header event in the older
// format first.
func (l *Log) Bytes() []byte {
	le := binary.LittleEndian
	var b []byte
	for _, e := range l.Events {
		b = le.AppendUint32(b, uint32(e.PCR))
		b = le.AppendUint32(b, e.Type)
		b = le.AppendUint32(b, uint32(len(algorithms())))
		digests := e.Digests()
		for _, a := range algorithms() {
			digest := digests[a]
			if e.Type == NoAction {
				digest = make([]byte, len(digest))
			}
			b = append(le.AppendUint16(b, a), digest...)
		}
		b = le.AppendUint32(b, uint32(len(e.Data)))
		b = append(b, e.Data...)
	}
	return append(header(), b...)
}

func algorithms() []uint16 { return []uint16{AlgSHA1, AlgSHA256, AlgSHA384} }

// header is the first event, which names the banks.
func header() []byte {
	le := binary.LittleEndian
	spec := append([]byte("Spec ID Event03\x00"), 0, 0, 0, 0) // platform class: client
	spec = append(spec, 0, 2, 0, 2)                           // version 2.0, errata 0, 64-bit
	spec = le.AppendUint32(spec, uint32(len(algorithms())))
	for _, a := range algorithms() {
		spec = le.AppendUint16(spec, a)
		spec = le.AppendUint16(spec, uint16(len(Event{}.Digests()[a])))
	}
	spec = append(spec, 0) // no vendor's data
	b := le.AppendUint32(nil, 0)
	b = le.AppendUint32(b, NoAction)
	b = append(b, make([]byte, sha1.Size)...)
	b = le.AppendUint32(b, uint32(len(spec)))
	return append(b, spec...)
}
