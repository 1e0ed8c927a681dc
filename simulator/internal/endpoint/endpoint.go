package endpoint

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"net"
	"net/http"
	"time"

	"github.com/keyagent/keyagent/simulator/fault"
	"github.com/keyagent/keyagent/simulator/journal"
)

// Handler answers one request and notes in e what the journal should know beyond status and caller.
type Handler func(w http.ResponseWriter, r *http.Request, e *journal.Entry)

// Recorder wraps handlers.
type Recorder struct {
	Journal *journal.Journal
	Faults  *fault.Set
}

// Handler returns h as the operation called name. The entry is in the journal before the answer is
// on the wire: a client that has the answer finds the entry.
func (rec Recorder) Handler(name string, h Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e := journal.Entry{Operation: name, Method: r.Method, Path: r.URL.Path, Client: r.RemoteAddr}
		describeTLS(&e, r.TLS)
		a := &answer{ResponseWriter: w}
		f, faulted := rec.Faults.Take(name)
		if faulted && !wait(r.Context(), f) {
			e.Outcome, e.Error = journal.Faulted, string(f.Kind)
			a.fault(f)
		} else {
			h(a, r, &e)
			e.Outcome = outcome(a.status)
		}
		e.Status = a.status
		rec.Journal.Add(e)
		if faulted && f.Kind == fault.Reset {
			reset(r.Context())
			return
		}
		a.send()
	})
}

func outcome(status int) journal.Outcome {
	if status >= http.StatusBadRequest {
		return journal.Refused
	}
	return journal.OK
}

func describeTLS(e *journal.Entry, state *tls.ConnectionState) {
	if state == nil {
		return
	}
	e.TLSVersion = tls.VersionName(state.Version)
	if len(state.PeerCertificates) > 0 {
		e.ClientCertThumbprint = Thumbprint(state.PeerCertificates[0].Raw)
	}
}

// Thumbprint is the x5t#S256 of a certificate's DER (RFC 8705, 3.1).
func Thumbprint(der []byte) string {
	sum := sha256.Sum256(der)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// wait does what a delay does, and reports whether the service may then answer. A client that has
// gone is not answered.
func wait(ctx context.Context, f fault.Fault) bool {
	if f.Kind != fault.Delay {
		return false
	}
	timer := time.NewTimer(time.Duration(f.Delay))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// connKey is the context key of a request's connection.
type connKey struct{}

// ConnContext lets faults reach the connection; it belongs into http.Server.ConnContext.
func ConnContext(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

// Conn returns the connection of a request with such a context, or nil.
func Conn(ctx context.Context) net.Conn {
	c, _ := ctx.Value(connKey{}).(net.Conn)
	return c
}

// reset cuts the connection: with a zero linger time, close sends RST.
func reset(ctx context.Context) {
	c, ok := ctx.Value(connKey{}).(net.Conn)
	if !ok {
		return
	}
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetLinger(0) // fails only on a connection that is already gone
	}
	_ = c.Close()
}

// answer holds a reply back until send. Every reply of the simulated services is small.
type answer struct {
	http.ResponseWriter // Header only, until send
	status              int
	body                bytes.Buffer
}

// WriteHeader implements http.ResponseWriter.
func (a *answer) WriteHeader(status int) {
	if a.status == 0 {
		a.status = status
	}
}

// Write implements http.ResponseWriter.
func (a *answer) Write(b []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	return a.body.Write(b)
}

// fault fills in what a fault answers instead of the service. A reset answers nothing, a delay
// whose client has gone neither.
func (a *answer) fault(f fault.Fault) {
	switch f.Kind {
	case fault.Delay, fault.Reset:
		return
	case fault.Status:
		a.WriteHeader(f.Status)
	case fault.Body:
		a.WriteHeader(http.StatusOK)
	}
	for name, value := range f.Headers {
		a.Header().Set(name, value)
	}
	a.body.WriteString(f.Body)
}

func (a *answer) send() {
	if a.status != 0 {
		a.ResponseWriter.WriteHeader(a.status)
	}
	_, _ = a.ResponseWriter.Write(a.body.Bytes()) // fails if the client has hung up
}

// WriteJSON answers status with v as JSON.
func WriteJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // fails if the client has hung up
}
