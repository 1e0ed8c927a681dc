package daemon

import (
	"context"
	"fmt"
	"net"

	"github.com/keyagent/keyagent/agentapi"
	"github.com/keyagent/keyagent/agentapi/appsecret"
	"github.com/keyagent/keyagent/agentapi/peer"
	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/statefile"
)

// Names under which sockets are passed.
const (
	socketName     = "keyagent"
	appServiceName = "app-service"
	imdsName       = "imds"
	takeoverName   = "takeover"
)

// endpoint is a way in over loopback, as the configuration has it.
type endpoint struct {
	name   string                   // of a socket that is passed for it
	config *config.LoopbackEndpoint // nil: it is off
	way    func(net.Listener, agentapi.Identify) agentapi.Way
	served func(p *agentapi.Programs, url string) // notes where programs find it
}

func (d *Daemon) endpoints() []endpoint {
	return []endpoint{
		{appServiceName, d.cfg.Endpoints.AppService, agentapi.AppService, func(p *agentapi.Programs, url string) { p.AppService = url + wire.PathAppServiceToken }},
		{imdsName, d.cfg.Endpoints.IMDS, agentapi.IMDS, func(p *agentapi.Programs, url string) { p.IMDS = url }},
	}
}

// openEndpoints opens what is configured on loopback, or takes what was passed for it. Connections
// wait until the daemon runs. The state directory must be locked.
func (d *Daemon) openEndpoints(ctx context.Context) (agentapi.Programs, error) {
	var programs agentapi.Programs
	var owners *peer.TCP
	for _, e := range d.endpoints() {
		if e.config == nil {
			continue
		}
		if owners == nil {
			var err error
			if owners, err = peer.OpenTCP(); err != nil {
				return programs, fmt.Errorf("endpoints (%s): %w", e.name, err)
			}
			d.closers = append(d.closers, owners.Close)
		}
		ln, err := d.listen(ctx, e.name, e.config.Listen)
		if err != nil {
			return programs, fmt.Errorf("endpoints (%s): %w", e.name, err)
		}
		d.closers = append(d.closers, closeOnce(ln))
		way := e.way(ln, owners.Of)
		if err := way.Err(); err != nil {
			return programs, err
		}
		d.ways = append(d.ways, way)
		e.served(&programs, "http://"+ln.Addr().String())
	}
	if d.cfg.Endpoints.AppService == nil {
		return programs, nil
	}
	boot, err := peer.ThisBoot()
	if err != nil {
		return programs, err
	}
	programs.Secrets, err = appsecret.Open(statefile.In(d.cfg.StateDir), d.opts.Logger, watchIn(boot))
	return programs, err
}

// watchIn finds the process that a program's secret ends with.
func watchIn(boot peer.Boot) appsecret.Watch {
	return func(process string) (appsecret.Watched, bool) {
		if watched, found := boot.Watch(process); found {
			return watched, true
		}
		return nil, false
	}
}

// listen takes the socket that was passed under a name, or opens one at a loopback address.
func (d *Daemon) listen(ctx context.Context, name, address string) (net.Listener, error) {
	ln, err := d.opts.Sockets.Take(name)
	if ln != nil || err != nil {
		return ln, err
	}
	if isOpenPort(address) {
		d.opts.Logger.Warn("any user of this machine can listen on this port while the agent does not, and programs would hand them their secrets: "+
			"use a port below 1024, which a .socket unit of systemd holds", "endpoint", name, "listen", address)
	}
	return agentapi.ListenLoopback(ctx, address)
}

// closeOnce closes a listener that the server may have closed before.
func closeOnce(ln net.Listener) func() error {
	return func() error {
		_ = ln.Close()
		return nil
	}
}

// claimSocket takes the Unix socket that was passed, or claims the path of the one that is opened
// when the daemon runs.
func (d *Daemon) claimSocket() error {
	passed, err := d.opts.Sockets.Take(socketName)
	if err != nil {
		return err
	}
	if passed != nil {
		if at := passed.Addr().String(); at != d.cfg.Socket {
			d.opts.Logger.Warn("the socket that systemd passes is not at the path of the configuration", "passed", at, "configured", d.cfg.Socket)
		}
		d.closers = append(d.closers, closeOnce(passed))
		if err := agentapi.Socket(passed).Err(); err != nil {
			return err
		}
		d.openSocket = func() (net.Listener, error) { return passed, nil }
		return nil
	}
	claim, err := agentapi.ClaimSocket(d.cfg.Socket)
	if err != nil {
		return err
	}
	d.closers = append(d.closers, claim.Close)
	d.openSocket = func() (net.Listener, error) { return claim.Listen(socketMode) }
	return nil
}

// closeUnused closes sockets that were passed for what is not configured, so that whoever connects
// to them is refused and does not wait.
func (d *Daemon) closeUnused() error {
	for _, name := range d.opts.Sockets.Names() {
		d.opts.Logger.Warn("systemd passes a socket that the configuration has no use for: it is closed", "name", name)
	}
	return d.opts.Sockets.Close()
}
