package agentapi_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"testing"

	"github.com/keyagent/keyagent/agentapi"
	"github.com/keyagent/keyagent/agentapi/peer"
	"github.com/keyagent/keyagent/agentapi/wire"
)

func TestTheCallerOfAConnectionIsInItsContext(t *testing.T) {
	if _, ok := agentapi.CallerOf(t.Context()); ok {
		t.Error("a context that nobody put a caller into has one")
	}
	want := peer.Caller{UID: 7, GID: 8, PID: 9}
	got, ok := agentapi.CallerOf(agentapi.WithCaller(t.Context(), want))
	if !ok || got.UID != 7 || got.GID != 8 || got.PID != 9 {
		t.Errorf("got %+v, %v, want %+v", got, ok, want)
	}
}

// Another way into the agent takes its listener, its way to know callers, its routes and its
// errors, and no change to the code that answers.
func TestAnotherFaceIsValuesOnly(t *testing.T) {
	rules := rulesFor(1000)
	rules.Rules[0].Identities = []string{"shop"}
	server, audit, _ := newServer(t, config(working, rules))
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	callers := make(chan peer.Caller, 1)
	identify := func(net.Conn) (peer.Caller, error) {
		select {
		case caller := <-callers:
			return caller, nil
		default:
			return peer.Caller{}, errors.New("nobody owns the socket")
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- server.ServeLoopback(ctx, ln, "/msi/token", "s3cret", identify) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})

	const query = "?api-version=2019-08-01&resource=" + vault
	known := &peer.Caller{UID: 1000, GID: 1000}
	tests := []struct {
		name, target, secret string
		caller               *peer.Caller
		status               int // 0: there is no answer
		error                string
	}{
		{"a token", "/msi/token" + query, "s3cret", known, 200, ""},
		{"another spelling of the path", "/msi//token/" + query, "s3cret", known, 200, ""},
		{"another secret", "/msi/token" + query, "secret", known, 403, "access_denied"},
		{"a caller whom no rule names", "/msi/token" + query, "s3cret", &stranger, 403, "access_denied"},
		{"a caller who cannot be known", "/msi/token" + query, "s3cret", nil, 0, ""},
		{"a path of the other face", wire.PathToken + "?identity=shop&resource=" + vault, "s3cret", known, 400, "invalid_request"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.caller != nil {
				callers <- *tt.caller
			}
			status, body := askOnce(t, "http://"+ln.Addr().String()+tt.target, tt.secret)
			if status != tt.status {
				t.Fatalf("status %d, want %d: %s", status, tt.status, body)
			}
			if status == 0 {
				return
			}
			var said struct {
				wire.IMDSError
				Token string `json:"access_token"`
			}
			if err := json.Unmarshal(body, &said); err != nil || said.Error != tt.error || (said.Token == tokenText) != (status == 200) {
				t.Errorf("%v: %s", err, body)
			}
			if record := audit.lastRecord(t); record["uid"] != float64(tt.caller.UID) || record["status"] != 200.0 && status == 200 {
				t.Errorf("audit %v", record)
			}
		})
	}
}

// askOnce makes a request on a connection of its own. The status is 0 if it is not answered.
func askOnce(t *testing.T, url, secret string) (status int, body []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Identity-Header", secret)
	transport := &http.Transport{DisableKeepAlives: true}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return 0, nil
	}
	defer resp.Body.Close()
	if body, err = io.ReadAll(resp.Body); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, body
}
