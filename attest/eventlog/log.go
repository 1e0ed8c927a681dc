package eventlog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// MaxSize is the largest log that is read, in bytes. Logs of real machines have 10 to 80 KiB.
const MaxSize = 720 << 10

// Limits of what a log may hold.
const (
	maxEvents     = 4096
	maxAlgorithms = 8
	maxPCR        = 23
	maxHeaderData = 1024
)

// Hash algorithms by number (TPM 2.0 Part 2, TPM_ALG_ID) that TPMs have banks of, with the bytes of
// their digests. A log with another one is refused: what follows its digest could not be found.
const (
	algSHA1    = 0x0004
	algSHA256  = 0x000B
	algSHA384  = 0x000C
	algSHA512  = 0x000D
	algSM3     = 0x0012
	algSHA3256 = 0x0027
	algSHA3384 = 0x0028
	algSHA3512 = 0x0029
)

func digestSize(alg uint16) int {
	switch alg {
	case algSHA1:
		return 20
	case algSHA256, algSM3, algSHA3256:
		return 32
	case algSHA384, algSHA3384:
		return 48
	case algSHA512, algSHA3512:
		return 64
	}
	return 0
}

// Type says what an event is about. No digest covers it: a forger of the log can write another.
type Type uint32

// Types that are read (PC Client Platform Firmware Profile 1.06, table 27).
const (
	noAction          Type = 0x00000003
	separator         Type = 0x00000004
	variableConfig    Type = 0x80000001
	action            Type = 0x80000007
	variableAuthority Type = 0x800000E0
)

// Event is one measurement as the log has it.
type Event struct {
	PCR    int
	Type   Type
	Digest []byte // as the register was extended with it: SHA-256, or that of the bank that is read
	Data   []byte // covered by Digest for some types of events only
}

// covered reports whether the digest is that of the data.
func (e Event) covered() bool { return covers(e.Digest, e.Data) }

// Log is a parsed log. Nothing in it is proven. Its slices are parts of the parsed bytes.
type Log struct {
	Events  []Event
	Padding int // bytes of zeros and 0xFF after the last event

	bank     uint16 // of the digests
	locality byte   // from which the TPM was started: the first value of PCR 0
}

// Trim cuts what follows the last event, if it is nothing but zeros and 0xFF: the buffer that
// firmware and kernel keep a log in is larger than the log. It returns how many bytes it has cut.
// An empty log, or one that is all padding, becomes nil without an error: the machine has no log.
// Any other log must be readable to its end.
func Trim(log []byte) (kept []byte, cut int, err error) {
	end := endOfContent(log)
	if end == 0 {
		return nil, len(log), nil
	}
	kept = log
	if len(log) > MaxSize && end <= MaxSize {
		kept = log[:MaxSize] // the rest is padding
	}
	l, err := parse(kept, algSHA256, algSHA384)
	if err != nil {
		return nil, 0, err
	}
	kept = kept[:len(kept)-l.Padding]
	return kept, len(log) - len(kept), nil
}

// endOfContent is the length of b without the zeros and 0xFF at its end.
func endOfContent(b []byte) int {
	end := len(b)
	for end > 0 && (b[end-1] == 0x00 || b[end-1] == 0xFF) {
		end--
	}
	return end
}

// Parse reads a log in the crypto agile format (PC Client Platform Firmware Profile 1.06, 10.2.2),
// with a SHA-256 digest in every event. The older format, which has SHA-1 alone, is refused.
func Parse(log []byte) (*Log, error) { return parse(log, algSHA256) }

// parse is Parse for the first of the banks that the log has digests of.
func parse(log []byte, banks ...uint16) (*Log, error) {
	if len(log) > MaxSize {
		return nil, fmt.Errorf("event log of %d bytes, want at most %d", len(log), MaxSize)
	}
	r := &reader{rest: log}
	algorithms, err := readHeader(r)
	if err != nil {
		return nil, fmt.Errorf("event log: %w", err)
	}
	l := &Log{bank: choose(algorithms, banks)}
	if l.bank == 0 {
		return nil, fmt.Errorf("event log: no %s digests", names(banks))
	}
	// An event that lies in the padding would have no digest, or more than there are algorithms.
	padding := len(log) - endOfContent(log)
	for len(r.rest) > padding {
		if len(l.Events) == maxEvents {
			return nil, fmt.Errorf("event log: more than %d events", maxEvents)
		}
		e, err := readEvent(r, algorithms, l.bank)
		if err != nil {
			return nil, fmt.Errorf("event log: event %d: %w", len(l.Events)+1, err)
		}
		if err := l.add(e); err != nil {
			return nil, fmt.Errorf("event log: event %d: %w", len(l.Events)+1, err)
		}
	}
	l.Padding = len(r.rest)
	return l, nil
}

// localityEvent begins the data of the event that says how the TPM was started (PC Client Platform
// Firmware Profile 1.06, 10.4.5.3).
const localityEvent = "StartupLocality\x00"

// add takes an event into the log. EV_NO_ACTION extends no register and is left out; the one about
// the TPM's start must come before anything in PCR 0.
func (l *Log) add(e Event) error {
	if e.Type != noAction {
		if e.PCR > maxPCR {
			return fmt.Errorf("PCR %d, want 0 to %d", e.PCR, maxPCR)
		}
		l.Events = append(l.Events, e)
		return nil
	}
	value, found := bytes.CutPrefix(e.Data, []byte(localityEvent))
	if !found || e.PCR != 0 {
		return nil
	}
	if len(value) != 1 || (value[0] != 0 && value[0] != 3 && value[0] != 4) {
		return fmt.Errorf("start of the TPM from locality %x, want 00, 03 or 04", value)
	}
	for _, earlier := range l.Events {
		if earlier.PCR == 0 {
			return errors.New("start of the TPM after a measurement into PCR 0")
		}
	}
	l.locality = value[0]
	return nil
}

// readHeader reads the first event, which has the older format and names the algorithms of all that
// follow.
func readHeader(r *reader) ([]uint16, error) {
	const sha1Size = 20
	pcr, typ := r.uint32(), Type(r.uint32())
	digest := r.bytes(sha1Size)
	data := r.sized(maxHeaderData)
	if r.short {
		return nil, errShort
	}
	spec, found := bytes.CutPrefix(data, []byte("Spec ID Event03\x00"))
	if pcr != 0 || typ != noAction || !found {
		return nil, errors.New("it does not begin with a Spec ID Event03: a log with SHA-1 digests alone proves nothing")
	}
	if !bytes.Equal(digest, make([]byte, sha1Size)) {
		return nil, errors.New("digest of the header event is not zero")
	}
	return readSpecID(&reader{rest: spec})
}

// readSpecID reads a TCG_EfiSpecIDEvent after its signature.
func readSpecID(r *reader) ([]uint16, error) {
	const platformClass, sizes = 4, 2 // bytes; errata and the size of addresses mean nothing here
	r.bytes(platformClass)
	version := r.bytes(2)
	r.bytes(sizes)
	count := r.uint32()
	if r.short {
		return nil, errShort
	}
	if version[0] != 0 || version[1] != 2 {
		return nil, fmt.Errorf("version %d.%d of the format, want 2.0", version[1], version[0])
	}
	if count == 0 || count > maxAlgorithms {
		return nil, fmt.Errorf("%d hash algorithms, want 1 to %d", count, maxAlgorithms)
	}
	var algorithms []uint16
	for range count {
		alg, size := r.uint16(), r.uint16()
		if r.short {
			return nil, errShort
		}
		if known := digestSize(alg); known == 0 || known != int(size) || position(algorithms, alg) >= 0 {
			return nil, fmt.Errorf("hash algorithm %#04x with digests of %d bytes is unknown, or comes twice", alg, size)
		}
		algorithms = append(algorithms, alg)
	}
	vendor := r.bytes(1)
	if r.short || len(r.rest) != int(vendor[0]) {
		return nil, errors.New("the header event has another length than its parts")
	}
	return algorithms, nil
}

// readEvent reads a TCG_PCR_EVENT2: one digest for each of the algorithms, of which that of the
// bank is kept.
func readEvent(r *reader, algorithms []uint16, bank uint16) (Event, error) {
	pcr, typ, count := r.uint32(), Type(r.uint32()), r.uint32()
	if r.short {
		return Event{}, errShort
	}
	if int64(count) != int64(len(algorithms)) {
		return Event{}, fmt.Errorf("%d digests, want %d", count, len(algorithms))
	}
	var seen [maxAlgorithms]bool
	e := Event{PCR: int(min(pcr, maxPCR+1)), Type: typ}
	for range count {
		alg := r.uint16()
		i := position(algorithms, alg)
		if i < 0 || seen[i] {
			return Event{}, fmt.Errorf("digest of algorithm %#04x is not announced, or comes twice", alg)
		}
		seen[i] = true
		digest := r.bytes(digestSize(alg))
		if alg == bank {
			e.Digest = digest
		}
	}
	e.Data = r.sized(MaxSize)
	if r.short {
		return Event{}, errShort
	}
	return e, nil
}

func position(algorithms []uint16, alg uint16) int {
	for i, a := range algorithms {
		if a == alg {
			return i
		}
	}
	return -1
}

var errShort = errors.New("it ends within an event")

// reader takes little-endian values off a slice. After one that is not there, short is set and all
// further ones are zero.
type reader struct {
	rest  []byte
	short bool
}

func (r *reader) bytes(n int) []byte {
	if n > len(r.rest) {
		r.short, r.rest = true, nil
	}
	if r.short {
		return nil
	}
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}

func (r *reader) uint16() uint16 {
	if b := r.bytes(2); b != nil {
		return binary.LittleEndian.Uint16(b)
	}
	return 0
}

func (r *reader) uint32() uint32 {
	if b := r.bytes(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (r *reader) uint64() uint64 {
	if b := r.bytes(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

// sized reads bytes after their number, which must not be larger than limit.
func (r *reader) sized(limit uint64) []byte {
	n := r.uint32()
	if uint64(n) > min(limit, uint64(len(r.rest))) {
		r.short, r.rest = true, nil
	}
	return r.bytes(int(n))
}
