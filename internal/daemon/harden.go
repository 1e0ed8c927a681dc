package daemon

import (
	"fmt"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// Harden prepares a process that will hold tokens and do nothing else: it writes
// no core file, no other process of its user can attach to it or read its memory,
// and a reader of its output that goes away does not end it.
//
// It changes the whole process, so it is the program's to call, once, at its start.
func Harden() error {
	if err := Conceal(); err != nil {
		return err
	}
	// Conceal does so already; this is for programs that the agent starts, too.
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("forbidding core files: setrlimit: %w", err)
	}
	// Go ends a process whose standard output is a closed pipe. The audit goes there:
	// losing its reader must not take every application down.
	signal.Ignore(syscall.SIGPIPE)
	return nil
}

// Conceal keeps the memory of a process from others of its user: there is no core file of it, and
// nobody but root can attach to it (PR_SET_DUMPABLE in prctl(2)). It is for every command: each may
// come to hold a key's value or a token for a moment. A program that is executed in the place of
// this one begins anew.
func Conceal() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("forbidding core files: prctl: %w", err)
	}
	return nil
}
