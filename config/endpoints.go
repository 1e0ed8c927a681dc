package config

import (
	"fmt"
	"net/netip"
)

// Endpoints are ways into the agent besides the Unix socket. A program on this machine that
// speaks a protocol of Azure's SDKs gets tokens there, as it is. Each is off unless it is
// configured. A socket that systemd passes to the agent under the name that the setting gives is
// taken in the place of one that the agent would open.
type Endpoints struct {
	// AppService is the protocol of Azure's App Service, for programs that are started with a
	// secret of their own. Name of a passed socket: app-service.
	AppService *LoopbackEndpoint `yaml:"app_service,omitempty"`
	// IMDS is the protocol of Azure's Instance Metadata Service, without a secret: who is
	// calling is known by the owner of the socket alone. Prefer app_service where the
	// program can use it. Name of a passed socket: imds.
	IMDS *LoopbackEndpoint `yaml:"imds,omitempty"`
	// Admin is for whoever administers the agent, and for what watches it. Default: none.
	// Names of passed sockets: admin, metrics.
	Admin *AdminEndpoint `yaml:"admin,omitempty"`
	// Takeover gives the programs of chosen users the agent in the place of IMDS at
	// 169.254.169.254, whatever they do (docs/takeover.md). Default: nobody's. Name of a
	// passed socket: takeover.
	Takeover *Takeover `yaml:"takeover,omitempty"`
}

// LoopbackEndpoint is a way in over loopback.
type LoopbackEndpoint struct {
	// Listen is a literal loopback address with a port, as in 127.0.0.1:840. Take a port
	// below 1024, and a socket that systemd holds: any other port, any user of the
	// machine can take while the agent does not listen, and be handed the programs'
	// secrets. Required.
	Listen string `yaml:"listen,omitempty"`
}

// checkEndpoints looks at each endpoint, and at all together.
func (c *Config) checkEndpoints(f *findings) {
	taken := map[string]string{}
	alone := func(setting, address string) {
		if other, ok := taken[address]; ok {
			f.add("%s.listen: %s has this address, too", setting, other)
		}
		taken[address] = setting
	}
	check := func(setting string, e *LoopbackEndpoint) {
		if e != nil && f.wantLoopback(setting+".listen", e.Listen) {
			alone(setting, e.Listen)
		}
	}
	check("endpoints.app_service", c.Endpoints.AppService)
	check("endpoints.imds", c.Endpoints.IMDS)
	if a := c.Endpoints.Admin; a != nil {
		a.check(f, "endpoints.admin", c.Socket)
	}
	if t := c.Endpoints.Takeover; t != nil {
		t.check(f, "endpoints.takeover")
		alone("endpoints.takeover", t.Listen)
	}
}

// wantLoopback reports an address that is not a literal loopback address with a port.
func (f *findings) wantLoopback(setting, address string) bool {
	addr, err := netip.ParseAddrPort(address)
	switch {
	case address == "":
		f.add("%s: missing", setting)
	case err != nil || addr.Port() == 0 || addr.Addr().Zone() != "":
		f.add("%s: %q is not an address and a port, as in 127.0.0.1:840 (a name such as localhost can mean several addresses)", setting, address)
	case !addr.Addr().IsLoopback() || addr.Addr().Is4In6():
		f.add("%s: %s is not a loopback address: callers can be known only on this machine", setting, fmt.Sprint(addr.Addr()))
	case addr.String() != address:
		f.add("%s: %q is written %s", setting, address, addr)
	default:
		return true
	}
	return false
}
