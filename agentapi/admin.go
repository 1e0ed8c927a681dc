package agentapi

import (
	"fmt"
	"math"
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

// portRoutes is what everybody on the machine may ask for.
var portRoutes = []route{
	{http.MethodGet, wire.PathMetrics, asItIs, problemJSON, forCallersOfTheFace, nothingMore, (*Server).metrics},
	{http.MethodGet, wire.PathHealth, asItIs, problemJSON, forCallersOfTheFace, nothingMore, (*Server).health},
	{http.MethodGet, wire.PathReady, asItIs, problemJSON, forCallersOfTheFace, nothingMore, (*Server).readiness},
}

// Admin is status, metrics and health for administrators, on a Unix socket of its own. It gives no
// tokens.
func Admin(ln net.Listener) Way {
	f := &face{listener: ln, identify: peer.Of, routes: adminRoutes, errors: problemJSON, name: "admin"}
	if network := ln.Addr().Network(); network != "unix" {
		return Way{f, fmt.Errorf("serving administrators at %s: callers cannot be identified on a %s socket", ln.Addr(), network)}
	}
	return Way{face: f}
}

// MetricsPort is metrics and health for everybody on the machine, on loopback. It tells no name of
// the configuration, and not why the agent is not ready.
func MetricsPort(ln net.Listener) Way {
	return loopback(&face{
		listener: ln, identify: unknown, routes: portRoutes, errors: problemJSON, name: "metrics",
		about: "metrics and health are served here, at " + wire.PathMetrics + ", " + wire.PathHealth + " and " + wire.PathReady + ",",
	})
}

// noID is no user's and no group's id: setuid(2) takes it for none.
const noID = math.MaxUint32

// unknown identifies callers where it does not matter who they are. They are strangers to every
// rule, and have the bounds of strangers.
func unknown(net.Conn) (peer.Caller, error) {
	return peer.Caller{UID: noID, GID: noID}, nil
}
