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

// federated is an application that trusts a managed identity: two legs over one certificate.
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
	legs := entries[len(entries)-2:]
	if err := expect(legs[0].Thumbprint == token.Binding.Thumbprint && legs[1].Thumbprint == token.Binding.Thumbprint, "the legs had different certificates"); err != nil {
		return err
	}
	d.page.proven("leg 1: an assertion of the managed identity, bound to certificate %s", legs[0].Thumbprint)
	d.page.proven("leg 2: exchanged for the application's token, over the same certificate")
	return nil
}

// certificateApp is an application that knows this machine by a certificate, whose key is made here and now.
func (d *demo) certificateApp(ctx context.Context) error {
	pem := filepath.Join(d.vm.dir, "app.pem")
	for _, args := range [][]string{
		{"key", "create", "app"},
		{"key", "self-sign", "app", "--subject", "CN=app", "--out", pem},
	} {
		d.page.shell("keyagent " + strings.Replace(strings.Join(args, " "), pem, "app.pem", 1))
		r, err := command(ctx, nil, d.program("keyagent"), append(args, "--config", d.vm.config())...)
		if err != nil {
			return err
		}
		if err := expect(r.code == 0, "exit code %d: %s", r.code, r.err); err != nil {
			return err
		}
	}
	d.page.say("An administrator uploads app.pem to the app registration. Nothing is restarted.")
	if err := d.vm.upload(ctx, "app-cert", pem); err != nil {
		return err
	}
	_, err := d.appToken(ctx, "app-cert", "bearer")
	return err
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

// upload registers a certificate, as the administrator of the tenant does.
func (m machine) upload(ctx context.Context, app, file string) error {
	pem, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, m.info.Control+"/applications/"+app+"/certificates", bytes.NewReader(pem))
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return expect(resp.StatusCode == http.StatusOK, "the upload was answered %s", resp.Status)
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
