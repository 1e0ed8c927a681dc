// Package owned says whether another local user could have written a file, or can put
// another one in its place. Every file that decides what the agent trusts or uses
// (the configuration, certificate authorities, the state directory, the socket's directory)
// must meet the rule below. Of files with secrets, which may be pipes, only the open file must:
//
//   - A file, and each directory that leads to it, belongs to root or to the user of this process,
//     because the owner of a file may change it whatever its mode is, and the owner of a directory
//     may rename and remove its entries, also in a sticky one (unlink(2)).
//   - Nobody else may write it. Only a directory on the way may be writable if it is sticky, as
//     /tmp is: others can neither rename nor remove our entries there.
//   - Symbolic links are followed one by one, and the directories that each leads through are
//     held to the same. In a sticky directory a link must be root's or ours, too.
//
// [Check] is about one file, [Resolve] about the way to it. A file is opened by the path that
// Resolve returns, and checked once it is open. Root is trusted, and the processes of this
// process's own user are not defended against.
//
// Access control lists are seen as far as they change the mode: what an entry lets others
// write shows in the bits of the group (acl(5)).
//
// Sources: path_resolution(7), unlink(2), rename(2), inode(7) on the sticky bit, acl(5).
package owned
