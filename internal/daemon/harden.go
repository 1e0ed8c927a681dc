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
	// PR_SET_DUMPABLE 0 rules out core files and ptrace alike (prctl(2)); the limit
	// covers a kernel that pipes cores to a program.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("forbidding core files: prctl: %w", err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("forbidding core files: setrlimit: %w", err)
	}
	// Go ends a process whose standard output is a closed pipe. The audit goes there:
	// losing its reader must not take every application down.
	signal.Ignore(syscall.SIGPIPE)
	return nil
}
