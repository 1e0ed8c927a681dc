// Package appsecret makes and checks the secrets that programs show at the agent's App Service
// endpoint, as the header X-IDENTITY-HEADER.
//
// A secret is given over the Unix socket, where the kernel names the caller, and is worth something
// to that caller alone: it says the caller's uid, the cgroup that it was in (a systemd unit has one
// of its own), the identity that a request without a selector means, and how long it lives. A
// request must show the secret *and* come from a socket that the kernel says belongs to the same
// uid and cgroup. So a secret that somebody reads in an environment or a log is worth nothing to
// another user, nor in another unit, and the right user without the secret is refused, too: a
// browser or a proxy of that user does not have it.
//
// Secrets are not stored. Each is a text that says all of this and is authenticated with a key in
// the state directory, so that a restart of the agent ends none of them:
//
//	keyagent1_ base64url( lifetime ‖ uid ‖ cgroup ‖ random ‖ identity ‖ process ‖ HMAC-SHA-256 )
//
// The key is made once. A file that is missing or damaged is replaced, and all secrets that there
// were end; programs get new ones when they are started again.
//
// # Invariants
//
//   - What the agent has not made, in this boot, is not looked at beyond its authentication code,
//     which is compared in constant time. There is one text for one secret: no other encoding of
//     the same bytes is taken.
//   - Between two connections that show a secret, its process is watched on, in a bounded number of
//     cases. Whether it has ended, and whose the connection is, is looked at anew for each request.
//   - A secret with lifetime [Process] ends when the process that it was given to has ended (by pid
//     and start time: another process with the same pid does not count). One with lifetime [Unit]
//     ends with the cgroup: a unit that is started again has another one.
//   - A cgroup that is not known is never taken for an equal one where the lifetime rests on it.
//   - A secret says which user and cgroup may use it. The rules decide on each request what they
//     may have.
//
// # Sources
//
// RFC 2104 (HMAC), RFC 4648, 5 (base64url); proc_sys_kernel(5), random/boot_id; cgroups(7).
package appsecret
