package peer_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/keyagent/keyagent/agentapi/peer"
)

var (
	diagClient = addrPort("127.0.0.1:40000")
	diagAgent  = addrPort("127.0.0.1:840")
)

// established is what the kernel says of a connection: written by the headers of Linux, as
// linux/inet_diag.h has them.
func established(attributes ...[]byte) []byte {
	native := binary.NativeEndian
	b := make([]byte, 16+72)
	native.PutUint16(b[4:], 20) // SOCK_DIAG_BY_FAMILY
	native.PutUint32(b[8:], 7)
	body := b[16:]
	body[0], body[1] = unix.AF_INET, 1
	binary.BigEndian.PutUint16(body[4:], 40000)
	binary.BigEndian.PutUint16(body[6:], 840)
	copy(body[8:], []byte{127, 0, 0, 1})
	copy(body[24:], []byte{127, 0, 0, 1})
	native.PutUint32(body[64:], 4101)
	native.PutUint32(body[68:], 99)
	for _, a := range attributes {
		b = append(b, a...)
	}
	native.PutUint32(b, uint32(len(b)))
	return b
}

func attribute(kind uint16, value ...byte) []byte {
	b := binary.NativeEndian.AppendUint16(nil, uint16(4+len(value)))
	b = append(binary.NativeEndian.AppendUint16(b, kind), value...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

func cgroupAttribute(id uint64) []byte {
	return attribute(21, binary.NativeEndian.AppendUint64(nil, id)...)
}

func TestParseDiag(t *testing.T) {
	want := peer.DiagSocket{Local: diagClient, Remote: diagAgent, State: 1, UID: 4101, Inode: 99}
	withCgroup := want
	withCgroup.Cgroup = 3053
	mapped := established()
	mapped[16] = unix.AF_INET6
	for _, at := range []int{24, 40} {
		copy(mapped[at:], []byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127, 0, 0, 1})
	}
	for name, b := range map[string][]byte{"": established(), "IPv4 in IPv6": mapped, "more in the buffer": append(established(), 1, 2, 3)} {
		if got, err := peer.ParseDiag(b, 7); err != nil || got != want {
			t.Errorf("%s: got %+v, %v", name, got, err)
		}
	}
	for name, b := range map[string][]byte{
		"alone":                established(cgroupAttribute(3053)),
		"between others":       established(attribute(8, 0), cgroupAttribute(3053), attribute(15, 1, 2, 3)),
		"with a flag":          established(attribute(21|0x8000, binary.NativeEndian.AppendUint64(nil, 3053)...)),
		"after an unknown one": established(attribute(500, 1, 2, 3, 4, 5), cgroupAttribute(3053)),
	} {
		if got, err := peer.ParseDiag(b, 7); err != nil || got != withCgroup {
			t.Errorf("cgroup %s: got %+v, %v", name, got, err)
		}
	}
}

func TestParseDiagRefuses(t *testing.T) {
	change := func(f func([]byte) []byte) []byte { return f(established()) }
	put16 := func(at int, v uint16) []byte {
		return change(func(b []byte) []byte { binary.NativeEndian.PutUint16(b[at:], v); return b })
	}
	put32 := func(at int, v uint32) []byte {
		return change(func(b []byte) []byte { binary.NativeEndian.PutUint32(b[at:], v); return b })
	}
	for name, b := range map[string][]byte{
		"nothing":                           nil,
		"half a header":                     established()[:10],
		"a length below the header's":       put32(0, 8),
		"a length beyond the buffer":        put32(0, 200),
		"too much":                          make([]byte, 9000),
		"another question's answer":         put32(8, 8),
		"another type":                      put16(4, 3),
		"a body that is too short":          change(func(b []byte) []byte { binary.NativeEndian.PutUint32(b, 60); return b[:60] }),
		"another family":                    put16(16, unix.AF_UNIX),
		"an attribute without length":       established([]byte{0, 0, 21, 0}),
		"an attribute beyond the end":       established([]byte{40, 0, 21, 0}),
		"half an attribute":                 established([]byte{4, 0}),
		"a cgroup of four bytes":            established(attribute(21, 1, 2, 3, 4)),
		"two cgroups":                       established(cgroupAttribute(1), cgroupAttribute(2)),
		"an error without a number":         kernelError(nil),
		"an error that is none":             kernelError([]byte{0, 0, 0, 0}),
		"an error with an impossible value": kernelError([]byte{0, 0, 0, 0x80}),
	} {
		if got, err := peer.ParseDiag(b, 7); err == nil {
			t.Errorf("%s: got %+v", name, got)
		}
	}
	denied := ^uint32(unix.EACCES) + 1
	if _, err := peer.ParseDiag(kernelError(binary.NativeEndian.AppendUint32(nil, denied)), 7); !errors.Is(err, unix.EACCES) {
		t.Errorf("got %v, want the kernel's own error", err)
	}
}

func kernelError(body []byte) []byte {
	b := make([]byte, 16, 20)
	binary.NativeEndian.PutUint16(b[4:], unix.NLMSG_ERROR)
	binary.NativeEndian.PutUint32(b[8:], 7)
	b = append(b, body...)
	binary.NativeEndian.PutUint32(b, uint32(len(b)))
	return b
}

// The question is what ss(8) sends for the same socket, but for the fields that the kernel does not
// look at.
func TestDiagRequest(t *testing.T) {
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		t.Skip("written for little-endian machines")
	}
	got := peer.DiagRequest(diagClient, diagAgent, 5, 1)
	want, err := hex.DecodeString("48000000" + "1400" + "0100" + "05000000" + "00000000" + // nlmsghdr
		"02060000" + "ffffffff" + // family, protocol, states
		"9c40" + "0348" + "7f000001000000000000000000000000" + "7f000001000000000000000000000000" + // ports, addresses
		"01000000" + "ffffffffffffffff") // interface, cookie
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("got  %x\nwant %x", got, want)
	}
	six := peer.DiagRequest(addrPort("[::1]:1"), addrPort("[::1]:2"), 5, 1)
	if six[16] != unix.AF_INET6 || six[16+12+15] != 1 {
		t.Errorf("IPv6: %x", six)
	}
}

func FuzzParseDiag(f *testing.F) {
	f.Add(established(), uint32(7))
	f.Add(established(attribute(8, 0), cgroupAttribute(3053)), uint32(7))
	f.Add(kernelError([]byte{0xfe, 0xff, 0xff, 0xff}), uint32(7))
	f.Fuzz(func(t *testing.T, b []byte, sequence uint32) {
		before := slices.Clone(b)
		found, err := peer.ParseDiag(b, sequence)
		if !bytes.Equal(b, before) {
			t.Error("the message was changed")
		}
		if err != nil && found != (peer.DiagSocket{}) && found.Cgroup != 0 {
			t.Errorf("%+v with %v", found, err)
		}
		if err == nil && (!found.Local.IsValid() || found.Local.Addr().Is4In6() || binary.NativeEndian.Uint32(b[8:]) != sequence) {
			t.Errorf("%+v", found)
		}
	})
}
