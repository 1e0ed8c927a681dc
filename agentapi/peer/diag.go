package peer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// Sizes of linux/netlink.h, linux/inet_diag.h and sock_diag(7).
const (
	netlinkHeaderBytes = 16 // struct nlmsghdr
	diagRequestBytes   = 56 // struct inet_diag_req_v2
	diagMessageBytes   = 72 // struct inet_diag_msg
	attributeBytes     = 4  // struct nlattr
	// maxDiagBytes limits an answer. One for a TCP socket has less than 500 bytes.
	maxDiagBytes = 8192
)

// diagCgroupID is INET_DIAG_CGROUP_ID, which the kernel adds without being asked (5.8 and later).
const diagCgroupID = 21

// attributeType masks the flags in the type of an attribute (NLA_TYPE_MASK).
const attributeType = 0x3fff

// loopbackIndex is the index of the loopback interface in every network namespace.
const loopbackIndex = 1

// endpoints are the two ends of a TCP connection, as one of its sockets has them. Addresses are
// never IPv6-mapped IPv4 ones.
type endpoints struct{ local, remote netip.AddrPort }

// diagSocket is what the kernel says of a TCP socket.
type diagSocket struct {
	endpoints
	state      uint8
	uid, inode uint32
	cgroup     uint64 // 0: it is not said
}

// errNoSocket says that there is no such socket in this network namespace.
var errNoSocket = errors.New("nobody on this machine has the other end of the connection")

// diagRequest returns the question for exactly one TCP socket: no dump, which would compare no
// addresses, and take milliseconds. Where the interface is not 0, sockets that are bound to it are
// found, too.
func diagRequest(of endpoints, sequence, iface uint32) []byte {
	native := binary.NativeEndian
	b := make([]byte, netlinkHeaderBytes+diagRequestBytes)
	native.PutUint32(b[0:], uint32(len(b))) //nolint:gosec // 72
	native.PutUint16(b[4:], unix.SOCK_DIAG_BY_FAMILY)
	native.PutUint16(b[6:], unix.NLM_F_REQUEST)
	native.PutUint32(b[8:], sequence)
	req := b[netlinkHeaderBytes:]
	req[0] = unix.AF_INET6
	if of.local.Addr().Is4() {
		req[0] = unix.AF_INET
	}
	req[1] = unix.IPPROTO_TCP
	native.PutUint32(req[4:], ^uint32(0)) // any state: an exact question has no choice of it
	id := req[8:]
	binary.BigEndian.PutUint16(id[0:], of.local.Port())
	binary.BigEndian.PutUint16(id[2:], of.remote.Port())
	copy(id[4:20], of.local.Addr().AsSlice())
	copy(id[20:36], of.remote.Addr().AsSlice())
	native.PutUint32(id[36:], iface)
	native.PutUint32(id[40:], ^uint32(0)) // INET_DIAG_NOCOOKIE
	native.PutUint32(id[44:], ^uint32(0))
	return b
}

// errOtherAnswer is of a message that answers another question.
var errOtherAnswer = errors.New("it answers another question")

// parseDiag returns the socket of an answer to the question with this sequence number. An error of
// the kernel is a [syscall.Errno], or errNoSocket.
func parseDiag(b []byte, sequence uint32) (diagSocket, error) {
	native := binary.NativeEndian
	if len(b) < netlinkHeaderBytes || len(b) > maxDiagBytes {
		return diagSocket{}, fmt.Errorf("a message of %d bytes", len(b))
	}
	if size := native.Uint32(b); size < netlinkHeaderBytes || uint64(size) > uint64(len(b)) {
		return diagSocket{}, fmt.Errorf("a message of %d bytes says that it has %d", len(b), size)
	} else {
		b = b[:size]
	}
	if native.Uint32(b[8:]) != sequence {
		return diagSocket{}, errOtherAnswer
	}
	kind, body := native.Uint16(b[4:]), b[netlinkHeaderBytes:]
	switch kind {
	case unix.NLMSG_ERROR:
		return diagSocket{}, diagError(body)
	case unix.SOCK_DIAG_BY_FAMILY:
		return parseDiagMessage(body)
	}
	return diagSocket{}, fmt.Errorf("a message of type %d", kind)
}

func diagError(body []byte) error {
	if len(body) < 4 {
		return errors.New("an error without a number")
	}
	code := int32(binary.NativeEndian.Uint32(body)) //nolint:gosec // a negative errno
	switch {
	case code >= 0 || code < -4095:
		return fmt.Errorf("error %d", code)
	case syscall.Errno(-code) == unix.ENOENT:
		return errNoSocket
	}
	return syscall.Errno(-code)
}

func parseDiagMessage(b []byte) (diagSocket, error) {
	native := binary.NativeEndian
	if len(b) < diagMessageBytes {
		return diagSocket{}, fmt.Errorf("an answer of %d bytes", len(b))
	}
	id := b[4:]
	local, okLocal := diagAddress(b[0], id[4:20])
	remote, okRemote := diagAddress(b[0], id[20:36])
	if !okLocal || !okRemote {
		return diagSocket{}, fmt.Errorf("an answer of address family %d", b[0])
	}
	found := diagSocket{
		endpoints: endpoints{
			local:  netip.AddrPortFrom(local, binary.BigEndian.Uint16(id[0:])),
			remote: netip.AddrPortFrom(remote, binary.BigEndian.Uint16(id[2:])),
		},
		state: b[1],
		uid:   native.Uint32(b[64:]),
		inode: native.Uint32(b[68:]),
	}
	var err error
	found.cgroup, err = diagCgroup(b[diagMessageBytes:])
	return found, err
}

func diagAddress(family byte, b []byte) (netip.Addr, bool) {
	switch family {
	case unix.AF_INET:
		return netip.AddrFrom4([4]byte(b[:4])), true
	case unix.AF_INET6: // also of a client with an IPv6 socket that connects to an IPv4 address
		return netip.AddrFrom16([16]byte(b[:16])).Unmap(), true
	}
	return netip.Addr{}, false
}

// diagCgroup returns the cgroup id among the attributes; 0 if it is not there.
func diagCgroup(b []byte) (id uint64, err error) {
	native := binary.NativeEndian
	for len(b) >= attributeBytes {
		size := int(native.Uint16(b))
		if size < attributeBytes || size > len(b) {
			return 0, fmt.Errorf("an attribute of %d bytes", size)
		}
		if native.Uint16(b[2:])&attributeType == diagCgroupID {
			if id != 0 || size != attributeBytes+8 {
				return 0, errors.New("the cgroup is not said once, in 8 bytes")
			}
			id = native.Uint64(b[attributeBytes:])
		}
		b = b[min((size+3)&^3, len(b)):]
	}
	if len(b) != 0 {
		return 0, errors.New("an attribute without a length")
	}
	return id, nil
}
