package archtest_test

import (
	"slices"
	"strings"
	"testing"
)

// A fence keeps foreign packages out of all but some folders.
type fence struct {
	pkg   string   // import path; with /... the tree below it, too
	only  []string // folders that may, as in places; none means nobody
	tests bool     // whether test files of any package may, too
	why   string
}

var fences = []fence{
	{"C", nil, false, "cgo would end the static binary; the simulated TPM's C code is a dependency's, not ours"},
	{"unsafe", []string{"agentapi/peer"}, false, "what needs it is in golang.org/x/sys already, but a getter for SO_PEERGROUPS"},
	{"testing/...", []string{"tpm/tpmtest", "signer/internal/signertest", "internal/tooltest", "internal/agenttest"}, true, "nothing in the product exists for a test"},
	{"net/http/pprof", nil, false, "it serves on the default mux, without a check of the caller"},
	{"expvar", nil, false, "it serves on the default mux, without a check of the caller"},
	{"log", nil, false, "log/slog, passed in, is the only logger"},
	{"os/user", []string{"simulator/..."}, true, "it believes $USER of its own user, or runs a directory's modules inside the agent; internal/accounts finds users and groups"},
	{"math/rand", nil, true, "predictable numbers have no place near keys and nonces; math/rand/v2 serves for jitter"},
	{"github.com/google/go-tpm-tools/...", []string{"simulator/vtpm"}, true, "it brings cgo and a simulated TPM"},
	{"github.com/google/go-attestation/...", nil, true, "an independent verifier must not be part of what it verifies"},
	{"github.com/google/go-tpm/...", []string{"tpm/...", "signer", "attest/...", "simulator/..."}, true, "TPM types end where keys become crypto.Signer"},
	{"github.com/google/go-sev-guest/...", []string{"attest/...", "simulator/..."}, true, "SEV-SNP is attest's business"},
	{"github.com/spf13/cobra/...", []string{"cmd/keyagent"}, false, "flags are the program's, not a library's"},
	{"github.com/spf13/pflag/...", []string{"cmd/keyagent"}, false, "flags are the program's, not a library's"},
	{"go.yaml.in/yaml/v3/...", []string{"config", "attest/policyfile", "simulator/..."}, true, "one package for each file format"},
	{"github.com/landlock-lsm/...", []string{"internal/confine"}, false, "what a process gives up for good is decided in one place"},
	{"github.com/coreos/go-systemd/...", []string{"systemd"}, false, "what the service manager is told goes through one package"},
	{"github.com/prometheus/...", nil, true, "the reference of our metrics, in tests"},
	{"github.com/rogpeppe/go-internal/...", nil, true, "a test tool"},
	{"github.com/google/go-cmp/...", nil, true, "a test tool"},
	{"go.uber.org/goleak/...", nil, true, "a test tool"},
}

func TestForeignPackagesStayBehindTheirFence(t *testing.T) {
	for _, s := range sources(t) {
		for _, importPath := range s.imports() {
			for _, f := range fences {
				if matches(importPath, f.pkg) && !f.lets(s) {
					t.Errorf("%s imports %q; only %q may: %s", s.path, importPath, f.only, f.why)
				}
			}
		}
	}
}

func (f fence) lets(s source) bool {
	if f.tests && s.servesTests() {
		return true
	}
	return slices.ContainsFunc(f.only, func(pattern string) bool { return matches(s.dir(), pattern) })
}

// A purity says which packages of the standard library a package must do without, or
// that it may use nothing but the standard library and us.
type purity struct {
	dir     string
	without []string
	stdlib  bool
	why     string
}

var purities = []purity{
	{"agentapi/wire", []string{"net", "os", "os/exec"}, true, "apps link it; it is types and names"},
	{"client", nil, true, "apps link it: no dependency of ours becomes theirs"},
	{"samples/daemon-cert-bound/go", nil, true, "a program that copies it needs no more than the client"},
	{"samples/daemon-fic-bound/go", nil, true, "a program that copies it needs no more than the client"},
	{"samples/verifier", nil, true, "a program that copies it needs no more than package attest"},
	{"internal/secret", []string{"log", "os", "net"}, true, "a secret that can write somewhere is none"},
	{"signer/certreq", []string{"os", "net", "context", "log/slog"}, false, "names and certificates are computed; files and the TPM are others' business"},
	{"agentapi/policy", []string{"net", "os", "time", "context"}, true, "a decision depends on the rules and the request only"},
	{"attest", []string{"net", "net/http", "os", "os/exec", "log/slog"}, false, "no device, no network, no clock of its own: bytes in, a verdict out"},
	{"attest/report", []string{"net", "net/http", "os", "os/exec", "log/slog"}, false, "a result in, a report out"},
	{"attest/hcl", []string{"net", "net/http", "os", "time"}, false, "a parser"},
	{"attest/eventlog", []string{"net", "net/http", "os", "time"}, true, "a parser, without the TPM clients that other parsers of this format come with"},
	{"attest/tee", []string{"net", "net/http", "os", "os/exec"}, false, "a verifier fetches nothing: what it trusts is given to it"},
}

func TestPurePackagesStayPure(t *testing.T) {
	for _, s := range sources(t) {
		for _, p := range purities {
			if s.dir() == p.dir && !s.isTest() {
				checkPurity(t, s, p)
			}
		}
	}
}

func checkPurity(t *testing.T, s source, p purity) {
	t.Helper()
	for _, importPath := range s.imports() {
		if slices.Contains(p.without, importPath) {
			t.Errorf("%s imports %q: %s", s.path, importPath, p.why)
		}
		if _, own := ours(importPath); p.stdlib && !own && !standard(importPath) {
			t.Errorf("%s imports %q, not of the standard library: %s", s.path, importPath, p.why)
		}
	}
}

// standard uses that only the standard library's import paths have no dot in their
// first element.
func standard(importPath string) bool {
	first, _, _ := strings.Cut(importPath, "/")
	return !strings.Contains(first, ".")
}
