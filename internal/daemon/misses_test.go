package daemon_test

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/client"
	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/tooltest"
	"github.com/keyagent/keyagent/simulator"
	"github.com/keyagent/keyagent/simulator/fault"
)

// anotherUser is a uid that the rule of a test names besides that of the test.
const anotherUser = 65534

// envAskSocket makes TestAskAsAnotherUser ask, in a process of its own.
const envAskSocket = "KEYAGENT_DAEMON_TEST_ASK_SOCKET"

// TestAskAsAnotherUser is no test but what another user's process does: it asks for a token and
// says what it got.
func TestAskAsAnotherUser(t *testing.T) {
	socket := tooltest.Entry(t, envAskSocket)
	c := client.New(client.Config{Socket: socket})
	defer c.Close()
	token, err := c.Token(t.Context(), client.TokenRequest{Identity: "vm", Resource: "https://of-another-user"})
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println("got a token of", token.Identity)
}

// One user's loop over ever new resources reaches Entra as often as is allowed, and no further:
// Entra, which answers 429 with an hour's pause beyond that, has no reason to, and another user
// gets its token.
func TestEverNewResourcesDoNotSilenceTheIdentity(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("acting as another user needs root")
	}
	const bearable = 300 // requests, in this test's Entra
	s := newStageOn(t, simulator.Config{Dir: t.TempDir(), Resources: []string{"https://of-another-user", resource}})
	dir, err := os.MkdirTemp("", "agent")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	s.cfg.Socket = filepath.Join(dir, "agent.sock")
	s.cfg.Rules = []config.Rule{{
		Name: "any", Principals: config.Principals{Users: []string{strconv.Itoa(os.Geteuid()), strconv.Itoa(anotherUser)}},
		Identities: []string{"vm"}, Resources: []string{config.AnyResource}, Types: []string{config.TypeBearer},
	}}
	s.start()
	if _, err := s.client.Token(t.Context(), client.TokenRequest{Identity: "vm", Resource: resource}); err != nil {
		t.Fatal(err)
	}
	for _, f := range []fault.Fault{
		{Operation: "entra.mtls.token", Kind: fault.Delay, Delay: 1, Count: bearable}, // so many are answered as they are
		{Operation: "entra.mtls.token", Kind: fault.Status, Status: http.StatusTooManyRequests, Headers: map[string]string{"Retry-After": "3600"}},
	} {
		if err := s.platform.Faults().Add(f); err != nil {
			t.Fatal(err)
		}
	}
	codes := map[wire.Code]int{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for worker := range 4 {
		wg.Go(func() {
			for n := range 250 {
				_, err := s.client.Token(t.Context(), client.TokenRequest{Identity: "vm", Resource: fmt.Sprintf("https://new-%d-%d", worker, n)})
				refusal, ok := errors.AsType[*client.Error](err)
				if !ok {
					t.Errorf("got %v", err)
					return
				}
				mu.Lock()
				codes[refusal.Problem.Code]++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if asked := len(s.platform.Journal().Operation("entra.mtls.token")); asked >= bearable {
		t.Errorf("Entra was asked %d times", asked)
	}
	if codes[wire.CodeInvalidResource] < 100 || codes[wire.CodeThrottled] < 500 {
		t.Errorf("answers: %v", codes)
	}
	if _, err := s.client.Token(t.Context(), client.TokenRequest{Identity: "vm", Resource: resource}); err != nil {
		t.Errorf("the same user's token in memory: %v", err)
	}
	other := exec.Command("/proc/self/exe", "-test.run=^TestAskAsAnotherUser$", "-test.v") // a user who cannot reach the binary's directory
	other.Env = []string{"GORACE=atexit_sleep_ms=0", envAskSocket + "=" + s.cfg.Socket}
	other.Dir = "/"
	other.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: anotherUser, Gid: anotherUser}}
	if out, err := other.CombinedOutput(); err != nil || !strings.Contains(string(out), "got a token of vm") {
		t.Errorf("another user: %v\n%s", err, out)
	}
}
