package client_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/client"
	"github.com/keyagent/keyagent/internal/tooltest"
)

// In this file, servers of others ask for the certificate: OpenSSL in the handshake, and Node,
// which is OpenSSL's library with another program around it, by renegotiation as Azure Key Vault
// does. (openssl s_server -www can renegotiate, too, but sends its answer without waiting for that
// to end.)

// startServer runs a server until the test ends, and returns its address on localhost, which it
// prints after ACCEPT.
func startServer(t *testing.T, dir, program string, args ...string) (host string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, program, args...) // #nosec G204 -- it checks our work
	cmd.Dir = dir
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	// -www reads what it is told on its standard input, and ends where that ends.
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	var address string
	for address == "" && lines.Scan() {
		address, _ = strings.CutPrefix(lines.Text(), "ACCEPT ")
		if !strings.HasPrefix(lines.Text(), "ACCEPT ") {
			address = ""
		}
	}
	drained := make(chan struct{})
	go func() { defer close(drained); _, _ = io.Copy(io.Discard, out) }()
	t.Cleanup(func() { cancel(); _ = in.Close(); <-drained; _ = cmd.Wait() })
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatalf("%s did not say where it listens: %v", program, lines.Err())
	}
	return "localhost:" + port
}

func TestBoundCallsToOpenSSL(t *testing.T) {
	openssl := tooltest.Tool(t, "openssl")
	w := newBoundWorld(t)
	dir := w.serverFiles()
	for name, version := range map[string]string{"TLS 1.2": "-tls1_2", "TLS 1.3": "-tls1_3"} {
		t.Run(name, func(t *testing.T) {
			host := startServer(t, dir, openssl, "s_server", "-accept", "127.0.0.1:0", "-cert", "server.pem", "-key", "server.key",
				"-CAfile", "root.pem", "-Verify", "1", "-verify_return_error", version, "-www")
			body, err := fetch(w.httpClient([]string{host}, []string{}), "https://"+host)
			if err != nil || !strings.Contains(body, "CN = vm") && !strings.Contains(body, "CN=vm") {
				t.Errorf("%v; it does not show the certificate:\n%s", err, body)
			}
		})
	}
	if log := w.audit.String(); w.so().signed != 2 || strings.Count(log, `"decision":"signed"`) != 2 {
		t.Errorf("%d signatures; audit:\n%s", w.so().signed, log)
	}
}

func TestRenegotiationAsOfKeyVault(t *testing.T) {
	node := tooltest.Tool(t, "node")
	script, err := filepath.Abs("testdata/vault.mjs")
	if err != nil {
		t.Fatal(err)
	}
	w := newBoundWorld(t)
	dir := w.serverFiles()
	host := startServer(t, dir, node, script, dir)
	c := w.httpClient([]string{host}, []string{host})
	for range 3 { // over one connection
		if body, err := fetch(c, "https://"+host); err != nil || body != "TLSv1.2 "+w.thumbprint()+" 1" {
			t.Fatalf("got %q, %v", body, err)
		}
	}
	if w.so().signed != 1 {
		t.Errorf("%d signatures", w.so().signed)
	}

	t.Run("the certificate is replaced", func(t *testing.T) {
		c.CloseIdleConnections()
		w.rotate()
		if body, err := fetch(c, "https://"+host); err != nil || body != "TLSv1.2 "+w.thumbprint()+" 3" {
			t.Errorf("got %q, %v", body, err)
		}
	})
	t.Run("a client that does not renegotiate is told what it lacks", func(t *testing.T) {
		c := w.httpClient([]string{host}, []string{})
		before := w.so().signed
		if body, err := fetch(c, "https://"+host); err == nil || w.so().signed != before {
			t.Errorf("got %q, %v, %d signatures", body, err, w.so().signed-before)
		}
	})
	t.Run("a call without the header is told what it lacks", func(t *testing.T) {
		agent := newClient(t, w.socket)
		cfg := agent.TLSConfig("vm")
		cfg.RootCAs = w.roots
		plain := &http.Client{Transport: &http.Transport{TLSClientConfig: cfg}}
		defer plain.CloseIdleConnections()
		var refusal *client.RefusalError
		if body, err := fetch(plain, "https://"+host); !errors.As(err, &refusal) || refusal.Code != client.CodeMissingClientCertificate {
			t.Errorf("got %q, %v", body, err)
		}
	})
}
