// Package tooltest finds the external programs that tests check our work with: openssl for
// certificates and requests, nginx for handshakes, swtpm and tpm2-tools for the TPM. They were
// written by others from the same standards, so they do not share our mistakes.
//
// A program that is not installed makes a test skip, because a newcomer should be able to run `go
// test ./...` with nothing but Go and a C compiler. With KEYAGENT_REQUIRE_TOOLS=1 in the
// environment, as in CI, its absence is a failure: a test that CI promises must not be skipped
// unnoticed.
//
// [Entry] marks the entry point of a child process that is a test only by its name. [User] and
// [DialAs] let a test be another user.
// [WithoutDescriptors] takes file descriptors away from the test's process.
//
// The package is for tests only. It imports testing, and the import rules keep it out of the
// production binary.
package tooltest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// RequireEnv is the environment variable that turns a missing program into a failure
// when it is set to "1".
const RequireEnv = "KEYAGENT_REQUIRE_TOOLS"

// Tool returns the absolute path of an external program. Where the program is missing
// the test that asked for it is skipped, or fails if [RequireEnv] is set.
func Tool(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		// Debian installs servers in a directory that is not in an ordinary user's PATH.
		path, err = exec.LookPath(filepath.Join("/usr/sbin", name))
	}
	if err != nil {
		missing(t, name)
	}
	return path
}

// OpenSSLProvider makes sure that openssl's module directory holds the provider with
// this name, for example "tpm2", and returns the path of openssl. It does not load the
// provider: tpm2 opens its TPM while it is being loaded, and which TPM that is only the
// test knows. It skips or fails as [Tool] does.
func OpenSSLProvider(t testing.TB, provider string) string {
	t.Helper()
	openssl := Tool(t, "openssl")
	out, err := exec.CommandContext(t.Context(), openssl, "version", "-m").Output()
	if err != nil {
		t.Fatalf("openssl version -m: %v", err)
	}
	quoted := strings.TrimSpace(strings.TrimPrefix(string(out), "MODULESDIR:"))
	dir, err := strconv.Unquote(quoted)
	if err != nil {
		t.Fatalf("openssl version -m: not a module directory: %q", out)
	}
	if _, err := os.Stat(filepath.Join(dir, provider+".so")); err != nil {
		missing(t, "openssl's provider "+provider)
	}
	return openssl
}

// NameService makes sure that the C library can load a name service, for example
// "extrausers", which /etc/nsswitch.conf can then name. It skips or fails as [Tool] does.
func NameService(t testing.TB, service string) {
	t.Helper()
	for _, dir := range []string{"/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/lib/*-linux-gnu"} {
		if found, _ := filepath.Glob(filepath.Join(dir, "libnss_"+service+".so.2")); len(found) > 0 {
			return
		}
	}
	missing(t, "the C library's name service "+service)
}

// File makes sure that a package of the distribution has put a file where it always puts it, and
// returns its path. It skips or fails as [Tool] does.
func File(t testing.TB, path string) string {
	t.Helper()
	if _, err := os.Stat(path); err != nil {
		missing(t, path)
	}
	return path
}

// Entry returns the value of an environment variable that another test sets when it starts this one
// in a process of its own. Where it is not set, this one is skipped: it is no test, and
// scripts/gotest.awk does not count it as a skipped one.
func Entry(t testing.TB, variable string) string {
	t.Helper()
	value := os.Getenv(variable)
	if value == "" {
		t.Skip("not a test: other tests start it")
	}
	return value
}

func missing(t testing.TB, what string) {
	t.Helper()
	if os.Getenv(RequireEnv) == "1" {
		t.Fatalf("%s is not installed and %s=1 promises it; `scripts/bootstrap test` installs it", what, RequireEnv)
	}
	t.Skipf("%s is not installed; `scripts/bootstrap test` installs it", what)
}
