package peer

import (
	"errors"
	"slices"
)

// The transports by which a [Caller] can have come.
const (
	ViaUnix = "unix"
	ViaTCP  = "tcp" // loopback
)

// noGID is the group of a caller whose groups are not known: (gid_t)-1 is nobody's.
const noGID = ^uint32(0)

// Caller is the process that made a connection, as it was at that time. It is a value that may be
// copied; its Groups must not be changed. What it holds of its connection (see [Caller.Close])
// belongs to all copies together.
type Caller struct {
	UID, GID uint32   // effective ids; over TCP there is no GID, and it matches no group
	Groups   []uint32 // supplementary groups; may or may not contain GID; none over TCP
	PID      int32    // 0 if it is not known, as over TCP, or not visible from the agent's pid namespace

	// CgroupID is the id of the caller's cgroup: on a Unix socket that of its process when the
	// connection was accepted, over TCP that in which its socket was created. 0: not known.
	CgroupID uint64
	Via      string // ViaUnix or ViaTCP; "" is taken as ViaUnix
	// Weak says that CgroupID and process were found by the number of the process, as kernels
	// before 6.5 allow only: another process of the same user may have had it meanwhile.
	Weak bool

	process *process // that is held; nil: not known, or has ended
	unknown error    // why the process was not known when the connection was accepted; nil: it was
	own     *ownEnd  // of a TCP connection
}

// InGroup reports whether gid is the caller's group or one of its supplementary groups. Over TCP
// nobody is in any group, because the kernel does not say.
func (c Caller) InGroup(gid uint32) bool {
	return c.Via != ViaTCP && (c.GID == gid || slices.Contains(c.Groups, gid))
}

// errNobody is of a connection whose caller is not known any more.
var errNobody = errors.New("the connection's other end is not that of the caller any more")

// Now returns what is still true of the caller. Once its process has ended, its cgroup and
// executable do not count any more, while its user and groups do: the connection is theirs. An
// error means that nothing counts: a TCP connection has ended, so that another process may have
// its address. It takes about a microsecond, and may be called by several goroutines.
func (c Caller) Now() (Caller, error) {
	if c.Via == ViaTCP {
		if c.own == nil || !c.own.established() {
			return Caller{}, errNobody
		}
		return c, nil
	}
	if c.process != nil && !c.process.running() {
		return c.WithoutProcess(), nil
	}
	return c, nil
}

// WithoutProcess returns the caller as its user and groups alone. What it holds stays held.
func (c Caller) WithoutProcess() Caller {
	c.CgroupID, c.Weak, c.process = 0, false, nil
	return c
}

// ProcessError returns why the process of a caller on a Unix socket was not known when the
// connection was accepted; nil if it was. It is for records.
func (c Caller) ProcessError() error { return c.unknown }

// Close lets go of the process. It belongs to the end of the connection, and may be called again.
func (c Caller) Close() error {
	if c.process == nil {
		return nil
	}
	return c.process.close()
}

// ProcessUID returns the effective uid that the caller's process had when the connection was
// accepted, if the kernel says it. It is for records: it differs from UID in a process that has
// changed its user since it connected, or that connected from a thread with a user of its own.
func (c Caller) ProcessUID() (uint32, bool) {
	if c.process == nil {
		return 0, false
	}
	return c.process.uid, c.process.uidKnown
}
