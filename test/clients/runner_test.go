package clients_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/keyagent/keyagent/internal/tooltest"
)

// request is one case, as the runners of the libraries take it (msalgo, js/msal.mjs,
// js/identity.mjs).
type request struct {
	Kind         kind      `json:"kind"`
	Authority    string    `json:"authority"`
	Tenant       string    `json:"tenant"`
	ClientID     string    `json:"client_id"`
	Key          string    `json:"key,omitempty"`         // PEM
	Certificate  string    `json:"certificate,omitempty"` // PEM, with its issuers
	Thumbprint   string    `json:"thumbprint,omitempty"`  // in hexadecimal, SHA-256 unless SHA1
	SHA1         bool      `json:"sha1,omitempty"`
	X5C          bool      `json:"x5c,omitempty"`
	Assertion    string    `json:"assertion,omitempty"`
	Region       string    `json:"region,omitempty"`
	Claims       string    `json:"claims,omitempty"`
	Capabilities []string  `json:"capabilities,omitempty"`
	Scope        string    `json:"scope"` // for a managed identity: what the library calls a resource
	Calls        []bool    `json:"calls"` // one call for each; true passes the cache over, where the library can
	Identity     *selector `json:"identity,omitempty"`
}

// kind names the app's credential.
type kind string

const (
	byCertificate   kind = "certificate"
	byAssertion     kind = "assertion"
	byAssertionFile kind = "assertion_file"
	byIdentity      kind = "managed_identity"
)

// selector names a managed identity; at most one is set.
type selector struct {
	ClientID   string `json:"client_id,omitempty"`
	ObjectID   string `json:"object_id,omitempty"`
	ResourceID string `json:"resource_id,omitempty"`
}

// reply is what an app sees.
type reply struct {
	Tokens []string `json:"tokens"`
	Error  string   `json:"error"`
}

// library is one release of one library, with its runner.
type library struct {
	name    string
	command func(context.Context, *testing.T, *world) *exec.Cmd // of the runner; it may skip the test
	fits    func(request) bool                                  // whether it can be asked for this
	unknown string                                              // how it words that the VM does not have an identity
	scope   func(resource string) string                        // how it wants a managed identity's resource named
}

func suiteLibraries() []library {
	exactly := func(resource string) string { return resource }
	return []library{
		{"MSAL Go 1.9", msalGo("go-1.9.mod"), fitsGo, "Identity not found", exactly},
		{"MSAL Go 1.10", msalGo("go.mod"), fitsGo, "Identity not found", exactly},
		{"msal-node", nodeRunner("msal.mjs"), func(r request) bool { return r.Kind != byAssertionFile }, "identity", exactly},
		{"@azure/identity", nodeRunner("identity.mjs"), fitsSDK, "identity", func(resource string) string { return resource + "/.default" }},
	}
}

// fitsGo: it compares a key with its certificate by itself, and has no file of assertions.
func fitsGo(r request) bool { return r.Kind != byAssertionFile && !r.SHA1 }

// fitsSDK: it makes the thumbprint by itself.
func fitsSDK(r request) bool { return !r.SHA1 }

// msalGo builds the runner with the release that a module file names.
func msalGo(module string) func(context.Context, *testing.T, *world) *exec.Cmd {
	return func(ctx context.Context, t *testing.T, w *world) *exec.Cmd {
		t.Helper()
		program := filepath.Join(t.TempDir(), "msalgo")
		build := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-modfile="+module, "-o", program, ".")
		build.Dir = "msalgo"
		if text, err := build.CombinedOutput(); err != nil {
			t.Fatalf("building msalgo with %s: %v\n%s", module, err, text)
		}
		cmd := exec.CommandContext(ctx, program)
		cmd.Env = append(w.runnerEnv(t), "SSL_CERT_FILE="+w.info.CAFile, "SSL_CERT_DIR="+t.TempDir())
		return cmd
	}
}

// nodeRunner is a program of folder js. It stands where npm has installed what it imports.
func nodeRunner(program string) func(context.Context, *testing.T, *world) *exec.Cmd {
	return func(ctx context.Context, t *testing.T, w *world) *exec.Cmd {
		t.Helper()
		tool, dir := tooltest.Tool(t, "node"), packages(t, "js")
		text, err := os.ReadFile(filepath.Join("js", program))
		if err != nil {
			t.Fatal(err)
		}
		hosts, err := filepath.Abs("js/hosts.mjs")
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(ctx, tool, "--import", hosts, "--input-type=module", "--eval", string(text))
		cmd.Dir = dir
		cmd.Env = append(w.runnerEnv(t), "NODE_EXTRA_CA_CERTS="+w.info.CAFile)
		return cmd
	}
}

// runnerEnv leads the runner's connections to the platform. Every other name is out of its reach.
func (w *world) runnerEnv(t *testing.T) []string {
	t.Helper()
	places := map[string]string{}
	for name, base := range w.places() {
		u, err := url.Parse(base)
		if err != nil {
			t.Fatal(err)
		}
		places[name] = u.Host
	}
	text, err := json.Marshal(places)
	if err != nil {
		t.Fatal(err)
	}
	return []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "HOSTS=" + string(text)}
}

// places is where Azure's names lead: base URLs by host:port.
func (w *world) places() map[string]string {
	places := map[string]string{imdsHost: w.info.IMDS, loginHost: w.info.Login, regionalHost: w.info.Login}
	maps.Copy(places, map[string]string{"login.microsoft.com:443": w.info.Login, "login.windows.net:443": w.info.Login})
	return places
}

// runner is a library at work, case by case.
type runner struct {
	in     *json.Encoder
	out    *json.Decoder
	stderr bytes.Buffer // not to be read before it has ended
}

// start runs the library until the test ends.
func (l library) start(t *testing.T, w *world) *runner {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience) // it ends with the cleanup, not before
	cmd := l.command(ctx, t, w)
	r := &runner{}
	in, errIn := cmd.StdinPipe()
	out, errOut := cmd.StdoutPipe()
	if errIn != nil || errOut != nil {
		t.Fatal(errIn, errOut)
	}
	cmd.Stderr = &r.stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		_, _ = io.Copy(io.Discard, out)
		if err := cmd.Wait(); err != nil {
			t.Errorf("the runner: %v: %s", err, r.stderr.Bytes())
		}
		cancel()
	})
	r.in, r.out = json.NewEncoder(in), json.NewDecoder(out)
	return r
}

// ask is one case.
func (r *runner) ask(q request) (reply, error) {
	if err := r.in.Encode(q); err != nil {
		return reply{}, fmt.Errorf("asking the runner: %w", err)
	}
	var a reply
	if err := r.out.Decode(&a); err != nil {
		return reply{}, fmt.Errorf("the runner's answer: %w", err)
	}
	return a, nil
}
