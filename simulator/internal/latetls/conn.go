package latetls

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"sync"
	"time"

	"golang.org/x/crypto/cryptobyte"
)

// Listener accepts connections of clients of TLS 1.2.
type Listener struct {
	net.Listener
	certificate tls.Certificate
}

// Listen wraps a listener. The certificate's key must be ECDSA with P-256.
func Listen(l net.Listener, certificate tls.Certificate) *Listener { return &Listener{l, certificate} }

// Accept implements net.Listener; it returns a [*Conn]. The handshake is made meanwhile.
func (l *Listener) Accept() (net.Conn, error) {
	raw, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	near, far := net.Pipe()
	e := &engine{raw: raw, far: far, certificate: l.certificate, ended: make(chan struct{})}
	c := &Conn{Conn: near, engine: e}
	c.running.Go(e.run)
	c.running.Go(e.write)
	return c, nil
}

// Conn is a connection as net/http sees it, with plaintext.
type Conn struct {
	net.Conn
	engine  *engine
	running sync.WaitGroup
}

// LocalAddr implements net.Conn.
func (c *Conn) LocalAddr() net.Addr { return c.engine.raw.LocalAddr() }

// RemoteAddr implements net.Conn.
func (c *Conn) RemoteAddr() net.Addr { return c.engine.raw.RemoteAddr() }

// Close ends the connection, and waits for that.
func (c *Conn) Close() error {
	err := c.Conn.Close()
	_ = c.engine.raw.SetDeadline(time.Now().Add(time.Second)) // fails only if it is closed already
	c.running.Wait()
	return err
}

// RequestCertificate renegotiates, and returns the certificates that the client then presents; none
// if it presents none. A client is asked once: later calls return the same. The request that is
// answered must have been read to its end.
func (c *Conn) RequestCertificate(ctx context.Context) ([]*x509.Certificate, error) {
	e := c.engine
	e.mu.Lock()
	if e.asked == nil {
		e.asked = make(chan struct{})
		e.mu.Unlock()
		if err := e.writeRecord(typeHandshake, message(helloRequest, func(*cryptobyte.Builder) {})); err != nil {
			return nil, err
		}
	} else {
		e.mu.Unlock()
	}
	select {
	case <-e.asked:
		e.mu.Lock()
		defer e.mu.Unlock()
		return e.certificates, nil
	case <-e.ended:
		return nil, errors.New("the client does not renegotiate")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// engine is the TLS side of a connection.
type engine struct {
	raw         net.Conn
	far         net.Conn // the other end of the Conn's pipe
	certificate tls.Certificate
	ended       chan struct{} // no record is read any more

	// Of the goroutine that reads:
	in       half
	pending  []byte // of handshake messages
	verified []byte // what both sides have finished the last handshake with; nil before the first

	writing sync.Mutex // guards out, and keeps records apart
	out     half

	mu           sync.Mutex
	asked        chan struct{}       // closed once the client has answered a request for its certificate; nil: there is none
	certificates []*x509.Certificate // that it has presented
}

// run reads until the connection ends.
func (e *engine) run() {
	defer close(e.ended)
	defer e.far.Close()
	if e.shakeHands(false) != nil {
		_ = e.raw.Close()
		return
	}
	for {
		if len(e.pending) > 0 { // only a server that has asked is answered
			if e.renegotiate() != nil {
				break
			}
			continue
		}
		kind, body, err := e.readRecord()
		if err != nil {
			break
		}
		switch kind {
		case typeData:
			_, err = e.far.Write(body)
		case typeHandshake:
			e.pending = append(e.pending, body...)
		default:
			err = errRecord
		}
		if err != nil {
			break
		}
	}
	_ = e.raw.Close()
}

func (e *engine) shakeHands(ask bool) error {
	hello, err := e.nextMessage()
	if err != nil {
		return err
	}
	if hello[0] != clientHello {
		return errHandshake
	}
	h := &handshake{engine: e}
	if err := h.run(hello, ask); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.certificates = h.certificates
	return nil
}

// renegotiate makes the handshake that was asked for, once.
func (e *engine) renegotiate() error {
	e.mu.Lock()
	asked := e.asked
	e.mu.Unlock()
	if asked == nil {
		return errHandshake
	}
	select {
	case <-asked:
		return errHandshake
	default:
	}
	if err := e.shakeHands(true); err != nil {
		return err
	}
	close(asked)
	return nil
}

// write sends what comes through the pipe until that is closed.
func (e *engine) write() {
	buffer := make([]byte, maxPlain)
	for {
		n, err := e.far.Read(buffer)
		if n > 0 && e.writeRecord(typeData, buffer[:n]) != nil || err != nil {
			break
		}
	}
	_ = e.writeRecord(typeAlert, []byte{1, 0}) // close_notify; the client may be gone
	_ = e.raw.Close()
}
