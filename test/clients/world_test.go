package clients_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/keyagent/keyagent/client"
	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/daemon"
	"github.com/keyagent/keyagent/simulator"
	"github.com/keyagent/keyagent/simulator/journal"
	"github.com/keyagent/keyagent/simulator/resource"
)

// Names in the simulated tenant.
const (
	certificateApp = "app-cert"
	federatedApp   = "app-fic" // it trusts the user-assigned identity
)

const (
	vault        = "https://vault.azure.net"
	vaultScope   = vault + "/.default"
	imdsHost     = "169.254.169.254:80"
	loginHost    = "login.microsoftonline.com:443"
	regionalHost = "westeurope.login.microsoft.com:443"
)

// world is a simulated platform under the names of the real one.
type world struct {
	*simulator.Platform
	t     *testing.T
	dir   string // of the platform's sockets and files
	info  simulator.Info
	roots *x509.CertPool
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return newWorldWith(t, simulator.Config{})
}

// newWorldWith is a platform that differs from the real one as a configuration says.
func newWorldWith(t *testing.T, cfg simulator.Config) *world {
	t.Helper()
	dir, err := os.MkdirTemp("", "clients") // short: it holds Unix sockets
	if err != nil {
		t.Fatal(err)
	}
	cfg.Dir = dir
	platform, err := simulator.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(platform.Close(), os.RemoveAll(dir)); err != nil {
			t.Error(err)
		}
	})
	w := &world{Platform: platform, t: t, dir: dir, info: platform.Info(), roots: x509.NewCertPool()}
	authorities, err := os.ReadFile(w.info.CAFile)
	if err != nil || !w.roots.AppendCertsFromPEM(authorities) {
		t.Fatalf("the platform's authorities: %v", err)
	}
	return w
}

// azure is an HTTP client for which the real names lead to the platform. Every other name is an
// error of the test: nothing goes out.
func (w *world) azure() *http.Client {
	return w.client(func(ctx context.Context, address string) (net.Conn, error) {
		at := map[string]string{imdsHost: w.info.IMDS, loginHost: w.info.Login, regionalHost: w.info.Login}[address]
		base, err := url.Parse(at)
		if err != nil || at == "" {
			w.t.Errorf("a library wanted to talk to %s", address)
			return nil, fmt.Errorf("no way to %s from here", address)
		}
		return new(net.Dialer).DialContext(ctx, "tcp", base.Host)
	})
}

// agentAsIMDS is an HTTP client for which IMDS is the agent's socket.
func (w *world) agentAsIMDS(socket string) *http.Client {
	return w.client(func(ctx context.Context, address string) (net.Conn, error) {
		if address != imdsHost {
			w.t.Errorf("a library wanted to talk to %s", address)
			return nil, fmt.Errorf("no way to %s from here", address)
		}
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	})
}

func (w *world) client(dial func(context.Context, string) (net.Conn, error)) *http.Client {
	transport := &http.Transport{
		DialContext:       func(ctx context.Context, _, address string) (net.Conn, error) { return dial(ctx, address) },
		TLSClientConfig:   &tls.Config{RootCAs: w.roots, MinVersion: tls.VersionTLS12},
		ForceAttemptHTTP2: true,
	}
	w.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func (w *world) application(name string) simulator.Application {
	for _, a := range w.info.Applications {
		if a.Name == name {
			return a
		}
	}
	w.t.Fatalf("no application %s", name)
	return simulator.Application{}
}

// caller is what the resource says of the caller with a token.
func (w *world) caller(t *testing.T, token string) resource.Caller {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.info.Resource+"/secrets", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: w.roots, MinVersion: tls.VersionTLS12}}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var caller resource.Caller
	if err := json.NewDecoder(resp.Body).Decode(&caller); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("the resource answered %s: %v", resp.Status, err)
	}
	return caller
}

// last is the platform's record of the last request of an operation.
func (w *world) last(t *testing.T, operation string) journal.Entry {
	t.Helper()
	entries := w.Journal().Operation(operation)
	if len(entries) == 0 {
		t.Fatalf("there was no request %s", operation)
	}
	return entries[len(entries)-1]
}

// startAgent runs the agent on the platform and returns its socket.
func (w *world) startAgent() string {
	w.t.Helper()
	return w.startAgentWith(io.Discard, func(*config.Config) {})
}

// startAgentWith runs the agent with another configuration, and hands out its audit: a JSON object
// with each write.
func (w *world) startAgentWith(audit io.Writer, change func(*config.Config)) string {
	w.t.Helper()
	socket, _ := w.runAgent(audit, change)
	return socket
}

// runAgent runs it until it is stopped, or the test ends.
func (w *world) runAgent(audit io.Writer, change func(*config.Config)) (socket string, stop func()) {
	w.t.Helper()
	cfg, err := config.Load(w.info.ConfigFile)
	if err != nil {
		w.t.Fatal(err)
	}
	change(cfg)
	ctx, cancel := context.WithCancel(context.WithoutCancel(w.t.Context())) // it ends with the cleanup, not before
	agent, err := daemon.Open(ctx, cfg, daemon.Options{
		Version: "test", Logger: slog.New(slog.DiscardHandler), Audit: slog.New(slog.NewJSONHandler(audit, nil)), Now: w.Clock().Now,
	})
	if err != nil {
		cancel()
		w.t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- agent.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := errors.Join(<-ended, agent.Close()); err != nil {
			w.t.Error(err)
		}
	})
	w.t.Cleanup(stop)
	w.awaitAgent(cfg.Socket)
	return cfg.Socket, stop
}

func (w *world) awaitAgent(socket string) {
	w.t.Helper()
	agent := client.New(client.Config{Socket: socket})
	defer agent.Close()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		_, err := agent.Status(w.t.Context())
		if err == nil {
			return
		}
		if !errors.Is(err, client.ErrNotReachable) {
			w.t.Fatal(err)
		}
		select {
		case <-tick.C:
		case <-w.t.Context().Done():
			w.t.Fatal(context.Cause(w.t.Context()))
		}
	}
}
