package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

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

// openEndpoints opens the endpoints that are configured on loopback, or takes the sockets that were
// passed for them. Connections wait until the daemon runs. The state directory must be locked.
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
		if ln == nil {
			continue
		}
		d.closers = append(d.closers, closeOnce(ln))
		way := e.way(ln, owners.Of)
		if err := way.Err(); err != nil {
			return programs, err
		}
		d.ways = append(d.ways, way)
		e.served(&programs, "http://"+ln.Addr().String())
	}
	if programs.AppService == "" {
		return programs, nil
	}
	boot, err := peer.ThisBoot()
	if err != nil {
		return programs, err
	}
	if programs.Secrets, err = appsecret.Open(statefile.In(d.cfg.StateDir), d.opts.Logger, watchIn(boot)); err != nil {
		return programs, err
	}
	d.closers = append(d.closers, programs.Secrets.Close)
	return programs, nil
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

// listen takes the socket that was passed under a name, or opens one at a loopback address. Nil:
// the way in is off, since systemd was to pass its socket and has not.
func (d *Daemon) listen(ctx context.Context, name, address string) (net.Listener, error) {
	ln, err := d.opts.Sockets.Take(name)
	if ln != nil || err != nil {
		return ln, err
	}
	if d.activated() {
		d.miss(ctx, name)
		return nil, nil
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
	if d.activated() {
		return errNotPassed
	}
	claim, err := agentapi.ClaimSocket(d.cfg.Socket)
	if err != nil {
		return err
	}
	d.closers = append(d.closers, claim.Close)
	d.openSocket = func() (net.Listener, error) { return claim.Listen(socketMode) }
	return nil
}

// errNotPassed is why an agent whose sockets are systemd's does not start.
var errNotPassed = errors.New("systemd has passed no socket named " + socketName + " to the agent, and it is set up to open none itself (activated): start it by its socket, " +
	"systemctl start keyagent.socket, and not by hand")

// activated reports whether all sockets are systemd's.
func (d *Daemon) activated() bool { return d.opts.Activated || d.cfg.Activated }

// miss notes a way in that is configured and off, since its socket was not passed.
func (d *Daemon) miss(ctx context.Context, name string) {
	d.missing = append(d.missing, name)
	d.opts.Logger.WarnContext(ctx, "a way into the agent is configured and off: systemd has passed no socket for it. Enable its .socket unit, then restart the agent", "name", name)
}

// unused takes the sockets that were passed for endpoints that are not configured.
func (d *Daemon) unused() (all []net.Listener, err error) {
	for _, name := range d.opts.Sockets.Names() {
		ln, err := d.opts.Sockets.Take(name)
		if err != nil {
			return all, err
		}
		d.opts.Logger.Warn("systemd passes a socket that the configuration has no use for: whoever connects to it is disconnected", "name", name)
		d.closers = append(d.closers, closeOnce(ln))
		all = append(all, ln)
	}
	return all, nil
}

// disconnectPause is how long nobody is disconnected after a failure.
const disconnectPause = time.Second

// disconnect closes connections as they come, until the context ends. Systemd holds the socket as
// well: if it were merely closed here, callers would wait. What fails for a time, such as for want
// of descriptors, must not end an agent that has no use for the socket: it is tried again.
func (d *Daemon) disconnect(ctx context.Context, ln net.Listener) error {
	defer context.AfterFunc(ctx, func() { _ = ln.Close() })()
	for {
		conn, err := ln.Accept()
		switch {
		case err == nil:
			_ = conn.Close()
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("disconnecting callers at %s: %w", ln.Addr(), err)
		default:
			d.opts.Logger.WarnContext(ctx, "a caller was not disconnected: it is tried again", "socket", ln.Addr().String(), "error", err)
			_ = d.opts.pause(ctx, disconnectPause) // the end of the context ends the loop
		}
	}
}
