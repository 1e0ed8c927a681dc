package signer_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha1" // #nosec G505 -- nginx names certificates by it
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keyagent/keyagent/internal/tooltest"
	"github.com/keyagent/keyagent/signer"
	"github.com/keyagent/keyagent/signer/internal/signertest"
)

// In this file, OpenSSL and nginx check TLS handshakes with the TPM's key.

// startPatience bounds how long a server may take to listen.
const startPatience = 20 * time.Second

// site is an authority, and a server with a certificate of it.
type site struct {
	root   *signertest.Issuer
	server party
}

func newSite(t *testing.T) site {
	t.Helper()
	root, key := signertest.NewIssuer(t, nil, "root", signertest.Current), signertest.ECKey(t, elliptic.P256())
	return site{root, party{root.Issue(t, key.Public(), serverTemplate()), key}}
}

func serverTemplate() *x509.Certificate {
	return signertest.Template("server", signertest.Current, func(c *x509.Certificate) {
		c.DNSNames, c.KeyUsage, c.ExtKeyUsage = []string{"localhost"}, x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	})
}

// files writes into dir what a server needs to be one, and to know its clients.
func (e site) files(t *testing.T, dir string) {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(e.server.key)
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{
		"root.pem": signertest.EncodePEM(e.root.Certificate), "server.pem": signertest.EncodePEM(e.server.certificate), "server.key": signertest.PEM("PRIVATE KEY", der),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// config presents a certificate, or none, with the key.
func (e site) config(key *signer.Key, certificate *x509.Certificate, schemes []tls.SignatureScheme) *tls.Config {
	return clientConfig(key, certificate, schemes, party{certificate: e.root.Certificate})
}

// connect makes a connection of that version to a server, which must see the certificate. The error
// says that it did not serve.
type connect func(t *testing.T, cfg *tls.Config, version uint16, certificate *x509.Certificate) error

// tryConnections presents the key with its own certificate, which must be accepted, and with what
// must not be.
func tryConnections(t *testing.T, key *signer.Key, e site, try connect) {
	own := e.root.Issue(t, key.Public(), signertest.Template("vm", signertest.Client, signertest.Current))
	for _, tt := range handshakes(t.Context(), key) {
		if tt.refused {
			continue // it does not come that far
		}
		t.Run(tt.name, func(t *testing.T) {
			if err := try(t, e.config(key, own, tt.schemes), tt.version, own); err != nil {
				t.Error(err)
			}
		})
	}
	for name, certificate := range map[string]*x509.Certificate{
		"no certificate":                           nil,
		"a certificate of an authority unknown":    signertest.NewIssuer(t, nil, "root", signertest.Current).Issue(t, key.Public(), signertest.Template("vm", signertest.Client, signertest.Current)),
		"a certificate whose key is another's":     e.root.Issue(t, anotherKey(t, key), signertest.Template("vm", signertest.Client, signertest.Current)),
		"a certificate that is for a server's use": e.root.Issue(t, key.Public(), serverTemplate()),
	} {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			t.Run(tls.VersionName(version)+" with "+name, func(t *testing.T) {
				err := try(t, e.config(key, certificate, key.SignatureSchemes(t.Context())), version, certificate)
				if err == nil {
					t.Error("it was served")
				}
				t.Log(err)
				if err := try(t, e.config(key, own, key.SignatureSchemes(t.Context())), version, own); err != nil {
					t.Errorf("and nobody is any more: %v", err)
				}
			})
		}
	}
}

// anotherKey is a public key of the same type as key's.
func anotherKey(t *testing.T, key *signer.Key) crypto.PublicKey {
	t.Helper()
	switch public := key.Public().(type) {
	case *ecdsa.PublicKey:
		return signertest.ECKey(t, public.Curve).Public()
	case *rsa.PublicKey:
		// One bit away from the key: nothing else differs, and there is no private part.
		other := *public
		other.N = new(big.Int).Xor(public.N, big.NewInt(2))
		return &other
	}
	t.Fatalf("a %T", key.Public())
	return nil
}

func clientOfOpenSSL(t *testing.T, key *signer.Key, _ kind) {
	openssl := tooltest.Tool(t, "openssl")
	e := newSite(t)
	addresses := map[uint16]string{tls.VersionTLS12: serveOpenSSL(t, openssl, e, "-tls1_2"), tls.VersionTLS13: serveOpenSSL(t, openssl, e, "-tls1_3")}
	tryConnections(t, key, e, func(t *testing.T, cfg *tls.Config, version uint16, _ *x509.Certificate) error {
		dialer := tls.Dialer{Config: cfg}
		conn, err := dialer.DialContext(t.Context(), "tcp", addresses[version])
		if err != nil {
			return err
		}
		defer conn.Close()
		// With -rev it answers each line reversed.
		if _, err := conn.Write([]byte("olleh\n")); err != nil {
			return err
		}
		line, err := bufio.NewReader(conn).ReadString('\n')
		if err != nil {
			return err
		}
		if line != "hello\n" {
			return fmt.Errorf("answered %q", line)
		}
		return nil
	})
}

// serveOpenSSL starts a server that demands a client's certificate, and returns its address.
func serveOpenSSL(t *testing.T, openssl string, e site, version string) string {
	t.Helper()
	dir := t.TempDir()
	e.files(t, dir)
	ctx, cancel := context.WithCancel(t.Context())
	cmd := exec.CommandContext(ctx, openssl, "s_server", "-accept", "127.0.0.1:0", "-cert", "server.pem", "-key", "server.key", // #nosec G204 -- it checks our work
		"-Verify", "1", "-verify_return_error", "-CAfile", "root.pem", version, "-rev")
	cmd.Dir = dir
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	var address string
	for address == "" && lines.Scan() {
		if after, ok := strings.CutPrefix(lines.Text(), "ACCEPT "); ok {
			address = after
		}
	}
	drained := make(chan struct{})
	go func() { defer close(drained); _, _ = io.Copy(io.Discard, out) }()
	t.Cleanup(func() { cancel(); <-drained; _ = cmd.Wait() })
	if _, _, err := net.SplitHostPort(address); err != nil {
		t.Fatalf("openssl s_server did not say where it listens: %v", lines.Err())
	}
	return address
}

// nginxConfig says what it found out about its client.
const nginxConfig = `
daemon off;
master_process off;
pid nginx.pid;
events {}
http {
	access_log off;
	client_body_temp_path temp;
	proxy_temp_path temp;
	fastcgi_temp_path temp;
	uwsgi_temp_path temp;
	scgi_temp_path temp;
	ssl_certificate server.pem;
	ssl_certificate_key server.key;
	ssl_client_certificate root.pem;
	ssl_verify_client on;
	server {
		listen unix:%[1]s/TLSv1.2.sock ssl;
		ssl_protocols TLSv1.2;
		return 200 "$ssl_protocol $ssl_client_verify $ssl_client_fingerprint";
	}
	server {
		listen unix:%[1]s/TLSv1.3.sock ssl;
		ssl_protocols TLSv1.3;
		return 200 "$ssl_protocol $ssl_client_verify $ssl_client_fingerprint";
	}
}
`

func clientOfNginx(t *testing.T, key *signer.Key, _ kind) {
	e := newSite(t)
	dir := serveNginx(t, tooltest.Tool(t, "nginx"), e)
	tryConnections(t, key, e, func(t *testing.T, cfg *tls.Config, version uint16, certificate *x509.Certificate) error {
		name := strings.ReplaceAll(tls.VersionName(version), "TLS ", "TLSv")
		status, body, err := get(t, filepath.Join(dir, name+".sock"), cfg)
		if err != nil {
			return err
		}
		if status != http.StatusOK {
			if certificate == nil && !strings.Contains(body, "No required SSL certificate was sent") {
				t.Errorf("without a certificate: %s", body)
			}
			return fmt.Errorf("status %d: %s", status, body)
		}
		if certificate == nil {
			return nil
		}
		if want := fmt.Sprintf("%s SUCCESS %x", name, sha1.Sum(certificate.Raw)); body != want { // #nosec G401
			return fmt.Errorf("it saw %q, not %q", body, want)
		}
		return nil
	})
}

// get asks a web server on a Unix socket.
func get(t *testing.T, socket string, cfg *tls.Config) (status int, body string, err error) {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: cfg, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://localhost/", nil)
	if err != nil {
		t.Fatal(err)
	}
	rsp, err := transport.RoundTrip(req)
	if err != nil {
		return 0, "", err
	}
	defer rsp.Body.Close()
	text, err := io.ReadAll(rsp.Body)
	return rsp.StatusCode, string(text), err
}

// serveNginx starts a server that demands a client's certificate, with a socket for each version of
// TLS in the folder that it returns.
func serveNginx(t *testing.T, nginx string, e site) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "nginx") // t.TempDir is too long for a socket's path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	e.files(t, dir)
	if err := os.WriteFile(filepath.Join(dir, "nginx.conf"), fmt.Appendf(nil, nginxConfig, dir), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cmd := exec.CommandContext(ctx, nginx, "-e", "stderr", "-p", dir+"/", "-c", "nginx.conf") // #nosec G204 -- it checks our work
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = cmd.Wait() }()
	t.Cleanup(func() { cancel(); <-ended })
	if err := awaitSocket(filepath.Join(dir, "TLSv1.3.sock"), ended); err != nil { // the last that it opens
		cancel()
		<-ended
		t.Fatalf("nginx: %v: %s", err, &complaints)
	}
	return dir
}

// awaitSocket waits until a server listens.
func awaitSocket(path string, ended <-chan struct{}) error {
	poll := time.NewTicker(time.Millisecond)
	defer poll.Stop()
	deadline := time.After(startPatience)
	for {
		conn, err := net.Dial("unix", path)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-poll.C:
		case <-ended:
			return errors.New("it ended")
		case <-deadline:
			return err
		}
	}
}

// serverForOthers makes a server with the TPM's key, to which Go and OpenSSL connect.
func serverForOthers(t *testing.T, key *signer.Key, _ kind) {
	root := signertest.NewIssuer(t, nil, "root", signertest.Current)
	certificate := tls.Certificate{
		Certificate: [][]byte{root.Issue(t, key.Public(), serverTemplate()).Raw}, PrivateKey: key, SupportedSignatureAlgorithms: key.SignatureSchemes(t.Context()),
	}
	signatureType := map[bool]string{true: "RSA-PSS", false: "ECDSA"}[strings.HasPrefix(key.Info().Algorithm, "RSA")]
	rootFile := signertest.WriteFile(t, "root.pem", signertest.EncodePEM(root.Certificate))
	for version, flag := range map[uint16]string{tls.VersionTLS12: "-tls1_2", tls.VersionTLS13: "-tls1_3"} {
		cfg := &tls.Config{MinVersion: version, MaxVersion: version, Certificates: []tls.Certificate{certificate}}
		t.Run(tls.VersionName(version)+" to Go", func(t *testing.T) {
			if err := talk(t, echo(t, cfg), &tls.Config{MinVersion: version, RootCAs: party{certificate: root.Certificate}.pool(), ServerName: "localhost"}, version); err != nil {
				t.Error(err)
			}
		})
		t.Run(tls.VersionName(version)+" to OpenSSL", func(t *testing.T) {
			out, err := exec.CommandContext(t.Context(), tooltest.Tool(t, "openssl"), "s_client", "-connect", echo(t, cfg), "-servername", "localhost", // #nosec G204 -- it checks our work
				"-verify_hostname", "localhost", "-CAfile", rootFile, "-verify_return_error", flag, "-brief").CombinedOutput()
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			for _, line := range []string{"Verification: OK", "Signature type: " + signatureType, "Protocol version: " + strings.ReplaceAll(tls.VersionName(version), "TLS ", "TLSv")} {
				if !strings.Contains(string(out), line) {
					t.Errorf("openssl s_client does not say %q:\n%s", line, out)
				}
			}
		})
	}
}
