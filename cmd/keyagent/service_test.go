package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/client"
	"github.com/keyagent/keyagent/internal/tooltest"
	"github.com/keyagent/keyagent/simulator"
)

// toldManager is a service manager that agents of this test tell what they do.
type toldManager struct {
	t    *testing.T
	conn *net.UnixConn
}

// newToldManager sets the variables of a service. The watchdog's time is one that is not reached.
func newToldManager(t *testing.T) toldManager {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", strconv.FormatInt(time.Hour.Microseconds(), 10))
	return toldManager{t, conn}
}

// next is the next message; a test that waits for one that does not come is ended by go test.
func (m toldManager) next() string {
	m.t.Helper()
	text := make([]byte, 4096)
	n, err := m.conn.Read(text)
	if err != nil {
		m.t.Fatal(err)
	}
	return string(text[:n])
}

// expect reads messages up to one that begins as wanted. None of the others may begin like one of
// the unwanted.
func (m toldManager) expect(want string, unwanted ...string) string {
	m.t.Helper()
	for {
		said := m.next()
		if strings.HasPrefix(said, want) {
			return said
		}
		for _, no := range unwanted {
			if strings.HasPrefix(said, no) {
				m.t.Fatalf("before %q, the manager was told %q", want, said)
			}
		}
	}
}

// reloadNow runs the command, and returns its exit code and what it has to say.
func (v *victim) reloadNow(args ...string) (int, string) {
	v.t.Helper()
	cmd := exec.Command("keyagent", append([]string{"reload"}, args...)...)
	out, err := cmd.CombinedOutput()
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		v.t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), string(out)
}

func (v *victim) writeConfig(text []byte) {
	v.t.Helper()
	if err := os.WriteFile(filepath.Join(v.dir, "agent.yaml"), text, 0o600); err != nil {
		v.t.Fatal(err)
	}
}

func TestTheServiceManagerIsToldOfStartReloadAndEnd(t *testing.T) {
	manager := newToldManager(t)
	v := newVictim(t, simulator.Config{})
	_, agentSocket := socketUnit(t, "unix", filepath.Join(v.dir, "agent.sock"))
	v.startPassed("keyagent", "", agentSocket)
	manager.expect("STATUS=starting", "READY=1", "WATCHDOG=1")
	manager.expect("EXTEND_TIMEOUT_USEC=", "READY=1", "WATCHDOG=1")
	if said := manager.expect("READY=1", "WATCHDOG=1"); !strings.Contains(said, "STATUS=serving: ") {
		t.Errorf("ready is told as %q", said)
	}
	if _, err := v.client.Status(t.Context()); err != nil {
		t.Errorf("it is not ready: %v", err)
	}
	manager.expect("WATCHDOG=1", "READY=1")

	good, err := os.ReadFile(filepath.Join(v.dir, "agent.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		config []byte
		code   int
		says   string
		ready  string
	}{
		{"a good one", good, 0, "", "STATUS=serving: 2 identities"},
		{"one that is refused", append(bytes.Clone(good), "nonsense: true\n"...), 1, "the configuration was refused, and the one before stays in force: ", "the last reload was refused"},
		{"a good one again", good, 0, "", "STATUS=serving: 2 identities"},
	} {
		v.writeConfig(tt.config)
		code, said := v.reloadNow("--config", filepath.Join(v.dir, "agent.yaml"), "--socket", v.client.Socket())
		if code != tt.code || !strings.Contains(said, tt.says) || tt.code != 0 && !strings.Contains(said, "nonsense") {
			t.Errorf("%s: exit code %d: %s", tt.name, code, said)
		}
		if told := manager.expect("RELOADING=1"); !strings.Contains(told, "\nMONOTONIC_USEC=") {
			t.Errorf("%s: told %q", tt.name, told)
		}
		told := manager.expect("READY=1")
		if !strings.Contains(told, tt.ready) || strings.Contains(told, "nonsense") {
			t.Errorf("%s: told %q", tt.name, told)
		}
	}
	v.terminate()
	manager.expect("STOPPING=1", "READY=1")
}

func TestReloadWhereItCannotBe(t *testing.T) {
	v := newVictim(t, simulator.Config{})
	code, said := v.reloadNow("--socket", v.client.Socket())
	if code != exitNotReachable {
		t.Errorf("without an agent: exit code %d: %s", code, said)
	}
	v.start()
	v.ready()
	t.Setenv("MAINPID", "1")
	if code, said = v.reloadNow("--socket", v.client.Socket()); code != exitFailed || !strings.Contains(said, "it is process 1 that is to reload") {
		t.Errorf("for another process: exit code %d: %s", code, said)
	}
	t.Setenv("MAINPID", strconv.Itoa(v.agent.Process.Pid))
	if code, said = v.reloadNow("--socket", v.client.Socket()); code != exitDone {
		t.Errorf("for this process: exit code %d: %s", code, said)
	}
	status, err := v.client.Status(t.Context())
	if err != nil || status.Configuration.Reloads != 1 {
		t.Errorf("%+v, %v", status.Configuration, err)
	}
}

// TestAConfigurationThatCannotBeUsedKeepsTheSockets: the agent stays, and whoever asks is told to
// come back. Only an administrator is told why.
func TestAConfigurationThatCannotBeUsedKeepsTheSockets(t *testing.T) {
	manager := newToldManager(t)
	v := newVictim(t, simulator.Config{})
	const settings = "\nendpoints:\n  app_service: {listen: \"127.0.0.1:1\"}\n"
	_, agentSocket := socketUnit(t, "unix", filepath.Join(v.dir, "agent.sock"))
	tcp, appService := socketUnit(t, "tcp", "127.0.0.1:0")
	v.startPassed("keyagent:app-service", settings+"nonsense: true\n", agentSocket, appService)
	if told := manager.expect("READY=1", "WATCHDOG=1"); !strings.Contains(told, "serving nothing: the configuration cannot be used") || strings.Contains(told, "nonsense") {
		t.Errorf("told %q", told)
	}

	problem := v.refused()
	if problem.Code != wire.CodeUnavailable || problem.RetryAfter != 5 || strings.Contains(problem.Detail+problem.Hint, "nonsense") {
		t.Errorf("a program is told %+v", problem)
	}
	status, header, body := get(t, "http://"+tcp.Addr().String()+wire.PathAppServiceToken+"?api-version=2019-08-01&resource="+vault)
	if status != http.StatusServiceUnavailable || header.Get("Retry-After") != "5" || !strings.Contains(body, `"error"`) || strings.Contains(body, "nonsense") {
		t.Errorf("over App Service: %d %v %s", status, header, body)
	}
	said, err := v.client.Status(t.Context())
	if err != nil || said.Ready || !strings.Contains(strings.Join(said.NotReady, ""), "nonsense") {
		t.Errorf("an administrator is told %+v, %v", said, err)
	}
	if _, err := client.New(client.Config{Socket: v.client.Socket()}).Capabilities(t.Context()); err == nil {
		t.Error("capabilities were told")
	}

	code, printed := v.reloadNow("--socket", v.client.Socket())
	if code != exitFailed || !strings.Contains(printed, "nothing is served, as before: ") || !strings.Contains(printed, "nonsense") {
		t.Errorf("reload: exit code %d: %s", code, printed)
	}
	v.forUser(settings)
	if code, printed = v.reloadNow("--socket", v.client.Socket()); code != exitDone {
		t.Errorf("reload of a good one: exit code %d: %s", code, printed)
	}
	v.ready()
	if err := askWhenConnected(t.Context(), v.endpoint(), make(chan struct{})); err != nil {
		t.Errorf("it does not serve: %v", err)
	}
	v.terminate()
}

// refused asks for a token as an ordinary user, who gets none.
func (v *victim) refused() wire.Problem {
	v.t.Helper()
	if err := os.Chmod(v.client.Socket(), 0o666); err != nil {
		v.t.Fatal(err)
	}
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return tooltest.DialAs(tooltest.User())(ctx, "unix", v.client.Socket())
	}}
	for _, path := range []string{wire.PathStatus, wire.PathHealth, wire.PathToken + "?resource=" + vault} {
		req, err := http.NewRequestWithContext(v.t.Context(), http.MethodGet, "http://agent"+path, nil)
		if err != nil {
			v.t.Fatal(err)
		}
		resp, err := transport.RoundTrip(req)
		if err != nil {
			v.t.Fatal(err)
		}
		if _ = resp.Body.Close(); resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") != "5" {
			v.t.Errorf("%s: %s", path, resp.Status)
		}
	}
	_, err := v.client.Token(v.t.Context(), client.TokenRequest{Resource: vault})
	answer, ok := errors.AsType[*client.Error](err)
	if !ok {
		v.t.Fatalf("got %v", err)
	}
	return answer.Problem
}

func get(t *testing.T, url string) (status int, header http.Header, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(text)
}

func TestAnAgentWhoseSocketsAreSystemdsOpensNone(t *testing.T) {
	v := newVictim(t, simulator.Config{})
	const settings = "\nactivated: true\nendpoints:\n  app_service: {listen: \"127.0.0.1:1\"}\n  admin: {socket: /run/no-such-directory/admin.sock, metrics: \"127.0.0.1:1\"}\n"
	v.startWith(&v.output, &v.output, settings)
	<-v.ended
	code := v.agent.ProcessState.ExitCode()
	v.kill()
	if code != exitFailed || !strings.Contains(v.output.String(), "systemd has passed no socket named keyagent to the agent, and it is set up to open none itself") {
		t.Errorf("without a socket it ends with %d:\n%s", code, v.output.String())
	}

	manager := newToldManager(t)
	_, agentSocket := socketUnit(t, "unix", filepath.Join(v.dir, "agent.sock"))
	v.startPassed("keyagent", settings, agentSocket)
	if told := manager.expect("READY=1"); !strings.Contains(told, "off, since systemd passes no socket: admin, app-service, metrics") {
		t.Errorf("told %q", told)
	}
	status, err := v.client.Status(t.Context())
	if err != nil || strings.Join(status.SocketsMissing, " ") != "admin app-service metrics" {
		t.Errorf("status has %q, %v", status.SocketsMissing, err)
	}
	v.terminate()
}

// TestASocketThatNothingIsConfiguredForIsNotWaitedAt: systemd holds it, so that a program that
// connects would wait for ever.
func TestASocketThatNothingIsConfiguredForIsNotWaitedAt(t *testing.T) {
	v := newVictim(t, simulator.Config{})
	_, agentSocket := socketUnit(t, "unix", filepath.Join(v.dir, "agent.sock"))
	tcp, unused := socketUnit(t, "tcp", "127.0.0.1:0")
	v.startPassed("keyagent:imds", "", agentSocket, unused)
	v.ready()
	conn, err := net.Dial("tcp", tcp.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if n, err := conn.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) && !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("read %d bytes, %v", n, err)
	}
	v.terminate()
}

// TestReloadSignalsAgentsOnly: whoever holds the socket may name any process as the agent.
func TestReloadSignalsAgentsOnly(t *testing.T) {
	other := exec.Command("sleep", "infinity")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- other.Wait() }()
	t.Cleanup(func() { _ = other.Process.Kill() })

	path := filepath.Join(t.TempDir(), "agent.sock")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", wire.ContentTypeJSON)
		_ = json.NewEncoder(w).Encode(wire.Status{PID: other.Process.Pid})
	})}
	go func() { _ = srv.Serve(ln) }()
	t.Cleanup(func() { _ = srv.Close() })

	reload := func() (int, string) {
		cmd := exec.Command("keyagent", "reload", "--socket", path, "--timeout", "100ms")
		out, _ := cmd.CombinedOutput()
		return cmd.ProcessState.ExitCode(), string(out)
	}
	if code, said := reload(); code != exitFailed || !strings.Contains(said, "is not signalled: it does not run this program") {
		t.Errorf("exit code %d: %s", code, said)
	}
	if err := other.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err == nil || err.Error() != "signal: terminated" {
		t.Errorf("the other process ended by %v", err)
	}
}
