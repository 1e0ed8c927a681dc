package daemon

import (
	"github.com/keyagent/keyagent/agentapi"
	"github.com/keyagent/keyagent/internal/metrics"
)

// claimAdmin takes the administrators' socket, if one is configured.
func (d *Daemon) claimAdmin() error {
	admin := d.cfg.Endpoints.Admin
	if admin == nil || admin.Socket == "" {
		return nil
	}
	claim, err := agentapi.ClaimSocket(admin.Socket)
	if err != nil {
		return err
	}
	d.adminSocket = claim
	d.closers = append(d.closers, claim.Close)
	return nil
}

// admin opens the ways of administrators.
func (d *Daemon) admin() ([]agentapi.Way, error) {
	if d.adminSocket == nil {
		return nil, nil
	}
	listener, err := d.adminSocket.Listen(d.cfg.Endpoints.Admin.Permissions())
	if err != nil {
		return nil, err
	}
	return []agentapi.Way{agentapi.Admin(listener)}, nil
}

// watch has the metrics ask for what is a number at the moment.
func (d *Daemon) watch() {
	now := metrics.Now{Tokens: d.engine.Acquirer.Stats}
	if t := d.engine.Key.TPM; t != nil {
		now.Queued = t.Queued
	}
	d.opts.metrics.Watch(now)
}
