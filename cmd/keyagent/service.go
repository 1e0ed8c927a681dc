package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"time"

	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/auditsink"
	"github.com/keyagent/keyagent/internal/daemon"
	"github.com/keyagent/keyagent/systemd"
)

// retryEvery is how often a configuration that cannot be used is looked at again without being
// asked.
const retryEvery = 30 * time.Second

// What log and status have for the cause of a reload.
const (
	causeHangup = "SIGHUP"
	causeRetry  = "retry" // nobody has asked for it
)

// service is the agent from the start of its process to its end.
type service struct {
	*app
	sockets *systemd.Sockets // that were passed; nil: none
	hangups <-chan os.Signal
	options daemon.Options // but for audit, origin and sockets

	confined bool // it writes in its own directories only
}

// started is an agent that is open, with the place of its audit records.
type started struct {
	agent *daemon.Daemon
	audit *auditsink.Sink
}

// run serves until the context ends.
func (s *service) run(ctx context.Context) error {
	begun, origin, err := s.open(ctx)
	if cannotBeUsed(err) && len(s.sockets.Names()) > 0 {
		begun, err = s.standBy(ctx, origin, err)
	}
	if err = errors.Join(err, s.sockets.Close()); err != nil || begun == nil {
		return err
	}
	defer begun.audit.Close()
	defer begun.agent.Close()
	defer s.reloadAt(ctx, begun.agent, begun.audit, s.hangups)()
	return begun.agent.Run(ctx)
}

// auditError is why the place of audit records cannot be used. It is the configuration that names
// it.
type auditError struct{ error }

func (e auditError) Unwrap() error { return e.error }

// cannotBeUsed reports whether it is the configuration that keeps the agent from starting.
func cannotBeUsed(err error) bool {
	_, found := errors.AsType[*daemon.ConfigError](err)
	_, audit := errors.AsType[auditError](err)
	return found || audit || isConfigError(err)
}

// open reads the configuration and opens an agent, which is to be run, and has sockets of its own.
func (s *service) open(ctx context.Context) (*started, config.Origin, error) {
	cfg, origin, err := s.configToServe(ctx)
	if err != nil {
		return nil, origin, err
	}
	audit, err := auditsink.Open(auditsink.Config{To: cfg.Audit.To, File: cfg.Audit.Path(), Stdout: s.out})
	if err != nil {
		return nil, origin, auditError{err}
	}
	options := s.options
	options.Origin, options.Audit = origin, slog.New(audit.Handler())
	if options.Sockets, err = s.sockets.Duplicate(); err != nil {
		return nil, origin, errors.Join(err, audit.Close())
	}
	agent, err := daemon.Open(ctx, cfg, options)
	if err != nil {
		return nil, origin, errors.Join(err, audit.Close())
	}
	if err := s.confine(cfg, options.Activated || cfg.Activated); err != nil {
		return nil, origin, errors.Join(err, agent.Close(), audit.Close())
	}
	return &started{agent, audit}, origin, nil
}

// standBy has the sockets answered while the configuration cannot be used. It returns an agent that
// is open as soon as it can, or nil if the context ends before.
func (s *service) standBy(ctx context.Context, origin config.Origin, why error) (*started, error) {
	options := s.options
	options.Origin = origin
	sockets, err := s.sockets.Duplicate()
	if err != nil {
		return nil, err
	}
	standby := daemon.NewStandby(options, why)
	answering, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- standby.Run(answering, sockets) }()
	begun, err := s.retry(ctx, standby, ended)
	stop()
	return begun, errors.Join(err, <-ended)
}

// retry opens the agent again and again until it can be opened, or fails for another reason than
// its configuration. Callers are answered by standby meanwhile, until that has ended.
func (s *service) retry(ctx context.Context, standby *daemon.Standby, ended chan error) (*started, error) {
	again := time.NewTicker(retryEvery)
	defer again.Stop()
	for {
		cause := causeRetry
		select {
		case <-ctx.Done():
			return nil, nil
		case err := <-ended:
			ended <- nil
			return nil, err
		case <-s.hangups:
			cause = causeHangup
		case <-again.C:
		}
		standby.Try(ctx, cause == causeHangup)
		begun, origin, err := s.open(ctx)
		switch {
		case err == nil:
			begun.agent.Follows(standby, cause)
			return begun, nil
		case ctx.Err() != nil:
			return nil, nil
		case !cannotBeUsed(err):
			return nil, err
		}
		standby.Refuse(ctx, origin, cause, err)
	}
}
