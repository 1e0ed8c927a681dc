package daemon

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/keyagent/keyagent/internal/waiting"
	"github.com/keyagent/keyagent/systemd"
)

const (
	// startExtension is for how long, each time, the service manager is asked to wait for a start.
	startExtension = 30 * time.Second
	// longestStart is how long it is asked to. A TPM can take minutes to make the first key.
	longestStart = 10 * time.Minute
	// standstill is after how long a turn at the TPM does not move any more: no command takes so
	// long before its connection is given up (tpm.Config, CommandTimeout).
	standstill = 3 * time.Minute
	// readinessPause is between two looks whether the listeners answer yet.
	readinessPause = 20 * time.Millisecond
)

// starting has the service manager wait while the agent starts, until the function that it returns
// is called.
func (d *Daemon) starting(ctx context.Context) (over func()) {
	manager := d.opts.Manager
	if manager == nil {
		return func() {}
	}
	d.tellManager(ctx, manager.Status("starting: the TPM is opened, and its key is loaded or, the first time, made"))
	ctx, cancel := context.WithTimeout(ctx, longestStart)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for ctx.Err() == nil {
			d.tellManager(ctx, manager.ExtendTimeout(startExtension))
			_ = d.opts.pause(ctx, startExtension/2) // the end of the context ends the loop
		}
	}()
	return func() {
		cancel()
		<-ended
	}
}

// attend says that the agent is ready as soon as its listeners answer, and feeds the watchdog from
// then on, until the context ends.
func (d *Daemon) attend(ctx context.Context) error {
	manager := d.opts.Manager
	if manager == nil {
		return nil
	}
	for d.server.Answers(ctx) != nil {
		if waiting.Sleep(ctx, readinessPause) != nil {
			return nil //nolint:nilerr // the agent ends
		}
	}
	d.announce(ctx)
	systemd.Watchdog{Manager: manager, Check: d.Works, Sleep: d.opts.pause, Logger: d.opts.Logger}.Run(ctx)
	return nil
}

// announce says that the agent is ready, and what it does.
func (d *Daemon) announce(ctx context.Context) {
	d.ready.Store(true)
	d.tellManager(ctx, d.opts.Manager.Ready(d.doing()))
}

// reloading says that the configuration is read again, and, when the function that it returns is
// called, that the agent is ready as before, whatever came of it. Nothing is said of an agent that
// is not ready yet.
func (d *Daemon) reloading(ctx context.Context) (over func()) {
	if !d.ready.Load() {
		return func() {}
	}
	d.tellManager(ctx, d.opts.Manager.Reloading())
	return func() { d.announce(context.WithoutCancel(ctx)) }
}

// Works reports what only a restart could help against, or nil: a turn at the TPM that does not
// move, or a way in that takes no connections. That TPM, IMDS or Entra do not answer is no such
// thing: tokens that are in memory are served meanwhile. It is safe for concurrent use.
func (d *Daemon) Works(ctx context.Context) error {
	return errors.Join(d.tpmMoves(), d.server.Answers(ctx))
}

func (d *Daemon) tpmMoves() error {
	t := d.engine.Key.TPM
	if t == nil {
		return nil
	}
	since := t.Stands()
	if stood := d.opts.Now().Sub(since); !since.IsZero() && stood > standstill {
		return fmt.Errorf("a turn at the TPM has stood still for %v", stood.Round(time.Second))
	}
	return nil
}

// doing is the line that `systemctl status` shows of an agent that runs.
func (d *Daemon) doing() string {
	now := d.inForce.Load()
	text := fmt.Sprintf("serving: %s, %s", count(len(now.plan.Identities), "identity", "identities"), count(len(now.plan.policy.Rules), "rule", "rules"))
	if len(d.missing) > 0 {
		text += "; off, since systemd passes no socket: " + strings.Join(d.missing, ", ")
	}
	if d.reloads.lastRefused() {
		text += "; the last reload was refused, and the log says why"
	}
	return text
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// tellManager is for what the agent can do without.
func (d *Daemon) tellManager(ctx context.Context, err error) {
	if err != nil {
		d.opts.Logger.WarnContext(ctx, "the service manager was not told", "error", err)
	}
}
