package archtest_test

import (
	"slices"
	"strings"
	"testing"
)

// A relying party that imports package attest gets a verifier: no TPM client, no code that opens a
// device or speaks HTTP, no logger, no protobuf.
func TestAVerifierLinksNothingElse(t *testing.T) {
	foreign := []string{"golang.org/x/crypto", "golang.org/x/text"}
	without := []string{"net/http", "os/exec", "log", "log/slog", module + "/tpm", module + "/attest/collect"}
	for _, dir := range []string{"attest", "attest/eventlog", "attest/formats"} {
		for _, p := range goList(t, []string{"CGO_ENABLED=0"}, "-deps", "./"+dir) {
			_, own := ours(p.ImportPath)
			allowed := slices.ContainsFunc(foreign, func(m string) bool { return strings.HasPrefix(p.ImportPath, m+"/") })
			if !own && !p.Standard && !allowed || slices.Contains(without, p.ImportPath) {
				t.Errorf("%s links %s", dir, p.ImportPath)
			}
		}
	}
}
