package agentapi_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/agentapi"
	"github.com/keyagent/keyagent/agentapi/peer"
	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/internal/secret"
)

// sdkTargets are one request for a token in each shape that SDKs use, without its resource.
func (p *programs) sdkTargets(t testing.TB) map[string]func(query string) answer {
	t.Helper()
	text := p.secret(t, "?identity=shop").Secret.Reveal()
	return map[string]func(query string) answer{
		"App Service": func(query string) answer {
			return askLoopback(t, http.MethodGet, p.appService+"/msi/token?api-version=2019-08-01&"+query, "X-IDENTITY-HEADER", text)
		},
		"App Service 2017-09-01": func(query string) answer {
			return askLoopback(t, http.MethodGet, p.appService+"/msi/token?api-version=2017-09-01&"+query, "Secret", text)
		},
		"IMDS on loopback": func(query string) answer {
			return askLoopback(t, http.MethodGet, p.imds+wire.PathIMDSToken+"?api-version=2018-02-01&"+query, "Metadata", "true")
		},
		"IMDS on the Unix socket": func(query string) answer {
			return p.get(t, wire.PathIMDSToken+"?api-version=2018-02-01&"+query, "Metadata", "true")
		},
	}
}

// Every value is a string, and none is empty that is a number to somebody.
func TestAnswersAreWhatAllProgramsTake(t *testing.T) {
	a := startPrograms(t, onlyShop())
	for shape, ask := range a.sdkTargets(t) {
		t.Run(shape, func(t *testing.T) {
			got := ask("resource=" + vault)
			var members map[string]any
			if err := json.Unmarshal(got.body, &members); got.status != 200 || err != nil {
				t.Fatalf("%d %s", got.status, got.body)
			}
			for name, value := range members {
				if text, ok := value.(string); !ok || text == "" && name != "refresh_token" {
					t.Errorf("%s is %#v", name, value)
				}
			}
			for name, want := range map[string]string{
				"access_token": tokenText, "token_type": "Bearer", "resource": vault, "client_id": vmClient,
				"expires_in": "3600", "ext_expires_in": "3600", "expires_on": "1795438800", "not_before": "1795434900",
			} {
				if members[name] != want {
					t.Errorf("%s is %v, want %s", name, members[name], want)
				}
			}
		})
	}
}

// The resource comes back letter by letter: there are programs that file the token under it, and
// ask anew each time if it is another one.
func TestTheResourceIsEchoedAsItWasAsked(t *testing.T) {
	const guid = "6dae42f8-4368-4678-94ff-3960e28e3630" // of AKS: kubelogin asks for it bare
	cfg := onlyShop()
	cfg.Policy.Rules[0].Resources = []string{vault, guid, "api://shop.example/App"}
	a := startPrograms(t, cfg)
	for shape, ask := range a.sdkTargets(t) {
		for _, resource := range []string{vault, vault + "/", guid, "api://shop.example/App"} {
			got := ask("resource=" + resource)
			if got.status != 200 || decode[wire.IMDSToken](t, got.body).Resource != resource {
				t.Errorf("%s, %s: %d %s", shape, resource, got.status, got.body)
			}
		}
	}
}

// refresh_in is when the agent itself fetches the next token.
func TestProgramsAreToldWhenToAskAnew(t *testing.T) {
	var life, refresh time.Duration
	cfg := onlyShop()
	cfg.Tokens = tokenFunc(func(_ context.Context, r acquire.Request) (acquire.Token, error) {
		token := goodToken(r)
		token.ExpiresOn = now.Add(life)
		if token.RefreshOn = now.Add(refresh); refresh == 0 {
			token.RefreshOn = time.Time{}
		}
		return token, nil
	})
	a := startPrograms(t, cfg)
	asks := a.sdkTargets(t)
	asks["native"] = nil
	tests := []struct {
		name          string
		life, refresh time.Duration
		want          int64 // 0: it is left out
	}{
		{"a day, and half of it is left until then", 24 * time.Hour, 12 * time.Hour, 12 * 3600},
		{"seconds are rounded down", 24 * time.Hour, 12*time.Hour + 900*time.Millisecond, 12 * 3600},
		{"it is about to be fetched", 13 * time.Hour, time.Second, 300},
		{"it should have been fetched", 11 * time.Hour, -time.Hour, 300},
		{"two hours are left", 2 * time.Hour, time.Hour, 3600},
		{"less than two hours are left", 2*time.Hour - time.Second, time.Hour, 0},
		{"nobody knows", 24 * time.Hour, 0, 0},
	}
	for _, tt := range tests {
		life, refresh = tt.life, tt.refresh
		for shape, ask := range asks {
			var got answer
			if ask != nil {
				got = ask("resource=" + vault)
			} else {
				got = a.get(t, wire.PathToken+"?identity=shop&resource="+vault)
			}
			var said struct {
				RefreshIn any `json:"refresh_in"`
			}
			var want any // a number, since there is a program that fails with text
			if tt.want != 0 {
				want = float64(tt.want)
			}
			if err := json.Unmarshal(got.body, &said); err != nil || got.status != 200 || said.RefreshIn != want {
				t.Errorf("%s, %s: %d, want %v: %s", tt.name, shape, got.status, want, got.body)
			}
		}
	}
}

// Entra is asked for a token that can be revoked before its end only for programs that can replace
// it then.
func TestCapabilitiesAreThoseOfTheRequest(t *testing.T) {
	var mu sync.Mutex
	var asked acquire.Request
	cfg := onlyShop()
	cfg.Tokens = tokenFunc(func(_ context.Context, r acquire.Request) (acquire.Token, error) {
		mu.Lock()
		defer mu.Unlock()
		asked = r
		return goodToken(r), nil
	})
	a := startPrograms(t, cfg)
	tests := []struct {
		query string
		want  []string
	}{
		{"", nil},
		{"&xms_cc=cp1", []string{"cp1"}},
		{"&xms_cc=cp2,cp1", []string{"cp1"}},
		{"&xms_cc=cp2", nil},
		{"&xms_cc=CP1", nil},
		{"&capabilities=cp1&claims=%7B%7D&force_refresh=true&bypass_cache=true&token_sha256_to_refresh=ab", nil},
	}
	for shape, ask := range a.sdkTargets(t) {
		for _, tt := range tests {
			got := ask("resource=" + vault + tt.query)
			mu.Lock()
			if got.status != 200 || !slices.Equal(asked.Capabilities, tt.want) || asked.Claims != "" || asked.ForceRefresh {
				t.Errorf("%s, %q: %d, asked is %+v, want %q", shape, tt.query, got.status, asked, tt.want)
			}
			mu.Unlock()
		}
	}
}

// What goes wrong behind the agent: nothing is a 404 or a 500, and nobody is told to wait for long.
func TestFailuresOnLoopback(t *testing.T) {
	failed := func(kind acquire.Kind, after time.Duration) error {
		return &acquire.Error{Kind: kind, Identity: "shop", RetryAfter: after, Err: errors.New("what went wrong")}
	}
	challenge := &acquire.Error{Kind: acquire.KindRefused, Claims: `{"access_token":{}}`, Err: errors.New("AADSTS50076")}
	tests := []struct {
		name       string
		err        error
		status     int
		error      string
		retryAfter string
	}{
		{"unavailable", failed(acquire.KindUnavailable, 0), 503, "temporarily_unavailable", "5"},
		{"unavailable for a moment", failed(acquire.KindUnavailable, 1500*time.Millisecond), 503, "temporarily_unavailable", "2"},
		{"unavailable for an hour", failed(acquire.KindUnavailable, time.Hour), 503, "temporarily_unavailable", "5"},
		{"throttled for an hour", failed(acquire.KindThrottled, time.Hour), 429, "too_many_requests", "5"},
		{"a resource that Entra does not know", failed(acquire.KindInvalidResource, 0), 400, "invalid_resource", ""},
		{"an identity that the VM does not have", failed(acquire.KindUnknownIdentity, 0), 403, "identity_not_found", ""},
		{"a credential that Entra refuses", failed(acquire.KindRefused, 0), 403, "unauthorized_client", ""},
		{"a challenge of Entra", challenge, 403, "interaction_required", ""},
		{"a fault of the agent", errors.New("a bug"), 503, "temporarily_unavailable", "5"},
		{"a kind of the future", failed("brand_new", 0), 503, "temporarily_unavailable", "5"},
	}
	var err error
	cfg := onlyShop()
	cfg.Tokens = tokenFunc(func(context.Context, acquire.Request) (acquire.Token, error) { return acquire.Token{}, err })
	a := startPrograms(t, cfg)
	for shape, ask := range a.sdkTargets(t) {
		if strings.Contains(shape, "Unix") {
			continue // another test has these
		}
		for _, tt := range tests {
			err = tt.err
			got := ask("resource=" + vault)
			if said := decode[wire.IMDSError](t, got.body); got.status != tt.status || said.Error != tt.error || got.header.Get("Retry-After") != tt.retryAfter || said.Description == "" {
				t.Errorf("%s, %s: got %d, Retry-After %q, %+v", shape, tt.name, got.status, got.header.Get("Retry-After"), said)
			}
		}
	}
	t.Run("the log says why, since there are programs that do not", func(t *testing.T) {
		if log := a.log.String(); !strings.Contains(log, "code=unavailable") || !strings.Contains(log, "what went wrong") || !strings.Contains(log, "a bug") {
			t.Errorf("it says\n%s", log)
		}
	})
}

// No answer is 200 without a token, whatever the source gives.
func TestNoAnswerOnLoopbackWithoutAToken(t *testing.T) {
	var spoil func(*acquire.Token)
	cfg := onlyShop()
	cfg.Tokens = tokenFunc(func(_ context.Context, r acquire.Request) (acquire.Token, error) {
		token := goodToken(r)
		spoil(&token)
		return token, nil
	})
	a := startPrograms(t, cfg)
	for shape, ask := range a.sdkTargets(t) {
		for name, change := range map[string]func(*acquire.Token){
			"an empty token":            func(t *acquire.Token) { t.AccessToken = secret.String{} },
			"a token with a line break": func(t *acquire.Token) { t.AccessToken = secret.New("a\r\nb") },
			"an expired token":          func(t *acquire.Token) { t.ExpiresOn = now },
			"another identity's":        func(t *acquire.Token) { t.Identity = "backup" },
			"a bound token":             func(t *acquire.Token) { t.TokenType = "mtls_pop" },
		} {
			spoil = change
			if got := ask("resource=" + vault); got.status < 400 || strings.Contains(string(got.body), "access_token") {
				t.Errorf("%s, %s: %d %s", shape, name, got.status, got.body)
			}
		}
	}
}

// Refusals come in trains: a program asks again and again. They are cheap, and counted.
func TestRepeatedRefusalsAreCounted(t *testing.T) {
	const asked = 3 * agentapi.RecordsOfAccount
	var fetched int
	cfg := onlyShop()
	cfg.Tokens = tokenFunc(func(context.Context, acquire.Request) (acquire.Token, error) {
		fetched++
		return acquire.Token{}, nil
	})
	a := startPrograms(t, cfg)
	text := a.secret(t, "").Secret.Reveal()
	before := len(a.audit.records(t))
	for range asked {
		if got := askLoopback(t, http.MethodGet, a.appService+"/msi/token?api-version=2019-08-01&resource="+storage, "X-IDENTITY-HEADER", text); got.status != 403 {
			t.Fatalf("%d %s", got.status, got.body)
		}
	}
	for range asked {
		if got := askLoopback(t, http.MethodGet, a.appService+"/msi/token?api-version=2019-08-01&resource="+vault, "X-IDENTITY-HEADER", "another"); got.status != 403 {
			t.Fatalf("%d %s", got.status, got.body)
		}
	}
	a.stop(t) // which writes the counts
	records := a.audit.records(t)[before:]
	last := records[len(records)-1]
	if len(records) > agentapi.RecordsOfAccount+1 || fetched > 0 {
		t.Errorf("%d records, %d fetches", len(records), fetched)
	}
	kinds, _ := last["kinds"].(map[string]any)
	if counted := fmt.Sprint(last["count"]); counted != strconv.Itoa(2*asked+before-agentapi.RecordsOfAccount) || kinds["secret_refused"] != float64(asked) || last["uid"] != float64(appUser) {
		t.Errorf("the last record is %v", last)
	}
	if lines := strings.Count(a.log.String(), "\n"); lines > 10 {
		t.Errorf("the log has %d lines", lines)
	}
}

// Whoever makes connections and leaves cannot fill log and audit.
func TestConnectionsOfNobodyAreCounted(t *testing.T) {
	nobody := func(conn io.Closer) error {
		_ = conn.Close()
		return errors.New("nobody owns the socket")
	}
	cfg := onlyShop()
	a := startProgramsOf(t, cfg, func(conn net.Conn) (peer.Caller, error) { return peer.Caller{}, nobody(conn) }, watchProcesses(t))
	for range 200 {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, a.imds+wire.PathIMDSToken, nil)
		if err != nil {
			t.Fatal(err)
		}
		if resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req); err == nil {
			resp.Body.Close()
			t.Fatalf("an answer: %s", resp.Status)
		}
	}
	a.stop(t)
	for name, text := range map[string]string{"log": a.log.String(), "audit": a.audit.String()} {
		if n := strings.Count(text, "nobody owns the socket"); n == 0 || n > 20 {
			t.Errorf("the %s has %d lines of it", name, n)
		}
	}
	if record := a.audit.lastRecord(t); record["endpoint"] != "imds" || record["uid"] != nil {
		t.Errorf("audit %v", record)
	}
}

// Some programs do not show why they get no token, so the log has it.
func TestTheLogSaysWhyAProgramGetsNoToken(t *testing.T) {
	cfg := onlyShop()
	cfg.Tokens = tokenFunc(func(_ context.Context, r acquire.Request) (acquire.Token, error) {
		return acquire.Token{}, &acquire.Error{Kind: acquire.KindUnavailable, Identity: r.Identity, Err: errors.New("Entra is down")}
	})
	a := startPrograms(t, cfg)
	for shape, ask := range a.sdkTargets(t) {
		if got := ask("resource=" + vault); got.status != 503 {
			t.Errorf("%s: %d %s", shape, got.status, got.body)
		}
	}
	for _, endpoint := range []string{"app-service", "imds"} {
		if !strings.Contains(a.log.String(), `msg="a program gets no token"`) || !strings.Contains(a.log.String(), "endpoint="+endpoint) {
			t.Errorf("nothing of %s in %s", endpoint, a.log)
		}
	}
}
