package main

import (
	"io"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// No command can be attached to by other processes of its user, nor leaves a core file: each may
// hold a secret.
func TestEveryCommandKeepsItsMemoryToItself(t *testing.T) {
	dumpable := func() int {
		is, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
		if err != nil {
			t.Fatal(err)
		}
		return is
	}
	t.Cleanup(func() { _ = unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0) })
	for _, args := range [][]string{{"version"}, {"no", "such", "command"}} {
		if err := unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0); err != nil {
			t.Fatal(err)
		}
		run(t.Context(), args, streams{in: strings.NewReader(""), out: io.Discard, err: io.Discard})
		if is := dumpable(); is != 0 {
			t.Errorf("%q: PR_GET_DUMPABLE says %d", args, is)
		}
	}
}
