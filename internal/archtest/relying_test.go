package archtest_test

import (
	"slices"
	"testing"
)

// forRelyingParties are the packages that a relying party links.
var forRelyingParties = []string{"./attest", "./attest/report", "./attest/fleet"}

// withRelyingParties is all that may come with them, beside the standard library: parsers, and the
// tables of names that they need. There is no device code among it, no client of a service, no
// logger, and nothing that reads a file format of ours.
var withRelyingParties = []string{
	module + "/attest", module + "/attest/eventlog", module + "/attest/hcl", module + "/attest/tee", module + "/attest/report", module + "/attest/fleet",
	module + "/attest/internal/strictjson", module + "/internal/certs", module + "/internal/pemfile", module + "/internal/shell", module + "/internal/tcg",
	"golang.org/x/crypto/cryptobyte/...", "golang.org/x/sync/errgroup", "golang.org/x/text/...",
}

// What a relying party links it has to review, to update and to answer for.
func TestARelyingPartyLinksParsersAndNoMore(t *testing.T) {
	sources(t) // so that a change of any file outdates a cached result
	for _, p := range goList(t, []string{"CGO_ENABLED=0"}, append([]string{"-deps"}, forRelyingParties...)...) {
		if standard(p.ImportPath) || slices.ContainsFunc(withRelyingParties, func(may string) bool { return matches(p.ImportPath, may) }) {
			continue
		}
		t.Errorf("%s comes with package attest: an app that only verifies evidence would link it", p.ImportPath)
	}
	for _, p := range goList(t, []string{"CGO_ENABLED=0"}, "-deps", "./attest") {
		for _, never := range []string{"net/http", "os/exec", "log", "log/slog", "plugin"} {
			if p.ImportPath == never {
				t.Errorf("package attest links %s", never)
			}
		}
	}
}
