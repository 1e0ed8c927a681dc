package daemon

import (
	"context"
	"os"
	"slices"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/acquire/binding"
	"github.com/keyagent/keyagent/agentapi/wire"
)

// The states of an identity.
const (
	stateIdle        = "idle"        // nobody has asked for a token yet
	stateReady       = "ready"       // the last token was obtained
	stateUnavailable = "unavailable" // the last attempt failed
)

// Status describes the agent for its administrator. It asks neither TPM nor
// network: a status must be there when they are not.
func (d *Daemon) Status(context.Context) wire.Status {
	info := d.key.Info()
	status := wire.Status{
		Version:       d.opts.Version,
		PID:           os.Getpid(),
		Started:       d.started,
		Configuration: d.configurationStatus(),
		Ready:         true, // without TPM and key there is no socket to ask at
		TPM:           d.tpmStatus(),
		Key: wire.KeyStatus{
			Algorithm:     info.Algorithm,
			Name:          info.Name,
			Attributes:    info.Attributes,
			PSSSaltLength: info.PSSSaltLength,
			Strength:      string(info.Strength),
			Generation:    d.generation,
		},
	}
	for _, w := range d.opts.Waits.Long() {
		status.Waiting = append(status.Waiting, wire.WaitStatus{What: w.What, Since: w.Since, Count: w.Count})
	}
	now := d.inForce.Load()
	now.plan.rules.addStatus(&status)
	for _, id := range d.acquirer.Status() {
		status.Identities = append(status.Identities, identityStatus(id, now.plan.provider))
	}
	return status
}

// tpmStatus names no device where the key is in software: nothing was opened.
func (d *Daemon) tpmStatus() wire.TPMStatus {
	if d.tpm == nil {
		return wire.TPMStatus{Device: "none"}
	}
	return wire.TPMStatus{
		Device:          d.cfg.TPM,
		Manufacturer:    d.properties.Manufacturer,
		FirmwareVersion: d.properties.FirmwareVersion,
	}
}

func identityStatus(id acquire.IdentityStatus, provider string) wire.IdentityStatus {
	status := wire.IdentityStatus{Name: id.Name, State: stateIdle}
	if id.Application != nil {
		status.Kind, status.ClientID, status.TenantID = wire.KindApplication, id.Application.ClientID, id.Application.Authority.Tenant
		for _, c := range id.Credentials {
			status.Credentials = append(status.Credentials, credentialStatus(c))
		}
	} else {
		status.Kind = wire.KindManagedIdentity
		status.Attestation = &wire.AttestationStatus{Provider: provider}
	}
	switch {
	case id.LastError != nil:
		status.State, status.LastError = stateUnavailable, id.LastError.Error()
	case slices.ContainsFunc(id.Credentials, func(c acquire.CredentialStatus) bool { return c.Tried && c.LastError == nil }):
		status.State = stateReady
	}
	if c := id.Certificate; c != nil {
		status.ClientID, status.TenantID = c.ClientID, c.TenantID
		status.Certificate = certificateStatus(c)
		status.TLS = &wire.TLSStatus{
			Version:            id.Handshake.VersionName(),
			SignatureAlgorithm: id.Handshake.SignatureName(),
			Handshakes:         int64(id.Handshake.Count), //nolint:gosec // cannot reach 2^63 TPM signatures
		}
	}
	return status
}

func credentialStatus(c acquire.CredentialStatus) wire.CredentialStatus {
	status := wire.CredentialStatus{Name: c.Name, Source: string(c.Source), Bound: c.Bound, State: stateIdle, Strength: string(c.Strength)}
	switch {
	case c.LastError != nil:
		status.State, status.LastError = stateUnavailable, c.LastError.Error()
	case c.Tried:
		status.State = stateReady
	}
	return status
}

func certificateStatus(c *binding.Certificate) *wire.CertificateStatus {
	return &wire.CertificateStatus{
		Subject:         c.Leaf.Subject.String(),
		Issuer:          c.Leaf.Issuer.String(),
		Thumbprint:      c.Thumbprint(),
		Serial:          c.Leaf.SerialNumber.Text(16),
		NotBefore:       c.Leaf.NotBefore,
		NotAfter:        c.Leaf.NotAfter,
		EffectiveExpiry: c.EffectiveExpiry(),
		RenewAt:         c.RenewAt(),
	}
}
