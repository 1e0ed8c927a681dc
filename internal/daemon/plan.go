package daemon

import (
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os/user"
	"strconv"
	"strings"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/acquire/imds"
	"github.com/keyagent/keyagent/agentapi"
	"github.com/keyagent/keyagent/agentapi/policy"
	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/certs"
	"github.com/keyagent/keyagent/internal/pemfile"
	"github.com/keyagent/keyagent/internal/upstream"
)

// plan is a configuration resolved into what the packages take.
type plan struct {
	policy      *policy.Policy
	callables   []agentapi.Identity // as callers may name them
	identities  []acquire.Identity  // as they are acquired
	rootCAs     *x509.CertPool      // for Entra and attestation; nil means the system's
	proxy       func(*http.Request) (*url.URL, error)
	mtlsHosts   imds.HostList
	attestHosts imds.HostList
	anchors     attest.TrustAnchors
	evidence    attest.Policy
}

// Check reports whether cfg can be used on this machine, without touching TPM or
// network: users and groups exist, the files it names can be read.
func Check(cfg *config.Config) error {
	_, err := resolve(cfg)
	return err
}

func resolve(cfg *config.Config) (*plan, error) {
	p := &plan{mtlsHosts: cfg.TrustedHosts.MTLS, attestHosts: cfg.TrustedHosts.Attestation}
	if p.mtlsHosts == nil {
		p.mtlsHosts = imds.MicrosoftMTLSHosts()
	}
	if p.attestHosts == nil {
		p.attestHosts = imds.MicrosoftAttestationHosts()
	}
	return p, errors.Join(p.addIdentities(cfg.Identities), p.addPolicy(cfg), p.addRoots(cfg.CAFile), p.addProxy(cfg.Proxy), p.addAttestation(cfg.Attestation))
}

func (p *plan) addPolicy(cfg *config.Config) error {
	p.policy = &policy.Policy{Audiences: cfg.AssertionAudiences()}
	var problems []error
	for _, r := range cfg.Rules {
		uids, gids, err := resolvePrincipals(r.Principals)
		if err != nil {
			problems = append(problems, fmt.Errorf("rule %q: %w", r.Name, err))
		}
		p.policy.Rules = append(p.policy.Rules, policy.Rule{
			Name: r.Name, UIDs: uids, GIDs: gids,
			Identities: r.Identities, Resources: r.Resources, TokenTypes: r.Types, Fresh: r.Fresh,
		})
	}
	uids, gids, err := resolvePrincipals(cfg.Admins)
	if err != nil {
		problems = append(problems, fmt.Errorf("admins: %w", err))
	}
	p.policy.AdminUIDs, p.policy.AdminGIDs = uids, gids
	if len(problems) == 0 {
		problems = append(problems, p.policy.Validate())
	}
	return errors.Join(problems...)
}

func resolvePrincipals(p config.Principals) (uids, gids []uint32, err error) {
	uids, userErr := resolveAll(p.Users, func(name string) (string, error) {
		u, err := user.Lookup(name)
		if err != nil {
			return "", err
		}
		return u.Uid, nil
	})
	gids, groupErr := resolveAll(p.Groups, func(name string) (string, error) {
		g, err := user.LookupGroup(name)
		if err != nil {
			return "", err
		}
		return g.Gid, nil
	})
	return uids, gids, errors.Join(userErr, groupErr)
}

func resolveAll(names []string, lookup func(string) (string, error)) ([]uint32, error) {
	var ids []uint32
	var problems []error
	for _, name := range names {
		id, err := resolveID(name, lookup)
		ids, problems = append(ids, id), append(problems, err)
	}
	return ids, errors.Join(problems...)
}

// resolveID takes a number as it is and looks a name up.
func resolveID(name string, lookup func(string) (string, error)) (uint32, error) {
	text := name
	if _, err := strconv.ParseUint(name, 10, 32); err != nil {
		if text, err = lookup(name); err != nil {
			return 0, err
		}
	}
	id, err := strconv.ParseUint(text, 10, 32)
	if err != nil || id == 1<<32-1 { // (uid_t)-1 is nobody's
		return 0, fmt.Errorf("%q is not a user or group id", name)
	}
	return uint32(id), nil
}

func (p *plan) addRoots(file string) error {
	roots, err := rootsWith(file)
	if err != nil {
		return fmt.Errorf("ca_file: %w", err)
	}
	p.rootCAs = roots
	return nil
}

// rootsWith returns the system's certificate authorities and those of a file; nil, which means the system's, if there is none.
func rootsWith(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	pem, err := config.ReadTrusted(file)
	if err != nil {
		return nil, err
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		return nil, fmt.Errorf("the system's certificate authorities: %w", err)
	}
	authorities, err := certs.Authorities(pem)
	if err != nil {
		return nil, pemfile.Named(file, err)
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
	p.proxy, err = upstream.Proxy(cfg.URL, cfg.Bypass)
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
	p.proxy, err = upstream.Proxy(u.String(), cfg.Bypass)
	return err
}

// addAttestation decides what evidence this agent accepts of itself before it
// sends any.
func (p *plan) addAttestation(cfg config.Attestation) error {
	p.anchors, p.evidence = attest.DefaultTrustAnchors(), attest.DefaultPolicy()
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
