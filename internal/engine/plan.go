package engine

import (
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/acquire/imds"
	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/certs"
	"github.com/keyagent/keyagent/internal/inputfile"
	"github.com/keyagent/keyagent/internal/pemfile"
)

// Plan is what a configuration says of identities, trust and attestation, resolved into what the
// packages take. It is immutable once it is in use.
type Plan struct {
	Identities []acquire.Identity
	Provider   string // of attestation

	authorities []*x509.Certificate // of ca_file
	rootCAs     *x509.CertPool      // for Entra and attestation: the system's and authorities; nil means the system's
	proxy       proxy
	mtlsHosts   imds.HostList
	attestHosts imds.HostList
	anchors     attest.TrustAnchors
	evidence    attest.Policy
	collateral  string // of Intel, see collect.TDXConfig

	command  []string // of the provider exec
	pcrs     []int    // of evidence for callers and programs
	eventLog string   // path
}

// Resolve reads the files that a configuration names. With an error, the plan has what could be
// resolved. The proxy's password is not read: see [Plan.ReadProxyCredential].
func Resolve(cfg *config.Config) (*Plan, error) {
	trusted := Effective(*cfg).TrustedHosts
	p := &Plan{mtlsHosts: trusted.MTLS, attestHosts: trusted.Attestation}
	return p, errors.Join(p.addIdentities(cfg.Identities), p.addRoots(cfg.CAFile), p.addProxy(cfg.Proxy), p.addAttestation(cfg.Attestation))
}

func (p *Plan) addRoots(file string) (err error) {
	if p.authorities, err = authoritiesIn(file); err == nil {
		p.rootCAs, err = systemRootsAnd(p.authorities)
	}
	if err != nil {
		return fmt.Errorf("ca_file: %w", err)
	}
	return nil
}

// RootsWith returns the system's certificate authorities and those of a file; nil, which means the
// system's, if there is none.
func RootsWith(file string) (*x509.CertPool, error) {
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

// addProxy takes everything but the proxy's password, which only the agent's unit can read.
func (p *Plan) addProxy(cfg config.Proxy) error {
	if cfg.URL == "" {
		return nil
	}
	var err error
	p.proxy, err = newProxy(cfg.URL, cfg.Bypass)
	return err
}

// ReadProxyCredential reads the proxy's user name and password from the systemd credential that the
// configuration names, if it does.
func (p *Plan) ReadProxyCredential(cfg config.Proxy) error {
	if cfg.Credential == "" {
		return nil
	}
	value, err := inputfile.Credential(cfg.Credential)
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

// addAttestation decides what the agent's own evidence must satisfy before it is sent.
func (p *Plan) addAttestation(cfg config.Attestation) error {
	p.Provider, p.anchors, p.evidence = cfg.Provider, attest.DefaultTrustAnchors(), attest.DefaultPolicy()
	p.command, p.pcrs, p.eventLog = cfg.Command, cfg.PCRs, cfg.EventLog
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
	intermediates, intermediatesErr := intermediatesIn(cfg.AKIntermediates)
	p.anchors.VTPMIntermediates = append(p.anchors.VTPMIntermediates, intermediates...)
	var programErr error
	if len(cfg.Command) > 0 {
		if programErr = config.CheckProgram(cfg.Command[0]); programErr != nil {
			programErr = fmt.Errorf("attestation.command: %w", programErr)
		}
	}
	return errors.Join(amdErr, vtpmErr, intermediatesErr, programErr, p.addTDX(cfg.TDX))
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

// maxIntermediateFiles bounds a directory of certificates.
const maxIntermediateFiles = 64

// intermediatesIn reads the issuers in a directory; no directory, no issuers. A root among them is
// refused: whoever put it there meant it to be trusted.
func intermediatesIn(dir string) (all []*x509.Certificate, err error) {
	if dir == "" {
		return nil, nil
	}
	const setting = "attestation.ak_intermediates"
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", setting, err)
	}
	files := 0
	for _, entry := range entries {
		if ext := filepath.Ext(entry.Name()); ext != ".pem" && ext != ".crt" {
			continue
		}
		if files++; files > maxIntermediateFiles {
			return nil, fmt.Errorf("%s: more than %d files in %s", setting, maxIntermediateFiles, dir)
		}
		found, err := fromPEM(setting, filepath.Join(dir, entry.Name()), attest.ParseVTPMRoots)
		if err != nil {
			return nil, err
		}
		for _, c := range found {
			if certs.Equal(c.RawIssuer, c.RawSubject) {
				return nil, fmt.Errorf("%s: %s has a root, which belongs into attestation.vtpm_roots", setting, entry.Name())
			}
		}
		all = append(all, found...)
	}
	return all, nil
}
