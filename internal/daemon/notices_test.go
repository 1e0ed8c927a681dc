package daemon_test

import (
	"strings"
	"testing"

	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/daemon"
)

func TestNoticesSayWhichPortsAnyUserCanTake(t *testing.T) {
	const rest = "identities: [{name: vm, managed_identity: {}}]\nrules: [{name: r, users: [\"1\"], identities: [vm], resources: [\"https://vault.azure.net\"]}]\n"
	for endpoints, want := range map[string]string{
		"":                                       "",
		"{app_service: {listen: 127.0.0.1:840}}": "",
		"{app_service: {listen: 127.0.0.1:1023}, imds: {listen: \"[::1]:80\"}}": "",
		"{app_service: {listen: 127.0.0.1:1024}}":                               "endpoints.app_service.listen: 127.0.0.1:1024: ",
		"{imds: {listen: \"[::1]:8841\"}}":                                      "endpoints.imds.listen: [::1]:8841: ",
	} {
		cfg, err := config.Parse("config.yaml", []byte(rest+"endpoints: "+endpoints))
		if err != nil {
			t.Fatal(err)
		}
		got := strings.Join(daemon.Notices(cfg), "\n")
		if (got == "") != (want == "") || !strings.HasPrefix(got, want) {
			t.Errorf("%s: %q, want %q", endpoints, got, want)
		}
	}
}
