package forward_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keyagent/keyagent/internal/forward"
)

// eachProtocol runs a test with resources of each protocol.
func eachProtocol(t *testing.T, test func(t *testing.T, protocol string)) {
	for _, protocol := range protocols {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			test(t, protocol)
		})
	}
}

// What is about a connection stays on that connection, and the call's own headers are there
// whatever the caller sends.
func TestHeadersOfARequest(t *testing.T) {
	const usual = "GET /a%2Fb?q=%20&r HTTP/1.1\nHost: caller.example\n"
	tests := []struct {
		name, headers string
		want          http.Header // besides Authorization
	}{
		{"what is for the resource", "Accept: text/plain\nX-One: 1\nX-One: 2\nUser-Agent: me\n", http.Header{"Accept": {"text/plain"}, "X-One": {"1", "2"}, "User-Agent": {"me"}}},
		{"no User-Agent stays none", "", nil},
		{"the caller's credentials", "Authorization: Bearer mine\nauthorization: Basic mine\nProxy-Authorization: Basic x\n", nil},
		{"the header that chooses the token", "Keyagent-Resource: https://vault.azure.net\n", nil},
		{"the connection", "Connection: keep-alive, X-Mine\nX-Mine: 1\nKeep-Alive: 5\nProxy-Connection: keep-alive\n", nil},
		{"the connection, in any case and in several lines", "connection: x-mine\nCONNECTION: ,, x-yours ,\nX-Mine: 1\nX-Yours: 1\n", nil},
		{"what Connection may not remove", "Connection: Authorization, Keyagent-Resource\n", nil},
		{"trailers are understood, nothing else", "Te: gzip, trailers\n", http.Header{"Te": {"trailers"}}},
		{"compression of the connection", "Te: gzip\n", nil},
		{"another protocol", "Connection: Upgrade, HTTP2-Settings\nUpgrade: h2c\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\n", nil},
		{"cookies", "Cookie: a=b\nCookie2: c\n", nil},
		{"an expectation without a body", "Expect: 100-continue\n", nil},
	}
	eachProtocol(t, func(t *testing.T, protocol string) {
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				p := start(t, protocol, func(w http.ResponseWriter, r *http.Request) {
					want := http.Header{"Authorization": {"mtls_pop of-the-agent"}}
					for name, values := range tt.want {
						want[name] = values
					}
					if diff := cmp.Diff(want, r.Header); diff != "" {
						t.Errorf("headers (-want +got):\n%s", diff)
					}
					if r.RequestURI != "/a%2Fb?q=%20&r" || strings.Contains(r.Host, "caller") {
						t.Errorf("the resource is asked for %s at %s", r.RequestURI, r.Host)
					}
				})
				if resp, _ := p.raw(usual + "Connection: close\n" + tt.headers + "\n"); resp.StatusCode != http.StatusOK {
					t.Errorf("status %d", resp.StatusCode)
				}
			})
		}
	})
}

func TestHeadersOfAnAnswer(t *testing.T) {
	p := start(t, "HTTP/1.1", nil)
	rawResource(t, p, "HTTP/1.1 200 OK\nDate: Tue, 01 Dec 2026 00:00:00 GMT\nConnection: keep-alive, X-Mine\nX-Mine: 1\nKeep-Alive: timeout=5\n"+
		"Proxy-Authenticate: Basic\nUpgrade: h2\nSet-Cookie: a=b\nAlt-Svc: h3=\":443\"\nKeyagent-Error: forged\nWWW-Authenticate: Bearer\n"+
		"X-One: 1\nX-One: 2\nContent-Encoding: gzip\nContent-Length: 4\n\nbody")
	resp, body := p.raw("GET / HTTP/1.1\nHost: x\n\n")
	want := http.Header{
		"Date": {"Tue, 01 Dec 2026 00:00:00 GMT"}, "Www-Authenticate": {"Bearer"}, "X-One": {"1", "2"},
		"Content-Encoding": {"gzip"}, "Content-Length": {"4"},
	}
	if diff := cmp.Diff(want, resp.Header); diff != "" || body != "body" {
		t.Errorf("body %q, headers (-want +got):\n%s", body, diff)
	}
}

func TestStatusesAndBodies(t *testing.T) {
	tests := []struct {
		name, method string
		answer       http.HandlerFunc
		status       int
		length       string // Content-Length
		body         string
	}{
		{"with a length", "GET", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }, 200, "5", "hello"},
		{"an error of the resource", "GET", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusTeapot) }, 418, "3", "no\n"},
		{"without a body", "DELETE", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }, 204, "", ""},
		{"not modified", "GET", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(304) }, 304, "", ""},
		{"the head alone", "HEAD", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Length", "5000") }, 200, "5000", ""},
		{"a method that HTTP does not have", "PROPFIND", func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Method) }, 200, "8", "PROPFIND"},
		{"without a length", "GET", func(w http.ResponseWriter, _ *http.Request) {
			_ = http.NewResponseController(w).Flush()
			_, _ = io.WriteString(w, "hello")
		}, 200, "", "hello"},
	}
	eachProtocol(t, func(t *testing.T, protocol string) {
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				p := start(t, protocol, tt.answer)
				resp, body := p.raw(tt.method + " / HTTP/1.1\nHost: x\nConnection: close\n\n")
				if resp.StatusCode != tt.status || body != tt.body || resp.Header.Get("Content-Length") != tt.length {
					t.Errorf("%d %q, length %q", resp.StatusCode, body, resp.Header.Get("Content-Length"))
				}
				if got := p.end(); got.err != nil || got.Status != tt.status || got.Received != int64(len(tt.body)) {
					t.Errorf("%+v", got)
				}
			})
		}
	})
}

// A redirect is an answer. Its Location is the resource's, and nobody goes there.
func TestRedirectsAreAnswers(t *testing.T) {
	eachProtocol(t, func(t *testing.T, protocol string) {
		for _, status := range []int{301, 302, 303, 307, 308} {
			asked := 0
			p := start(t, protocol, func(w http.ResponseWriter, r *http.Request) {
				asked++
				w.Header().Set("Location", "https://elsewhere.example/?x")
				w.WriteHeader(status)
			})
			resp := p.get("/")
			if resp.StatusCode != status || resp.Header.Get("Location") != "https://elsewhere.example/?x" || asked != 1 {
				t.Errorf("%d %q, asked %d times", resp.StatusCode, resp.Header.Get("Location"), asked)
			}
		}
	})
}

func TestBodiesOfRequests(t *testing.T) {
	sent := pattern(1 << 20)
	eachProtocol(t, func(t *testing.T, protocol string) {
		for _, length := range []int64{int64(len(sent)), -1} {
			p := start(t, protocol, func(w http.ResponseWriter, r *http.Request) {
				if r.ContentLength != length {
					t.Errorf("length %d, want %d", r.ContentLength, length)
				}
				got, err := io.ReadAll(r.Body)
				if err != nil || !bytes.Equal(got, sent) {
					t.Errorf("%d bytes, %v", len(got), err)
				}
			})
			req, err := http.NewRequest(http.MethodPut, p.front.URL, io.NopCloser(bytes.NewReader(sent)))
			if err != nil {
				t.Fatal(err)
			}
			req.ContentLength = length
			resp, err := p.client().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			if got := p.end(); got.err != nil || got.Sent != int64(len(sent)) {
				t.Errorf("%+v", got)
			}
		}
	})
}

// Each event reaches the caller before the resource has sent the next one.
func TestEventsAreNotHeldBack(t *testing.T) {
	eachProtocol(t, func(t *testing.T, protocol string) {
		next := make(chan bool)
		p := start(t, protocol, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			for i := range 3 {
				_, _ = fmt.Fprintf(w, "data: %d\n\n", i)
				_ = http.NewResponseController(w).Flush()
				<-next
			}
		})
		events := bufio.NewReader(p.get("/").Body)
		for i := range 3 {
			got, err := events.ReadString('\n')
			if err != nil || got != fmt.Sprintf("data: %d\n", i) {
				t.Errorf("event %q, %v", got, err)
			}
			_, _ = events.ReadString('\n')
			next <- true
		}
	})
}

// A resource may answer while the request still comes, as a program and its server talk.
func TestBothDirectionsAtOnce(t *testing.T) {
	eachProtocol(t, func(t *testing.T, protocol string) {
		p := start(t, protocol, func(w http.ResponseWriter, r *http.Request) {
			_ = http.NewResponseController(w).EnableFullDuplex()
			_ = http.NewResponseController(w).Flush()
			lines := bufio.NewScanner(r.Body)
			for lines.Scan() {
				_, _ = fmt.Fprintln(w, "you said", lines.Text())
				_ = http.NewResponseController(w).Flush()
			}
		})
		from, to := io.Pipe()
		req, err := http.NewRequest(http.MethodPost, p.front.URL, from)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := p.client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		answers := bufio.NewReader(resp.Body)
		for _, word := range []string{"one", "two"} {
			_, _ = fmt.Fprintln(to, word)
			if got, err := answers.ReadString('\n'); err != nil || got != "you said "+word+"\n" {
				t.Errorf("%q, %v", got, err)
			}
		}
		_ = to.Close()
		if rest, err := io.ReadAll(answers); err != nil || len(rest) > 0 {
			t.Errorf("%q, %v", rest, err)
		}
	})
}

func TestTrailers(t *testing.T) {
	eachProtocol(t, func(t *testing.T, protocol string) {
		p := start(t, protocol, func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			if diff := cmp.Diff(http.Header{"X-Sum": {"1"}}, r.Trailer); diff != "" {
				t.Errorf("the request's trailers (-want +got):\n%s", diff)
			}
			w.Header().Set("Trailer", "X-Announced, Set-Cookie")
			_, _ = io.WriteString(w, "body")
			w.Header().Set("X-Announced", "a")
			w.Header().Set("Set-Cookie", "a=b")
			w.Header().Set(http.TrailerPrefix+"X-Late", "b")
			w.Header().Set(http.TrailerPrefix+"Keyagent-Error", "forged")
		})
		resp, body := p.raw("POST / HTTP/1.1\nHost: x\nConnection: close\nTransfer-Encoding: chunked\nTrailer: X-Sum, Authorization, Cookie\n\n" +
			"4\nbody\n0\nX-Sum: 1\nCookie: a=b\nX-Not-Announced: 1\n\n")
		if diff := cmp.Diff(http.Header{"X-Announced": {"a"}, "X-Late": {"b"}}, resp.Trailer); diff != "" || body != "body" {
			t.Errorf("body %q, trailers (-want +got):\n%s", body, diff)
		}
	})
}

// A caller that waits to be told to continue is told so by the resource, or is spared its body.
func TestExpectContinue(t *testing.T) {
	eachProtocol(t, func(t *testing.T, protocol string) {
		for _, wanted := range []bool{true, false} {
			p := start(t, protocol, func(w http.ResponseWriter, r *http.Request) {
				if !wanted {
					w.WriteHeader(http.StatusUnauthorized)
					return
				}
				_, _ = io.Copy(w, r.Body)
			})
			conn := p.dial()
			_, _ = io.WriteString(conn, "PUT / HTTP/1.1\r\nHost: x\r\nExpect: 100-Continue\r\nContent-Length: 4\r\n\r\n")
			answers := bufio.NewReader(conn)
			resp, err := http.ReadResponse(answers, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if !wanted {
				if resp.StatusCode != http.StatusUnauthorized {
					t.Errorf("the resource refuses, and the caller is told %d", resp.StatusCode)
				}
				continue
			}
			if resp.StatusCode != http.StatusContinue {
				t.Fatalf("the caller is told %d", resp.StatusCode)
			}
			_, _ = io.WriteString(conn, "body")
			last, err := http.ReadResponse(answers, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer last.Body.Close()
			if body, err := io.ReadAll(last.Body); err != nil || string(body) != "body" {
				t.Errorf("%q %v", body, err)
			}
		}
	})
}

// An answer that breaks off is not taken for a whole one, with or without a length.
func TestAnAnswerThatBreaksOff(t *testing.T) {
	eachProtocol(t, func(t *testing.T, protocol string) {
		for _, length := range []string{"", "100000"} {
			p := start(t, protocol, func(w http.ResponseWriter, _ *http.Request) {
				if length != "" {
					w.Header().Set("Content-Length", length)
				}
				_, _ = io.WriteString(w, "half")
				_ = http.NewResponseController(w).Flush()
				panic(http.ErrAbortHandler)
			})
			resp := p.get("/")
			if got, err := io.ReadAll(resp.Body); err == nil {
				t.Errorf("length %q: %q is taken for the whole", length, got)
			}
			if got := p.end(); got.err == nil || got.Status != 200 || got.Received != 4 || errors.Is(got.err, forward.ErrCaller) {
				t.Errorf("%+v", got)
			}
		}
	})
}

func TestNoAnswer(t *testing.T) {
	for name, answer := range map[string]string{
		"nothing": "", "not HTTP": "hello\n\n", "another protocol that nobody asked for": "HTTP/1.1 101 Switching Protocols\nConnection: Upgrade\nUpgrade: websocket\n\n",
		"a header without end": "HTTP/1.1 200 OK\nX: " + strings.Repeat("x", 20<<20),
		"two lengths":          "HTTP/1.1 200 OK\nContent-Length: 4\nContent-Length: 5\n\nhello",
	} {
		t.Run(name, func(t *testing.T) {
			p := start(t, "HTTP/1.1", nil)
			rawResource(t, p, answer)
			if resp := p.get("/"); resp.StatusCode != http.StatusBadGateway {
				t.Errorf("status %d", resp.StatusCode)
			}
			if got := p.end(); got.err == nil || got.Status != 0 {
				t.Errorf("%+v", got)
			}
		})
	}
}

func TestWantsUpgrade(t *testing.T) {
	for header, want := range map[string]string{"": "", "h2c": "", "H2C": "", "websocket": "websocket", "h2c, WebSocket": "WebSocket", " , ": "", "TLS/1.2, HTTP/2.0": "TLS/1.2"} {
		r := &http.Request{Header: http.Header{"Upgrade": {header}}}
		if got := forward.WantsUpgrade(r); got != want {
			t.Errorf("%q: %q, want %q", header, got, want)
		}
	}
}
