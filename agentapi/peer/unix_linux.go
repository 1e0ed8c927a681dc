package peer

import (
	"errors"
	"fmt"
	"net"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxGroups is the kernel's limit on supplementary groups (NGROUPS_MAX).
const maxGroups = 65536

// usualGroups is how many groups are asked for at first; nearly every process has fewer.
const usualGroups = 64

// Of returns the process that connected to conn, the accepted end of a Unix stream socket. It does
// not block. On a connection of any other kind it fails, because there is no one to name. A process
// that has ended, or that the kernel does not tell, leaves the caller without CgroupID. Call
// [Caller.Close] when the connection ends.
func Of(conn net.Conn) (Caller, error) { return ofUnix(conn, hostKernel{cgroups: CgroupRoot}) }

func ofUnix(conn net.Conn, k kernel) (Caller, error) {
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		return Caller{}, fmt.Errorf("identifying the caller: a %T has no peer credentials", conn)
	}
	raw, err := unixConn.SyscallConn()
	if err != nil {
		return Caller{}, fmt.Errorf("identifying the caller: %w", err)
	}
	var caller Caller
	var lookupErr error
	if err := raw.Control(func(fd uintptr) { caller, lookupErr = lookup(int(fd), k) }); err != nil {
		return Caller{}, fmt.Errorf("identifying the caller: %w", err)
	}
	return caller, lookupErr
}

func lookup(fd int, k kernel) (Caller, error) {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return Caller{}, fmt.Errorf("identifying the caller: SO_PEERCRED: %w", err)
	}
	// Without the groups a rule by group could only be guessed at.
	groups, err := peerGroups(fd, usualGroups)
	if err != nil {
		return Caller{}, fmt.Errorf("identifying the caller: SO_PEERGROUPS: %w", err)
	}
	caller := Caller{UID: cred.Uid, GID: cred.Gid, Groups: groups, PID: cred.Pid, Via: ViaUnix}
	// User and groups are known also without the process; rules that need it do not name the caller
	// then.
	held, weak, unknown := pin(k, fd, cred.Pid, cred.Uid)
	if caller.unknown = unknown; unknown == nil {
		caller.process, caller.Weak, caller.CgroupID = held, weak, held.cgroup
	}
	return caller, nil
}

// peerGroups asks for the supplementary groups with room for n of them. When that is too little the
// kernel says how many there are.
func peerGroups(fd, n int) ([]uint32, error) {
	groups := make([]uint32, n)
	size, errno := getPeerGroups(fd, groups)
	if errors.Is(errno, unix.ERANGE) && size > n && size <= maxGroups {
		groups = make([]uint32, size)
		size, errno = getPeerGroups(fd, groups)
	}
	if errno != 0 {
		return nil, errno
	}
	return groups[:size:size], nil
}

// getPeerGroups fills groups, which must not be empty, and returns how many groups the caller has.
// x/sys/unix has no call for an option of this shape.
func getPeerGroups(fd int, groups []uint32) (int, syscall.Errno) {
	const gidSize = uint32(unsafe.Sizeof(groups[0]))
	size := uint32(len(groups)) * gidSize //nolint:gosec // at most maxGroups * 4
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_PEERGROUPS,
		uintptr(unsafe.Pointer(&groups[0])), //nolint:gosec // the kernel writes at most size bytes, which is the slice's length
		uintptr(unsafe.Pointer(&size)),      //nolint:gosec // in: room, out: needed
		0)
	return int(size / gidSize), errno
}
