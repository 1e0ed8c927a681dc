package peer

import "net/netip"

var (
	CheckIDMap  = checkIDMap
	StartTime   = startTime
	UnifiedPath = unifiedPath
)

// DiagSocket is what an answer of the kernel says.
type DiagSocket struct {
	Local, Remote netip.AddrPort
	State         uint8
	UID, Inode    uint32
	Cgroup        uint64
}

func ParseDiag(b []byte, sequence uint32) (DiagSocket, error) {
	found, err := parseDiag(b, sequence)
	return DiagSocket{found.local, found.remote, found.state, found.uid, found.inode, found.cgroup}, err
}

func DiagRequest(local, remote netip.AddrPort, sequence, iface uint32) []byte {
	return diagRequest(endpoints{local, remote}, sequence, iface)
}
