// Package auditsink is where audit records go: to the standard output, into a file of their own, or
// to the journal.
//
// [Open] finds out at the start whether the place can be used, and fails if not. What happens later
// (a full disk, a journal that has gone) is an error of the record that could not be written, and
// the next record tries again. What a lost record means is decided by package agentapi
// (ADR 0013). Nothing here buffers or drops a record.
//
// # The file
//
//   - Each record is one line of JSON and one write(2), to a file opened with O_APPEND, so that
//     another writer cannot come between. After a write of which the disk took a part only, the
//     next record begins a line of its own, also if the agent was started anew meanwhile.
//   - The file is opened with O_NOFOLLOW. It must be a regular file, root's or the agent's own,
//     that others can neither read nor write, in a directory that is root's or the agent's own and
//     that nobody else may write to: else another user could put records there, or take them away.
//   - It is opened again after [Sink.Reopen], and when another file, or none, is at its path.
//     Whoever rotates it renames it, and may send SIGHUP.
//
// # The journal
//
//   - The native protocol: one datagram to /run/systemd/journal/socket, with fields. MESSAGE is the
//     same JSON as in the file; each attribute is a field of its own besides, as in
//     KEYAGENT_DECISION or KEYAGENT_UID. A value with a line break is sent in the binary form, so
//     that no caller can add a field.
//   - A record that is too large for a datagram goes in a sealed memory file.
//   - A journal that does not read makes the write wait, one that is not there makes it fail. The
//     connection is made anew when the journal was restarted.
//
// # What is not promised
//
// A record that the kernel has taken counts as written. journald itself drops messages of a service
// beyond its rate limit (journald.conf(5), RateLimitBurst=), and says so only in the journal.
//
// # Sources
//
// systemd, "Native Journal Protocol" (systemd.io/JOURNAL_NATIVE_PROTOCOL);
// systemd.journal-fields(7) on names of fields; memfd_create(2), fcntl(2) on seals; open(2),
// write(2); logrotate(8).
package auditsink
