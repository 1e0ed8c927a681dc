package agentapi_test

import (
	"bufio"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/keyagent/keyagent/agentapi"
	"github.com/keyagent/keyagent/agentapi/peer"
	"github.com/keyagent/keyagent/agentapi/wire"
)

// self is this process as a caller.
func self() peer.Caller {
	return peer.Caller{UID: uint32(os.Geteuid()), GID: uint32(os.Getegid()), PID: int32(os.Getpid())}
}

func newRequest(target string) *http.Request {
	return httptest.NewRequest(http.MethodGet, target, nil)
}

// watchedWriter notes when the first byte of a reply leaves.
type watchedWriter struct {
	sent   *atomic.Bool
	body   strings.Builder
	header http.Header
}

func (w *watchedWriter) Header() http.Header {
	if w.header == nil {
		w.header = make(http.Header)
	}
	return w.header
}

func (w *watchedWriter) WriteHeader(int) { w.sent.Store(true) }

func (w *watchedWriter) Write(p []byte) (int, error) {
	w.sent.Store(true)
	return w.body.Write(p)
}

// Whatever request line arrives, a token is given only for the one path, and only for what the
// rules say; everything else is a well-formed refusal.
func FuzzRequestTarget(f *testing.F) {
	query := "?api-version=2018-02-01&resource=https%3A%2F%2Fvault.azure.net&client_id=" + shopClient
	for _, path := range []string{
		"/metadata/identity/oauth2/token", "//metadata/identity/oauth2/token/", `/metadata/identity\oauth2\token`,
		"/metadata/identity%5Coauth2%5Ctoken", "/metadata/identity%2Foauth2%2Ftoken", "/metadata/./identity/oauth2/token",
		"/metadata/instance/../identity/oauth2/token", "/metadata/identity/oauth2/token;x", "http://169.254.169.254/metadata/identity/oauth2/token",
		"/Metadata/identity/oauth2/token", "*", "/", "/metadata/identity/oauth2/token%00", "/metadata/identity/oauth2/token#",
	} {
		f.Add(path + query)
	}
	for _, q := range []string{
		"", "?", query + "&resource=https://storage.azure.com", query + "&object_id=" + shopObject, query + "&client_id=", query + ";x=y",
		"?api-version=2018-02-01&resource=https://vault.azure.net//.default&mi_res_id=" + url.QueryEscape(shopARM), query + "&%63lient_id=x",
		"?api-version=2018-02-01&resource=https://vault.azure.net&client_id=8b0c3d0e-0000-4000-8000-00000000c1d9",
	} {
		f.Add(wire.PathIMDSToken + q)
	}
	f.Add(nativeTarget)
	f.Add(wire.PathStatus)

	cfg := config(working, rulesFor(1000))
	cfg.Audit = slog.New(slog.NewJSONHandler(io.Discard, nil))
	server, err := agentapi.New(cfg)
	if err != nil {
		f.Fatal(err)
	}
	named, unnamed := server.HandlerFor(peer.Caller{UID: 1000, GID: 1000}), server.HandlerFor(stranger)
	f.Fuzz(func(t *testing.T, target string) {
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader("GET " + target + " HTTP/1.1\r\nHost: agent\r\nMetadata: true\r\n\r\n")))
		if err != nil {
			return // net/http answers it
		}
		reply := httptest.NewRecorder()
		named.ServeHTTP(reply, r)
		checkReply(t, r, reply)

		reply = httptest.NewRecorder()
		unnamed.ServeHTTP(reply, r)
		if reply.Code < 400 || strings.Contains(reply.Body.String(), tokenText) {
			t.Errorf("a stranger got %d for %q: %s", reply.Code, r.RequestURI, reply.Body)
		}
	})
}

func checkReply(t *testing.T, r *http.Request, reply *httptest.ResponseRecorder) {
	t.Helper()
	if !json.Valid(reply.Body.Bytes()) {
		t.Errorf("%q: status %d, not JSON: %q", r.RequestURI, reply.Code, reply.Body)
	}
	given := strings.Contains(reply.Body.String(), tokenText)
	if given != (reply.Code == http.StatusOK) {
		t.Errorf("%q: status %d, token %v", r.RequestURI, reply.Code, given)
	}
	if given && !mayHave(r.RequestURI) {
		t.Errorf("a token for %q", r.RequestURI)
	}
}

// mayHave says what a right request is, in another way than the server does.
func mayHave(target string) bool {
	path, query, _ := strings.Cut(target, "?")
	values, err := url.ParseQuery(query)
	if err != nil {
		return false
	}
	if path == wire.PathToken {
		identity := values.Get("identity")
		return count(values, "identity") == 1 && (identity == "vm" || identity == "shop") &&
			count(values, "resource", "scope") == 1 && isVault(values.Get("resource")+values.Get("scope"))
	}
	words := strings.FieldsFunc(path, func(r rune) bool { return r == '/' })
	selectors := []string{"client_id", "object_id", "msi_res_id", "mi_res_id"}
	return strings.HasPrefix(path, "/") && strings.Join(words, " ") == "metadata identity oauth2 token" &&
		count(values, "api-version") == 1 && aDay.MatchString(values.Get("api-version")) && values.Get("api-version") >= "2018-02-01" &&
		count(values, "resource") == 1 && isVault(values.Get("resource")) &&
		(count(values, selectors...) == 0 || count(values, selectors...) == 1 && (isShop(values) || isVM(values)))
}

var aDay = regexp.MustCompile(`^[0-9]{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01])$`)

// count returns how many values the names have together.
func count(values url.Values, names ...string) (n int) {
	for _, name := range names {
		n += len(values[name])
	}
	return n
}

func isVault(s string) bool {
	return slices.Contains([]string{vault, vault + "/", vault + "/.default", vault + "//.default"}, s)
}

// isVM reports whether the id is one that tokens say of the identity vm.
func isVM(values url.Values) bool { return strings.EqualFold(values.Get("client_id"), vmClient) }

func isShop(values url.Values) bool {
	return strings.EqualFold(values.Get("client_id"), shopClient) || strings.EqualFold(values.Get("object_id"), shopObject) ||
		strings.EqualFold(values.Get("msi_res_id")+values.Get("mi_res_id"), shopARM)
}
