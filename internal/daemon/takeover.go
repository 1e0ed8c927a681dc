package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"

	"github.com/keyagent/keyagent/acquire/imds"
	"github.com/keyagent/keyagent/agentapi"
	"github.com/keyagent/keyagent/agentapi/peer"
	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/accounts"
	"github.com/keyagent/keyagent/internal/rulebook"
	"github.com/keyagent/keyagent/internal/takeover"
)

// subuidFile has the subordinate uids of users (subuid(5)).
const subuidFile = "/etc/subuid"

// TakeoverPlan is what the firewall must do for a configuration that takes 169.254.169.254 over.
// Finder nil means the users of this machine. Those in exempt must not be among the users.
func TakeoverPlan(ctx context.Context, t *config.Takeover, finder rulebook.Accounts, exempt ...uint32) (takeover.Plan, error) {
	if finder == nil {
		finder = accounts.Finder{}
	}
	var subuid io.Reader
	switch file, err := os.Open(subuidFile); {
	case err == nil:
		defer file.Close()
		subuid = file
	case !errors.Is(err, fs.ErrNotExist):
		return takeover.Plan{}, err
	}
	return takeover.Resolve(ctx, t, finder, subuid, exempt...)
}

// taken is what the takeover of 169.254.169.254 needs. Its zero value is that of no takeover.
type taken struct {
	plan    takeover.Plan // whose traffic comes here
	callers *peer.TCP     // finds out whose a redirected connection is
}

// openTakeover looks the users up whose traffic is taken over, and makes sure that the kernel says
// whose a connection is.
func (d *Daemon) openTakeover(ctx context.Context) error {
	t := d.cfg.Endpoints.Takeover
	if t == nil {
		return nil
	}
	plan, err := TakeoverPlan(ctx, t, d.opts.Accounts, uint32(os.Geteuid())) //nolint:gosec // a uid
	if err != nil {
		return asConfigError(err)
	}
	callers, err := peer.OpenTCP()
	if err != nil {
		return fmt.Errorf("endpoints.takeover: %w", err)
	}
	d.closers = append(d.closers, callers.Close)
	d.taken = taken{plan, callers}
	return nil
}

// takeover is the way for programs whose requests to 169.254.169.254 are redirected here; none if
// that is not configured.
func (d *Daemon) takeover(ctx context.Context) ([]agentapi.Way, error) {
	t := d.cfg.Endpoints.Takeover
	if t == nil {
		return nil, nil
	}
	ln, err := d.listen(ctx, takeoverName, t.Listen)
	if err != nil {
		return nil, fmt.Errorf("endpoints.takeover.listen: %w", err)
	}
	if ln == nil {
		return nil, nil
	}
	// The firewall redirects to the configured address, and keeps direct connections from it alone.
	if at := ln.Addr().String(); at != t.Listen {
		_ = ln.Close()
		return nil, fmt.Errorf("endpoints.takeover.listen is %s, and the socket %q that systemd passes is at %s: make them the same", t.Listen, takeoverName, at)
	}
	return []agentapi.Way{agentapi.Takeover(ln, agentapi.TakeoverConfig{
		Identify: d.taken.callers.OfRedirected,
		Takes:    d.taken.plan.Takes,
		Pass:     t.Passes(),
		Metadata: metadata{d.engine.IMDS},
	})}, nil
}

// metadata is the agent's own IMDS client, which its takeover of that address leaves alone.
type metadata struct{ client *imds.Client }

// Read implements [agentapi.Metadata].
func (m metadata) Read(ctx context.Context, path string, query url.Values) (agentapi.MetadataAnswer, error) {
	got, err := m.client.Read(ctx, path, query)
	return agentapi.MetadataAnswer{Status: got.Status, Kind: got.Kind, Body: got.Body}, err
}
