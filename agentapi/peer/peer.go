package peer

import "slices"

// Caller is the process that made a connection, as it was at that time. It is a value; its Groups
// must not be changed.
type Caller struct {
	UID, GID uint32   // effective ids
	Groups   []uint32 // supplementary groups; may or may not contain GID
	PID      int32    // 0 if the process is not visible from the agent's pid namespace
}

// InGroup reports whether gid is the caller's group or one of its supplementary groups.
func (c Caller) InGroup(gid uint32) bool {
	return c.GID == gid || slices.Contains(c.Groups, gid)
}
