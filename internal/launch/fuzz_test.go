package launch_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/internal/launch"
)

// Whatever the agent answers and the user has set: a program has one value of each variable, the
// secret where it belongs and on loopback only, and no note tells it.
func FuzzPlan(f *testing.F) {
	f.Add(secretText, tokenURL, imdsURL, "NO_PROXY=a\x00MSI_SECRET=x\x00AZURE_CLIENT_ID=y", "go")
	f.Add("s", "http://[::1]:1/x", "", "no_proxy=*\x00=\x00\x00A", "all")
	f.Add("a b", "http://127.0.0.1:840@192.0.2.1/x", "http://127.0.0.1", "AZURE_TOKEN_CREDENTIALS=dev", "az")
	f.Fuzz(func(t *testing.T, secret, appService, imds, environ, family string) {
		families, err := launch.ParseFamilies([]string{family})
		if err != nil {
			t.Skip()
		}
		inherited := strings.Split(environ, "\x00")
		e := wire.Endpoint{Identity: "vm", Secret: wire.NewSecret(secret), AppService: appService, IMDS: imds}
		env, err := launch.Plan(launch.Request{Endpoint: e, Families: families, Environ: inherited})
		if err != nil {
			return
		}
		checkHosts(t, appService, imds)
		got := env.Apply(inherited)
		for _, v := range env.Set {
			if n := len(matching(got, v.Name+"=")); n != 1 || slices.Contains(env.Unset, v.Name) {
				t.Errorf("%s is there %d times", v.Name, n)
			}
			if secretive := v.Name == "IDENTITY_HEADER" || v.Name == "MSI_SECRET"; secretive != (v.Value.Reveal() == secret) && len(secret) > 8 && !strings.Contains(environ, secret) {
				t.Errorf("%s has the secret: %v", v.Name, !secretive)
			}
		}
		for _, name := range env.Unset {
			if found := matching(got, name+"="); len(found) > 0 {
				t.Errorf("%q is left", found)
			}
		}
		for _, note := range env.Notes {
			if len(secret) > 8 && !strings.Contains(environ, secret) && strings.Contains(string(note), secret) {
				t.Errorf("%q has the secret", note)
			}
		}
	})
}

// checkHosts knows URLs by their beginning only, other than the code.
func checkHosts(t *testing.T, urls ...string) {
	t.Helper()
	for _, url := range urls {
		if url != "" && !strings.HasPrefix(url, "http://127.") && !strings.HasPrefix(url, "http://[::1]:") && !strings.HasPrefix(url, "http://[0") && !strings.HasPrefix(url, "http://[::ffff:127.") {
			t.Errorf("%q is taken for an address of this machine", url)
		}
	}
}
