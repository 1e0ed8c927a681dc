package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keyagent/keyagent/internal/tooltest"
	"github.com/keyagent/keyagent/simulator"
)

// The users of the machine below.
const (
	agentUID       = 4100
	takenUID       = 4101
	exemptUID      = 4102
	subordinateUID = 231072 // of takenUID
	takenPort      = 842
)

// machine is a virtual machine of two network namespaces: one with a simulated platform's services
// but IMDS, and programs; and one in the place of the host, where IMDS is.
type machine struct {
	t         *testing.T
	dir       string
	vm, host  string // names of the namespaces
	info      simulator.Info
	agent     *exec.Cmd
	output    safeBuffer // of the agent
	rulesFile string
}

// safeBuffer may be read while a program writes it.
type safeBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root makes network namespaces")
	}
	for _, tool := range []string{"ip", "nft", "setpriv", "unshare", "curl"} {
		tooltest.Tool(t, tool)
	}
	tooltest.File(t, "/etc/subuid")
	dir, err := os.MkdirTemp("", "takeover")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	m := &machine{t: t, dir: dir, vm: fmt.Sprintf("ka%d-vm", os.Getpid()), host: fmt.Sprintf("ka%d-host", os.Getpid())}
	m.network()
	m.platform()
	m.serveIMDS("tcp4", "169.254.169.254:80")
	m.serveIMDS("tcp4", "169.254.169.254:8080")
	m.serveIMDS("tcp6", "[fd00:ec2::254]:80")
	m.configure()
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(m.output.String())
		}
	})
	return m
}

// network makes the namespaces and what is between them.
func (m *machine) network() {
	m.t.Helper()
	for _, name := range []string{m.vm, m.host} {
		if out, err := exec.Command("ip", "netns", "add", name).CombinedOutput(); err != nil {
			m.t.Skipf("no network namespaces here: %s", out)
		}
		m.t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", name).Run() })
	}
	for _, line := range []string{
		"-n VM link set lo up", "-n HOST link set lo up",
		"-n VM link add v0 type veth peer name v1 netns HOST",
		"-n VM addr add 10.9.0.2/24 dev v0", "-n HOST addr add 10.9.0.1/24 dev v1",
		"-n VM addr add fd00:9::2/64 dev v0 nodad", "-n HOST addr add fd00:9::1/64 dev v1 nodad",
		"-n HOST addr add 169.254.169.254/32 dev v1", "-n HOST addr add fd00:ec2::254/128 dev v1 nodad",
		"-n VM link set v0 up", "-n HOST link set v1 up",
		"-n VM route add default via 10.9.0.1", "-n VM -6 route add default via fd00:9::1",
	} {
		m.mustRun("ip", strings.Fields(strings.NewReplacer("VM", m.vm, "HOST", m.host).Replace(line))...)
	}
}

// platform starts a simulated platform on the machine's loopback interface.
func (m *machine) platform() {
	m.t.Helper()
	sim := filepath.Join(m.dir, "sim")
	platform := exec.Command("ip", "netns", "exec", m.vm, "azuresim", sim)
	platform.Env = append(os.Environ(), platformKeys+"="+m.t.TempDir())
	m.start(platform)
	file := filepath.Join(sim, "azuresim.json")
	m.until("the platform", func() bool { _, err := os.Stat(file); return err == nil })
	text, err := os.ReadFile(file)
	if err != nil {
		m.t.Fatal(err)
	}
	if err := json.Unmarshal(text, &m.info); err != nil {
		m.t.Fatal(err)
	}
}

// serveIMDS serves the platform's IMDS at an address of the host.
func (m *machine) serveIMDS(network, address string) {
	m.t.Helper()
	var ln net.Listener
	m.in(m.host, func() (err error) { ln, err = net.Listen(network, address); return err })
	m.t.Cleanup(func() { _ = ln.Close() })
	imds := strings.TrimPrefix(m.info.IMDS, "http://")
	go func() {
		for {
			client, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer client.Close()
				var server net.Conn
				if inNetwork(m.vm, func() (err error) { server, err = net.Dial("tcp4", imds); return err }) != nil {
					return
				}
				defer server.Close()
				go func() { _, _ = io.Copy(server, client); _ = server.(*net.TCPConn).CloseWrite() }()
				_, _ = io.Copy(client, server)
			}()
		}
	}()
}

// in runs a function in a network namespace.
func (m *machine) in(name string, do func() error) {
	m.t.Helper()
	if err := inNetwork(name, do); err != nil {
		m.t.Fatal(err)
	}
}

// inNetwork runs a function on a thread that is in a network namespace, and ends that thread.
func inNetwork(name string, do func() error) error {
	var err error
	tooltest.OnOwnThread(func() {
		var file *os.File
		if file, err = os.Open(filepath.Join("/run/netns", name)); err == nil {
			defer file.Close()
			err = unix.Setns(int(file.Fd()), unix.CLONE_NEWNET)
		}
		if err == nil {
			err = do()
		}
	})
	return err
}

// configure writes the agent's configuration, and gives the agent's user what is its own.
func (m *machine) configure() {
	m.t.Helper()
	text, err := os.ReadFile(m.info.ConfigFile)
	if err != nil {
		m.t.Fatal(err)
	}
	first, rules := bytes.Index(text, []byte("  - name: app-")), bytes.Index(text, []byte("rules:"))
	config := bytes.ReplaceAll(text[:first], []byte(m.info.IMDS), []byte("http://169.254.169.254"))
	if rules < first || bytes.Equal(config, text[:first]) {
		m.t.Fatalf("the platform's configuration is another one:\n%s", text)
	}
	config = fmt.Appendf(config, `rules:
  - {name: web, users: ["%d"], identities: [vm], resources: ["https://vault.azure.net"]}
endpoints:
  takeover: {listen: "127.0.0.1:%d", users: ["%d"]}
`, takenUID, takenPort, takenUID)
	m.write("agent.yaml", string(config), 0o644)
	m.write("subuid", fmt.Sprintf("%d:%d:65536\n", takenUID, subordinateUID), 0o644)
	m.mustRun("chown", "-R", fmt.Sprintf("%d:%d", agentUID, agentUID), filepath.Join(m.dir, "sim"))
	m.mustRun("chmod", "-R", "a+rX", m.dir)
}

func (m *machine) write(name, text string, mode os.FileMode) {
	m.t.Helper()
	if err := os.WriteFile(filepath.Join(m.dir, name), []byte(text), mode); err != nil {
		m.t.Fatal(err)
	}
}

// as is a program of a user on the machine. The agent's user has the capability that its unit gives
// it. Subordinate uids are those of the test, not of the computer that it runs on.
func (m *machine) as(uid int, program ...string) *exec.Cmd {
	args := []string{
		"netns", "exec", m.vm, "unshare", "--mount", "sh", "-c", `mount --bind "$0" /etc/subuid && exec "$@"`, filepath.Join(m.dir, "subuid"),
	}
	if uid != 0 {
		args = append(args, "setpriv", "--reuid", fmt.Sprint(uid), "--regid", fmt.Sprint(uid), "--clear-groups", "--no-new-privs")
	}
	if uid == agentUID {
		args = append(args, "--inh-caps", "+net_bind_service", "--ambient-caps", "+net_bind_service")
	}
	cmd := exec.Command("ip", append(args, program...)...)
	cmd.Dir = m.dir
	return cmd
}

// run runs a program to its end and returns what it has printed.
func (m *machine) run(uid int, program ...string) (stdout []byte, err error) {
	var stderr bytes.Buffer
	cmd := m.as(uid, program...)
	cmd.Stderr = &stderr
	stdout, err = cmd.Output()
	if stderr.Len() > 0 {
		m.t.Logf("%v as %d: %s", program, uid, strings.TrimSpace(stderr.String()))
	}
	return stdout, err
}

func (m *machine) mustRun(program string, args ...string) {
	m.t.Helper()
	if out, err := exec.Command(program, args...).CombinedOutput(); err != nil {
		m.t.Fatalf("%s %q: %v: %s", program, args, err, out)
	}
}

// start starts a program that the test's end stops.
func (m *machine) start(cmd *exec.Cmd) {
	m.t.Helper()
	if cmd.Stdout == nil {
		cmd.Stdout = &m.output
	}
	cmd.Stderr = &m.output
	if err := cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { stop(cmd) })
}

// stop ends a program, and may be called again.
func stop(cmd *exec.Cmd) {
	if cmd.ProcessState == nil {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	}
}

// until waits for something that another process does.
func (m *machine) until(what string, so func() bool) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), time.Minute)
	defer cancel()
	for !so() {
		select {
		case <-ctx.Done():
			m.t.Fatalf("waiting for %s in vain", what)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// load loads the rules that the configuration makes.
func (m *machine) load() {
	m.t.Helper()
	rules, err := m.run(0, "keyagent", "takeover", "print", "--config", "agent.yaml")
	if err != nil {
		m.t.Fatal(err)
	}
	m.rulesFile = filepath.Join(m.dir, "takeover.nft")
	m.write("takeover.nft", string(rules), 0o644)
	m.nft("-f", m.rulesFile)
}

// nft changes the machine's firewall.
func (m *machine) nft(args ...string) {
	m.t.Helper()
	m.mustRun("ip", append([]string{"netns", "exec", m.vm, "nft"}, args...)...)
}

// serve starts the agent.
func (m *machine) serve() {
	m.t.Helper()
	m.agent = m.as(agentUID, "keyagent", "serve", "--config", "agent.yaml")
	m.start(m.agent)
	m.until("the agent", func() bool { return strings.Contains(m.output.String(), "keyagent is ready") })
}
