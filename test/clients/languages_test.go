package clients_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/tooltest"
	"github.com/keyagent/keyagent/simulator/imds"
)

// language is the Azure SDK as it is released for another language than Go.
type language struct {
	name    string
	program string                     // in this folder; it reaches the interpreter by its standard input
	command func(*testing.T) *exec.Cmd // reads the program
	unknown string                     // how it words that there is no such identity
}

func languages() []language {
	return []language{
		{"JavaScript", "js/token.mjs", node, "Identity not found"},
		{"Python", "python/token.py", python, "has not been assigned"}, // the service's words are lost
	}
}

// node finds packages where it stands.
func node(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), tooltest.Tool(t, "node"), "--input-type=module", "-")
	cmd.Dir = packages(t, "js")
	return cmd
}

// packages is where npm has installed what the lock file of a folder names. The test is skipped
// where it has not.
func packages(t *testing.T, folder string) string {
	t.Helper()
	want, err := os.ReadFile(filepath.Join(folder, "package-lock.json"))
	if err != nil {
		t.Fatal(err)
	}
	installed := filepath.Join("../../.cache/clients", folder)
	got, err := os.ReadFile(filepath.Join(installed, "package-lock.json"))
	if err != nil || !bytes.Equal(got, want) {
		t.Skipf("what %s/package-lock.json names is not installed; `scripts/test clients-module` installs it where there is npm and its registry can be reached, so it is never promised", folder)
	}
	return installed
}

// python is Debian's, because the library is.
func python(t *testing.T) *exec.Cmd {
	t.Helper()
	const path = "/usr/bin/python3"
	if err := exec.CommandContext(t.Context(), path, "-c", "import azure.identity").Run(); err != nil {
		t.Skip("azure.identity for /usr/bin/python3 is not installed; `apt-get install python3-azure` installs it, but is never promised: it takes minutes and half a gigabyte")
	}
	return exec.CommandContext(t.Context(), path, "-")
}

// answer is what an app sees that asks its library twice.
type answer struct {
	Token   string
	Again   string
	Expires int64 // epoch
	Refresh int64 // when the library will ask anew, likewise; 0: it does not say
	Error   string
}

// ask lets the library ask IMDS for the vault, where that is at another place than usual. An empty
// client id is the system-assigned identity.
func (l language) ask(t *testing.T, host, clientID string) answer {
	t.Helper()
	program, err := os.Open(l.program)
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	cmd := l.command(t)
	cmd.Args = append(cmd.Args, vaultScope)
	if clientID != "" {
		cmd.Args = append(cmd.Args, clientID)
	}
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "AZURE_POD_IDENTITY_AUTHORITY_HOST=" + host}
	var stderr bytes.Buffer
	cmd.Stdin, cmd.Stderr = program, &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, stderr.Bytes())
	}
	var a answer
	if err := json.Unmarshal(out, &a); err != nil {
		t.Fatal(err)
	}
	return a
}

// place is where a library finds the IMDS token endpoint.
type place struct {
	host  string     // base URL
	asked func() int // requests so far
}

func (w *world) imdsPlace() place {
	return place{w.info.IMDS, func() int { return len(w.Journal().Operation(imds.OpToken)) }}
}

func (w *world) agentPlace(change func(*config.Config)) place {
	w.t.Helper()
	var record audit
	return place{w.forward(w.startAgentWith(&record, change)), record.asked}
}

// audit counts an agent's answers in the shape of IMDS.
type audit struct {
	mu      sync.Mutex
	answers int
}

func (a *audit) Write(record []byte) (int, error) {
	var entry struct{ Route string }
	if err := json.Unmarshal(record, &entry); err != nil {
		return 0, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if entry.Route == wire.PathIMDSToken {
		a.answers++
	}
	return len(record), nil
}

func (a *audit) asked() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.answers
}

// forward makes a Unix socket a base URL, byte for byte, for libraries that know TCP alone.
func (w *world) forward(socket string) string {
	w.t.Helper()
	listener, err := new(net.ListenConfig).Listen(w.t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	var connections sync.WaitGroup
	connections.Go(func() {
		for {
			in, err := listener.Accept()
			if err != nil {
				return // closed
			}
			out, err := new(net.Dialer).DialContext(w.t.Context(), "unix", socket)
			if err != nil {
				w.t.Error(errors.Join(err, in.Close()))
				return
			}
			connections.Go(func() { join(in, out) })
		}
	})
	w.t.Cleanup(func() {
		if err := listener.Close(); err != nil {
			w.t.Error(err)
		}
		connections.Wait()
	})
	return "http://" + listener.Addr().String()
}

// join ends when either side closes.
func join(in, out net.Conn) {
	var back sync.WaitGroup
	back.Go(func() {
		_, _ = io.Copy(in, out) // that a side hung up is how a connection ends
		_ = in.Close()
	})
	_, _ = io.Copy(out, in)
	_ = out.Close()
	back.Wait()
}

// claims are those that name the app and what the token is for.
type claims struct {
	AppID        string   `json:"appid"`
	Audience     string   `json:"aud"`
	Expires      int64    `json:"exp"`
	Capabilities []string `json:"xms_cc"`
	Contexts     []string `json:"acrs"`
}

// claimsOf reads a JWT without checking it, which the resource has done.
func claimsOf(t *testing.T, token string) claims {
	t.Helper()
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		t.Fatalf("a token of %d parts is no JWT", len(parts))
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	var c claims
	if err := json.Unmarshal(payload, &c); err != nil {
		t.Fatal(err)
	}
	return c
}

// gets checks what every library has to get there. It keeps the token: of two calls, one arrives.
func (w *world) gets(t *testing.T, l language, at place, clientID, want string) {
	t.Helper()
	before := at.asked()
	got := l.ask(t, at.host, clientID)
	if got.Error != "" {
		t.Fatal(got.Error)
	}
	if n := at.asked() - before; n != 1 || got.Again != got.Token {
		t.Errorf("%d requests for two calls; the same token: %t", n, got.Again == got.Token)
	}
	if caller := w.caller(t, got.Token); caller.ClientID != want || caller.Bound {
		t.Errorf("the resource saw %+v, want %s", caller, want)
	}
	says := claimsOf(t, got.Token)
	if says.AppID != want || says.Audience != vault {
		t.Errorf("the token says %+v, want %s for %s", says, want, vault)
	}
	early := says.Expires - got.Expires // the agent counts from before it asked
	if early < 0 || early > 60 || got.Expires <= time.Now().Unix() {
		t.Errorf("the library takes the token to live until %d, and it says %d", got.Expires, says.Expires)
	}
}

func TestAnAppInAnotherLanguageGetsATokenWhereItsLibraryLooksForIMDS(t *testing.T) {
	w := newWorld(t)
	vm, user, app := w.info.Identities[0].ClientID, w.info.Identities[1].ClientID, w.application(federatedApp).ClientID
	service, agent := w.imdsPlace(), w.agentPlace(func(*config.Config) {})
	for name, c := range map[string]struct {
		at         place
		asks, want string
	}{
		"IMDS, system-assigned":         {service, "", vm},
		"IMDS, by client id":            {service, user, user},
		"the agent, a managed identity": {agent, user, user},
		"the agent, an application":     {agent, app, app},
	} {
		for _, l := range languages() {
			t.Run(l.name+", "+name, func(t *testing.T) { w.gets(t, l, c.at, c.asks, c.want) })
		}
	}
}

// An app that may have one identity only need not name it, as on a VM that has one only.
func TestAnAppInAnotherLanguageNeedNotNameItsOnlyIdentity(t *testing.T) {
	w := newWorld(t)
	vm := w.info.Identities[0]
	agent := w.agentPlace(func(c *config.Config) { c.Rules[0].Identities = []string{vm.Name} })
	for _, l := range languages() {
		t.Run(l.name, func(t *testing.T) { w.gets(t, l, agent, "", vm.ClientID) })
	}
}

// A library does not repeat a request that was refused.
func TestARefusalArrivesInTheErrorOfALibraryInAnotherLanguage(t *testing.T) {
	w := newWorld(t)
	for name, at := range map[string]place{"IMDS": w.imdsPlace(), "the agent": w.agentPlace(func(*config.Config) {})} {
		for _, l := range languages() {
			t.Run(l.name+", "+name, func(t *testing.T) {
				before := at.asked()
				got := l.ask(t, at.host, uuid.NewString())
				if got.Token != "" || !strings.HasPrefix(got.Error, "CredentialUnavailableError: ") || !strings.Contains(got.Error, l.unknown) {
					t.Errorf("token %t, error %q, want %q", got.Token != "", got.Error, l.unknown)
				}
				if n := at.asked() - before; n != 1 {
					t.Errorf("the library asked %d times: it took a refusal for a temporary failure", n)
				}
			})
		}
	}
}
