package main

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
)

// appToken is the part of "keyagent token" that says how an application's token was obtained.
type appToken struct {
	boundToken
	Credential string `json:"credential"`
	Bound      bool   `json:"bound"`
	Fallback   bool   `json:"fallback"`
}

// federated is an application that trusts a managed identity: two requests over one certificate.
func (d *demo) federated(ctx context.Context) error {
	token, err := d.appToken(ctx, "app-fic", "bearer")
	if err != nil {
		return err
	}
	entries, err := d.vm.journal(ctx, "entra.mtls.token")
	if err != nil {
		return err
	}
	if err := expect(len(entries) >= 2, "Entra saw %d requests", len(entries)); err != nil {
		return err
	}
	requests := entries[len(entries)-2:]
	if err := expect(requests[0].Thumbprint == token.Binding.Thumbprint && requests[1].Thumbprint == token.Binding.Thumbprint, "the requests had different certificates"); err != nil {
		return err
	}
	d.page.proven("request 1: an assertion of the managed identity, bound to certificate %s", requests[0].Thumbprint)
	d.page.proven("request 2: exchanged for the application's token, over the same certificate")
	return nil
}

// certificateApp is an application that knows this machine by a certificate, whose key is made here
// and now.
func (d *demo) certificateApp(ctx context.Context) error {
	for _, args := range [][]string{{"key", "create", "app"}, {"key", "csr", "app", "--subject", "CN=app", "--out", "app.csr"}} {
		if err := d.keyCommand(ctx, args...); err != nil {
			return err
		}
	}
	d.page.say("The company's authority issues a certificate for app.csr. The app registration trusts what it issues to CN=app:")
	d.page.say("over mutual TLS, Entra takes no certificate that was merely uploaded.")
	if err := d.vm.certify(ctx, "app-cert", "app"); err != nil {
		return err
	}
	if err := d.keyCommand(ctx, "cert", "import", "app", "--file", "app.pem"); err != nil {
		return err
	}
	_, err := d.appToken(ctx, "app-cert", "bearer")
	return err
}

// keyCommand runs a command about keys, beside the agent. The files that it names are in the
// machine's directory.
func (d *demo) keyCommand(ctx context.Context, args ...string) error {
	d.page.shell("keyagent " + strings.Join(args, " "))
	if last := len(args) - 1; filepath.Ext(args[last]) != "" {
		args[last] = filepath.Join(d.vm.dir, args[last])
	}
	r, err := command(ctx, nil, d.program("keyagent"), append(args, "--config", d.vm.config())...)
	if err != nil {
		return err
	}
	return expect(r.code == 0, "exit code %d: %s", r.code, r.err)
}

// appToken gets a token of an application, which must be bound and no fallback.
func (d *demo) appToken(ctx context.Context, identity, tokenType string) (appToken, error) {
	args := []string{"token", "--identity", identity, "--resource", resourceURI}
	if tokenType != "bearer" {
		args = append(args, "--type", tokenType)
	}
	d.page.shell("keyagent " + strings.Join(args, " "))
	var token appToken
	if err := d.ask(ctx, &token, args...); err != nil {
		return token, err
	}
	claims, err := claimsOf(token.AccessToken)
	if err != nil {
		return token, err
	}
	d.page.fact("token", "%s, appid %v", token.TokenType, claims["appid"])
	d.page.fact("credential", "%s, bound, strength %s, certificate %s", token.Credential, token.Strength, token.Binding.Thumbprint)
	return token, expect(token.Bound && !token.Fallback && strings.EqualFold(token.TokenType, tokenType), "got %s, bound %v, fallback %v", token.TokenType, token.Bound, token.Fallback)
}

// certify does what the company's authority and the tenant's administrator do: app.pem for app.csr,
// and an application that trusts the authority's certificates of this subject.
func (m machine) certify(ctx context.Context, app, subject string) error {
	chain, err := m.post(ctx, "/authority", filepath.Join(m.dir, "app.csr"))
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(m.dir, "app.pem"), chain, 0o600); err != nil {
		return err
	}
	_, err = m.post(ctx, "/applications/"+app+"/trusted?subject="+subject, m.info.AppCAFile)
	return err
}

// post sends a file to the control endpoint and returns the answer.
func (m machine) post(ctx context.Context, path, file string) ([]byte, error) {
	body, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, m.info.Control+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return nil, err
	}
	return answer, expect(resp.StatusCode == http.StatusOK, "%s was answered %s: %s", path, resp.Status, answer)
}

// stolenBoundToken takes a token of type mtls_pop to where the key is not.
func (d *demo) stolenBoundToken(ctx context.Context) error {
	token, err := d.appToken(ctx, "app-cert", "mtls_pop")
	if err != nil {
		return err
	}
	client, err := d.vm.client(nil)
	if err != nil {
		return err
	}
	d.page.say("The thief sends it from another machine:")
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.vm.info.Resource, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "mtls_pop "+token.AccessToken)
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return err
	}
	d.page.refused("The resource", resp.Status+": "+string(bytes.TrimSpace(body)))
	return expect(resp.StatusCode == http.StatusUnauthorized, "the resource answered %s", resp.Status)
}
