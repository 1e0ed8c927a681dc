// Package systemd takes what systemd passes to a service: listening sockets that it has opened
// before (socket activation), so that a restart of the agent refuses no connection, and a port
// below 1024 needs no privilege.
//
// [TakeSockets] reads the variables once, at the start of the program, removes them and marks the
// sockets close-on-exec, so that no program that the agent starts takes them for its own. Whoever
// needs a socket takes it by its name (FileDescriptorName= in the .socket unit).
//
// # Invariants
//
//   - Nothing that is passed is used for anything but what its name says. Two sockets of one name,
//     and a socket that is not a listening stream socket, are errors.
//   - A TCP socket that speaks Multipath TCP (SocketProtocol=mptcp) is refused: under it, the
//     kernel does not tell the truth about who owns the other end.
//   - A Unix socket that was passed stays in the file system when the listener is closed: it is
//     systemd's.
//
// The code is our own, and not that of github.com/coreos/go-systemd/v22/activation: it takes less
// than a hundred lines, and that package goes on without a word where the variables are wrong, a
// descriptor is no socket or a name is there twice.
//
// # Sources
//
// sd_listen_fds(3), systemd.socket(5), socket(7) SO_ACCEPTCONN, SO_PROTOCOL.
package systemd
