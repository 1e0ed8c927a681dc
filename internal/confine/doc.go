// Package confine lets a process write nowhere but where it says, by Landlock (landlock(7)): a
// second wall inside the one that the service manager has built, and the only one without it.
//
// It is about writing alone. Reading is not restricted, since a reload may name files that nobody
// knew at the start, and facts about callers are read in /proc and /sys. Connections, signals and
// the notification of the service manager are left alone, too: the rights that are handled are
// listed, and not those that the kernel happens to know, with which an upgrade of the kernel would
// take these away.
//
// A process under Landlock cannot see which programs others run. Where it has CAP_SYS_PTRACE, which
// is there for nothing else, it is therefore not confined.
//
// Source: the kernel's documentation, userspace-api/landlock.
package confine
