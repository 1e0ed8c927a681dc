package conformance_test

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path"
	"slices"
	"sync"
	"testing"
)

// message is a request as it came over the wire, and its answer.
type message struct {
	endpoint     string // last element of the path
	method       string
	host         string // as the client wrote it
	target       string // path and query, as sent
	query        url.Values
	header       http.Header
	body         string
	form         url.Values // of a token request
	certificates [][]byte   // that the client presented
	version      uint16     // TLS
	connection   string     // its remote address
	status       int
	answer       string
}

// member returns a member of the answer.
func (m message) member(name string) string {
	var fields map[string]any
	if json.Unmarshal([]byte(m.answer), &fields) != nil {
		return ""
	}
	text, _ := fields[name].(string)
	return text
}

// recorder stands in front of a service, keeps what comes and goes, and answers in its place where
// a case says so.
type recorder struct {
	url  string
	next http.Handler

	mu     sync.Mutex
	seen   []message
	script map[string][]http.HandlerFunc // by endpoint; each answers one request
	always map[string]http.HandlerFunc   // by endpoint; after the script
}

func newRecorder(t *testing.T, next http.Handler, config *tls.Config) *recorder {
	t.Helper()
	r := &recorder{next: next, script: map[string][]http.HandlerFunc{}, always: map[string]http.HandlerFunc{}}
	server := httptest.NewUnstartedServer(r)
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug) // handshakes that fail are what a case is about
	if config == nil {
		server.Start()
	} else {
		server.TLS, server.EnableHTTP2 = config, true
		server.StartTLS()
	}
	r.url = server.URL
	t.Cleanup(server.Close)
	return r
}

func (r *recorder) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, _ := io.ReadAll(req.Body)
	req.Body = io.NopCloser(bytes.NewReader(body))
	m := message{
		endpoint: path.Base(req.URL.Path), method: req.Method, host: req.Host, target: req.RequestURI, query: req.URL.Query(),
		header: req.Header.Clone(), body: string(body), connection: req.RemoteAddr,
	}
	if req.TLS != nil {
		m.version = req.TLS.Version
		m.form, _ = url.ParseQuery(m.body)
		for _, c := range req.TLS.PeerCertificates {
			m.certificates = append(m.certificates, c.Raw)
		}
	}
	answer := httptest.NewRecorder()
	r.handler(m.endpoint)(answer, req)
	m.status, m.answer = answer.Code, answer.Body.String()
	r.mu.Lock()
	r.seen = append(r.seen, m)
	r.mu.Unlock()
	for name, values := range answer.Header() {
		w.Header()[name] = values
	}
	w.WriteHeader(answer.Code)
	_, _ = w.Write(answer.Body.Bytes()) // a client that hangs up is its own affair
}

func (r *recorder) handler(endpoint string) http.HandlerFunc {
	r.mu.Lock()
	defer r.mu.Unlock()
	if queue := r.script[endpoint]; len(queue) > 0 {
		r.script[endpoint] = queue[1:]
		return queue[0]
	}
	if h := r.always[endpoint]; h != nil {
		return h
	}
	return r.next.ServeHTTP
}

// answers has the next requests to an endpoint answered by these handlers, one each.
func (r *recorder) answers(endpoint string, handlers ...http.HandlerFunc) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.script[endpoint] = append(r.script[endpoint], handlers...)
}

// alwaysAnswers has all further requests to an endpoint answered by a handler.
func (r *recorder) alwaysAnswers(endpoint string, handler http.HandlerFunc) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.always[endpoint] = handler
}

// edits has the next answer to a endpoint changed on its way.
func (r *recorder) edits(endpoint string, edit func(fields map[string]any)) {
	r.answers(endpoint, func(w http.ResponseWriter, req *http.Request) {
		genuine := httptest.NewRecorder()
		r.next.ServeHTTP(genuine, req)
		var fields map[string]any
		if err := json.Unmarshal(genuine.Body.Bytes(), &fields); err != nil {
			w.WriteHeader(http.StatusTeapot)
			return
		}
		edit(fields)
		w.Header().Set("Server", genuine.Header().Get("Server"))
		w.WriteHeader(genuine.Code)
		_ = json.NewEncoder(w).Encode(fields)
	})
}

// all returns the requests, oldest first.
func (r *recorder) all() []message {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.seen)
}

// requestsTo returns the requests to an endpoint, oldest first.
func (r *recorder) requestsTo(name string) []message {
	return slices.DeleteFunc(r.all(), func(m message) bool { return m.endpoint != name })
}

// says answers with a status and a body. Headers come in pairs.
func says(status int, body string, headers ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Server", "IMDS/150.870.65.1854")
		w.Header().Set("Content-Type", "application/json")
		for i := 0; i+1 < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}
