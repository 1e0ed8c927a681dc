package eventlog_test

import (
	"bytes"
	"crypto/sha512"
	"encoding/binary"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keyagent/keyagent/attest/eventlog"
	"github.com/keyagent/keyagent/simulator/bootlog"
)

// The facts of a boot are the same whichever bank was quoted, but for the digests of the images.
func TestALogReplaysToTheBankThatWasQuoted(t *testing.T) {
	t.Parallel()
	l := bootlog.Boot(machine())
	f, err := eventlog.Read(l.Bytes(), l.Bank(bootlog.AlgSHA384))
	if err != nil {
		t.Fatal(err)
	}
	want := read(t, l)
	want.BootLoaders = nil
	for _, image := range []string{"shim", "grub", "kernel"} {
		digest := sha512.Sum384(bootlog.Image(image))
		want.BootLoaders = append(want.BootLoaders, digest[:])
	}
	if diff := cmp.Diff(want, f); diff != "" {
		t.Errorf("(-SHA-256, +SHA-384)\n%s", diff)
	}
}

// A digest of one bank vouches for nothing in the other.
func TestEachBankHasItsOwnDigests(t *testing.T) {
	t.Parallel()
	l := bootlog.Boot(machine())
	log, values := l.Bytes(), l.Bank(bootlog.AlgSHA384)
	loader := sha512.Sum384(bootlog.Image("grub"))
	at := bytes.Index(log, loader[:])
	if at < 0 {
		t.Fatal("no such digest")
	}
	log[at] ^= 1
	if f, err := eventlog.Read(log, values); err != nil || !slices.Equal(f.NotReplayed, []int{4}) {
		t.Errorf("SHA-384: %+v %v", f, err)
	}
	if f, err := eventlog.Read(log, l.PCRs()); err != nil || len(f.NotReplayed) > 0 {
		t.Errorf("SHA-256: %+v %v", f, err)
	}
	values[7] = l.PCRs()[7]
	if f, err := eventlog.Read(l.Bytes(), values); err != nil || !slices.Equal(f.NotReplayed, []int{7}) {
		t.Errorf("a value of the other bank: %+v %v", f, err)
	}
}

// What firmware of a kernel's early copy left out is replayed in either bank, and PCR 0 begins with
// the locality.
func TestTheStartAndTheEndOfABootInSHA384(t *testing.T) {
	t.Parallel()
	l := &bootlog.Log{}
	l.MeasureAs(0, bootlog.NoAction, nil, []byte("StartupLocality\x00\x03"))
	log := l.Bytes()
	l.Measure(5, bootlog.Action, []byte("Exit Boot Services Invocation"))
	l.Measure(5, bootlog.Action, []byte("Exit Boot Services Returned with Success"))
	values := map[int][]byte{
		0: append(make([]byte, 47), 3), 5: l.Bank(bootlog.AlgSHA384)[5],
		16: make([]byte, 48), 17: bytes.Repeat([]byte{0xff}, 48),
	}
	f, err := eventlog.Read(log, values)
	if err != nil || !slices.Equal(f.Replayed, []int{0, 5, 16, 17}) {
		t.Errorf("%+v %v", f, err)
	}
}

// single is a log of one event with digests of one bank.
func single(alg uint16, size int) []byte {
	le := binary.LittleEndian
	spec := append([]byte("Spec ID Event03\x00"), 0, 0, 0, 0, 0, 2, 0, 2, 1, 0, 0, 0)
	spec = append(le.AppendUint16(le.AppendUint16(spec, alg), uint16(size)), 0)
	log := append(make([]byte, 4), 3, 0, 0, 0)
	log = append(log, make([]byte, 20)...)
	log = append(le.AppendUint32(log, uint32(len(spec))), spec...)
	log = append(log, 7, 0, 0, 0, 4, 0, 0, 0, 1, 0, 0, 0)
	log = append(le.AppendUint16(log, alg), make([]byte, size)...)
	return append(log, 4, 0, 0, 0, 0, 0, 0, 1)
}

func TestALogWithoutDigestsOfTheBankProvesNothing(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		alg    uint16
		size   int
		quoted int
		want   string
	}{
		{bootlog.AlgSHA256, 32, 48, "no SHA-384 digests"},
		{bootlog.AlgSHA384, 48, 32, "no SHA-256 digests"},
		{bootlog.AlgSHA256, 32, 32, ""},
		{bootlog.AlgSHA384, 48, 48, ""},
	} {
		_, err := eventlog.Read(single(tt.alg, tt.size), map[int][]byte{7: make([]byte, tt.quoted)})
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("digests of %d bytes, values of %d: %v", tt.size, tt.quoted, err)
		}
		kept, _, err := eventlog.Trim(append(single(tt.alg, tt.size), 0, 0, 0))
		if err != nil || !bytes.Equal(kept, single(tt.alg, tt.size)) {
			t.Errorf("trimmed: %x %v", kept, err)
		}
	}
	if _, _, err := eventlog.Trim(single(bootlog.AlgSHA1, 20)); err == nil || !strings.Contains(err.Error(), "no SHA-256 or SHA-384 digests") {
		t.Errorf("SHA-1 alone: %v", err)
	}
}
