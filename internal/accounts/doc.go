// Package accounts finds the numbers of users and groups by their names.
//
// The agent is linked without the C library, so that the standard library's lookup sees /etc/passwd
// and /etc/group alone. Users of a directory (SSSD, Entra login, systemd-homed) are known to the C
// library's name service switch only. Its own program, getent, asks that switch, in a process that
// gets nothing from the agent but the name.
//
// What always holds:
//   - The files come first: a name that they have means the same as it does without a directory.
//   - getent is run by its absolute path, with an environment and a working directory of its own,
//     for a limited time, and what it prints is read up to a limit.
//   - A name that getent would take for a number is not given to it: getent reads "4294967296" as
//     0, which is root.
//   - What is not known ([ErrUnknown]) and what could not be found out are told apart.
//
// # Sources
//
// getent(1) for exit codes and forms, passwd(5), group(5), nsswitch.conf(5).
package accounts
