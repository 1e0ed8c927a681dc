// Package bridge is a server of a user's own, for programs that can only speak plain HTTP to a
// base URL: it passes their requests to the agent, which makes them at a resource.
//
// # Invariants
//
//   - Only the user who runs it is served: the kernel says whose each connection is. A Unix
//     socket is mode 0600 besides. Over TCP, where the owner cannot be found out, nobody is.
//   - It holds no token and no key, and decides nothing: the agent's rules do, and know its
//     user as the caller.
//   - A request of a browser or a proxy is refused, and over TCP one that was sent to
//     another host than the one that is listened on (DNS rebinding).
//   - Path and query are passed on byte for byte, behind a prefix that the command line
//     gives; a request cannot leave the prefix, because the agent refuses "." and "..".
//
// # Sources
//
// RFC 9112 (3.2 request targets); package forward for the headers that are passed on.
package bridge
