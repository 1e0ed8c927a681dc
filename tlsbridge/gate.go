package tlsbridge

import (
	"net/http"
	"net/http/httptrace"
	"sync"
)

// gate lets one request at a time through to a host until a connection is established, and then
// all. http.Transport would open a connection for each request of a burst, each with a signature,
// before it learns that the server speaks HTTP/2 and one connection is enough.
type gate struct {
	next http.RoundTripper

	mu    sync.Mutex
	doors map[string]*door // by host and port; at most maxDoors
}

// maxDoors bounds the memory where programs choose hosts.
const maxDoors = 1024

type door struct {
	turn chan struct{} // full while a request is sent alone
	open chan struct{} // closed when a connection is established
	once sync.Once
}

func newGate(next http.RoundTripper) *gate { return &gate{next: next, doors: map[string]*door{}} }

func (g *gate) RoundTrip(req *http.Request) (*http.Response, error) {
	d := g.door(req.URL.Host)
	select {
	case <-d.open:
		return g.next.RoundTrip(req)
	default:
	}
	select {
	case <-d.open:
		return g.next.RoundTrip(req)
	case d.turn <- struct{}{}:
		defer func() { <-d.turn }()
		return g.next.RoundTrip(d.watch(req))
	case <-req.Context().Done():
		if req.Body != nil {
			_ = req.Body.Close() // a RoundTripper closes it, whatever happens
		}
		return nil, req.Context().Err()
	}
}

func (g *gate) door(host string) *door {
	g.mu.Lock()
	defer g.mu.Unlock()
	d := g.doors[host]
	if d == nil {
		if len(g.doors) >= maxDoors {
			clear(g.doors) // at the price of a handshake more
		}
		d = &door{turn: make(chan struct{}, 1), open: make(chan struct{})}
		g.doors[host] = d
	}
	return d
}

// watch opens the door once the head of the request is written. The connection is established a
// moment earlier, but only then is it in the pool for other requests. A body may be a stream that
// takes its time.
func (d *door) watch(req *http.Request) *http.Request {
	return req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
		WroteHeaders: func() { d.once.Do(func() { close(d.open) }) },
	}))
}
