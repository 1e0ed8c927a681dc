package acquire

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/keyagent/keyagent/acquire/entra"
)

const (
	// regionLife is how long a detected region is kept.
	regionLife = 24 * time.Hour
	// regionRetry is the pause after a detection that failed.
	regionRetry = 10 * time.Minute
	// globalFor is how long the global endpoint is used after a regional one could not be connected
	// to.
	globalFor = 5 * time.Minute
)

// RegionSource says which Azure region the VM is in.
type RegionSource interface {
	Region(ctx context.Context) (string, error)
}

// regions remembers the VM's region. It is safe for concurrent use.
type regions struct {
	cfg *Config

	mu    sync.Mutex
	name  string
	until time.Time
}

// detected returns the region, or "" if it cannot be detected: the global endpoint is used then.
func (r *regions) detected(ctx context.Context) string {
	r.mu.Lock()
	name, until := r.name, r.until
	r.mu.Unlock()
	now := r.cfg.Now()
	if now.Before(until) {
		return name
	}
	name, err := r.cfg.Regions.Region(ctx)
	life := regionLife
	if err != nil {
		r.cfg.Logger.WarnContext(ctx, "the VM's region is not known; the global token endpoint is used", "cause", err)
		name, life = "", regionRetry
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.name, r.until = name, now.Add(life)
	return name
}

// endpoints are the token endpoints of an application's tenant. It is safe for concurrent use.
type endpoints struct {
	cfg       *Config
	authority entra.Authority
	region    string // "", a name, or RegionAuto
	regions   *regions

	mu          sync.Mutex
	globalUntil time.Time
}

// ask calls request with the regional token endpoint, and with the global one if there was no
// connection to the regional one. Only a request that was not sent is made a second time.
func (e *endpoints) ask(ctx context.Context, of func(region string) string, request func(endpoint string) error) error {
	region := e.now(ctx)
	err := request(of(region))
	if region == "" || !notConnected(err) || ctx.Err() != nil {
		return err
	}
	e.cfg.Logger.WarnContext(ctx, "the regional token endpoint cannot be reached; the global one is used for a while", "region", region, "cause", err)
	e.mu.Lock()
	e.globalUntil = e.cfg.Now().Add(globalFor)
	e.mu.Unlock()
	return request(of(""))
}

// now returns the region whose endpoint is used now; "" for the global one.
func (e *endpoints) now(ctx context.Context) string {
	e.mu.Lock()
	avoid := e.cfg.Now().Before(e.globalUntil)
	e.mu.Unlock()
	switch {
	case avoid:
		return ""
	case e.region == RegionAuto:
		return e.regions.detected(ctx)
	}
	return e.region
}

// notConnected reports whether err came before there was a connection.
func notConnected(err error) bool {
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		return true
	}
	_, ok := errors.AsType[*net.DNSError](err)
	return ok
}
