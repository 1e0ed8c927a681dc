package forward_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/keyagent/keyagent/internal/forward"
)

// When the caller goes away, so does the request to the resource, whatever was under way.
func TestACallerThatGoesAway(t *testing.T) {
	requests := map[string]string{
		"before the answer":    "GET /silent HTTP/1.1\r\nHost: x\r\n\r\n",
		"while it is answered": "GET /stream HTTP/1.1\r\nHost: x\r\n\r\n",
		"while it sends":       "PUT /body HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf",
		"between chunks":       "PUT /body HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
	}
	eachProtocol(t, func(t *testing.T, protocol string) {
		for name, request := range requests {
			t.Run(name, func(t *testing.T) {
				begun, gone := make(chan bool, 1), make(chan error, 1)
				p := start(t, protocol, func(w http.ResponseWriter, r *http.Request) {
					if r.URL.Path == "/body" {
						_, _ = io.ReadFull(r.Body, make([]byte, 4))
						begun <- true
						_, err := r.Body.Read(make([]byte, 4))
						gone <- err
						return
					}
					if r.URL.Path == "/stream" {
						_, _ = io.WriteString(w, "half")
						_ = http.NewResponseController(w).Flush()
					}
					begun <- true
					<-r.Context().Done()
					gone <- r.Context().Err()
				})
				conn := p.dial()
				_, _ = io.WriteString(conn, request)
				<-begun
				_ = conn.Close()
				if err := <-gone; err == nil || errors.Is(err, io.EOF) {
					t.Errorf("the resource sees %v", err)
				}
				if got := p.end(); !errors.Is(got.err, forward.ErrCaller) && !errors.Is(got.err, context.Canceled) {
					t.Errorf("%+v", got)
				}
			})
		}
	})
}

// Who is silent for too long is not waited for, on either side.
func TestSilenceEndsACall(t *testing.T) {
	requests := map[string]string{
		"a resource that does not answer":      "GET /silent HTTP/1.1\r\nHost: x\r\n\r\n",
		"a resource that stops in its answer":  "GET /stream HTTP/1.1\r\nHost: x\r\n\r\n",
		"a caller that stops in its request":   "PUT /body HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf",
		"a caller that does not read":          "GET /flood HTTP/1.1\r\nHost: x\r\n\r\n",
		"a resource that does not read":        "PUT /silent HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n" + string(pattern(64<<10)),
		"a caller that sends no further chunk": "PUT /body HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
	}
	eachProtocol(t, func(t *testing.T, protocol string) {
		for name, request := range requests {
			t.Run(name, func(t *testing.T) {
				over, gone := make(chan bool), make(chan bool)
				p := start(t, protocol, func(w http.ResponseWriter, r *http.Request) {
					defer close(gone)
					switch r.URL.Path {
					case "/body":
						_, _ = io.Copy(io.Discard, r.Body)
						return
					case "/flood":
						for _, err := w.Write(pattern(1 << 20)); err == nil; _, err = w.Write(pattern(1 << 20)) {
						}
					case "/stream":
						_, _ = io.WriteString(w, "half")
						_ = http.NewResponseController(w).Flush()
					}
					<-over
				})
				p.forwarder.Idle = 50 * time.Millisecond
				conn := p.dial()
				_, _ = io.WriteString(conn, request)
				if got := p.end(); !errors.Is(got.err, forward.ErrIdle) {
					t.Errorf("%+v", got)
				}
				close(over)
				<-gone
			})
		}
	})
}

// A call that moves lasts as long as it likes, beyond the server's own limit for answers.
func TestATransferThatMovesIsNotCutShort(t *testing.T) {
	eachProtocol(t, func(t *testing.T, protocol string) {
		p := start(t, protocol, func(w http.ResponseWriter, r *http.Request) {
			for range 20 { // of 20 ms: twice as long as idle, and four times the server's limit
				_, _ = io.WriteString(w, "part")
				_ = http.NewResponseController(w).Flush()
				timer := time.NewTimer(20 * time.Millisecond)
				select {
				case <-timer.C:
				case <-r.Context().Done():
				}
			}
		})
		p.forwarder.Idle = 10 * time.Second
		resp := p.get("/")
		if got, err := io.ReadAll(resp.Body); err != nil || len(got) != 80 {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	})
}

// However much is sent and received, it takes the same memory: that of both servers and of the
// client is in what is measured.
func TestMemoryIsConstant(t *testing.T) {
	const total = 256 << 20
	part := pattern(1 << 20)
	for _, protocol := range protocols {
		t.Run(protocol, func(t *testing.T) {
			p := start(t, protocol, func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				for range total / len(part) {
					_, _ = w.Write(part)
				}
			})
			both := func(upload int) {
				resp, err := p.client().Post(p.front.URL, "", io.LimitReader(endless{part}, int64(upload)))
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				if n, err := io.Copy(io.Discard, resp.Body); err != nil || n != total {
					t.Errorf("%d bytes, %v", n, err)
				}
				if got := p.end(); got.err != nil || got.Sent != int64(upload) || got.Received != total {
					t.Errorf("%+v", got)
				}
			}
			both(1 << 20)
			before := heap()
			both(total)
			if after := heap(); after > before+8<<20 {
				t.Errorf("%d bytes of heap before, %d after %d bytes each way", before, after, total)
			}
		})
	}
}

// heap is what the process has got of the system for its heap and not given back.
func heap() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapSys - m.HeapReleased
}

// endless repeats a part.
type endless struct{ part []byte }

func (e endless) Read(to []byte) (int, error) { return copy(to, e.part), nil }

// overFunc is a transport.
type overFunc func(*http.Request) (*http.Response, error)

func (f overFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// leaves is a body at whose end the caller has gone.
type leaves struct {
	io.Reader
	leave func()
}

func (l leaves) Read(p []byte) (int, error) {
	n, err := l.Reader.Read(p)
	if err != nil {
		l.leave()
	}
	return n, err
}

func (leaves) Close() error { return nil }

// An answer whose length is known is whole when all of it was passed on, also if the caller goes in
// the next moment. One without a length may have been ended because the caller has gone.
func TestACallerThatGoesAfterTheAnswer(t *testing.T) {
	for length, want := range map[int64]error{5: nil, -1: context.Canceled} {
		ctx, leave := context.WithCancel(t.Context())
		defer leave()
		to, err := url.Parse("https://resource.example/")
		if err != nil {
			t.Fatal(err)
		}
		over := overFunc(func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, ContentLength: length, Body: leaves{strings.NewReader("hello"), leave}}, nil
		})
		w := httptest.NewRecorder()
		got, err := new(forward.Forwarder).Do(w, httptest.NewRequest(http.MethodGet, "/", nil).WithContext(ctx), forward.Call{To: to, Over: over})
		if !errors.Is(err, want) || got.Received != 5 || got.Status != http.StatusOK || w.Body.String() != "hello" {
			t.Errorf("length %d: %+v, %v, want %v", length, got, err, want)
		}
	}
}
