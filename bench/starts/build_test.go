package starts_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// former is the commit that we are compared with: the last before the commands that a start sends
// were counted.
const former = "2176621"

const repository = "../.."

// build builds the production binary of the tree in dir.
func build(tb testing.TB, dir string) (program string) {
	tb.Helper()
	program = filepath.Join(tb.TempDir(), "keyagent")
	cmd := exec.CommandContext(tb.Context(), "go", "build", "-trimpath", "-buildvcs=false", "-o", program, "./cmd/keyagent")
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("building the agent in %s: %v\n%s", dir, err, out)
	}
	return program
}

// buildFormer builds the former commit in a worktree of its own, which is gone afterwards. Where
// there is no such commit here, the benchmark is skipped.
func buildFormer(tb testing.TB) (program string) {
	tb.Helper()
	if said, err := git(tb, repository, "cat-file", "-e", former+"^{commit}"); err != nil {
		tb.Skipf("commit %s cannot be built, this clone does not have it: %s", former, said)
	}
	tree := filepath.Join(tb.TempDir(), "former")
	if said, err := git(tb, repository, "worktree", "add", "--detach", tree, former); err != nil {
		tb.Fatalf("%v: %s", err, said)
	}
	defer func() {
		if said, err := git(tb, repository, "worktree", "remove", "--force", tree); err != nil {
			tb.Errorf("%v: %s", err, said)
		}
	}()
	return build(tb, tree)
}

// git runs in the repository that dir is in, whoever it belongs to. What it says is on one line.
func git(tb testing.TB, dir string, args ...string) (said string, err error) {
	tb.Helper()
	cmd := exec.CommandContext(tb.Context(), "git", append([]string{"-c", "safe.directory=*", "-C", dir}, args...)...)
	out, err := cmd.CombinedOutput()
	return strings.Join(strings.Fields(string(out)), " "), err
}
