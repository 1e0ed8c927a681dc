// Package systemd is what stands between the agent and systemd: the sockets that are passed to it,
// what it tells the service manager, and the files of the package beside the code (units, sockets,
// the user, examples of drop-ins), which its tests hold to their promises.
//
// # Sockets
//
// Listening sockets that systemd has opened before (socket activation) let a restart of the agent
// refuse no connection, and a port below 1024 needs no privilege. [TakeSockets] reads the variables
// once, at the start of the program, removes them and marks the sockets close-on-exec, so that no
// program that the agent starts takes them for its own. Whoever needs a socket takes it by its name
// (FileDescriptorName= in the .socket unit).
//
//   - Nothing that is passed is used for anything but what its name says. Two sockets of one name,
//     and a socket that is not a listening stream socket, are errors.
//   - A TCP socket that speaks Multipath TCP (SocketProtocol=mptcp) is refused: under it, the
//     kernel does not tell the truth about who owns the other end.
//   - A Unix socket that was passed stays in the file system when the listener is closed: it is
//     systemd's.
//
// This part is our own, and not that of github.com/coreos/go-systemd/v22/activation: it takes less
// than a hundred lines, and that package goes on without a word where the variables are wrong, a
// descriptor is no socket or a name is there twice.
//
// # State
//
// A [Notifier] speaks sd_notify(3), by github.com/coreos/go-systemd/v22/daemon.
//
//   - RELOADING=1 carries the time, and READY=1 follows it whatever came of the reload.
//   - The watchdog is not fed before READY=1: the first ping arms it, and the start may take longer
//     than it waits. [Watchdog] feeds it as long as a check finds nothing wrong.
//
// # Sources
//
// sd_listen_fds(3), sd_notify(3), systemd.service(5), systemd.socket(5), systemd.exec(5), socket(7)
// SO_ACCEPTCONN, SO_PROTOCOL.
package systemd
