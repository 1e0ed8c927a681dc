package agenttest

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// WaitsLimit is far above what anything takes to begin to wait.
const WaitsLimit = time.Minute

// SawWait asks again and again until something is waited for.
func SawWait(t testing.TB, what string, now func() []string) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(WaitsLimit); ; <-tick.C {
		got := now()
		if slices.ContainsFunc(got, func(s string) bool { return strings.HasPrefix(s, what) }) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%q is not waited for, but %q", what, got)
		}
	}
}
