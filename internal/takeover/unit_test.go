package takeover_test

import (
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keyagent/keyagent/internal/takeover"
)

// The unit that packages have is the one that the program prints.
func TestThePackagedUnitIsThatOfTheProgram(t *testing.T) {
	packaged, err := os.ReadFile("../../systemd/units/keyagent-takeover.service")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(takeover.Unit("/etc/keyagent/takeover.nft", "/usr/sbin/nft"), string(packaged)); diff != "" {
		t.Errorf("take what keyagent takeover print --format unit prints: -program +packaged:\n%s", diff)
	}
}
