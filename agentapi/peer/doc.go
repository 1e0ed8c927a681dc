// Package peer says who is at the other end of a Unix socket, from what the kernel recorded when
// the caller connected. Nothing that the caller sends takes part in it.
//
// # What is known, and what that is worth
//
// SO_PEERCRED and SO_PEERGROUPS return the effective uid and gid, the supplementary groups and the
// pid that the process had at the moment of connect(2). They belong to the connection, not to a
// process: a descriptor that is inherited by a child, or passed with SCM_RIGHTS, goes on speaking
// for whoever connected. A process that hands its connection to another user lends it the same
// rights as if it had handed over a token. Therefore:
//
//   - Uid and groups are boundaries. A rule may be built on them.
//   - The pid is for the audit trail only. The process may be gone, and another
//     one may have its number.
//
// One lookup for each connection is enough, because the answer cannot change.
//
// # User namespaces
//
// A kernel id that the agent's user namespace does not map reads as 65534, so that different users
// become one. [CheckUIDMap] refuses to work in such a namespace (systemd's PrivateUsers=yes makes
// one), also where the map is the identity for a part of the ids only.
//
// # Sources
//
// unix(7) SO_PEERCRED, SO_PEERGROUPS; user_namespaces(7), "Set-user-ID and set-group-ID programs"
// and "Unmapped user and group IDs".
package peer
