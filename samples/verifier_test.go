package samples_test

import (
	"net"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/internal/tooltest"
)

const verifierSample = "verifier"

// The lines that a newcomer pastes: a machine's evidence is verified, and not twice.
func TestTheVerifierVerifiesAMachineAsItsREADMESays(t *testing.T) {
	for _, tool := range []string{"bash", "curl", "jq"} {
		tooltest.Tool(t, tool)
	}
	out := runShell(t, strings.NewReplacer(
		"make build simulators", "true", "/tmp/sim", shortDir(t), "bin/keyagent", program["./cmd/keyagent"], "bin/azuresim", program["./simulator/azuresim"],
		"go run ./samples/verifier", program["./samples/verifier"], "127.0.0.1:8850", freeAddress(t),
	).Replace(shellLines(t, verifierSample, "## Against the simulator")))
	verified := strings.Index(out, `{"verified":true,"vm_id":"`)
	again := strings.Index(out, "the nonce was not made here, has expired or was used already")
	if verified < 0 || again < verified {
		t.Errorf("want a verdict, and then a refusal:\n%s", out)
	}
}

// freeAddress returns an address of loopback where nobody listens.
func freeAddress(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}
