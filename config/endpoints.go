package config

import (
	"net/netip"
)

// Endpoints are ways into the agent besides its Unix socket. Each is off unless it is configured.
type Endpoints struct {
	// Admin is for whoever administers the agent, and for what watches it. Default: none.
	Admin *AdminEndpoint `yaml:"admin,omitempty"`
}

// checkEndpoints makes the checks of all endpoints.
func (c *Config) checkEndpoints(f *findings) {
	if a := c.Endpoints.Admin; a != nil {
		a.check(f, "endpoints.admin", c.Socket)
	}
}

// wantLoopback reports what is not a literal loopback address with a port. A name could be
// resolved to another machine's address, or to several.
func (f *findings) wantLoopback(setting, address string) {
	listen, err := netip.ParseAddrPort(address)
	if err != nil || !listen.Addr().IsLoopback() || listen.Port() == 0 {
		f.add("%s: %q is not a loopback address with a port, as in 127.0.0.1:9464", setting, address)
	}
}
