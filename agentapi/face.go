package agentapi

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"

	"github.com/keyagent/keyagent/agentapi/peer"
)

// A face is one way into the agent. Everything in which ways differ is a value here or in the table
// of routes, so that the code that answers requests never asks which face it serves.
type face struct {
	listener net.Listener
	// identify says who has made a connection. It is called once, when the connection is accepted,
	// and must not block: others are accepted after it.
	identify func(net.Conn) (peer.Caller, error)
	routes   []route
	errors   errorFormat // of refusals that are no route's: of a path that is not there, for one

	name  string // in the audit; "" for the Unix socket
	host  string // that requests must be sent to; "": any will do
	about string // a hint for who asks for a path that is not there

	indirect bool // connections to its address do not get there, unless the firewall sends them
}

// Way is one way into the agent, for [Server.Serve].
type Way struct {
	face *face
	err  error // why it cannot be served
}

// Err says why the way cannot be served, or nil. [Server.Serve] would say the same.
func (w Way) Err() error { return w.err }

// Socket is the native API, and that of IMDS, on a Unix socket.
func Socket(ln net.Listener) Way {
	f := &face{listener: ln, identify: peer.Of, routes: socketRoutes, errors: problemJSON}
	if network := ln.Addr().Network(); network != "unix" {
		return Way{f, fmt.Errorf("serving %s: callers cannot be identified on a %s socket", ln.Addr(), network)}
	}
	return Way{face: f}
}

// socket is the path of the Unix socket at which callers find the face; "" if there is none.
func (f *face) socket() string {
	if f.listener == nil || f.listener.Addr().Network() != "unix" {
		return ""
	}
	return f.listener.Addr().String()
}

// httpServer returns a server for the connections that an [admission] to the face accepts.
func (s *Server) httpServer(requests context.Context, f *face) *http.Server {
	return &http.Server{
		Handler:           s.handler(f),
		ReadHeaderTimeout: readHeaderTimeout,
		WriteTimeout:      s.cfg.RequestTimeout + writeSlack,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		// "OPTIONS *" would be answered past the table of routes.
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     slog.NewLogLogger(s.cfg.Logger.Handler(), slog.LevelWarn),
		BaseContext:                  func(net.Listener) context.Context { return requests },
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			if admitted, ok := conn.(*admittedConn); ok {
				return withConnection(ctx, &connection{caller: admitted.caller, program: &admitted.program, asked: admitted.asked})
			}
			return ctx // and no caller, so that nothing will be granted
		},
	}
}

// connection is what the agent knows of one connection. net/http answers the requests of a
// connection one after another, so that nothing here needs a lock.
type connection struct {
	caller  peer.Caller
	program *shownSecret
	asked   func()    // says that a request has come
	last    *approval // of the last request for a token that the rules allowed; nil: there was none
}

// check updates the facts about the caller, for each request. It reports whether the connection is
// still the caller's. Facts about a process that has ended are forgotten.
func (c *connection) check() bool {
	now, err := c.caller.Now()
	if err != nil {
		c.last = nil
		return false
	}
	if now.CgroupID != c.caller.CgroupID {
		c.last = nil // its record has the cgroup
	}
	c.caller = now
	return true
}

type connectionKey struct{}

func withConnection(ctx context.Context, c *connection) context.Context {
	return context.WithValue(ctx, connectionKey{}, c)
}

// connectionOf returns the connection of a request; nil if it is not known, so that nothing may be
// granted.
func connectionOf(ctx context.Context) *connection {
	c, _ := ctx.Value(connectionKey{}).(*connection)
	return c
}
