package agentapi

import (
	"fmt"
	"net"
	"net/http"

	"github.com/keyagent/keyagent/agentapi/peer"
	"github.com/keyagent/keyagent/agentapi/wire"
)

// adminRoutes is what administrators may ask for, at each Unix socket.
var adminRoutes = []route{
	{http.MethodGet, wire.PathStatus, asItIs, problemJSON, forAdministrators, nothingMore, (*Server).status},
	{http.MethodGet, wire.PathMetrics, asItIs, problemJSON, forAdministrators, nothingMore, (*Server).metrics},
	{http.MethodGet, wire.PathHealth, asItIs, problemJSON, forAdministrators, nothingMore, (*Server).health},
	{http.MethodGet, wire.PathReady, asItIs, problemJSON, forAdministrators, nothingMore, (*Server).readiness},
}

// Admin is status, metrics and health for administrators, on a Unix socket of its own. It gives no
// tokens.
func Admin(ln net.Listener) Way {
	f := &face{listener: ln, identify: peer.Of, routes: adminRoutes, errors: problemJSON}
	if network := ln.Addr().Network(); network != "unix" {
		return Way{f, fmt.Errorf("serving administrators at %s: callers cannot be identified on a %s socket", ln.Addr(), network)}
	}
	return Way{face: f}
}
