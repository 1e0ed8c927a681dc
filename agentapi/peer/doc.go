// Package peer says which user and process is at the other end of a connection within this machine,
// as the kernel knows it. Nothing that the caller sends is taken into account.
//
// # Unix sockets
//
// SO_PEERCRED and SO_PEERGROUPS return the effective uid and gid, the supplementary groups and the
// pid that the process had at the moment of connect(2). User and groups come from there and from
// nowhere else. They belong to the connection, not to a process: a descriptor that is inherited by
// a child, or passed with SCM_RIGHTS, goes on speaking for the process that connected.
//
// The process is held by a pidfd (SO_PEERPIDFD), so that another one cannot take its number
// unnoticed. Its cgroup, which is that of its systemd unit, is what PIDFD_GET_INFO says, or on
// kernels that cannot say it, what /proc/PID/cgroup says while the pidfd shows that the process has
// not ended. Kernels before 6.5 name the process by its number only: the caller is [Caller.Weak].
// When the process has ended, its cgroup and its executable count no more, and the user and the
// groups do ([Caller.Now]).
//
// # Loopback TCP
//
// The owner of the client's socket is the user that created it. One exact question over netlink
// (sock_diag) tells it, with the cgroup in which that was done. It counts only if all of this
// holds, in this order: the client's socket is established, a process has it open, it has the
// addresses that were asked for; and afterwards our own end is established. Whatever is not certain
// is an error, and uid 0 is never a default. [Caller.Now] looks again whether our own end is
// established: while it is, the owner cannot change. There is no group and no process: nobody knows
// them.
//
// # What stays open
//
//   - Lending. A process that hands its connection to another user, or that connects for it, as a
//     forwarder of ports does, lends it its own rights, as if it had handed over a token. Over TCP
//     the creator of the socket counts: a service that opens its socket as root and changes its
//     user afterwards is root here.
//   - A user's own processes against each other. They can start each other's programs, attach to
//     each other, and hand each other connections. A unit is a boundary only as far as its user is
//     not that of others, and an executable is none at all: it can only narrow a rule.
//   - Before 6.5, a process of the same user that got the number of the one that has connected.
//   - Root, and processes that may change cgroups as root may.
//
// # Namespaces
//
// A kernel id that the agent's user namespace does not map reads as 65534, so that different users
// become one. [CheckUIDMap] refuses to work in such a namespace (systemd's PrivateUsers=yes makes
// one), also where the map is the identity for a part of the ids only. A caller in a container is
// seen as the host sees it: root in a container without a user namespace is uid 0.
//
// # Sources
//
// unix(7) SO_PEERCRED, SO_PEERGROUPS, SO_PEERPIDFD; pidfd_open(2), ioctl_pidfd(2); sock_diag(7),
// linux/inet_diag.h; cgroups(7); user_namespaces(7), "Set-user-ID and set-group-ID programs" and
// "Unmapped user and group IDs". What kernels from 5.10 to 7.3 answer is in the tests.
package peer
