package samples_test

import (
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// An agent and an API that refuse at first. Each answers with the script's statuses
// in turn, and then with 200.
type counterpart struct {
	mu     sync.Mutex
	script []int
	asked  int
	good   string
	saw    []string // Authorization
	after  string   // Retry-After
}

func (c *counterpart) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked++
	c.saw = append(c.saw, r.Header.Get("Authorization"))
	if c.asked > len(c.script) {
		fmt.Fprint(w, c.good)
		return
	}
	if c.after != "" {
		w.Header().Set("Retry-After", c.after)
	}
	w.Header().Set("Location", "/elsewhere")
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(c.script[c.asked-1])
	fmt.Fprint(w, `{"code":"unavailable","detail":"not today","hint":"come tomorrow"}`)
}

// listen serves agent on a Unix socket and api over TLS, and returns what a daemon is to be told.
func listen(t *testing.T, agent, api *counterpart) environment {
	t.Helper()
	dir := shortDir(t)
	listener, err := net.Listen("unix", filepath.Join(dir, "agent.sock"))
	if err != nil {
		t.Fatal(err)
	}
	local := &httptest.Server{Listener: listener, Config: &http.Server{Handler: agent}}
	local.Start()
	t.Cleanup(local.Close)
	remote := httptest.NewTLSServer(api)
	t.Cleanup(remote.Close)
	ca := filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: remote.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return environment{
		"KEYAGENT_SOCKET": listener.Addr().String(), "IDENTITY": "reports", "RESOURCE": "https://api.example", "API_URL": remote.URL + "/x", "CA_FILE": ca,
	}
}

const agentsAnswer = `{"access_token":"a.b.c","token_type":"Bearer","expires_in":3600,"expires_on":4102444800}`

func TestWhatADaemonDoesWhenItIsRefused(t *testing.T) {
	for _, d := range daemons(certificateSample) {
		t.Run(d.name, func(t *testing.T) {
			for name, c := range map[string]struct {
				agent, api []int
				after      string
				asked      [2]int // agent, API
				ok         bool
			}{
				"agent and API are busy: it waits as asked":     {[]int{503}, []int{429}, "1", [2]int{3, 2}, true},
				"the agent refuses: it does not ask again":      {[]int{403}, nil, "", [2]int{1, 0}, false},
				"the API refuses: it does not ask again":        {nil, []int{401}, "", [2]int{1, 1}, false},
				"busy, but nobody says how long":                {nil, []int{503}, "", [2]int{1, 1}, false},
				"the wait would be too long":                    {nil, []int{503}, "3600", [2]int{1, 1}, false},
				"a wait that is no number":                      {nil, []int{503}, "soon", [2]int{1, 1}, false},
				"the API leads elsewhere: the token stays here": {nil, []int{302}, "", [2]int{1, 1}, false},
			} {
				t.Run(name, func(t *testing.T) {
					agent := &counterpart{script: c.agent, good: agentsAnswer, after: c.after}
					api := &counterpart{script: c.api, good: "welcome", after: c.after}
					out, complaint, err := d.run(t, listen(t, agent, api))
					if (err == nil) != c.ok || (out == "welcome\n") != c.ok {
						t.Errorf("%v, printed %q and %q", err, out, complaint)
					}
					if !c.ok && (!strings.HasPrefix(complaint, "daemon: ") || strings.Count(complaint, "\n") > 1 || strings.Contains(complaint, "a.b.c")) {
						t.Errorf("it complains so: %q", complaint)
					}
					if !c.ok && !strings.HasSuffix(complaint, ": not today; come tomorrow\n") {
						t.Errorf("it does not say what the other side does, in words: %q", complaint)
					}
					if asked := [2]int{agent.asked, api.asked}; asked != c.asked {
						t.Errorf("it asked agent and API %d times, want %d", asked, c.asked)
					}
					for _, authorization := range api.saw {
						if authorization != "Bearer a.b.c" {
							t.Errorf("Authorization: %q", authorization)
						}
					}
				})
			}
		})
	}
}

func TestADaemonThatIsToldNonsenseSaysSo(t *testing.T) {
	for _, d := range daemons(certificateSample) {
		t.Run(d.name, func(t *testing.T) {
			for name, value := range map[string]string{
				"IDENTITY": "", "RESOURCE": "", "API_URL": "http://api.example/", "KEYAGENT_SOCKET": "/nonexistent/agent.sock", "CA_FILE": "/nonexistent/ca.pem",
			} {
				api := &counterpart{good: "welcome"}
				env := listen(t, &counterpart{good: agentsAnswer}, api)
				env[name] = value
				if out, complaint, err := d.run(t, env); err == nil || out != "" || !strings.HasPrefix(complaint, "daemon: ") || api.asked != 0 {
					t.Errorf("%s=%s: %v, printed %q and %q", name, value, err, out, complaint)
				} else if strings.HasPrefix(value, "/") && !strings.Contains(complaint, value) {
					t.Errorf("%s=%s: it does not say which file: %q", name, value, complaint)
				}
			}
		})
	}
}
