package forward

import (
	"cmp"
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"sync/atomic"
	"time"
)

const (
	// defaultIdle is longer than load balancers keep a silent connection, so that they decide.
	defaultIdle = 5 * time.Minute
	// endSlack is what the end of an answer may take that is written already.
	endSlack = 15 * time.Second
)

// Call says where a request goes and how.
type Call struct {
	// To is absolute. Its path and query are sent as they are; the caller's are not looked at.
	To   *url.URL
	Over http.RoundTripper // must not follow redirects
	// Set are headers of the request, in the place of the caller's of the same name; without
	// values: the caller's is removed.
	Set http.Header
	// Remove are headers of the answer that are not passed on.
	Remove []string
}

// Forwarder passes requests on. It is safe for concurrent use; its zero value is ready.
type Forwarder struct {
	// Idle is how long nothing may move before a call is ended; 0: five minutes.
	Idle time.Duration

	buffers buffers
}

// Result is what became of a call. It is complete also when there is an error.
type Result struct {
	// Status is that of the answer that was passed on; 0: there was none, and nothing was written
	// to the caller.
	Status         int
	Sent, Received int64 // bytes of the bodies of request and answer
}

// Do passes a request on and its answer back. It lifts the time limits of the caller's connection
// meanwhile.
//
// An error with status 0 is to be answered by whoever called Do. One with a status says that the
// answer broke off: then the connection must be closed, as by [http.ErrAbortHandler]. [ErrIdle] is
// an error of this package; that of a context that ended is [context.Cause]; others are of the
// transport, or of the caller's connection.
func (f *Forwarder) Do(w http.ResponseWriter, r *http.Request, c Call) (Result, error) {
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	caller := http.NewResponseController(w)
	_ = caller.EnableFullDuplex() // a resource may answer before it has read all; an error: HTTP/2 is so anyway
	_ = caller.SetReadDeadline(time.Time{})
	_ = caller.SetWriteDeadline(time.Time{})
	p := &passage{w: w, caller: caller, buffers: &f.buffers, watch: newWatch(cmp.Or(f.Idle, defaultIdle), caller, cancel)}
	defer p.end()

	resp, err := c.Over.RoundTrip(c.request(ctx, r, p))
	if err != nil {
		return p.result(0), because(ctx, err)
	}
	defer resp.Body.Close()
	p.watch.moved()
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return p.result(0), errors.New("the resource wants to speak another protocol (101), which it was not asked for")
	}
	if err = p.answer(resp, c.Remove); err == nil && resp.ContentLength >= 0 {
		return p.result(resp.StatusCode), nil // whole, also if the caller has gone since
	}
	return p.result(resp.StatusCode), because(ctx, err)
}

// because returns why a context ended, if it did, in the place of what came of that. That may look
// like success: a resource that notices that we go may still end an answer whose length nothing
// says.
func because(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// request returns the request to send.
func (c Call) request(ctx context.Context, r *http.Request, p *passage) *http.Request {
	out := &http.Request{
		Method: r.Method, URL: c.To, Host: c.To.Host, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: passedOn(r.Header, notOfRequests), ContentLength: r.ContentLength,
	}
	if r.ContentLength != 0 {
		out.Trailer = trailers(r.Trailer, slices.AppendSeq(slices.Clone(notOfRequests), maps.Keys(c.Set)))
		out.Body = &body{ReadCloser: r.Body, p: p, ended: func() { fill(out.Trailer, r.Trailer) }}
		if lists(r.Header, "Expect", "100-continue") {
			out.Header["Expect"] = []string{"100-continue"}
		}
	}
	if lists(r.Header, "Te", "trailers") {
		out.Header["Te"] = []string{"trailers"}
	}
	if _, there := out.Header["User-Agent"]; !there {
		out.Header["User-Agent"] = nil // else net/http names itself
	}
	for name, values := range c.Set {
		out.Header[name] = values
		if len(values) == 0 {
			delete(out.Header, name)
		}
	}
	return out.WithContext(ctx)
}

// fill sets the values of trailers that were announced.
func fill(announced, from http.Header) {
	for name := range announced {
		announced[name] = from[name]
	}
}

// passage is one request and its answer on their way.
type passage struct {
	w       http.ResponseWriter
	caller  *http.ResponseController
	buffers *buffers
	watch   *watch

	sent, received atomic.Int64 // the request may still be read when the answer is there
}

func (p *passage) result(status int) Result {
	return Result{Status: status, Sent: p.sent.Load(), Received: p.received.Load()}
}

// end bounds what net/http does after the call.
func (p *passage) end() {
	p.watch.stop()
	now := time.Now()
	_ = p.caller.SetReadDeadline(now.Add(time.Second)) // it may read on to the end of the body
	_ = p.caller.SetWriteDeadline(now.Add(endSlack))
}

// answer passes an answer back.
func (p *passage) answer(resp *http.Response, without []string) error {
	header := p.w.Header()
	without = slices.Concat(notOfAnswers, without)
	for name, values := range passedOn(resp.Header, without) {
		header[name] = values
	}
	if _, there := header["Content-Type"]; !there {
		header["Content-Type"] = nil // else net/http guesses
	}
	announced := trailers(resp.Trailer, without)
	for name := range announced {
		header["Trailer"] = append(header["Trailer"], name)
		delete(header, "Content-Length") // HTTP/1.1 has trailers only where the length is not known
	}
	p.w.WriteHeader(resp.StatusCode)
	if resp.ContentLength != 0 {
		if err := p.caller.Flush(); err != nil {
			return callerError(err)
		}
	}
	if err := p.stream(resp.Body); err != nil {
		return err
	}
	// Those that were not announced come with a name that net/http understands.
	for name, values := range passedOn(resp.Trailer, without) {
		if _, ok := announced[name]; !ok {
			name = http.TrailerPrefix + name
		}
		header[name] = values
	}
	return nil
}

// body is the body of a request on its way.
type body struct {
	io.ReadCloser
	p     *passage
	ended func()
}

func (b *body) Read(to []byte) (int, error) {
	n, err := b.ReadCloser.Read(to)
	b.p.sent.Add(int64(n))
	b.p.watch.moved()
	if errors.Is(err, io.EOF) {
		b.ended()
		return n, io.EOF
	}
	if err != nil {
		err = callerError(err)
	}
	return n, err
}
