package conformance_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/acquire/entra"
	"github.com/keyagent/keyagent/acquire/imds"
)

// answerDemands are those of 5.5.
func answerDemands() []demand {
	var list []demand
	refused := func(sentence string, kind acquire.TokenType, answer func(thumbprint string) string) {
		list = append(list, demand{"5.5", sentence + " is refused and not kept", func(t *testing.T) {
			a := newAzure(t, vmIdentity())
			a.mtls.answers("token", func(w http.ResponseWriter, r *http.Request) {
				says(200, answer(x5t(r.TLS.PeerCertificates[0].Raw)))(w, r)
			})
			_, err := a.get(vault, kind)
			wantKind(t, err, acquire.KindRefused)
			if !errors.Is(err, entra.ErrBadAnswer) {
				t.Errorf("got %v", err)
			}
			a.advance(time.Minute)
			if token := a.mustGet(vault, kind); token.FromCache {
				t.Error("it was kept")
			}
		}})
	}
	fixed := func(text string) func(string) string { return func(string) string { return text } }
	for _, kind := range []acquire.TokenType{acquire.TypeBearer, acquire.TypePoP} {
		name, right := string(kind), "Bearer"
		if kind == acquire.TypePoP {
			right = "mtls_pop"
		}
		refused(name+": no access_token", kind, fixed(`{"token_type":"`+right+`","expires_in":3600}`))
		refused(name+": no token_type", kind, func(x string) string {
			return `{"expires_in":3600,"access_token":"` + unsigned(`{"cnf":{"x5t#S256":"`+x+`"}}`) + `"}`
		})
		refused(name+": no expires_in", kind, func(x string) string {
			return `{"token_type":"` + right + `","access_token":"` + unsigned(`{"cnf":{"x5t#S256":"`+x+`"}}`) + `"}`
		})
		refused(name+": a login page of a proxy", kind, fixed("<html>"))
		refused(name+": an empty body", kind, fixed(""))
	}
	for _, life := range []string{`-1`, `"-1"`, `0`, `3153600000`, `1e3`, `"soon"`, `null`, `true`} {
		refused("bearer: expires_in "+life, acquire.TypeBearer, fixed(`{"token_type":"Bearer","access_token":"x","expires_in":`+life+`}`))
	}
	refused("bearer: token_type mtls_pop", acquire.TypeBearer, func(x string) string { return tokenAnswer("mtls_pop", x) })
	refused("mtls_pop: token_type Bearer", acquire.TypePoP, func(x string) string { return tokenAnswer("Bearer", x) })
	refused("mtls_pop: bound to another certificate", acquire.TypePoP, fixed(tokenAnswer("mtls_pop", x5t([]byte("another")))))
	refused("mtls_pop: no cnf", acquire.TypePoP, fixed(`{"token_type":"mtls_pop","expires_in":3600,"access_token":"`+unsigned(`{}`)+`"}`))
	refused("mtls_pop: bound by padded base64", acquire.TypePoP, func(x string) string { return tokenAnswer("mtls_pop", x+"=") })
	refused("mtls_pop: a token that is no JWT", acquire.TypePoP, fixed(`{"token_type":"mtls_pop","expires_in":3600,"access_token":"opaque"}`))
	return append(list, []demand{
		{"5.5", "token_type is compared without regard to case", func(t *testing.T) {
			a := newAzure(t, vmIdentity())
			a.mtls.answers("token", says(200, `{"token_type":"bEARER","expires_in":3600,"access_token":"x"}`))
			if token := a.mustGet(vault, acquire.TypeBearer); token.TokenType != "Bearer" {
				t.Errorf("got %q", token.TokenType)
			}
		}},
		{"5.5", "expires_in may be a number or a numeric string", func(t *testing.T) {
			for _, life := range []string{`3600`, `"3600"`} {
				a := newAzure(t, vmIdentity())
				a.mtls.answers("token", says(200, `{"token_type":"Bearer","expires_in":`+life+`,"access_token":"x"}`))
				if token := a.mustGet(vault, acquire.TypeBearer); token.ExpiresOn.Sub(a.clock.Now()) != time.Hour {
					t.Errorf("%s: expires on %v", life, token.ExpiresOn)
				}
			}
		}},
		{"5.5", "an access token of any form is taken as Bearer", func(t *testing.T) {
			a := newAzure(t, vmIdentity())
			a.mtls.answers("token", says(200, `{"token_type":"Bearer","expires_in":3600,"access_token":"opaque"}`))
			if token := a.mustGet(vault, acquire.TypeBearer); token.AccessToken.Reveal() != "opaque" {
				t.Error("another token")
			}
		}},
		{"5.5", "an error's members are all kept", func(t *testing.T) {
			a := newAzure(t, vmIdentity())
			a.mtls.answers("token", says(400, `{"error":"interaction_required","error_description":"AADSTS50076: more","error_codes":[50076],
				"trace_id":"t-1","correlation_id":"c-1","suberror":"basic_action","claims":"{\"access_token\":{\"nbf\":{\"essential\":true}}}"}`))
			_, err := a.bearer()
			e, ok := errors.AsType[*entra.Error](err)
			if !ok || e.Code != "interaction_required" || !e.Has(50076) || e.TraceID != "t-1" || e.CorrelationID != "c-1" || e.Suberror != "basic_action" {
				t.Errorf("got %+v", e)
			}
			if told, ok := errors.AsType[*acquire.Error](err); !ok || told.Claims != `{"access_token":{"nbf":{"essential":true}}}` {
				t.Errorf("the challenge is not passed on: %+v", told)
			}
		}},
		{"5.5", "neither tokens nor assertions come into a log or an error", func(t *testing.T) {
			a := newAzure(t, application(t, ficApp, userEntry(t, acquire.BoundRequire)))
			a.mtls.answers("token", forward(a), refuses(400, "invalid_request", 500181))
			token := a.mustGet(vault, acquire.TypePoP)
			a.mtls.alwaysAnswers("token", refuses(400, "invalid_request", 500181))
			_, err := a.bearer()
			told := fmt.Sprintf("%v %+v %s %v", err, err, a.log.String(), token)
			secrets := append(attestationTokens(t, a), token.AccessToken.Reveal())
			for _, m := range a.mtls.requestsTo("token") {
				secrets = append(secrets, m.form.Get("client_assertion"), m.member("access_token"))
			}
			for _, text := range secrets {
				if at := strings.LastIndex(text, "."); at > 0 && (strings.Contains(told, text[:at]) || strings.Contains(told, text[at+1:])) {
					t.Error("one is told")
				}
			}
		}},
		{"5.5", "error and error_codes decide, never the text", func(t *testing.T) {
			a := newAzure(t, vmIdentity())
			a.mtls.answers("token", says(400, `{"error":"invalid_request","error_description":"AADSTS1000901: not a code","error_codes":[900144]}`))
			if _, err := a.bearer(); err == nil {
				t.Error("no error")
			}
			a.wantTraffic("metadata 1, attest 1, credential 1, mtls 1")
		}},
	}...)
}

// reactionDemands are those of 5.6.
func reactionDemands() []demand {
	var list []demand
	once := "metadata 1, attest 1, credential 1, mtls 1"
	again := "metadata 2, attest 1, credential 2, mtls 2"
	for _, row := range []struct {
		status int
		oauth  string
		codes  []int
		does   string
		want   string
	}{
		{401, "invalid_client", []int{1000610}, "attested and issued anew", "metadata 2, attest 2, credential 2, mtls 2"},
		{401, "invalid_client", []int{1000614}, "attested and issued anew", "metadata 2, attest 2, credential 2, mtls 2"},
		{401, "invalid_client", nil, "issued anew", again},
		{400, "invalid_request", []int{1000901}, "issued anew", again},
		{401, "invalid_client", []int{1000502}, "issued anew", again},
		{401, "invalid_client", []int{7000214}, "issued anew", again},
		{401, "invalid_client", []int{7000277}, "issued anew", again},
		{400, "invalid_request", []int{392196}, "told", once},
		{400, "invalid_request", []int{3921996}, "told", once},
		{401, "invalid_request", []int{3921996}, "told", once},
		{400, "invalid_request", []int{51000}, "told", once},
		{401, "invalid_client", []int{51000}, "told", once},
		{401, "invalid_client", []int{70022204}, "told", once},
		{401, "invalid_client", []int{7000218}, "told", once},
		{401, "invalid_client", []int{7000215}, "told", once},
		{400, "unauthorized_client", []int{700016}, "told", once},
		{400, "invalid_grant", []int{50013}, "told", once},
		{400, "invalid_request", []int{900144}, "told", once},
		{401, "invalid_client", []int{123456789}, "told", once},
		{400, "invalid_client", []int{123456789, 7000214}, "issued anew: the first known code decides", again},
		{400, "invalid_client", []int{700016, 7000214}, "told: the first known code decides", once},
		{503, "invalid_client", []int{7000214}, "told: it is temporary", "metadata 1, attest 1, credential 1, mtls 2"},
	} {
		name := fmt.Sprintf("managed identity, %d %s %v: %s", row.status, row.oauth, row.codes, row.does)
		list = append(list, demand{"5.6", name, func(t *testing.T) {
			a := newAzure(t, vmIdentity())
			a.mtls.answers("token", slices.Repeat([]http.HandlerFunc{refuses(row.status, row.oauth, row.codes...)}, 1+row.status/503)...)
			_, err := a.bearer()
			if issued := strings.Contains(row.want, "credential 2"); issued != (err == nil) {
				t.Errorf("got %v", err)
			} else if err != nil && row.status < 500 {
				wantKind(t, err, acquire.KindRefused)
			}
			a.wantTraffic(row.want)
		}})
	}
	return slices.Concat(list, replacementDemands(), applicationReactions(), federatedReactions(), []demand{
		{"5.6", "managed identity, 401 that is not Entra's JSON: told", func(t *testing.T) {
			a := newAzure(t, vmIdentity())
			a.mtls.answers("token", says(401, "<html>proxy login</html>"))
			_, err := a.bearer()
			wantKind(t, err, acquire.KindRefused)
			a.wantTraffic("metadata 1, attest 1, credential 1, mtls 1")
		}},
	})
}

// replacementDemands are about how often certificates are replaced.
func replacementDemands() []demand {
	return []demand{
		{"5.6", "at most one replacement for a request", func(t *testing.T) {
			a := newAzure(t, vmIdentity())
			a.mtls.alwaysAnswers("token", refuses(400, "invalid_request", 1000901))
			_, err := a.bearer()
			wantKind(t, err, acquire.KindRefused)
			a.wantTraffic("metadata 2, attest 1, credential 2, mtls 2")
		}},
		{"5.6", "the next replacement after 30 s at the earliest, then 60 s, doubling to 30 min", func(t *testing.T) {
			a := newAzure(t, vmIdentity())
			a.mtls.alwaysAnswers("token", refuses(400, "invalid_request", 1000901))
			_, err := a.bearer()
			wantKind(t, err, acquire.KindRefused) // the first replacement was made
			a.advance(6 * time.Second)            // past what a refusal is remembered for
			for _, want := range []time.Duration{24, 60, 120, 240, 480, 960, 1800, 1800} {
				_, err := a.bearer()
				e, ok := errors.AsType[*acquire.Error](err)
				if !ok || e.Kind != acquire.KindUnavailable || e.RetryAfter != want*time.Second {
					t.Fatalf("got %+v, want a pause of %d s", e, want)
				}
				a.advance(e.RetryAfter)
			}
			if n := len(a.metadata.requestsTo("issuecredential")); n != 9 {
				t.Errorf("%d issuances", n)
			}
		}},
		{"5.6", "a certificate that IMDS gives again is not used again", func(t *testing.T) {
			a := newAzure(t, vmIdentity())
			a.mustGet(vault, acquire.TypeBearer)
			first := a.metadata.requestsTo("issuecredential")[0].answer
			a.mtls.answers("token", refuses(400, "invalid_request", 1000901))
			a.metadata.answers("issuecredential", says(200, first))
			if _, err := a.get(management, acquire.TypeBearer); err == nil {
				t.Error("got a token with a rejected certificate")
			}
			if n := len(a.mtls.requestsTo("token")); n != 2 {
				t.Errorf("%d token requests", n)
			}
		}},
		{"5.6", "a server that refuses the certificate in the handshake has it replaced", func(t *testing.T) {
			var refused atomic.Bool
			a := newAzureWith(t, func(a *azure) {
				a.tls = func(c *tls.Config) {
					c.MaxVersion = tls.VersionTLS12 // in which the alert cannot be lost
					c.VerifyConnection = func(tls.ConnectionState) error {
						if !refused.Swap(true) {
							return &tls.CertificateVerificationError{Err: errors.New("not this one")}
						}
						return nil
					}
				}
			}, vmIdentity())
			a.mustGet(vault, acquire.TypeBearer)
			a.wantTraffic("metadata 2, attest 1, credential 2, mtls 1")
		}},
		{"5.6", "a connection that is merely reset does not have the certificate replaced", func(t *testing.T) {
			a := newAzureWith(t, func(a *azure) {
				a.refuse = func(string) error { return &net.OpError{Op: "read", Err: errors.New("connection reset by peer")} }
			}, vmIdentity())
			_, err := a.bearer()
			wantKind(t, err, acquire.KindUnavailable)
			a.wantTraffic("metadata 1, attest 1, credential 1")
		}},
		{"5.6", "500181: the assertion is dropped and both requests are made again over one certificate", func(t *testing.T) {
			a := newAzure(t, application(t, ficApp, userEntry(t, acquire.BoundRequire)))
			a.mtls.answers("token", forward(a), refuses(400, "invalid_request", 500181))
			a.mustGet(vault, acquire.TypeBearer)
			a.wantTraffic("metadata 2, attest 1, credential 1, mtls 4")
			m := a.mtls.requestsTo("token")
			if m[1].form.Get("client_assertion") == m[3].form.Get("client_assertion") || !sameCertificate(m) {
				t.Error("the second pair is not one of its own")
			}
		}},
		{"5.6", "392196 for a bound token is told, and a Bearer token is not tried", func(t *testing.T) {
			a := newAzure(t, managedIdentity(acquire.BoundPrefer, imds.Selector{}))
			_, err := a.get(management, acquire.TypePoP)
			wantKind(t, err, acquire.KindRefused)
			wantError(t, err, "392196")
			a.wantTraffic("metadata 1, attest 1, credential 1, mtls 1")
		}},
		{"5.6", "392196 is remembered for the resource: the next request is not sent, and another resource's is", func(t *testing.T) {
			a := newAzure(t, vmIdentity())
			for range 2 {
				_, err := a.get(management, acquire.TypePoP)
				wantKind(t, err, acquire.KindRefused)
			}
			a.mustGet(vault, acquire.TypePoP)
			a.wantTraffic("metadata 2, attest 1, credential 1, mtls 2")
		}},
	}
}

// forward is the genuine answer of the mutual-TLS face.
func forward(a *azure) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { a.entra.MTLS().ServeHTTP(w, r) }
}

func sameCertificate(list []message) bool {
	return !slices.ContainsFunc(list, func(m message) bool {
		return len(m.certificates) != 1 || !slices.Equal(m.certificates[0], list[0].certificates[0])
	})
}

// applicationReactions are the rows of 5.6 for certificates of applications: one entry over mutual
// TLS, one by assertion after it.
func applicationReactions() []demand {
	var list []demand
	for _, row := range []struct {
		codes []int
		does  string
		want  string
		ok    bool
	}{
		{[]int{1000502}, "the next entry only if it is bound: this machine's clock may be wrong", "mtls 1", false},
		{[]int{7000214}, "the next entry", "mtls 1, login 1", true},
		{[]int{7000277}, "the next entry", "mtls 1, login 1", true},
		{[]int{700027}, "the next entry", "mtls 1, login 1", true},
		{[]int{7000274}, "the next entry", "mtls 1, login 1", true},
		{[]int{700024}, "an assertion with fresh times, once, then the next entry only if it is bound", "mtls 2", false},
		{[]int{51000}, "told", "mtls 1", false},
		{[]int{700016}, "told", "mtls 1", false},
		{[]int{7000218}, "told", "mtls 1", false},
		{[]int{7000215}, "told", "mtls 1", false},
		{[]int{50013}, "told", "mtls 1", false},
	} {
		list = append(list, demand{"5.6", fmt.Sprintf("application, %v: %s", row.codes, row.does), func(t *testing.T) {
			second := certificateEntry(acquire.BoundNever)
			second.Name = "second"
			a := newAzure(t, application(t, certApp, certificateEntry(acquire.BoundRequire), second))
			a.mtls.alwaysAnswers("token", refuses(401, "invalid_client", row.codes...))
			if _, err := a.bearer(); (err == nil) != row.ok {
				t.Errorf("got %v", err)
			}
			a.wantTraffic(row.want)
		}})
	}
	return append(list, demand{"5.6", "application, 700024 and then a token: the second assertion is another one", func(t *testing.T) {
		for _, bound := range []acquire.Bound{acquire.BoundRequire, acquire.BoundNever} {
			a := newAzure(t, application(t, certApp, certificateEntry(bound)))
			for _, r := range []*recorder{a.mtls, a.login} {
				r.answers("token", refuses(401, "invalid_client", 700024))
			}
			a.mustGet(vault, acquire.TypeBearer)
			m := slices.Concat(a.mtls.all(), a.login.all())
			if len(m) != 2 || m[0].form.Get("client_assertion") == m[1].form.Get("client_assertion") {
				t.Errorf("%d requests, or one assertion twice", len(m))
			}
		}
	}})
}

// federatedReactions are the rows of 5.6 for the exchange of a federated application.
func federatedReactions() []demand {
	var list []demand
	for _, row := range []struct {
		codes []int
		does  string
		want  string
		ok    bool
	}{
		{[]int{500181}, "both requests again, over the same certificate", "metadata 2, attest 1, credential 1, mtls 4", true},
		{[]int{700024}, "both requests again, over the same certificate", "metadata 2, attest 1, credential 1, mtls 4", true},
		{[]int{1000612}, "the assertion request says so, too: attested and issued anew, and both requests again", "metadata 3, attest 2, credential 2, mtls 5", true},
		{[]int{1000901}, "the assertion request says so, too: issued anew, and both requests again", "metadata 3, attest 1, credential 2, mtls 5", true},
		{[]int{7000214}, "the assertion request says so, too: issued anew, and both requests again", "metadata 3, attest 1, credential 2, mtls 5", true},
		{[]int{70022204}, "told", "metadata 1, attest 1, credential 1, mtls 2", false},
		{[]int{700016}, "told", "metadata 1, attest 1, credential 1, mtls 2", false},
		{[]int{50013}, "told", "metadata 1, attest 1, credential 1, mtls 2", false},
		{[]int{51000}, "told", "metadata 1, attest 1, credential 1, mtls 2", false},
		{[]int{392196}, "told", "metadata 1, attest 1, credential 1, mtls 2", false},
		{[]int{700027}, "told, there being no next entry", "metadata 1, attest 1, credential 1, mtls 2", false},
	} {
		list = append(list, demand{"5.6", fmt.Sprintf("federated, the exchange, %v: %s", row.codes, row.does), func(t *testing.T) {
			a := newAzure(t, application(t, ficApp, userEntry(t, acquire.BoundRequire)))
			a.mtls.answers("token", forward(a), refuses(400, "invalid_client", row.codes...))
			if strings.HasPrefix(row.does, "the assertion request says so") {
				a.mtls.answers("token", refuses(400, "invalid_client", row.codes...))
			}
			if _, err := a.bearer(); (err == nil) != row.ok {
				t.Errorf("got %v", err)
			}
			a.wantTraffic(row.want)
		}})
	}
	return append(list, demand{"5.6", "federated, the exchange, 7000214 for this application alone: the certificate that others share stays", func(t *testing.T) {
		a := newAzure(t, application(t, ficApp, userEntry(t, acquire.BoundRequire)))
		a.mtls.answers("token", forward(a), refuses(401, "invalid_client", 7000214), forward(a), refuses(401, "invalid_client", 7000214))
		if _, err := a.bearer(); err == nil {
			t.Error("got a token")
		}
		a.wantTraffic("metadata 2, attest 1, credential 1, mtls 4")
	}})
}

// timedOut is an error of the kind that a time-out is.
type timedOut struct{}

func (timedOut) Error() string   { return "i/o timeout" }
func (timedOut) Timeout() bool   { return true }
func (timedOut) Temporary() bool { return true }

// transportDemands are those of 5.7 and 5.8.
func transportDemands() []demand {
	var list []demand
	for _, status := range []int{500, 502, 503, 504} {
		list = append(list,
			demand{"5.7", strconv.Itoa(status) + " without Retry-After: one more attempt after 1 s", func(t *testing.T) {
				a := newAzure(t, vmIdentity())
				a.mtls.alwaysAnswers("token", says(status, ""))
				_, err := a.bearer()
				wantKind(t, err, acquire.KindUnavailable)
				a.wantTraffic("metadata 1, attest 1, credential 1, mtls 2")
				a.wantSlept(time.Second)
			}},
			demand{"5.7", strconv.Itoa(status) + " with Retry-After: no other attempt, and none for that key until then", func(t *testing.T) {
				pausesUntil(t, status, acquire.KindUnavailable)
			}},
		)
	}
	return slices.Concat(list, []demand{
		{"5.7", "429 with Retry-After: no other attempt, and none for that key until then", func(t *testing.T) { pausesUntil(t, 429, acquire.KindThrottled) }},
		{"5.7", "429 without Retry-After: no other attempt", func(t *testing.T) {
			a := newAzure(t, vmIdentity())
			a.mtls.alwaysAnswers("token", says(429, ""))
			_, err := a.bearer()
			wantKind(t, err, acquire.KindThrottled)
			a.wantTraffic("metadata 1, attest 1, credential 1, mtls 1")
			a.wantSlept()
		}},
		{"5.7", "a time-out: one more attempt after 1 s", func(t *testing.T) {
			dialled := 0
			a := newAzureWith(t, func(a *azure) {
				a.refuse = func(string) error {
					if dialled++; dialled == 1 {
						return timedOut{}
					}
					return nil
				}
			}, vmIdentity())
			a.mustGet(vault, acquire.TypeBearer)
			a.wantSlept(time.Second)
			if dialled != 2 {
				t.Errorf("%d connections", dialled)
			}
		}},
		{"5.7", "a refused connection is not tried again", func(t *testing.T) {
			dialled := 0
			a := newAzureWith(t, func(a *azure) {
				a.refuse = func(string) error {
					dialled++
					return &net.OpError{Op: "dial", Err: errors.New("connection refused")}
				}
			}, vmIdentity())
			_, err := a.bearer()
			wantKind(t, err, acquire.KindUnavailable)
			if dialled != 1 {
				t.Errorf("%d connections", dialled)
			}
		}},
		{"5.7", "400 is not tried again", func(t *testing.T) {
			a := newAzure(t, vmIdentity())
			a.mtls.alwaysAnswers("token", refuses(400, "invalid_request", 900144))
			if _, err := a.bearer(); err == nil {
				t.Error("no error")
			}
			a.wantSlept()
		}},
	}, tlsDemands())
}

// pausesUntil wants Retry-After to be told, honoured and over in time.
func pausesUntil(t *testing.T, status int, kind acquire.Kind) {
	t.Helper()
	a := newAzure(t, vmIdentity())
	a.mtls.answers("token", says(status, "", "Retry-After", "120"))
	_, err := a.bearer()
	wantKind(t, err, kind)
	a.wantSlept()
	a.advance(119 * time.Second)
	_, err = a.bearer()
	wantKind(t, err, kind)
	if e, ok := errors.AsType[*acquire.Error](err); !ok || e.RetryAfter != time.Second {
		t.Errorf("got %+v, want one second left", e)
	}
	a.wantTraffic("metadata 1, attest 1, credential 1, mtls 1")
	a.advance(time.Second)
	a.mustGet(vault, acquire.TypeBearer)
}

func tlsDemands() []demand {
	tuned := func(change func(*tls.Config)) func(*azure) { return func(a *azure) { a.tls = change } }
	return []demand{
		{"5.8", "the leaf alone is sent", func(t *testing.T) {
			a := newAzure(t, vmIdentity())
			a.mustGet(vault, acquire.TypeBearer)
			if m := a.mtls.requestsTo("token")[0]; len(m.certificates) != 1 {
				t.Errorf("%d certificates", len(m.certificates))
			}
		}},
		{"5.8", "the certificate is sent, whichever authorities the server names", func(t *testing.T) {
			a := newAzureWith(t, tuned(func(c *tls.Config) { c.ClientCAs = mustServices(t).roots }), vmIdentity())
			a.mustGet(vault, acquire.TypeBearer)
			if m := a.mtls.requestsTo("token")[0]; len(m.certificates) != 1 {
				t.Error("no certificate")
			}
		}},
		{"5.8", "TLS 1.3 where the server has it", func(t *testing.T) {
			a := newAzure(t, vmIdentity())
			if token := a.mustGet(vault, acquire.TypeBearer); token.Binding.TLSVersion != "TLS 1.3" || token.Binding.SignatureAlgorithm != "rsa_pss_rsae_sha256" {
				t.Errorf("got %+v", token.Binding)
			}
		}},
		{"5.8", "TLS 1.2 where the server has no better, with PSS", func(t *testing.T) {
			a := newAzureWith(t, tuned(func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }), vmIdentity())
			if token := a.mustGet(vault, acquire.TypeBearer); token.Binding.TLSVersion != "TLS 1.2" || token.Binding.SignatureAlgorithm != "rsa_pss_rsae_sha256" {
				t.Errorf("got %+v", token.Binding)
			}
		}},
		{"5.8", "no TLS 1.1", func(t *testing.T) {
			a := newAzureWith(t, tuned(func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 }), vmIdentity())
			_, err := a.bearer()
			wantKind(t, err, acquire.KindUnavailable)
			a.wantTraffic("metadata 1, attest 1, credential 1")
		}},
		{"5.8", "a redirect is not followed, nor is the form sent again", func(t *testing.T) {
			for _, status := range []int{301, 302, 303, 307, 308} {
				a := newAzure(t, vmIdentity())
				a.mtls.answers("token", says(status, "", "Location", "https://"+globalLogin+"/x/oauth2/v2.0/token"))
				if _, err := a.bearer(); err == nil {
					t.Error("no error")
				}
				a.wantTraffic("metadata 1, attest 1, credential 1, mtls 1")
			}
		}},
		{"5.8", "a server that nobody vouches for is not believed, and sees no request", func(t *testing.T) {
			stranger := httptest.NewUnstartedServer(http.NotFoundHandler())
			stranger.StartTLS()
			t.Cleanup(stranger.Close)
			a := newAzureWith(t, tuned(func(c *tls.Config) { c.Certificates = stranger.TLS.Certificates }), vmIdentity())
			_, err := a.bearer()
			wantKind(t, err, acquire.KindUnavailable)
			a.wantTraffic("metadata 1, attest 1, credential 1")
		}},
		{"5.8", "one connection serves many requests with one certificate", func(t *testing.T) {
			a := newAzure(t, vmIdentity())
			a.mustGet(vault, acquire.TypeBearer)
			a.mustGet(management, acquire.TypeBearer)
			if m := a.mtls.requestsTo("token"); m[0].connection != m[1].connection {
				t.Error("two connections")
			}
		}},
		{"5.8", "another certificate has connections of its own", func(t *testing.T) {
			a := newAzure(t, vmIdentity())
			a.mtls.answers("token", forward(a), refuses(400, "invalid_request", 1000901))
			a.mustGet(vault, acquire.TypeBearer)
			a.mustGet(management, acquire.TypeBearer)
			m := a.mtls.requestsTo("token")
			if len(m) != 3 || m[1].connection == m[2].connection || slices.Equal(m[1].certificates[0], m[2].certificates[0]) {
				t.Errorf("%d requests; the old connection is used on", len(m))
			}
		}},
		{"5.8", "an application that asks by assertion presents no certificate", func(t *testing.T) {
			a := newAzureWith(t, tuned(func(c *tls.Config) { c.ClientAuth = tls.RequestClientCert }), application(t, certApp, certificateEntry(acquire.BoundNever)))
			a.mustGet(vault, acquire.TypeBearer)
			if m := a.login.requestsTo("token")[0]; len(m.certificates) != 0 {
				t.Error("a certificate was presented")
			}
		}},
	}
}
