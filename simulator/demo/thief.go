package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/keyagent/keyagent/internal/upstream"
)

// stolenFiles gives another VM, with a TPM of its own, all that the agent wrote.
func (d *demo) stolenFiles(ctx context.Context) error {
	d.page.shell("azuresim --dir thief   # another VM, another TPM")
	var err error
	if d.other, err = d.boot(ctx, "thief"); err != nil {
		return err
	}
	d.page.shell("cp -a vm/state thief/")
	if err := os.CopyFS(d.other.state(), os.DirFS(d.vm.state())); err != nil {
		return err
	}
	if err := chmodLikeTheOriginal(d.vm.state(), d.other.state()); err != nil {
		return err
	}
	if err := d.serveStolen(ctx, "storage root"); err != nil {
		return err
	}
	d.page.say("The thief removes the note of the storage root. The key itself loads in its own TPM only:")
	d.page.shell("rm thief/state/storage-root")
	if err := os.Remove(filepath.Join(d.other.state(), "storage-root")); err != nil {
		return err
	}
	return d.serveStolen(ctx, "TPM_RC_INTEGRITY")
}

// serveStolen starts the agent on the thief's VM and expects that it refuses with these words.
func (d *demo) serveStolen(ctx context.Context, words string) error {
	d.page.shell("keyagent serve --config thief/keyagent.yaml")
	r, err := command(ctx, nil, d.program("keyagent"), "serve", "--config", d.other.config())
	if err != nil {
		return err
	}
	said := linesWith(r.err, "keyagent:")
	d.page.refused("keyagent", said)
	return expect(r.code == 1 && strings.Contains(said, words), "exit code %d: %s", r.code, r.err)
}

// stolenCertificate shows Entra the certificate without, and then with, a key of
// the thief's own.
func (d *demo) stolenCertificate(ctx context.Context) error {
	record, err := os.ReadFile(filepath.Join(d.vm.state(), "binding-system.json"))
	if err != nil {
		return err
	}
	var stolen struct {
		ClientID    string `json:"client_id"`
		TenantID    string `json:"tenant_id"`
		Certificate []byte `json:"certificate"`
	}
	if err := json.Unmarshal(record, &stolen); err != nil {
		return err
	}
	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {stolen.ClientID},
		"scope": {resourceURI + "/.default"}, "token_type": {"bearer"}}
	address := d.vm.info.MTLSAuth + "/" + stolen.TenantID + "/oauth2/v2.0/token"

	d.page.say("Without a key, the thief cannot present the certificate at all:")
	client, err := d.vm.client(nil)
	if err != nil {
		return err
	}
	answer, err := post(ctx, client, address, form)
	if err != nil {
		return err
	}
	d.page.refused("Entra", answer)
	if err := expect(strings.Contains(answer, "AADSTS"), "no refusal"); err != nil {
		return err
	}

	d.page.say("With another key under the certificate, the handshake fails:")
	own, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	client, err = d.vm.client(&tls.Certificate{Certificate: [][]byte{stolen.Certificate}, PrivateKey: own})
	if err != nil {
		return err
	}
	answer, err = post(ctx, client, address, form)
	if err == nil {
		return expect(false, "Entra answered %s", answer)
	}
	d.page.refused("TLS", upstream.Cause(err).Error())
	return nil
}

// client trusts the machine's platform and presents certificate, if there is one.
func (m machine) client(certificate *tls.Certificate) (*http.Client, error) {
	pem, err := os.ReadFile(m.info.CAFile)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("no certificate in %s", m.info.CAFile)
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}
	if certificate != nil {
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return certificate, nil }
	}
	return &http.Client{Transport: &http.Transport{TLSClientConfig: cfg}}, nil
}

func (m machine) get(ctx context.Context, address, header, value string) (string, error) {
	client, err := m.client(nil)
	if err != nil {
		return "", err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return "", err
	}
	req.Header.Set(header, value)
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s: %s", resp.Status, bytes.TrimSpace(body)), expect(resp.StatusCode == http.StatusOK, "the resource answered %s: %s", resp.Status, body)
}

// post returns what the token endpoint says in words.
func post(ctx context.Context, client *http.Client, address string, form url.Values) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, address, strings.NewReader(form.Encode()))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var said struct {
		Error       string `json:"error"`
		Description string `json:"error_description"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 64<<10)).Decode(&said); err != nil {
		return "", err
	}
	return fmt.Sprintf("%s: %s: %s", resp.Status, said.Error, upstream.Text(said.Description)), nil
}

// asNobody is a user that no rule names.
func asNobody() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
}

// forEverybody copies a program to where every user may run it, and opens the way
// to the socket: the checkout may lie in a home directory.
func (d *demo) forEverybody(name string) (string, error) {
	program, err := os.ReadFile(d.program(name))
	if err != nil {
		return "", err
	}
	for _, dir := range []string{d.dir, d.vm.dir} {
		if err := os.Chmod(dir, 0o755); err != nil {
			return "", err
		}
	}
	file := filepath.Join(d.dir, name)
	return file, os.WriteFile(file, program, 0o755)
}

// chmodLikeTheOriginal repairs the modes that a copy through fs.FS loses.
func chmodLikeTheOriginal(from, to string) error {
	return filepath.WalkDir(from, func(path string, entry os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		rest, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		return os.Chmod(filepath.Join(to, rest), info.Mode().Perm())
	})
}

// linesWith returns the lines that begin with prefix.
func linesWith(text, prefix string) string {
	var lines []string
	for line := range strings.SplitSeq(text, "\n") {
		if strings.HasPrefix(line, prefix) {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "\n")
}

// lastRefusal returns the agent's last audit record of a refusal.
func lastRefusal(log string) string {
	data, err := os.ReadFile(log)
	if err != nil {
		return err.Error()
	}
	last := "none"
	for line := range strings.SplitSeq(string(data), "\n") {
		if strings.Contains(line, `"refused"`) {
			last = line
		}
	}
	return last
}
