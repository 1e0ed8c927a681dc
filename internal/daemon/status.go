package daemon

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/acquire/binding"
	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/internal/engine"
	"github.com/keyagent/keyagent/signer/certreq"
)

// The states of an identity.
const (
	stateIdle        = "idle"        // no token was asked for yet
	stateReady       = "ready"       // the last token was obtained
	stateUnavailable = "unavailable" // the last attempt failed
)

// statusTPMTimeout bounds how long a status waits for the TPM: it must be answered also when the
// TPM does not answer.
const statusTPMTimeout = 5 * time.Second

// Status describes the agent for its administrator. It asks the TPM whether it
// answers, and not the network.
func (d *Daemon) Status(ctx context.Context) wire.Status {
	info := d.engine.Key.Info()
	status := wire.Status{
		Version:       d.opts.Version,
		PID:           os.Getpid(),
		Started:       d.started,
		StateDir:      d.cfg.StateDir,
		Configuration: d.configurationStatus(),

		CallerIdentity: d.callerIdentity(),
		SocketsMissing: d.missing,

		TPM: d.tpmStatus(ctx),
		Key: wire.KeyStatus{
			Algorithm:     info.Algorithm,
			Name:          info.Name,
			Attributes:    info.Attributes,
			PSSSaltLength: info.PSSSaltLength,
			Strength:      string(info.Strength),
			Generation:    d.engine.Key.Generation,
		},
	}
	for _, w := range d.opts.Waits.Long() {
		status.Waiting = append(status.Waiting, wire.WaitStatus{What: w.What, Since: w.Since, Count: w.Count})
	}
	now := d.inForce.Load()
	addRules(&status, now.plan.rules)
	for _, id := range d.engine.Acquirer.Status() {
		described, unable := d.identityStatus(id, now.plan.Provider)
		status.Identities = append(status.Identities, described)
		if unable != "" {
			status.NotReady = append(status.NotReady, fmt.Sprintf("identity %q cannot give tokens: %s", id.Name, unable))
		}
	}
	if status.TPM.LastError != "" {
		status.NotReady = append(status.NotReady, "the TPM does not answer: "+status.TPM.LastError)
	}
	status.Ready = len(status.NotReady) == 0
	return status
}

// maxWaitsTold is how many waits a caller is told of who waited in vain.
const maxWaitsTold = 3

// waits lists the operations that have been waited for for long, the longest first.
func (d *Daemon) waits() (told []string) {
	for _, w := range d.opts.Waits.Long() {
		if told = append(told, w.What); len(told) == maxWaitsTold {
			break
		}
	}
	return told
}

// tpmStatus names no device where the key is in software: nothing was opened.
func (d *Daemon) tpmStatus(ctx context.Context) wire.TPMStatus {
	if d.engine.Key.TPM == nil {
		return wire.TPMStatus{Device: wire.NoTPM}
	}
	status := wire.TPMStatus{
		Device:          d.cfg.TPM,
		Manufacturer:    d.engine.Key.Identity.Manufacturer,
		FirmwareVersion: d.engine.Key.Identity.FirmwareVersion,
	}
	ctx, cancel := context.WithTimeout(ctx, statusTPMTimeout)
	defer cancel()
	if err := d.engine.Key.TPM.Answers(ctx); err != nil {
		status.LastError = err.Error()
	}
	return status
}

// identityStatus describes an identity, and returns why it gives no tokens, as far as that is
// known: the error of its last attempt, or that each of its credentials lacks something; ""
// otherwise.
func (d *Daemon) identityStatus(id acquire.IdentityStatus, provider string) (status wire.IdentityStatus, unable string) {
	status = wire.IdentityStatus{Name: id.Name, State: stateIdle}
	var credentials credentialsView
	if id.Application != nil {
		status.Kind, status.ClientID, status.TenantID = wire.KindApplication, id.Application.ClientID, id.Application.Authority.Tenant
		credentials = d.credentialsView(id)
		status.Credentials = credentials.list
	} else {
		status.Kind = wire.KindManagedIdentity
		status.Attestation = &wire.AttestationStatus{Provider: provider, Expires: d.engine.AttestedUntil()}
	}
	switch {
	case credentials.unable != "":
		unable = credentials.unable
		status.State, status.LastError = stateUnavailable, unable
	case credentials.repaired:
	case id.LastError != nil:
		status.State, status.LastError = stateUnavailable, id.LastError.Error()
		status.LastErrorAt, status.LastErrorBeforeReload = id.LastAt, d.trustChangedSince(id.LastAt)
		if id.Unable != nil {
			unable = id.Unable.Error()
		}
	case slices.ContainsFunc(id.Credentials, func(c acquire.CredentialStatus) bool { return c.Tried && c.LastError == nil }):
		status.State = stateReady
	}
	status.Unable = unable != ""
	if c := id.Certificate; c != nil {
		status.ClientID, status.TenantID = c.ClientID, c.TenantID
		status.Certificate = certificateStatus(c, d.opts.Now())
		status.TLS = &wire.TLSStatus{
			Version:            id.Handshake.VersionName(),
			SignatureAlgorithm: id.Handshake.SignatureName(),
			Handshakes:         int64(id.Handshake.Count), //nolint:gosec // cannot reach 2^63 TPM signatures
		}
	}
	return status, unable
}

// credentialsView is what the status says of the credentials of an application.
type credentialsView struct {
	list     []wire.CredentialStatus
	unable   string // what each of them lacks; "" if one is without a fault that can be known without trying it
	repaired bool   // what the last attempt lacked is there now, and nothing else is known to be missing
}

func (d *Daemon) credentialsView(id acquire.IdentityStatus) credentialsView {
	type finding struct {
		chain   []*x509.Certificate
		problem string
	}
	found := map[string]finding{}
	var problems []string
	for _, c := range id.Application.Credentials {
		chain, problem := d.lacks(c)
		found[c.Name] = finding{chain, problem}
		problems = append(problems, problem)
	}
	var v credentialsView
	failing := false
	for _, c := range id.Credentials {
		status, f := d.credentialStatus(c), found[c.Name]
		if len(f.chain) > 0 {
			status.Certificate = applicationCertificateStatus(f.chain, d.opts.Now())
		}
		_, lacked := errors.AsType[engine.MissingKey](c.LastError)
		switch {
		case f.problem != "":
			status.State, status.LastError = stateUnavailable, f.problem
			status.LastErrorAt, status.LastErrorBeforeReload = time.Time{}, false
		case lacked:
			status.State, status.LastError, v.repaired = stateIdle, "", true
			status.LastErrorAt, status.LastErrorBeforeReload = time.Time{}, false
		}
		failing = failing || status.State == stateUnavailable
		v.list = append(v.list, status)
	}
	v.repaired = v.repaired && !failing
	if !slices.Contains(problems, "") {
		v.unable = strings.Join(slices.Compact(problems), "; ")
	}
	return v
}

func (d *Daemon) credentialStatus(c acquire.CredentialStatus) wire.CredentialStatus {
	status := wire.CredentialStatus{Name: c.Name, Source: string(c.Source), Bound: c.Bound, State: stateIdle, Strength: string(c.Strength)}
	switch {
	case c.LastError != nil:
		status.State, status.LastError = stateUnavailable, c.LastError.Error()
		status.LastErrorAt, status.LastErrorBeforeReload = c.LastAt, d.trustChangedSince(c.LastAt)
	case c.Tried:
		status.State = stateReady
	}
	return status
}

func certificateStatus(c *binding.Certificate, now time.Time) *wire.CertificateStatus {
	return &wire.CertificateStatus{
		Subject:         c.Leaf.Subject.String(),
		Issuer:          c.Leaf.Issuer.String(),
		Thumbprint:      c.Thumbprint(),
		Serial:          c.Leaf.SerialNumber.Text(16),
		NotBefore:       c.Leaf.NotBefore,
		NotAfter:        c.Leaf.NotAfter,
		EffectiveExpiry: c.EffectiveExpiry(),
		DaysLeft:        certreq.DaysLeft(c.EffectiveExpiry(), now),
		RenewAt:         c.RenewAt(),
	}
}
