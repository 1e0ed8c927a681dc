package daemon

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/keyagent/keyagent/agentapi"
	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/waiting"
	"github.com/keyagent/keyagent/systemd"
)

// ConfigError is why an agent does not start: its configuration cannot be used. To start it again
// does not help.
type ConfigError struct{ error }

// Unwrap returns the cause.
func (e *ConfigError) Unwrap() error { return e.error }

func asConfigError(err error) error {
	if err == nil {
		return nil
	}
	return &ConfigError{err}
}

// Standby holds the sockets that systemd has passed while there is no configuration that could be
// used, so that nothing is started again and again, and nobody waits: callers are told to come
// back. It is safe for concurrent use.
type Standby struct {
	opts    Options
	started time.Time

	mu      sync.Mutex
	origin  config.Origin
	refused uint64
	reason  error
	last    *wire.ReloadStatus
	trying  bool
	asked   bool // by somebody, for the attempt that was made last
}

// NewStandby makes one of the options of a daemon that could not be opened, and of why.
func NewStandby(opts Options, why error) *Standby {
	opts = opts.withDefaults()
	return &Standby{opts: opts, started: opts.Now(), origin: opts.Origin, reason: why}
}

// Run answers with the sockets of its own, which it closes, until the context ends.
func (s *Standby) Run(ctx context.Context, sockets *systemd.Sockets) error {
	ways, err := standbyWays(sockets)
	if err != nil {
		return errors.Join(err, sockets.Close())
	}
	s.tell(ctx)
	g, ctx := errgroup.WithContext(ctx)
	server := &agentapi.Standby{Status: s.status, Logger: s.opts.Logger}
	g.Go(func() error { return server.Serve(ctx, ways...) })
	g.Go(func() error {
		systemd.Watchdog{Manager: s.opts.Manager, Check: server.Answers, Sleep: s.opts.pause, Logger: s.opts.Logger}.Run(ctx)
		return nil
	})
	return errors.Join(g.Wait(), sockets.Close())
}

// Try notes that the configuration is read again, and whether somebody has asked for that.
func (s *Standby) Try(ctx context.Context, asked bool) {
	s.mu.Lock()
	s.trying, s.asked = true, asked
	s.mu.Unlock()
	if asked {
		s.warn(ctx, s.opts.Manager.Reloading())
	}
}

// Refuse notes that it could not be used again, for the given cause, as in "SIGHUP". Each refusal
// counts, so that whoever waits for theirs can tell it from others. The log and the service manager
// are told of one that nobody has asked for only if it has another reason than the one before.
func (s *Standby) Refuse(ctx context.Context, origin config.Origin, cause string, why error) {
	s.mu.Lock()
	told := s.asked || s.reason.Error() != why.Error()
	s.origin, s.reason, s.trying = origin, why, false
	s.refused++
	s.last = &wire.ReloadStatus{At: s.opts.Now(), Cause: cause, Error: why.Error()}
	s.mu.Unlock()
	if told {
		s.tell(ctx)
	}
}

// Follows has an agent that could be opened at last, for the given cause, count on from the
// refusals before. Call it before the agent runs.
func (d *Daemon) Follows(s *Standby, cause string) {
	s.mu.Lock()
	refused := s.refused
	s.mu.Unlock()
	d.reloads.note(wire.ReloadStatus{At: d.opts.Now(), Cause: cause})
	d.reloads.mu.Lock()
	defer d.reloads.mu.Unlock()
	d.reloads.refused = refused
}

// tell says that the agent is there and serves nothing. Why is for the log: everybody may read what
// the service manager is told.
func (s *Standby) tell(ctx context.Context) {
	s.mu.Lock()
	why, file := s.reason, s.origin.File
	s.mu.Unlock()
	s.opts.Logger.ErrorContext(ctx, "the configuration cannot be used, so nothing is served: callers are told to come back. Correct it, then reload", "file", file, "error", why)
	s.warn(ctx, s.opts.Manager.Ready("serving nothing: the configuration cannot be used, and the log says why. Correct it, then reload"))
}

func (s *Standby) warn(ctx context.Context, err error) {
	if err != nil {
		s.opts.Logger.WarnContext(ctx, "the service manager was not told", "error", err)
	}
}

func (s *Standby) status() wire.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return wire.Status{
		Version: s.opts.Version, PID: os.Getpid(), Started: s.started,
		NotReady:      []string{"the configuration cannot be used: " + s.reason.Error()},
		Configuration: wire.ConfigurationStatus{File: s.origin.File, SHA256: s.origin.SHA256, Refused: s.refused, Reloading: s.trying, LastReload: s.last},
	}
}

// standbyWays are ways in for all sockets that were passed, each in the form of errors that its
// callers understand.
func standbyWays(sockets *systemd.Sockets) ([]agentapi.Way, error) {
	forms := map[string]func(net.Listener) agentapi.Way{
		socketName: agentapi.Socket, adminName: agentapi.Admin, metricsName: agentapi.MetricsPort,
		appServiceName: agentapi.StandbyLoopback, imdsName: agentapi.StandbyLoopback, takeoverName: agentapi.StandbyTakeover,
	}
	var ways []agentapi.Way
	for _, name := range sockets.Names() {
		form, known := forms[name]
		if !known {
			continue
		}
		ln, err := sockets.Take(name)
		if err != nil {
			return nil, err
		}
		if way := form(ln); way.Err() == nil {
			ways = append(ways, way)
		} else if err := ln.Close(); err != nil {
			return nil, err
		}
	}
	return ways, nil
}

// pause is waiting.Sleep unless the options say otherwise.
func (o Options) pause(ctx context.Context, d time.Duration) error {
	if o.WaitForManager != nil {
		return o.WaitForManager(ctx, d)
	}
	return waiting.Sleep(ctx, d)
}
