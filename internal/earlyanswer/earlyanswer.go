// Package earlyanswer is about servers that answer a request before they have read all of it, and
// then read no more: "too large" is the usual answer.
//
// Writing the rest of the request fails then, and net/http's client reports whichever it notices
// first, that failure or the answer. [Conn] makes it the answer whenever there is one.
//
// Source: RFC 9112, 9.5 and 9.6 (a client that sends a body should watch for an answer).
package earlyanswer

import (
	"errors"
	"net"
	"sync"
	"syscall"
	"time"
)

// patience is how long a failed write waits. What the other side had sent is here by then, and has
// only to be read; a handshake that fails takes so much longer.
const patience = 2 * time.Second

// Conn returns a connection whose writes, once the other side takes no more, wait two seconds
// before they fail, or until the connection is closed. Whoever reads from it meanwhile sees what
// the other side had sent, then its end.
func Conn(c net.Conn) net.Conn { return &conn{Conn: c, closed: make(chan struct{})} }

type conn struct {
	net.Conn
	once   sync.Once
	closed chan struct{}
}

// Write implements [net.Conn].
func (c *conn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	if errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) {
		late := time.NewTimer(patience)
		defer late.Stop()
		select {
		case <-c.closed:
		case <-late.C:
		}
	}
	return n, err
}

// Close implements [net.Conn].
func (c *conn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}
