package daemon

import (
	"context"
	"fmt"
	"net"

	"github.com/keyagent/keyagent/agentapi"
	"github.com/keyagent/keyagent/internal/metrics"
)

// Names under which sockets for administrators, and for what watches the agent, are passed.
const (
	adminName   = "admin"
	metricsName = "metrics"
)

// claimAdmin takes the administrators' socket that was passed, or claims the path of the one that
// is opened when the daemon runs, if one is configured.
func (d *Daemon) claimAdmin(ctx context.Context) error {
	admin := d.cfg.Endpoints.Admin
	if admin == nil || admin.Socket == "" {
		return nil
	}
	passed, err := d.opts.Sockets.Take(adminName)
	if err != nil {
		return err
	}
	if passed != nil {
		d.closers = append(d.closers, closeOnce(passed))
		d.openAdmin = func() (net.Listener, error) { return passed, nil }
		return agentapi.Admin(passed).Err()
	}
	if d.activated() {
		d.miss(ctx, adminName)
		return nil
	}
	claim, err := agentapi.ClaimSocket(admin.Socket)
	if err != nil {
		return err
	}
	d.closers = append(d.closers, claim.Close)
	d.openAdmin = func() (net.Listener, error) { return claim.Listen(admin.Permissions()) }
	return nil
}

// admin opens the administrators' way.
func (d *Daemon) admin() ([]agentapi.Way, error) {
	if d.openAdmin == nil {
		return nil, nil
	}
	listener, err := d.openAdmin()
	if err != nil {
		return nil, err
	}
	return []agentapi.Way{agentapi.Admin(listener)}, nil
}

// openMetricsPort opens the port on loopback for monitoring, or takes the socket that was passed
// for it.
func (d *Daemon) openMetricsPort(ctx context.Context) error {
	admin := d.cfg.Endpoints.Admin
	if admin == nil || admin.Metrics == "" {
		return nil
	}
	ln, err := d.opts.Sockets.Take(metricsName)
	if ln == nil && err == nil {
		if d.activated() {
			d.miss(ctx, metricsName)
			return nil
		}
		ln, err = agentapi.ListenLoopback(ctx, admin.Metrics)
	}
	if err != nil {
		return fmt.Errorf("endpoints.admin.metrics: %w", err)
	}
	d.closers = append(d.closers, closeOnce(ln))
	way := agentapi.MetricsPort(ln)
	d.ways = append(d.ways, way)
	return way.Err()
}

// watch has the metrics read the gauges from the daemon.
func (d *Daemon) watch() {
	now := metrics.Now{Tokens: d.engine.Acquirer.Stats}
	if t := d.engine.Key.TPM; t != nil {
		now.Queued = t.Queued
	}
	d.opts.metrics.Watch(now)
}
