package archtest_test

import (
	"os"
	"path/filepath"
	"testing"
)

const program = "cmd/keyagent"

// unwanted is what must not be linked into the production binary, not even by way of
// somebody else's import.
var unwanted = map[string]string{
	"testing":        "nothing in the product exists for a test",
	"runtime/cgo":    "the binary is static and runs on any distribution",
	"net/http/pprof": "it opens the process's inside on the default mux",
	"expvar":         "it opens the process's inside on the default mux",
	"plugin":         "code comes with the binary or not at all",
	"os/user":        "it believes $USER of its own user; internal/accounts finds users and groups",
	"net/http/cgi":   "no child processes out of requests",

	module + "/simulator":                  "no simulated part may ever answer for a real one",
	module + "/tpm/tpmtest":                "a test's helper",
	module + "/attest/internal/attesttest": "a test's helper",
	module + "/internal/tooltest":          "a test's helper",
	module + "/internal/archtest":          "a test",

	"github.com/google/go-tpm-tools":   "it contains a simulated TPM",
	"github.com/google/go-attestation": "an independent verifier must not be part of what it verifies",
	"github.com/prometheus":            "the reference of our metrics, in tests: it is two megabytes of other modules",
	"google.golang.org/protobuf":       "nothing of the agent's is in that format, and it is a tenth of the binary",
	"github.com/rogpeppe/go-internal":  "a test tool",
	"github.com/google/go-cmp":         "a test tool",
	"go.uber.org/goleak":               "a test tool",
	"golang.org/x/net/trace":           "it opens the process's inside on the default mux",
}

func TestTheProductionBinaryHasNoCgoNoSimulatorAndNoTestCode(t *testing.T) {
	if _, err := os.Stat(filepath.Join(root, program)); err != nil {
		t.Fatal("there is no " + program)
	}
	sources(t) // so that a change of any file outdates a cached result
	for _, arch := range []string{"amd64", "arm64"} {
		t.Run(arch, func(t *testing.T) {
			env := []string{"CGO_ENABLED=0", "GOOS=linux", "GOARCH=" + arch}
			for _, p := range goList(t, env, "-deps", "./"+program) {
				checkLinked(t, p)
			}
		})
	}
}

func checkLinked(t *testing.T, p listed) {
	t.Helper()
	if len(p.CgoFiles) > 0 {
		t.Errorf("%s needs cgo for %v", p.ImportPath, p.CgoFiles)
	}
	for pkg, why := range unwanted {
		if within(p.ImportPath, pkg) {
			t.Errorf("%s is linked: %s", p.ImportPath, why)
		}
	}
}
