package daemon_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/client"
	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

// TestAnAgentGoesOnWithTheStateOfAnEarlierOne starts on the state directory and the TPM of an agent
// of the past, and looks at the certificates that the token endpoint gets to see.
func TestAnAgentGoesOnWithTheStateOfAnEarlierOne(t *testing.T) {
	entra := newTokenEndpoint(t)
	host := strings.TrimPrefix(entra.URL, "https://")
	dir := formerState(t, entra.URL)
	before := contents(t, dir)
	s := &stage{t: t, now: func() time.Time { return time.Date(2026, 11, 30, 22, 30, 0, 0, time.UTC) }}
	s.cfg = formerConfig(t, fmt.Sprintf(`
tpm: %q
state_dir: %q
socket: %q
imds_endpoint: %q
ca_file: %q
trusted_hosts: {mtls: [%q]}
attestation: {provider: none}
identities:
  - {name: vm, managed_identity: {}}
  - {name: vm-user, managed_identity: {client_id: 358b6bd5-a322-4f26-928d-1cde92fc213b}}
  - {name: app, application: %s, credentials: [{source: certificate, key: app}]}}
  - {name: rotated, application: %s, credentials: [{source: certificate, key: finished}]}}
rules:
  - {name: all, users: ["%d"], identities: [vm, vm-user, app, rotated], resources: ["*"]}
`, tpmtest.SwtpmOf(t, read(t, "testdata/upgrade/tpm2-00.permall")).Device(), dir, filepath.Join(t.TempDir(), "agent.sock"),
		formerIMDS(t), entra.anchor(t), host, entra.application(host), entra.application(host), os.Getuid()))
	s.start()

	for identity, file := range map[string]string{
		"vm": "binding-system.json", "vm-user": "binding-client-358b6bd5-a322-4f26-928d-1cde92fc213b.json",
		"app": "keys/app/1.cert.pem", "rotated": "keys/finished/2.cert.pem",
	} {
		if _, err := s.client.Token(t.Context(), client.TokenRequest{Identity: identity, Resource: resource}); err != nil {
			t.Errorf("%s: %v\n%s", identity, err, s.log.String())
			continue
		}
		if want := formerThumbprint(t, filepath.Join(dir, file)); entra.presented != want {
			t.Errorf("%s came with certificate %s, want %s of %s", identity, entra.presented, want, file)
		}
	}
	for name, content := range before {
		if now, err := os.ReadFile(filepath.Join(dir, name)); err != nil || !bytes.Equal(now, content) {
			t.Errorf("%s is not what it was: %v", name, err)
		}
	}
}

// tokenEndpoint takes any certificate, and keeps the thumbprint of the last one.
type tokenEndpoint struct {
	*httptest.Server
	presented string
}

func newTokenEndpoint(t *testing.T) *tokenEndpoint {
	t.Helper()
	e := &tokenEndpoint{}
	e.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e.presented = acquire.Thumbprint(r.TLS.PeerCertificates[0])
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"access_token":"an.access.token","token_type":"Bearer","expires_in":3600}`)
	}))
	e.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert, MinVersion: tls.VersionTLS12}
	e.StartTLS()
	t.Cleanup(e.Close)
	return e
}

// anchor is a file with the endpoint's certificate.
func (e *tokenEndpoint) anchor(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: e.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// application is the beginning of an application's configuration.
func (e *tokenEndpoint) application(host string) string {
	return fmt.Sprintf(`{tenant: 27b67549-706f-4fd8-aed2-2e204944decc, client_id: 77525f32-9d67-40a2-b672-661a3cbb2292, `+
		`login_endpoint: "https://%[1]s", mtls_endpoint: "https://%[1]s"`, host)
}

// formerIMDS knows the identities for which the binding certificates were issued, and issues no
// other.
func formerIMDS(t *testing.T) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Server", "IMDS/150.870.65.1854")
		if !strings.HasSuffix(r.URL.Path, "/getplatformmetadata") {
			t.Errorf("IMDS was asked for %s", r.URL.Path)
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		id := "d090ad8a-3c5b-45fd-b3cc-a45aeb8f13a8"
		if r.URL.Query().Has("client_id") {
			id = r.URL.Query().Get("client_id")
		}
		fmt.Fprintf(w, `{"clientId":%q,"tenantId":"27b67549-706f-4fd8-aed2-2e204944decc",`+
			`"cuId":{"vmId":"5cd08401-c6b2-4f4c-9cc5-334819b385d4"},"attestationEndpoint":"https://sharedeus.eus.attest.azure.net"}`, id)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// formerState copies the state directory, with the modes that it had, and leads its binding
// certificates to another token endpoint.
func formerState(t *testing.T, endpoint string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "state")
	if err := os.CopyFS(dir, os.DirFS("testdata/upgrade/state")); err != nil {
		t.Fatal(err)
	}
	for name, content := range contents(t, dir) {
		path := filepath.Join(dir, name)
		if strings.HasPrefix(name, "binding-") {
			var members map[string]any
			if err := json.Unmarshal(content, &members); err != nil {
				t.Fatal(err)
			}
			content = bytes.Replace(content, []byte(members["mtls_endpoint"].(string)), []byte(endpoint), 1)
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		for ; path != filepath.Dir(dir); path = filepath.Dir(path) {
			mode := os.FileMode(0o700)
			if path == filepath.Join(dir, name) {
				mode = 0o600
			}
			if err := os.Chmod(path, mode); err != nil {
				t.Fatal(err)
			}
		}
	}
	return dir
}

// contents returns the files below dir by their paths in it.
func contents(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	err := fs.WalkDir(os.DirFS(dir), ".", func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() {
			files[path] = read(t, filepath.Join(dir, path))
		}
		return err
	})
	if err != nil || len(files) < 20 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	return files
}

// formerThumbprint is that of the certificate in a file of either kind.
func formerThumbprint(t *testing.T, path string) string {
	t.Helper()
	data := read(t, path)
	var binding struct{ Certificate []byte }
	if block, _ := pem.Decode(data); block != nil {
		binding.Certificate = block.Bytes
	} else if err := json.Unmarshal(data, &binding); err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(binding.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	return acquire.Thumbprint(certificate)
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path) // #nosec G304 -- the test's own
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func formerConfig(t *testing.T, text string) *config.Config {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keyagent.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}
