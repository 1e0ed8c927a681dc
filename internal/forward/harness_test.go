package forward_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/keyagent/keyagent/internal/forward"
)

// protocols are what resources speak.
var protocols = []string{"HTTP/1.1", "HTTP/2.0"}

// passage is a resource and a server before it that passes requests on.
type passage struct {
	t         testing.TB
	front     *httptest.Server
	resource  *httptest.Server
	forwarder forward.Forwarder
	set       http.Header

	ended chan outcome
}

type outcome struct {
	forward.Result
	err error
}

// start serves the handler as the resource.
func start(t testing.TB, protocol string, handler http.HandlerFunc) *passage {
	t.Helper()
	p := &passage{t: t, ended: make(chan outcome, 16), set: http.Header{"Authorization": {"mtls_pop of-the-agent"}, "Keyagent-Resource": nil}}
	p.resource = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Proto != protocol {
			t.Errorf("the resource is asked by %s", r.Proto)
		}
		handler(w, r)
	}))
	p.resource.EnableHTTP2 = protocol == "HTTP/2.0"
	p.resource.Config.ErrorLog = nil
	p.resource.StartTLS()
	t.Cleanup(p.resource.Close)
	p.front = httptest.NewUnstartedServer(http.HandlerFunc(p.serve))
	p.front.Config.WriteTimeout = 100 * time.Millisecond // which no call may be held to
	p.front.Start()
	t.Cleanup(p.front.Close)
	return p
}

// over is the transport to the resource.
func (p *passage) over() http.RoundTripper {
	t := p.resource.Client().Transport.(*http.Transport)
	t.DisableCompression, t.ExpectContinueTimeout = true, time.Minute
	return t
}

// serve passes a request on as the agent does.
func (p *passage) serve(w http.ResponseWriter, r *http.Request) {
	to, err := url.Parse(p.resource.URL + r.RequestURI)
	if err != nil {
		p.t.Error(err)
		return
	}
	result, err := p.forwarder.Do(w, r, forward.Call{To: to, Over: p.over(), Set: p.set, Remove: []string{"Keyagent-Error"}})
	p.ended <- outcome{result, err}
	switch {
	case err == nil:
	case result.Status == 0:
		w.WriteHeader(http.StatusBadGateway)
	default:
		panic(http.ErrAbortHandler) // impossible to say otherwise that the answer is not whole
	}
}

// end is how the next call ended.
func (p *passage) end() outcome {
	p.t.Helper()
	select {
	case o := <-p.ended:
		return o
	case <-p.t.Context().Done():
		p.t.Fatal("the call did not end")
	}
	return outcome{}
}

// dial opens a connection to the server that passes on.
func (p *passage) dial() net.Conn {
	p.t.Helper()
	conn, err := net.Dial("tcp", p.front.Listener.Addr().String())
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// raw sends a request as it is written and returns the answer.
func (p *passage) raw(request string) (reply, string) {
	p.t.Helper()
	conn := p.dial()
	if _, err := io.WriteString(conn, strings.ReplaceAll(request, "\n", "\r\n")); err != nil {
		p.t.Fatal(err)
	}
	method, _, _ := strings.Cut(request, " ")
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return reply{resp.StatusCode, resp.Header, resp.Trailer, nil}, string(body)
}

// reply is an answer. Its body is closed when the test ends.
type reply struct {
	StatusCode      int
	Header, Trailer http.Header
	Body            io.Reader
}

// get gets a path.
func (p *passage) get(path string) reply {
	p.t.Helper()
	resp, err := p.client().Get(p.front.URL + path)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = resp.Body.Close() })
	return reply{resp.StatusCode, resp.Header, nil, resp.Body}
}

func (p *passage) client() *http.Client {
	return &http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true, DisableCompression: true, ExpectContinueTimeout: time.Minute},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// rawResource answers each connection with bytes as they are, once it has read the head of a
// request.
func rawResource(t *testing.T, p *passage, answer string) {
	t.Helper()
	certificate := p.resource.TLS.Certificates
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: certificate})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
					_, _ = io.WriteString(conn, strings.ReplaceAll(answer, "\n", "\r\n"))
				}
			}()
		}
	}()
	p.resource.URL = "https://" + ln.Addr().String()
}

// pattern is a body of n bytes that can be told from any other.
func pattern(n int) []byte { return bytes.Repeat([]byte("0123456789abcdef"), n/16) }
