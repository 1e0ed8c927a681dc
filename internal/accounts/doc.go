// Package accounts finds the numbers of users and groups by their names.
//
// Local users and groups are in /etc/passwd and /etc/group, which are read here. Users of a
// directory (SSSD, Entra login, systemd-homed) are known to the C library's name service switch
// only. Its own program, getent, asks that for us: in a process that gets nothing of ours but the
// name. The standard library's lookup is used for neither: without the C library it takes the name
// of this process's own user from the environment, and with it a directory's modules would run
// inside the agent, without a limit of time.
//
// What always holds:
//   - The files come first: a name that they have means the same as it does without a directory. The
//     first entry of a name counts. If it is damaged, or a file cannot be read, the name has no
//     number until that is put right.
//   - getent is run by its absolute path, with an environment and a working directory of its own, for
//     a limited time, and what it prints is read up to a limit.
//   - A name that getent would take for a number is not given to it: getent reads "4294967296" as 0,
//     which is root.
//   - A name that does not exist ([ErrUnknown]) and one that could not be found out are told apart as
//     far as getent does it: a directory that does not answer is the latter, and one whose service is
//     not running looks like the former. Code that must not take an existing user for a deleted one
//     therefore does not act on the first ErrUnknown.
//
// # Sources
//
// getent(1) for exit codes and forms, passwd(5), group(5), nsswitch.conf(5).
package accounts
