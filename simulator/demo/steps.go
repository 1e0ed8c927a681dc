package main

import (
	"context"
	"debug/elf"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

const resourceURI = "https://vault.azure.net"

// agentStatus is the part of "keyagent status --json" that the demo shows.
type agentStatus struct {
	TPM struct {
		Device       string `json:"device"`
		Manufacturer string `json:"manufacturer"`
	} `json:"tpm"`
	Key struct {
		Algorithm  string   `json:"algorithm"`
		Name       string   `json:"name"`
		Attributes []string `json:"attributes"`
	} `json:"key"`
	Identities []struct {
		Name        string `json:"name"`
		Certificate *struct {
			Subject         string    `json:"subject"`
			Issuer          string    `json:"issuer"`
			Thumbprint      string    `json:"thumbprint"`
			EffectiveExpiry time.Time `json:"effective_expiry"`
			RenewAt         time.Time `json:"renew_at"`
		} `json:"certificate"`
	} `json:"identities"`
}

// boundToken is the part of "keyagent token" that the demo shows.
type boundToken struct {
	AccessToken string `json:"access_token"`
	TokenType   string `json:"token_type"`
	ExpiresIn   int64  `json:"expires_in"`
	Strength    string `json:"strength"`
	Binding     struct {
		Thumbprint         string `json:"thumbprint"`
		TLSVersion         string `json:"tls_version"`
		SignatureAlgorithm string `json:"signature_algorithm"`
	} `json:"binding"`
}

func (d *demo) platform(ctx context.Context) error {
	d.page.shell("azuresim --dir vm")
	var err error
	if d.vm, err = d.boot(ctx, "vm"); err != nil {
		return err
	}
	d.page.fact("vTPM", "%s", d.vm.info.TPM)
	d.page.fact("instance metadata", "%s", d.vm.info.IMDS)
	d.page.fact("attestation service", "%s", d.vm.info.MAA)
	d.page.fact("Entra, mutual TLS", "%s", d.vm.info.MTLSAuth)
	d.page.say("All on this machine; the AMD, vTPM and issuer chains are made up for this run.")
	return nil
}

// meanings says what an attribute that matters here is for.
var meanings = []struct{ attribute, meaning string }{
	{"fixedTPM", "never leaves this TPM"},
	{"fixedParent", "cannot be given another parent"},
	{"sensitiveDataOrigin", "was made inside the TPM, nobody ever knew it"},
	{"sign", "signs, and does nothing else"},
	{"noDA", "wrong guesses cannot lock it"},
}

func (d *demo) key(ctx context.Context) error {
	static, err := isStatic(d.program("keyagent"))
	if err != nil {
		return err
	}
	if err := expect(static, "the agent is not the static production binary"); err != nil {
		return err
	}
	d.page.shell("keyagent config check")
	r, err := d.keyagent(ctx, "config", "check", "--config", d.vm.config())
	if err != nil || r.code != 0 {
		return fmt.Errorf("config check: %w: %s", err, r.err)
	}
	d.page.shell("keyagent serve &")
	if err := d.startAgent(ctx); err != nil {
		return err
	}
	d.page.shell("keyagent status")
	status, err := d.status(ctx)
	if err != nil {
		return err
	}
	d.page.fact("key", "%s in TPM %q (%s)", status.Key.Algorithm, status.TPM.Manufacturer, status.TPM.Device)
	d.page.fact("name", "%s", status.Key.Name)
	d.page.say("Its attributes, as the TPM reports them:")
	for _, m := range meanings {
		if err := expect(slices.Contains(status.Key.Attributes, m.attribute), "the key lacks %s", m.attribute); err != nil {
			return err
		}
		d.page.proven("%-20s %s", m.attribute, m.meaning)
	}
	return nil
}

// isStatic reports whether an ELF file needs no dynamic linker.
func isStatic(file string) (bool, error) {
	f, err := elf.Open(file)
	if err != nil {
		return false, err
	}
	defer f.Close()
	return !slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }), nil
}

func (d *demo) token(ctx context.Context) error {
	d.page.shell("keyagent token --identity vm --resource " + resourceURI)
	if err := d.ask(ctx, &d.bound, "token", "--identity", "vm", "--resource", resourceURI); err != nil {
		return err
	}
	d.page.fact("token", "%s, %s left", d.bound.TokenType, (time.Duration(d.bound.ExpiresIn) * time.Second).Round(time.Minute))
	claims, err := claimsOf(d.bound.AccessToken)
	if err != nil {
		return err
	}
	for _, name := range []string{"iss", "aud", "appid", "oid", "tid", "idtyp"} {
		d.page.fact("  "+name, "%v", claims[name])
	}
	d.page.fact("obtained over", "%s, handshake signed in the TPM with %s", d.bound.Binding.TLSVersion, d.bound.Binding.SignatureAlgorithm)
	d.page.fact("client certificate", "%s (x5t#S256)", d.bound.Binding.Thumbprint)
	d.page.fact("strength", "%s", d.bound.Strength)
	return expect(d.bound.TokenType == "Bearer" && d.bound.Strength == "attested" && claims["aud"] == resourceURI,
		"not an attested Bearer token for %s", resourceURI)
}

// claimsOf decodes a JWT's payload, for show: it is the resource that verifies.
func claimsOf(jwt string) (map[string]any, error) {
	parts := strings.Split(jwt, ".")
	if len(parts) != 3 {
		return nil, expect(false, "the token is not a JWT")
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return nil, err
	}
	var claims map[string]any
	return claims, json.Unmarshal(payload, &claims)
}

func (d *demo) evidence(ctx context.Context) error {
	entries, err := d.vm.journal(ctx, "maa.attest")
	if err != nil {
		return err
	}
	if err := expect(len(entries) == 1 && entries[0].Outcome == "ok", "the attestation service saw %d requests", len(entries)); err != nil {
		return err
	}
	d.page.say("The attestation service verified, from a nonce to AMD's root:")
	d.page.say("nonce > TPM2_Certify of the key > TPM2_Quote > attestation key > SNP report > VCEK > ASK > ARK")
	passed := map[string][]string{}
	var groups []string
	for _, c := range entries[0].Detail.Checks {
		if err := expect(c.Status != "fail", "check %s failed", c.Name); err != nil {
			return err
		}
		if c.Status != "pass" {
			continue
		}
		group, check, grouped := strings.Cut(c.Name, ".")
		if !grouped {
			check = "holds"
		}
		if passed[group] == nil {
			groups = append(groups, group)
		}
		passed[group] = append(passed[group], check)
	}
	for _, group := range groups {
		d.page.proven("%-14s %s", group, strings.Join(passed[group], ", "))
	}
	return expect(len(passed["key"]) > 0 && len(passed["snp"]) > 0 && len(passed["quote"]) > 0, "the verdict lacks checks")
}

func (d *demo) certificate(ctx context.Context) error {
	status, err := d.status(ctx)
	if err != nil {
		return err
	}
	for _, id := range status.Identities {
		c := id.Certificate
		if id.Name != "vm" || c == nil {
			continue
		}
		d.page.fact("subject", "%s", c.Subject)
		d.page.fact("issuer", "%s", c.Issuer)
		d.page.fact("thumbprint", "%s (x5t#S256)", c.Thumbprint)
		d.page.fact("expires", "%s, renewed from %s", c.EffectiveExpiry.UTC().Format(time.RFC3339), c.RenewAt.UTC().Format(time.RFC3339))
		entries, err := d.vm.journal(ctx, "entra.mtls.token")
		if err != nil {
			return err
		}
		if err := expect(len(entries) == 1 && entries[0].Thumbprint == c.Thumbprint, "Entra saw another certificate"); err != nil {
			return err
		}
		d.page.proven("Entra saw this certificate on the connection that asked for the token")
		return nil
	}
	return expect(false, "the identity has no certificate")
}

func (d *demo) resource(ctx context.Context) error {
	d.page.shell(`curl -H "$(keyagent token … --output header)" ` + d.vm.info.Resource)
	r, err := d.keyagent(ctx, "token", "--identity", "vm", "--resource", resourceURI, "--output", "header")
	if err != nil {
		return err
	}
	name, value, _ := strings.Cut(strings.TrimSpace(r.out), ": ")
	answer, err := d.vm.get(ctx, d.vm.info.Resource, name, value)
	if err != nil {
		return err
	}
	d.page.fact("the resource says", "%s", answer)
	return nil
}

func (d *demo) restart(ctx context.Context) error {
	d.page.shell("keyagent serve &   # once more")
	d.agent.stop()
	if err := d.startAgent(ctx); err != nil {
		return err
	}
	var again boundToken
	if err := d.ask(ctx, &again, "token", "--identity", "vm", "--resource", resourceURI); err != nil {
		return err
	}
	entries, err := d.vm.journal(ctx, "imds.issuecredential")
	if err != nil {
		return err
	}
	if err := expect(len(entries) == 1 && again.Binding.Thumbprint == d.bound.Binding.Thumbprint,
		"%d certificates were issued", len(entries)); err != nil {
		return err
	}
	d.page.proven("the same certificate %s; certificates issued so far: %d", again.Binding.Thumbprint, len(entries))
	return nil
}

// refusal asks as another user where the demo may, else for another resource.
func (d *demo) refusal(ctx context.Context) error {
	args := []string{"token", "--identity", "vm", "--resource", resourceURI, "--socket", d.vm.socket()}
	shown := "sudo -u nobody keyagent token --identity vm --resource " + resourceURI
	attr := asNobody()
	if os.Geteuid() != 0 {
		args[4], attr = "https://graph.microsoft.com", nil
		shown = "keyagent token --identity vm --resource https://graph.microsoft.com"
	}
	program, err := d.forEverybody("keyagent")
	if err != nil {
		return err
	}
	d.page.shell(shown)
	r, err := command(ctx, attr, program, args...)
	if err != nil {
		return err
	}
	d.page.refused("keyagent", r.err)
	if err := expect(r.code == 3, "exit code %d", r.code); err != nil {
		return err
	}
	d.page.fact("audit record", "%s", lastRefusal(d.agent.log))
	return nil
}
