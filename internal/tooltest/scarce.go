package tooltest

import (
	"syscall"
	"testing"
)

// WithoutDescriptors keeps this process from opening another file (EMFILE) until end is called. The
// limit is the whole process': a test that uses it must not run in parallel with others.
func WithoutDescriptors(t testing.TB) (end func()) {
	t.Helper()
	set := func(limit *syscall.Rlimit) {
		t.Helper()
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, limit); err != nil {
			t.Fatal(err)
		}
	}
	var before syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	set(&syscall.Rlimit{Cur: 3, Max: before.Max})
	return func() { set(&before) }
}
