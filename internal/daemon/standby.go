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
	server := agentapi.Standby{Status: s.status, Logger: s.opts.Logger}
	g.Go(func() error { return server.Serve(ctx, ways...) })
	g.Go(func() error {
		systemd.Watchdog{Manager: s.opts.Manager, Check: func(context.Context) error { return nil }, Sleep: s.opts.pause, Logger: s.opts.Logger}.Run(ctx)
		return nil
	})
	return errors.Join(g.Wait(), sockets.Close())
}

// Try notes that the configuration is read again.
func (s *Standby) Try(ctx context.Context) {
	s.mu.Lock()
	s.trying = true
	s.mu.Unlock()
	s.warn(ctx, s.opts.Manager.Reloading())
}

// Refuse notes that it could not be used again. Cause is who asked, as in "SIGHUP"; "" for an
// attempt that nobody has asked for: of that, nothing is told unless it failed for another reason.
func (s *Standby) Refuse(ctx context.Context, origin config.Origin, cause string, why error) {
	s.mu.Lock()
	same := s.reason.Error() == why.Error()
	s.origin, s.reason, s.trying = origin, why, false
	if cause != "" {
		s.refused++
		s.last = &wire.ReloadStatus{At: s.opts.Now(), Cause: cause, Error: why.Error()}
	}
	s.mu.Unlock()
	if cause != "" || !same {
		s.tell(ctx)
	}
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
