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

	"golang.org/x/sys/unix"

	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/internal/tooltest"
	"github.com/keyagent/keyagent/simulator"
)

// startPassed starts an agent that is passed sockets, as systemd does it, under names.
func (v *victim) startPassed(names, settings string, sockets ...*os.File) {
	v.t.Helper()
	v.imds = relayIMDS(v.t, v.platform.Info().IMDS)
	v.agent = exec.Command("sh", "-c", `LISTEN_PID=$$ exec keyagent serve --config "$0"`, v.forUser(settings)) // kill ends it
	v.agent.Env = append(os.Environ(), "LISTEN_FDS="+strconv.Itoa(len(sockets)), "LISTEN_FDNAMES="+names)
	v.agent.ExtraFiles = sockets
	v.agent.Stdout, v.agent.Stderr = &v.output, &v.output
	if err := v.agent.Start(); err != nil {
		v.t.Fatal(err)
	}
	ended, agent := make(chan struct{}), v.agent
	v.ended = ended
	go func() {
		defer close(ended)
		_ = agent.Wait()
	}()
}

// socketUnit is a socket that is there whether an agent runs or not.
func socketUnit(t *testing.T, network, address string) (ln net.Listener, passed *os.File) {
	t.Helper()
	var cfg net.ListenConfig
	cfg.SetMultipathTCP(false)
	ln, err := cfg.Listen(t.Context(), network, address)
	if err != nil {
		t.Fatal(err)
	}
	if unixListener, ok := ln.(*net.UnixListener); ok {
		unixListener.SetUnlinkOnClose(false)
	}
	passed, err = ln.(interface{ File() (*os.File, error) }).File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = errors.Join(passed.Close(), ln.Close()) })
	return ln, passed
}

// TestNoConnectionIsRefusedBetweenTwoAgents: the sockets are systemd's. Who connects while no agent
// runs waits for the next one, and a Unix socket stays where it is.
func TestNoConnectionIsRefusedBetweenTwoAgents(t *testing.T) {
	v := newVictim(t, simulator.Config{})
	const settings = "\nendpoints:\n  app_service: {listen: \"127.0.0.1:1\"}\n" // the passed one counts
	path := filepath.Join(v.dir, "agent.sock")
	_, agentSocket := socketUnit(t, "unix", path)
	tcp, appService := socketUnit(t, "tcp", "127.0.0.1:0")
	v.startPassed("keyagent:app-service", settings, agentSocket, appService)
	v.ready()
	endpoint := v.endpoint()
	if want := "http://" + tcp.Addr().String() + "/msi/token"; endpoint.AppService != want {
		t.Errorf("programs are told %s, want %s", endpoint.AppService, want)
	}

	v.kill()
	if _, err := os.Stat(path); err != nil {
		t.Errorf("the socket is gone with the agent: %v", err)
	}
	answered := make(chan error, 1)
	connected := make(chan struct{})
	go func() { answered <- askWhenConnected(t.Context(), endpoint, connected) }()
	<-connected // though no agent runs
	v.startPassed("keyagent:app-service", settings, agentSocket, appService)
	if err := <-answered; err != nil {
		t.Errorf("a program that asked while no agent ran: %v", err)
	}
	v.ready()

	if err := v.agent.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	<-v.ended
	if _, err := os.Stat(path); err != nil {
		t.Errorf("the socket is gone with an agent that has ended by itself: %v", err)
	}
}

// forUser writes the configuration with rules for an ordinary user, too: over loopback, root is
// anybody's. That user can reach the socket.
func (v *victim) forUser(settings string) (path string) {
	v.t.Helper()
	path = v.config(settings)
	text, err := os.ReadFile(path)
	if err != nil {
		v.t.Fatal(err)
	}
	text = bytes.Replace(text, []byte("users: ["), []byte("users: [\""+strconv.Itoa(tooltest.User())+"\", "), 1)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		v.t.Fatal(err)
	}
	for dir := v.dir; dir != filepath.Clean(os.TempDir()); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			v.t.Fatal(err)
		}
	}
	return path
}

// endpoint is what a program of an ordinary user is served with.
func (v *victim) endpoint() wire.Endpoint {
	v.t.Helper()
	path := filepath.Join(v.dir, "agent.sock")
	if err := os.Chmod(path, 0o666); err != nil {
		v.t.Fatal(err)
	}
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return tooltest.DialAs(tooltest.User())(ctx, "unix", path)
	}}
	req, err := http.NewRequestWithContext(v.t.Context(), http.MethodPost, "http://agent"+wire.PathEndpoint+"?identity=vm", nil)
	if err != nil {
		v.t.Fatal(err)
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		v.t.Fatal(err)
	}
	defer resp.Body.Close()
	var endpoint wire.Endpoint
	if err := json.NewDecoder(resp.Body).Decode(&endpoint); err != nil || resp.StatusCode != http.StatusOK {
		v.t.Fatalf("%s: %v", resp.Status, err)
	}
	return endpoint
}

// askWhenConnected asks for a token over one connection, and says when it has that.
func askWhenConnected(ctx context.Context, endpoint wire.Endpoint, connected chan<- struct{}) error {
	transport := &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := tooltest.DialAs(tooltest.User())(ctx, network, address)
		close(connected)
		return conn, err
	}}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, endpoint.AppService+"?api-version=2019-08-01&resource="+vault, nil)
	if err != nil {
		return err
	}
	req.Header.Set("X-IDENTITY-HEADER", endpoint.Secret.Reveal())
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusServiceUnavailable {
		err = errors.New(resp.Status + " " + string(body))
	}
	return err
}

// TestSocketsThatCannotBeUsed: the agent does not start with what it was not meant to be passed.
func TestSocketsThatCannotBeUsed(t *testing.T) {
	_, local := socketUnit(t, "tcp", "127.0.0.1:0")
	_, all := socketUnit(t, "tcp", "0.0.0.0:0")
	_, unixSocket := socketUnit(t, "unix", filepath.Join(t.TempDir(), "s"))
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	tests := []struct {
		name, names string
		sockets     []*os.File
		says        string
	}{
		{"a file", "app-service", []*os.File{null}, "it is not a socket"},
		{"two of one name", "app-service:app-service", []*os.File{local, all}, "2 sockets with the name app-service"},
		{"fewer names than sockets", "app-service", []*os.File{local, all}, "2 sockets with the names"},
		{"one that others can reach", "app-service", []*os.File{all}, "is not a loopback address"},
		{"a Unix socket for one on loopback", "app-service", []*os.File{unixSocket}, "is not a loopback address"},
		{"one on loopback for the Unix socket", "keyagent", []*os.File{local}, "callers cannot be identified on a tcp socket"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v := newVictim(t, simulator.Config{})
			v.startPassed(tt.names, "\nendpoints:\n  app_service: {listen: \"127.0.0.1:1\"}\n", tt.sockets...)
			<-v.ended
			code := v.agent.ProcessState.ExitCode()
			v.kill()
			if code != exitFailed || !strings.Contains(v.output.String(), tt.says) {
				t.Errorf("it ends with %d and says\n%s\nwant …%s…", code, v.output.String(), tt.says)
			}
		})
	}
}

// TestSystemdsOwnProgramPassesSockets: the agent under systemd-socket-activate, which starts it
// when somebody connects.
func TestSystemdsOwnProgramPassesSockets(t *testing.T) {
	activate := tooltest.Tool(t, "systemd-socket-activate")
	v := newVictim(t, simulator.Config{})
	v.imds = relayIMDS(t, v.platform.Info().IMDS)
	free, passed := socketUnit(t, "tcp", "127.0.0.1:0")
	address := free.Addr().String()
	_ = errors.Join(passed.Close(), free.Close())
	program, err := exec.LookPath("keyagent")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(v.dir, "agent.sock")
	v.agent = exec.Command(activate, "-l", path, "-l", address, "--fdname=keyagent:app-service", "-E", "PATH",
		program, "serve", "--config", v.forUser("\nendpoints:\n  app_service: {listen: \""+address+"\"}\n"))
	v.agent.Stdout, v.agent.Stderr = &v.output, &v.output
	if err := v.agent.Start(); err != nil {
		t.Fatal(err)
	}
	ended, agent := make(chan struct{}), v.agent
	v.ended = ended
	go func() {
		defer close(ended)
		_ = agent.Wait()
	}()
	v.ready()
	endpoint := v.endpoint()
	if err := askWhenConnected(t.Context(), endpoint, make(chan struct{})); err != nil || !strings.Contains(endpoint.AppService, address) {
		t.Errorf("at %s: %v", endpoint.AppService, err)
	}
}
