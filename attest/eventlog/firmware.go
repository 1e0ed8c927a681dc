package eventlog

import "encoding/binary"

// lastFirmwarePCR is the last register of firmware and boot loader.
const lastFirmwarePCR = 7

// Firmware returns the log with only the events of registers 0 to 7, with SHA-256 digests alone and
// without padding: for services that take no other log. It replays to the same values of these
// registers.
func Firmware(log []byte) ([]byte, error) {
	l, err := Parse(log)
	if err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	spec := append([]byte("Spec ID Event03\x00"), 0, 0, 0, 0, 0, 2, 0, 2) // class, version 2.0, errata, 64-bit addresses
	spec = le.AppendUint32(spec, 1)
	spec = le.AppendUint16(spec, algSHA256)
	spec = le.AppendUint16(spec, uint16(digestSize(algSHA256))) // #nosec G115 -- 32
	spec = append(spec, 0)                                      // nothing of the vendor's
	out := le.AppendUint32(nil, 0)
	out = le.AppendUint32(out, uint32(noAction))
	out = append(out, make([]byte, digestSize(algSHA1))...)
	out = append(le.AppendUint32(out, uint32(len(spec))), spec...) // #nosec G115 -- 33
	if l.locality != 0 {
		out = appendEvent(out, Event{Type: noAction, Digest: make([]byte, digestSize(algSHA256)), Data: append([]byte(localityEvent), l.locality)})
	}
	for _, e := range l.Events {
		if e.PCR <= lastFirmwarePCR {
			out = appendEvent(out, e)
		}
	}
	return out, nil
}

// appendEvent writes a TCG_PCR_EVENT2 with one digest.
func appendEvent(out []byte, e Event) []byte {
	le := binary.LittleEndian
	out = le.AppendUint32(out, uint32(e.PCR)) // #nosec G115 -- 0 to 23
	out = le.AppendUint32(out, uint32(e.Type))
	out = le.AppendUint32(out, 1)
	out = append(le.AppendUint16(out, algSHA256), e.Digest...)
	out = le.AppendUint32(out, uint32(len(e.Data))) // #nosec G115 -- at most MaxSize
	return append(out, e.Data...)
}
