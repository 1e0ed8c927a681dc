package agentapi_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyagent/keyagent/agentapi"
)

// passable is what may be asked of IMDS for others: paths and queries, written in another way than
// the tables that are tested.
var passable = regexp.MustCompile(`^/metadata/(instance(/[A-Za-z0-9]+)*|attested/document|scheduledevents)\?` +
	`((api-version=[0-9-]{10}(-preview)?|format=(json|text)|extended=(true|false)|nonce=[0-9A-Za-z]{1,64})(&|$))*$`)

// FuzzPassage: whatever is asked for, nothing reaches IMDS but what may, and no answer is a 404 or
// has a token.
func FuzzPassage(f *testing.F) {
	for _, target := range []string{
		"/metadata/instance?api-version=2021-02-01&format=text", "/metadata/instance/network/interface/0/ipv4/ipAddress/0/publicIpAddress",
		"/metadata/attested/document?nonce=12", "/metadata/scheduledevents?api-version=2020-07-01", `/metadata/identity\oauth2\token`,
		"/metadata/instance/../identity/oauth2/token?resource=x", "http://169.254.169.254/metadata/instance", "/metadata/instance?api-version=2021-02-01#&x=%0a",
	} {
		f.Add(target)
	}
	cfg := config(working, rulesFor(1))
	var seconds atomic.Int64 // between any two questions is more time than the bound on them takes
	cfg.Now = func() time.Time { return now.Add(time.Duration(seconds.Add(10)) * time.Second) }
	server, _, _ := newServer(f, cfg)
	imds := &metadata{answer: agentapi.MetadataAnswer{Status: 200, Kind: "text/plain"}}
	handler, err := server.TakeoverFor(ruleless, imds, "instance", "attested", "scheduledevents")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, target string) {
		_, query, _ := strings.Cut(target, "?")
		r := &http.Request{
			Method: http.MethodGet, RequestURI: target, URL: &url.URL{RawQuery: query}, Host: "169.254.169.254",
			Header: http.Header{"Metadata": {"true"}}, Proto: "HTTP/1.1",
		}
		w := httptest.NewRecorder()
		before := len(imds.all())
		handler.ServeHTTP(w, r)
		for _, asked := range imds.all()[before:] {
			if !passable.MatchString(asked) {
				t.Errorf("%q has IMDS asked %q", target, asked)
			}
		}
		if w.Code == http.StatusNotFound || strings.Contains(w.Body.String(), tokenText) {
			t.Errorf("%q: %d %s", target, w.Code, w.Body)
		}
	})
}
