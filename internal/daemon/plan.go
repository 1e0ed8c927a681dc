package daemon

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/acquire/imds"
	"github.com/keyagent/keyagent/agentapi"
	"github.com/keyagent/keyagent/agentapi/policy"
	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/certs"
	"github.com/keyagent/keyagent/internal/pemfile"
)

// plan is a configuration resolved into what the packages take.
type plan struct {
	rules       *ruleBook
	policy      *policy.Policy      // of the rules that were in force when it was resolved
	callables   []agentapi.Identity // as callers may name them
	identities  []acquire.Identity  // as they are acquired
	authorities []*x509.Certificate // of ca_file
	rootCAs     *x509.CertPool      // for Entra and attestation: the system's and authorities; nil means the system's
	proxy       proxy
	mtlsHosts   imds.HostList
	attestHosts imds.HostList
	provider    string // of attestation
	anchors     attest.TrustAnchors
	evidence    attest.Policy
}

// Check reports whether cfg can be used on this machine, without touching TPM or
// network: users and groups exist, the files it names can be read. If nothing else is
// wrong but that users or groups were not found, the error is a [*RulesOffError].
func Check(ctx context.Context, cfg *config.Config) error {
	p, err := resolve(ctx, cfg, Options{}, nil)
	off := p.rules.notInForce()
	switch {
	case off == nil:
		return err
	case err == nil:
		return off
	}
	return fmt.Errorf("%w\n%v", err, off) // not wrapped: it is not all that is wrong
}

// resolve returns a plan with what could be resolved of it also beside an error. What the plan before it, nil if there is none, has in
// force stays so where its users and groups cannot be looked up now.
func resolve(ctx context.Context, cfg *config.Config, opts Options, before *plan) (*plan, error) {
	p := &plan{mtlsHosts: cfg.TrustedHosts.MTLS, attestHosts: cfg.TrustedHosts.Attestation, rules: newRuleBook(cfg, opts.Accounts, opts.Now)}
	if before != nil {
		p.rules.before = before.rules.held()
	}
	if p.mtlsHosts == nil {
		p.mtlsHosts = imds.MicrosoftMTLSHosts()
	}
	if p.attestHosts == nil {
		p.attestHosts = imds.MicrosoftAttestationHosts()
	}
	p.policy = p.rules.look(ctx)
	return p, errors.Join(p.addIdentities(cfg.Identities), p.rules.check(), p.addRoots(cfg.CAFile), p.addProxy(cfg.Proxy), p.addAttestation(cfg.Attestation))
}

func (p *plan) addRoots(file string) (err error) {
	if p.authorities, err = authoritiesIn(file); err == nil {
		p.rootCAs, err = systemRootsAnd(p.authorities)
	}
	if err != nil {
		return fmt.Errorf("ca_file: %w", err)
	}
	return nil
}

// rootsWith returns the system's certificate authorities and those of a file; nil, which means the system's, if there is none.
func rootsWith(file string) (*x509.CertPool, error) {
	authorities, err := authoritiesIn(file)
	if err != nil {
		return nil, err
	}
	return systemRootsAnd(authorities)
}

// authoritiesIn reads a file of certificate authorities; no file, no authorities.
func authoritiesIn(file string) ([]*x509.Certificate, error) {
	if file == "" {
		return nil, nil
	}
	pem, err := config.ReadTrusted(file)
	if err != nil {
		return nil, err
	}
	authorities, err := certs.Authorities(pem)
	if err != nil {
		return nil, pemfile.Named(file, err)
	}
	return authorities, nil
}

func systemRootsAnd(authorities []*x509.Certificate) (*x509.CertPool, error) {
	if len(authorities) == 0 {
		return nil, nil
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		return nil, fmt.Errorf("the system's certificate authorities: %w", err)
	}
	for _, c := range authorities {
		roots.AddCert(c)
	}
	return roots, nil
}

// addProxy reads everything but the proxy's password, which only the agent's unit has.
func (p *plan) addProxy(cfg config.Proxy) error {
	if cfg.URL == "" {
		return nil
	}
	var err error
	p.proxy, err = newProxy(cfg.URL, cfg.Bypass)
	return err
}

// addProxyCredential reads the proxy's user name and password from where systemd puts them.
func (p *plan) addProxyCredential(cfg config.Proxy) error {
	if cfg.Credential == "" {
		return nil
	}
	value, err := ReadCredential(cfg.Credential)
	if err != nil {
		return fmt.Errorf("proxy.credential: %w", err)
	}
	name, password, ok := strings.Cut(value.Reveal(), ":")
	u, err := url.Parse(cfg.URL)
	if err != nil || !ok {
		return fmt.Errorf("proxy.credential: credential %q is not of the form user:password", cfg.Credential) // an error of Parse would repeat the URL
	}
	u.User = url.UserPassword(name, password)
	p.proxy, err = newProxy(u.String(), cfg.Bypass)
	return err
}

// addAttestation decides what evidence this agent accepts of itself before it
// sends any.
func (p *plan) addAttestation(cfg config.Attestation) error {
	p.provider, p.anchors, p.evidence = cfg.Provider, attest.DefaultTrustAnchors(), attest.DefaultPolicy()
	amd, amdErr := fromPEM("attestation.amd_roots", cfg.AMDRoots, attest.ParseAMDRoots)
	p.anchors.AMD = append(p.anchors.AMD, amd...)
	vtpm, vtpmErr := fromPEM("attestation.vtpm_roots", cfg.VTPMRoots, attest.ParseVTPMRoots)
	for _, c := range vtpm {
		if certs.Equal(c.RawIssuer, c.RawSubject) {
			p.anchors.VTPM = append(p.anchors.VTPM, c)
		} else {
			p.anchors.VTPMIntermediates = append(p.anchors.VTPMIntermediates, c)
		}
	}
	for _, digest := range cfg.IDKeyDigests {
		b, err := hex.DecodeString(digest)
		if err != nil {
			return fmt.Errorf("attestation.id_key_digests: %w", err)
		}
		p.evidence.Launch.IDKeyDigests = append(p.evidence.Launch.IDKeyDigests, b)
	}
	return errors.Join(amdErr, vtpmErr)
}

// fromPEM reads additional trust anchors; no file, no anchors.
func fromPEM[T any](setting, file string, parse func([]byte) ([]T, error)) ([]T, error) {
	if file == "" {
		return nil, nil
	}
	pem, err := config.ReadTrusted(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", setting, err)
	}
	anchors, err := parse(pem)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", setting, pemfile.Named(file, err))
	}
	return anchors, nil
}
