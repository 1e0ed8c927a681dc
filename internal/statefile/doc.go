// Package statefile keeps the agent's files: key files, certificates, and what belongs to them.
//
// A file is either wholly there or not there. [Write] replaces, [WriteNew] never does; both write a
// temporary file beside the target, fsync it, move it into place in one step and fsync the
// directory. What a crash leaves, step by step:
//
//	temporary file created or written   the old content, and a ".name.tmp-*" file that nobody reads
//	temporary file synced               the same
//	renamed (Write), linked (WriteNew)  the new content; after a power cut perhaps the old one
//	directory synced                    the new content, for good
//
// [Export] writes the one kind of file that is not the agent's: a copy that a command makes for
// others to read.
//
// [Lock] keeps a second agent out of the directory.
//
// What always holds of the agent's files:
//   - Files are 0600 and directories 0700, owned by the agent's effective user. [Read] and
//     [EnsureDir] refuse anything else, because a file that another local user could have written
//     must not decide which key or certificate the agent uses.
//   - A symbolic link is refused as the last element of a path, never followed.
//   - Reads are limited in size.
//   - A file that could not be read is not taken for a missing or a damaged one: [Load] puts aside
//     only a file that was read and is damaged.
//   - A key file is never overwritten: [WriteNew] fails with an error that is [fs.ErrExist].
//
// The directory is trusted once [EnsureDir] has accepted it: no other user can create names in it,
// nor put another directory in its place (package owned looks at all that lead to it; systemd's
// StateDirectory= makes them well).
//
// Sources: open(2), link(2), rename(2), fsync(2), flock(2).
package statefile
