package clients_test

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/simulator"
)

// allPrograms is the variable that has large programs built, which takes minutes of a processor for
// each. Once built, they are kept.
const allPrograms = "KEYAGENT_ALL_PROGRAMS"

// large is a program that is built from its release, if that is wanted.
type large struct{ name, version, path string }

var (
	kubelogin = large{"kubelogin", "v0.2.21", "github.com/Azure/kubelogin"}
	restic    = large{"restic", "v0.18.1", "github.com/restic/restic/cmd/restic"}
	rclone    = large{"rclone", "v1.76.0", "github.com/rclone/rclone"}
)

// built returns the program, or skips the test where it is not there.
func (p large) built(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../../.cache/clients/programs")
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, p.name+"@"+p.version)
	if _, err := os.Stat(program); err == nil {
		return reached(t, program)
	}
	if os.Getenv(allPrograms) != "1" {
		t.Skipf("%s %s is not built; with %s=1 it is, in minutes, and then kept", p.name, p.version, allPrograms)
	}
	into := t.TempDir()
	install := exec.CommandContext(t.Context(), "go", "install", p.path+"@"+p.version)
	install.Dir, install.Env = into, append(os.Environ(), "GOBIN="+into, "GOFLAGS=-buildvcs=false")
	if text, err := install.CombinedOutput(); err != nil {
		t.Skipf("%s %s cannot be built, so it is never promised: %v: %s", p.name, p.version, err, text)
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	if err := exec.CommandContext(t.Context(), "mv", filepath.Join(into, p.name), program).Run(); err != nil { // it may be another file system
		t.Fatal(err)
	}
	return reached(t, program)
}

const (
	// kubernetes is Azure Kubernetes Service: an id, which is no URI.
	kubernetes = "6dae42f8-4368-4678-94ff-3960e28e3630"
	storage    = "https://storage.azure.com"
	classic    = "https://management.core.windows.net" // that the Azure CLI asks for

	accountName = "keyagenttest"
	accountHost = accountName + ".blob.core.windows.net:443"
)

// forPrograms is a station whose rule allows what the programs ask for.
func forPrograms(t *testing.T) *station {
	t.Helper()
	return newWorldWith(t, simulator.Config{Resources: []string{kubernetes}}).newStation(func(c *config.Config) {
		c.Rules[0].Resources = append(c.Rules[0].Resources, storage, kubernetes)
	})
}

// tokenIs checks whose token it is, and what for.
func tokenIs(t *testing.T, token, clientID, audience string) {
	t.Helper()
	if token == "" {
		t.Fatal("there is no token")
	}
	if says := claimsOf(t, token); says.AppID != clientID || says.Audience != audience {
		t.Errorf("the token says %+v, want %s for %s", says, clientID, audience)
	}
}

func TestKubeloginUnderExec(t *testing.T) {
	t.Parallel()
	program := kubelogin.built(t)
	s := forPrograms(t)
	own, user := s.info.Identities[0], s.info.Identities[1]
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"the VM's own identity":             {nil, own.ClientID},
		"a user-assigned one":               {[]string{"--client-id", user.ClientID}, user.ClientID},
		"a user-assigned one, by its place": {[]string{"--identity-resource-id", user.ResourceID}, user.ClientID},
	} {
		t.Run(name, func(t *testing.T) {
			args := append([]string{program, "get-token", "--login", "msi", "--server-id", kubernetes}, c.args...)
			cmd := s.exec(t.Context(), t, own.Name, args...)
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			out, err := cmd.Output()
			if err != nil {
				t.Fatalf("%v: %s", err, stderr.Bytes())
			}
			var credential struct{ Status struct{ Token string } }
			if err := json.Unmarshal(out, &credential); err != nil {
				t.Fatal(err)
			}
			tokenIs(t, credential.Status.Token, c.want, kubernetes)
		})
	}
}

// A backup, and a copy, that begin with a look into an account that has nothing.
func TestProgramsThatUseStorageUnderExec(t *testing.T) {
	t.Parallel()
	const nothing = `<?xml version="1.0" encoding="utf-8"?><EnumerationResults ServiceEndpoint="https://` + accountName +
		`.blob.core.windows.net/" ContainerName="backup"><Blobs/><NextMarker/></EnumerationResults>`
	for name, c := range map[string]struct {
		program large
		args    []string
		env     []string
	}{
		"restic": {restic, []string{"--repo", "azure:backup:/", "--no-cache", "--retry-lock", "0s", "list", "snapshots"},
			[]string{"AZURE_ACCOUNT_NAME=" + accountName, "RESTIC_PASSWORD=x"}},
		"rclone, managed identity":  {rclone, []string{"--retries", "1", "--low-level-retries", "1", "lsf", ":azureblob,account=" + accountName + ",use_msi=true:backup"}, nil},
		"rclone, the default chain": {rclone, []string{"--retries", "1", "--low-level-retries", "1", "lsf", ":azureblob,account=" + accountName + ",env_auth=true:backup"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			program := c.program.built(t)
			s := forPrograms(t)
			account := s.newService(t, accountHost, "application/xml", nothing)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			cmd := s.exec(ctx, t, "vm", append([]string{program}, c.args...)...)
			cmd.Env = append(cmd.Env, append(account.environment, c.env...)...)
			text, err := cmd.CombinedOutput() // restic fails, because there is no repository
			token := account.shown()
			if token == "" {
				t.Fatalf("%v: %s", err, text)
			}
			tokenIs(t, token, s.info.Identities[0].ClientID, storage)
			if n := len(s.record.since(0)); n != 1 {
				t.Errorf("it asked %d times", n)
			}
		})
	}
}

// The Azure MCP server has the Azure SDK for .NET inside.
func TestAProgramOnDotNETUnderExec(t *testing.T) {
	t.Parallel()
	s := newWorld(t).newStation(unchanged)
	own, user := s.info.Identities[0], s.info.Identities[1]
	for name, c := range map[string]struct {
		credential []string
		want       string
	}{
		"the VM's own identity": {nil, own.ClientID},
		"a user-assigned one":   {[]string{"AZURE_CLIENT_ID=" + user.ClientID, "AZURE_TOKEN_CREDENTIALS=ManagedIdentityCredential"}, user.ClientID},
	} {
		t.Run(name, func(t *testing.T) {
			before := len(s.record.since(0))
			out, token := s.listSecretsAs(t, c.credential, func(ctx context.Context, args ...string) *exec.Cmd { return s.exec(ctx, t, own.Name, args...) })
			if out.Status != http.StatusOK {
				t.Fatalf("the program says %+v", out)
			}
			tokenIs(t, token, c.want, vault)
			if n := len(s.record.since(before)); n != 1 {
				t.Errorf("the library asked %d times", n)
			}
		})
	}
}

// Azure CLI logs in with the variables of the older protocol, which is the one of App Service that
// it knows.
func TestAzureCLIUnderExec(t *testing.T) {
	t.Parallel()
	az, err := exec.LookPath("az")
	if err != nil {
		t.Skip("the Azure CLI is not installed; `apt-get install azure-cli` installs it, but is never promised: it takes minutes and two thirds of a gigabyte")
	}
	w := newWorldWith(t, simulator.Config{Resources: []string{classic}})
	s := w.newStation(func(c *config.Config) { c.Rules[0].Resources = append(c.Rules[0].Resources, classic) })
	const news = "azure.microsoft.com:443"
	manager := w.newService(t, "management.azure.com:443", "application/json", `{"value":[]}`, news)
	home := folder(t)
	run := func(script string) []byte {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		cmd := s.exec(ctx, t, "vm", "sh", "-ec", script, "sh", az)
		cmd.Env = append(cmd.Env, manager.environment...)
		cmd.Env = append(cmd.Env, "HOME="+home, "REQUESTS_CA_BUNDLE="+manager.roots, "AZURE_CORE_COLLECT_TELEMETRY=false")
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%v: %s%s", err, out, stderr.Bytes())
		}
		return out
	}
	var token struct{ AccessToken string }
	out := run(`"$1" login --identity --allow-no-subscriptions >&2; "$1" account get-access-token --resource ` + vault)
	if err := json.Unmarshal(out, &token); err != nil {
		t.Fatal(err)
	}
	tokenIs(t, manager.shown(), s.info.Identities[0].ClientID, classic)
	tokenIs(t, token.AccessToken, s.info.Identities[0].ClientID, vault)
}
