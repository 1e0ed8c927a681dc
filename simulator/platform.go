package simulator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/google/go-tpm/tpm2"
	"golang.org/x/sys/unix"

	"github.com/keyagent/keyagent/simulator/bootlog"
	"github.com/keyagent/keyagent/simulator/entra"
	"github.com/keyagent/keyagent/simulator/fault"
	"github.com/keyagent/keyagent/simulator/imds"
	"github.com/keyagent/keyagent/simulator/internal/endpoint"
	"github.com/keyagent/keyagent/simulator/journal"
	"github.com/keyagent/keyagent/simulator/maa"
	"github.com/keyagent/keyagent/simulator/pki"
	"github.com/keyagent/keyagent/simulator/resource"
	"github.com/keyagent/keyagent/simulator/vtpm"
)

// Config says where the platform puts its files and what time it is.
type Config struct {
	Dir    string           // for sockets and files; made if it does not exist
	Now    func() time.Time // base of the platform's clock; nil means time.Now
	Logger *slog.Logger     // nil means no log

	// How long binding certificates and tokens live; 0 means what the real services give.
	BindingLife      time.Duration
	BindingTokenLife time.Duration
	AccessTokenLife  time.Duration

	TEE string // SNP or TDX; empty means SNP

	// Keys gives the RSA keys of the platform's authorities and services; nil generates them.
	Keys pki.Keys

	Resources []string // URIs, without trailing slash, that the tenant knows besides the usual ones

	// Endpoints gives the agent of the configuration its endpoints on loopback, at ports that are
	// free now.
	Endpoints bool
}

// Platform is a running VM with its Azure. It is safe for concurrent use. Close it.
type Platform struct {
	clock   *Clock
	journal *journal.Journal
	faults  *fault.Set
	logger  *slog.Logger
	info    Info

	tpm      *vtpm.TPM
	boot     *bootlog.Log
	entra    *entra.Server
	imds     *imds.Server
	resource *resource.Server
	apps     *pki.ApplicationAuthority

	closers []func() error // in the order of starting
	serving sync.WaitGroup
	once    sync.Once
}

// Start builds a platform, starts its services on free ports of 127.0.0.1 and its TPM on
// Dir/tpm.sock, and writes its files into Dir, azuresim.json last. ctx ends the start, not the
// platform.
func Start(ctx context.Context, cfg Config) (*Platform, error) {
	p := newPlatform(cfg)
	if err := p.start(ctx, cfg); err != nil {
		return nil, errors.Join(fmt.Errorf("starting the simulated platform in %s: %w", cfg.Dir, err), p.Close())
	}
	return p, nil
}

func newPlatform(cfg Config) *Platform {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	clock := NewClock(cfg.Now)
	return &Platform{
		clock:   clock,
		journal: journal.New(journal.DefaultCapacity, clock.Now),
		faults:  fault.NewSet(Operations()...),
		logger:  cfg.Logger,
	}
}

// Operations names every operation on which faults can act.
func Operations() []string {
	return []string{
		imds.OpMetadata, imds.OpCredential, imds.OpToken, imds.OpCompute, imds.OpTHIM, imds.OpTDQuote, imds.OpUnknown,
		maa.OpAttest, maa.OpMetadata, maa.OpUnknown,
		entra.OpToken, entra.OpLogin, entra.OpKeys, entra.OpDiscovery, entra.OpUnknown,
		resource.Operation,
	}
}

func (p *Platform) start(ctx context.Context, cfg Config) error {
	if cfg.TEE != "" && cfg.TEE != SNP && cfg.TEE != TDX {
		return fmt.Errorf("a TEE %q is not simulated; there are %s and %s", cfg.TEE, SNP, TDX)
	}
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := p.lock(filepath.Join(dir, lockFile)); err != nil {
		return err
	}
	// A file of an earlier run would say that this one is ready, and lead to its ports.
	if err := removeIfThere(filepath.Join(dir, readyFile)); err != nil {
		return err
	}
	if err := p.putStateAside(dir); err != nil {
		return err
	}
	authorities, err := newAuthorities(p.clock.Now(), cfg.Keys, cfg.TEE)
	if err != nil {
		return err
	}
	p.info, p.apps = newInfo(dir), authorities.apps
	authorities.describe(&p.info, dir)
	if err := p.startTPM(ctx, authorities); err != nil {
		return err
	}
	if err := p.startServices(ctx, cfg, authorities); err != nil {
		return err
	}
	p.closers = append(p.closers, func() error { return removeIfThere(filepath.Join(dir, readyFile)) })
	return p.writeFiles(dir, authorities, cfg.Endpoints)
}

// lockFile keeps a second platform out of the directory: it would take the first one's socket away.
const lockFile = "azuresim.lock"

func (p *Platform) lock(path string) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	p.closers = append(p.closers, file.Close)
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("another platform runs in this directory: locking %s: %w", lockFile, err)
	}
	return nil
}

func removeIfThere(path string) error {
	if err := os.Remove(path); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// resets counts the starts of the TPM, as it does itself (TPM 2.0 Part 2, 10.11.3, resetCount).
func (p *Platform) resets() (uint32, error) {
	rsp, err := tpm2.ReadClock{}.Execute(p.tpm)
	if err != nil {
		return 0, fmt.Errorf("reading the TPM's clock: %w", err)
	}
	return rsp.CurrentTime.ClockInfo.ResetCount, nil
}

// Info tells how to reach the platform.
func (p *Platform) Info() Info { return p.info }

// Journal is the record of every request.
func (p *Platform) Journal() *journal.Journal { return p.journal }

// Faults is the list of misbehaviours in force.
func (p *Platform) Faults() *fault.Set { return p.faults }

// Clock is the platform's time.
func (p *Platform) Clock() *Clock { return p.clock }

// ResetTPM reboots the VM as its TPM sees it: seeds and NV stay, loaded objects and sessions are
// gone.
func (p *Platform) ResetTPM(ctx context.Context) error { return p.tpm.Reset(ctx) }

// Close stops everything and waits for it. The files stay, but for azuresim.json. Further calls do
// nothing.
func (p *Platform) Close() error {
	var problems []error
	p.once.Do(func() {
		for len(p.closers) > 0 {
			last := len(p.closers) - 1
			problems = append(problems, p.closers[last]())
			p.closers = p.closers[:last]
		}
		p.serving.Wait()
	})
	return errors.Join(problems...)
}

func (p *Platform) recorder() endpoint.Recorder {
	return endpoint.Recorder{Journal: p.journal, Faults: p.faults}
}
