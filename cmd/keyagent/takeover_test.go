package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/internal/takeover"
)

const (
	tokenURL    = "http://169.254.169.254/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://vault.azure.net"
	instanceURL = "http://169.254.169.254/metadata/instance/compute?api-version=2021-02-01"
)

// The machine has real rules of nftables, a real kernel, an agent that is not root, and a simulated
// IMDS in the place of the real one.
func TestTakeover(t *testing.T) {
	m := newMachine(t)
	m.tracksConnections()
	before := m.begins(t, takenUID, "keep")
	m.load()
	t.Run("while the agent does not run", m.refusesWithoutAgent)
	m.serve()
	t.Run("a connection from before", func(t *testing.T) { before.gets(t, gotNobody) })
	t.Run("unmodified programs", m.servesUnmodifiedPrograms)
	t.Run("ways around the agent", m.hasNoWayAround)
	t.Run("spellings", m.refusesSpellings)
	t.Run("source ports", m.isNotConfusedBySourcePorts)
	t.Run("others", m.leavesOthersAlone)
	t.Run("check", m.checks)
	stop(m.agent)
	t.Run("after the agent has ended", m.refusesWithoutAgent)
}

// tracksConnections has a firewall of its own follow connections, as there is on most machines. One
// that is open is then known as such when the takeover's rules are loaded.
func (m *machine) tracksConnections() {
	m.t.Helper()
	m.nft("add", "table", "inet", "own")
	m.nft("add", "chain", "inet", "own", "out", "{ type filter hook output priority 10; }")
	m.nft("add", "rule", "inet", "own", "out", "ct", "state", "established", "accept")
}

// asks returns who answers a program of a user that asks IMDS in one way.
func (m *machine) asks(t *testing.T, uid int, way string) string {
	t.Helper()
	out, err := m.run(uid, "askimds", way)
	if err != nil {
		t.Fatalf("%s as %d: %v", way, uid, err)
	}
	return strings.TrimSpace(string(out))
}

func (m *machine) hasNoWayAround(t *testing.T) {
	served := []string{"plain", "an IPv4-mapped address", "MPTCP", "fast open", "an address of its own"}
	for _, way := range slices.Sorted(maps.Keys(ways())) {
		want := gotNobody
		if slices.Contains(served, way) {
			want = gotAgent
		}
		if got := m.asks(t, takenUID, way); got != want {
			t.Errorf("%s: %s answers, want %s", way, got, want)
		}
	}
	for _, uid := range []int{subordinateUID, subordinateUID + 65535} {
		for way, want := range map[string]string{"plain": gotAgent, "another port": gotNobody, "the IPv6 twin": gotNobody} {
			if got := m.asks(t, uid, way); got != want {
				t.Errorf("%s, uid %d: %s answers, want %s", way, uid, got, want)
			}
		}
	}
	// What proves that the ways lead somewhere: others get there.
	for _, way := range []string{"plain", "an IPv4-mapped address", "MPTCP", "fast open", "another port", "the IPv6 twin", "bound to the interface"} {
		if got := m.asks(t, exemptUID, way); got != gotIMDS {
			t.Errorf("%s, of another user: %s answers", way, got)
		}
	}
	if got := m.asks(t, subordinateUID+65536, "plain"); got != gotIMDS {
		t.Errorf("the uid after the range: %s answers", got)
	}
}

// curl asks as curl does, and returns the status and the body.
func (m *machine) curl(t *testing.T, uid int, url string, args ...string) (status, body string) {
	t.Helper()
	args = append([]string{"curl", "-sS", "--path-as-is", "--max-time", "20", "-H", "Metadata: true", "-w", "\n%{http_code}", url}, args...)
	out, err := m.run(uid, args...)
	if err != nil {
		return "", ""
	}
	body, status = string(out), ""
	if i := strings.LastIndex(body, "\n"); i >= 0 {
		body, status = body[:i], body[i+1:]
	}
	return status, body
}

func (m *machine) servesUnmodifiedPrograms(t *testing.T) {
	for _, url := range []string{tokenURL, strings.Replace(tokenURL, "169.254.169.254", "2852039166", 1), strings.Replace(tokenURL, "169.254.169.254", "0xa9fea9fe", 1)} {
		status, body := m.curl(t, takenUID, url)
		var token wire.IMDSToken
		if err := json.Unmarshal([]byte(body), &token); err != nil || status != "200" || token.AccessToken.Reveal() == "" {
			t.Errorf("%s: status %s: %v", url, status, err)
		}
	}
	if status, body := m.curl(t, takenUID, instanceURL); status != "200" || !strings.Contains(body, `"location":"westeurope"`) {
		t.Errorf("instance: %s %s", status, body)
	}
	audit := m.output.String()
	for _, want := range []string{`"decision":"issued","status":200,"uid":4101,`, `"decision":"passed","status":200,"uid":4101,`, `"bound":true`} {
		if !strings.Contains(audit, want) {
			t.Errorf("the audit has no %s", want)
		}
	}
}

// CVE-2022-23551: a spelling that the pattern of an interceptor did not match reached IMDS.
func (m *machine) refusesSpellings(t *testing.T) {
	for _, path := range []string{
		`/metadata/identity\oauth2\token`, "/metadata/identity/oauth2/Token", "/METADATA/identity/oauth2/token", "/metadata/identity/oauth2/%74oken",
		"/metadata/instance/../identity/oauth2/token", "/metadata/instance/%2e%2e/identity/oauth2/token", "/metadata/identity%2foauth2%2ftoken",
		"/metadata/identity/issuecredential", "/metadata/attested/document", "/metadata/scheduledevents", "/metadata/versions", "/",
	} {
		status, body := m.curl(t, takenUID, "http://169.254.169.254"+path+"?api-version=2018-02-01&resource=https://vault.azure.net")
		if status != "403" && status != "400" || strings.Contains(body, "access_token") {
			t.Errorf("%s: status %s: %s", path, status, body)
		}
	}
	target := []string{"--request-target", "http://169.254.169.254/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://vault.azure.net"}
	if status, body := m.curl(t, takenUID, "http://169.254.169.254/", target...); status != "403" && status != "400" {
		t.Errorf("an absolute target: status %s: %s", status, body)
	}
	if status, body := m.curl(t, takenUID, tokenURL, "-H", "X-Forwarded-For: 10.0.0.1"); status != "400" {
		t.Errorf("forwarded: status %s: %s", status, body)
	}
}

// With many connections of others to IMDS open, no change of a source port makes a taken user
// somebody else.
func (m *machine) isNotConfusedBySourcePorts(t *testing.T) {
	held := m.begins(t, 0, "hold")
	defer held.end(t)
	before := strings.Count(m.output.String(), `"uid":4101`)
	out, err := m.run(takenUID, "askimds", "clash")
	if err != nil {
		t.Fatal(err)
	}
	answered := strings.Split(strings.TrimSpace(string(out)), "\n")
	if slices.Contains(answered, gotIMDS) || slices.Contains(answered, "a direct connection") || !slices.Contains(answered, gotAgent) {
		t.Errorf("answered: %q", answered)
	}
	log := m.output.String()
	if after := strings.Count(log, `"uid":4101`); after <= before {
		t.Error("none of the requests is in the audit")
	}
	for _, other := range []string{`"uid":0,`, `"uid":4102,`} {
		if strings.Contains(log, other) {
			t.Errorf("the audit has %s", other)
		}
	}
}

func (m *machine) leavesOthersAlone(t *testing.T) {
	for _, uid := range []int{0, agentUID, exemptUID} {
		if got := m.asks(t, uid, "plain"); got != gotIMDS {
			t.Errorf("uid %d: %s answers", uid, got)
		}
		// Only what is redirected gets to the agent.
		if got := m.asks(t, uid, "the agent's port"); got != gotNobody {
			t.Errorf("uid %d at the agent's port: %s answers", uid, got)
		}
	}
}

func (m *machine) refusesWithoutAgent(t *testing.T) {
	for _, way := range []string{"plain", "an IPv4-mapped address", "MPTCP", "another port", "the agent's port"} {
		if got := m.asks(t, takenUID, way); got != gotNobody {
			t.Errorf("%s: %s answers", way, got)
		}
	}
	if got := m.asks(t, exemptUID, "plain"); got != gotIMDS {
		t.Errorf("others: %s answers", got)
	}
	if got := m.asks(t, takenUID, "squat"); got != gotNobody {
		t.Errorf("the agent's port: %s", got)
	}
	if out, err := m.run(takenUID, "keyagent", "takeover", "check", "--config", "agent.yaml"); err == nil || !strings.Contains(string(out), "the agent does not run") {
		t.Errorf("check: %v: %s", err, out)
	}
}

func (m *machine) checks(t *testing.T) {
	for _, uid := range []int{0, takenUID, subordinateUID} {
		out, err := m.run(uid, "keyagent", "takeover", "check", "--config", "agent.yaml", "--json", "--file", m.rulesFile)
		var said struct {
			OK       bool
			Findings []struct{ Check, Verdict string }
		}
		if json.Unmarshal(out, &said) != nil || err != nil || !said.OK || len(said.Findings) < 4 {
			t.Errorf("uid %d: %v: %s", uid, err, out)
		}
		for _, f := range said.Findings {
			if f.Verdict != takeover.OK {
				t.Errorf("uid %d: %+v", uid, f)
			}
		}
	}
	if out, err := m.run(exemptUID, "keyagent", "takeover", "check", "--config", "agent.yaml"); exitCodeOf(err) != exitUsage {
		t.Errorf("another user: %v: %s", err, out)
	}
	m.nft("delete", "element", "inet", takeover.Table, "users", fmt.Sprintf("{ %d }", takenUID))
	for uid, want := range map[int]string{0: "not taken over, though configured: uid 4101", takenUID: "it is not the agent that answers"} {
		if out, err := m.run(uid, "keyagent", "takeover", "check", "--config", "agent.yaml"); exitCodeOf(err) != exitFailed || !strings.Contains(string(out), want) {
			t.Errorf("uid %d: %v: %s", uid, err, out)
		}
	}
	m.nft("-f", m.rulesFile)
}

func exitCodeOf(err error) int {
	if ended, ok := err.(*exec.ExitError); ok { //nolint:errorlint // of exec itself
		return ended.ExitCode()
	}
	return exitDone
}

// conversation is with a program that prints lines and waits for its input.
type conversation struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// begins starts a program that says when it has begun.
func (m *machine) begins(t *testing.T, uid int, way string) *conversation {
	t.Helper()
	c := &conversation{cmd: m.as(uid, "askimds", way)}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	m.start(c.cmd)
	c.out = bufio.NewReader(out)
	if line, err := c.out.ReadString('\n'); line != "open\n" {
		t.Fatalf("%s: %q, %v", way, line, err)
	}
	return c
}

// gets has the program ask, and compares who answers.
func (c *conversation) gets(t *testing.T, want string) {
	t.Helper()
	if _, err := io.WriteString(c.in, "\n"); err != nil {
		t.Fatal(err)
	}
	if got, err := c.out.ReadString('\n'); strings.TrimSpace(got) != want {
		t.Errorf("%q answers, want %s (%v)", got, want, err)
	}
}

func (c *conversation) end(t *testing.T) {
	t.Helper()
	_ = c.in.Close()
	if err := c.cmd.Wait(); err != nil {
		t.Error(err)
	}
}
