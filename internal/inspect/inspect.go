package inspect

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/keyagent/keyagent/acquire/imds"
	"github.com/keyagent/keyagent/agentapi/peer"
	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/accounts"
	"github.com/keyagent/keyagent/internal/engine"
	"github.com/keyagent/keyagent/internal/setup"
)

// Budget is how long the TPM, and how long the metadata service, may take in all.
const Budget = 10 * time.Second

// serviceManager is there where systemd runs the machine (sd_booted(3)).
const serviceManager = "/run/systemd/system"

// Options say what to look at.
type Options struct {
	Base    *config.Config // of the settings for all machines, or the defaults
	Choices *setup.Choices
	User    string // the agent's
	Version string // of this program, for the metadata service

	Accounts accounts.Finder
}

// Machine looks at the machine. It blocks for two [Budget]s at most.
func Machine(ctx context.Context, opts Options) setup.Facts {
	account, facts := opts.agent()
	facts.TPM, facts.Kind = lookAtTPM(ctx, opts.device(), &opts, account)
	facts.Host = lookAtHost(ctx, opts)
	facts.Unknown = opts.unknown(ctx)
	_, err := os.Stat(serviceManager)
	facts.Systemd = err == nil
	if err := (peer.Host{}).CheckUnits(); err != nil {
		facts.NoUnits = err.Error()
	}
	if level := (peer.Host{}).Level(); level.Weak() {
		facts.WeakUnits = level.Why
	}
	if opts.Choices.AppService {
		facts.InUse = inUse(ctx, setup.AppServiceAddress)
	}
	return facts
}

// agent finds the user that the agent will run as.
func (o *Options) agent() (*accounts.Account, setup.Facts) {
	account, err := o.Accounts.Account(o.User)
	facts := setup.Facts{Agent: setup.Agent{User: o.User, Missing: err != nil, Root: err == nil && account.UID == 0}}
	if err != nil {
		return nil, facts
	}
	return &account, facts
}

// unknown looks for the users and groups that were chosen.
func (o *Options) unknown(ctx context.Context) []string {
	ctx, cancel := context.WithTimeout(ctx, Budget)
	defer cancel()
	var all []string
	note := func(name string, find func(context.Context, string) (uint32, error)) {
		if strings.Trim(name, "0123456789") == "" {
			return
		}
		if _, err := find(ctx, name); err != nil {
			all = append(all, err.Error())
		}
	}
	for _, name := range o.Choices.Users {
		note(name, o.Accounts.User)
	}
	for _, name := range o.Choices.Groups {
		note(name, o.Accounts.Group)
	}
	return all
}

// inUse says who keeps the agent from listening at an address. That this process may not listen
// there says nothing about the agent, to whom systemd passes the socket.
func inUse(ctx context.Context, address string) string {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	switch {
	case err == nil:
		_ = listener.Close()
		return ""
	case errors.Is(err, syscall.EADDRINUSE):
		return "something listens there now; nothing is wrong if that is systemd, for the agent"
	}
	return ""
}

// lookAtHost asks the metadata service.
func lookAtHost(ctx context.Context, opts Options) setup.Host {
	ctx, cancel := context.WithTimeout(ctx, Budget)
	defer cancel()
	effective := engine.Effective(*opts.Base)
	host := setup.Host{Endpoint: effective.IMDSEndpoint}
	client, err := imds.New(imds.Config{
		Endpoint: effective.IMDSEndpoint, MTLSHosts: effective.TrustedHosts.MTLS, AttestationHosts: effective.TrustedHosts.Attestation, Version: opts.Version,
	})
	if err != nil {
		host.Fault = err.Error()
		return host
	}
	defer client.Close()
	support, err := client.Probe(ctx)
	if errors.Is(err, imds.ErrUnreachable) {
		host.Fault = err.Error()
		return host
	}
	host.V1, host.V2 = presence(support.V1), presence(support.V2)
	if compute, err := client.Compute(ctx); err == nil {
		host.Region, host.Cloud, host.Size, host.SecurityType = compute.Region, compute.Environment, compute.Size, compute.SecurityType
	}
	if support.V2 != imds.Present {
		return host
	}
	selected := opts.Choices.Managed
	meta, err := client.PlatformMetadata(ctx, imds.Selector{ClientID: selected.ClientID, ObjectID: selected.ObjectID, ResourceID: selected.ResourceID})
	if err != nil {
		host.NoIdentity = err.Error()
		return host
	}
	host.ClientID, host.TenantID = meta.ClientID, meta.TenantID
	return host
}

func presence(p imds.Presence) setup.Presence {
	switch p {
	case imds.Present:
		return setup.Present
	case imds.Absent:
		return setup.Absent
	}
	return setup.Unknown
}

// device is the transport to look at: the one that was chosen, else that of the settings, else the
// kernel's, with a resource manager if it has one.
func (o *Options) device() string {
	const managed, bare = "device:/dev/tpmrm0", "/dev/tpm0"
	if o.Choices.TPM != "" {
		return o.Choices.TPM
	}
	if o.Base.TPM != managed {
		return o.Base.TPM
	}
	_, errManaged := os.Stat(strings.TrimPrefix(managed, "device:"))
	_, errBare := os.Stat(bare)
	if errManaged != nil && errBare == nil {
		return fmt.Sprintf("device:%s", bare)
	}
	return managed
}
