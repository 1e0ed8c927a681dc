package binding

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/keyagent/keyagent/acquire/imds"
	"github.com/keyagent/keyagent/internal/secret"
)

// issue obtains a new certificate and brings it into use. The slot's lock is held.
func (m *Manager) issue(ctx context.Context, s *slot, meta *imds.PlatformMetadata, bypassCache bool) (*Certificate, error) {
	request := imds.CredentialRequest{BypassCache: bypassCache}
	cred, err := m.request(ctx, s, meta, &request)
	if err != nil {
		return nil, err
	}
	c, err := m.accept(cred, meta, !request.AttestationToken.IsZero())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", imds.ErrBadAnswer, err)
	}
	if err := m.put(s, c); err != nil {
		return nil, err
	}
	m.save(s, c)
	m.cfg.Logger.Info("binding certificate issued", "selector", s.name.String(), "thumbprint", c.Thumbprint(),
		"attested", c.Attested, "expires", c.EffectiveExpiry(), "renew_at", c.RenewAt())
	return c, nil
}

// request has the key attested and requests a certificate. An attestation token that was used
// before may have expired by the issuer's clock, so a refusal counts only once a new token was
// refused, too.
func (m *Manager) request(ctx context.Context, s *slot, meta *imds.PlatformMetadata, r *imds.CredentialRequest) (*imds.Credential, error) {
	for again := false; ; again = true {
		attestation, _, err := m.cfg.Attestor.Attest(ctx, meta.AttestationEndpoint)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrAttestation, err)
		}
		kept := m.usedBefore(attestation)
		r.AttestationToken = attestation
		if r.CSR == nil {
			if r.CSR, err = newCertificateRequest(m.cfg.Key.WithContext(ctx), meta); err != nil {
				return nil, err
			}
		}
		cred, err := m.cfg.IMDS.IssueCredential(ctx, s.sel, *r)
		refusal, _ := errors.AsType[*imds.Error](err)
		if refusal == nil || !refusal.RefusesIssuance() || !kept || again {
			return cred, err
		}
		m.cfg.Logger.Info("IMDS refuses an attestation token that was used before; the key is attested again", "selector", s.name.String(), "cause", err)
		m.cfg.Attestor.Discard(meta.AttestationEndpoint)
	}
}

// usedBefore notes an attestation token, and reports whether the last request had the same one.
func (m *Manager) usedBefore(attestation secret.String) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	before := m.attestation
	m.attestation = attestation
	return !attestation.IsZero() && attestation.Reveal() == before.Reveal()
}

// accept checks the certificate that IMDS issued against the request.
func (m *Manager) accept(cred *imds.Credential, meta *imds.PlatformMetadata, attested bool) (*Certificate, error) {
	if !strings.EqualFold(cred.ClientID, meta.ClientID) || !strings.EqualFold(cred.TenantID, meta.TenantID) {
		return nil, fmt.Errorf("issuecredential answered for client %q of tenant %q, getplatformmetadata for %q of %q",
			cred.ClientID, cred.TenantID, meta.ClientID, meta.TenantID)
	}
	c, err := m.certificate(&record{
		ClientID:     cred.ClientID,
		TenantID:     cred.TenantID,
		ComputeUnit:  meta.ComputeUnitID,
		IdentityType: cred.IdentityType,
		MTLSEndpoint: cred.MTLSEndpoint,
		Attested:     attested,
		Certificate:  cred.Certificate,
	})
	if err != nil {
		return nil, fmt.Errorf("issued certificate: %w", err)
	}
	return c, nil
}

// certificate checks a certificate from IMDS or the disk, and returns it parsed.
func (m *Manager) certificate(r *record) (*Certificate, error) {
	if err := m.trusts(r.MTLSEndpoint); err != nil {
		return nil, err
	}
	c, err := parseCertificate(r.Certificate, m.cfg.Key.Public(), r.ClientID, m.cfg.Now())
	if err != nil {
		return nil, err
	}
	c.ClientID, c.TenantID, c.IdentityType = r.ClientID, r.TenantID, r.IdentityType
	c.MTLSEndpoint, c.Attested, c.computeUnit = r.MTLSEndpoint, r.Attested, r.ComputeUnit
	c.renewAt = renewalTime(c.Leaf.NotBefore, c.expiry, m.cfg.Jitter)
	return c, nil
}

// record returns the part of a certificate's state that is kept on disk.
func (m *Manager) record(s *slot, c *Certificate) record {
	m.mu.Lock()
	defer m.mu.Unlock()
	return record{
		KeyName:      m.cfg.KeyName,
		ClientID:     c.ClientID,
		TenantID:     c.TenantID,
		ComputeUnit:  c.computeUnit,
		IdentityType: c.IdentityType,
		MTLSEndpoint: c.MTLSEndpoint,
		Attested:     c.Attested,
		Certificate:  c.Leaf.Raw,
		Rejected:     s.rejected,
	}
}
