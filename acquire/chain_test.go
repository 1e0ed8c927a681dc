package acquire_test

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/acquire/binding"
	"github.com/keyagent/keyagent/acquire/entra"
	"github.com/keyagent/keyagent/acquire/imds"
	"github.com/keyagent/keyagent/internal/cloud"
	"github.com/keyagent/keyagent/internal/secret"
)

const (
	appID    = "c0ffee00-0000-4000-8000-0000000000aa"
	tenant   = "1f2e3d4c-0000-4000-8000-0000000077e1"
	audience = "api://AzureADTokenExchange"
)

// Token makes world the metadata service of managed identities v1.
func (w *world) Token(_ context.Context, _ imds.Selector, req imds.TokenRequest) (*imds.Token, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.unbound == nil {
		return nil, imds.ErrUnreachable
	}
	return w.unbound(req)
}

func (w *world) Region(context.Context) (string, error) {
	if w.region == "" {
		return "", imds.ErrUnreachable
	}
	return w.region, nil
}

// wait lets Run take a turn for each value in ticks.
func (w *world) wait(ctx context.Context, _ time.Duration) error {
	select {
	case <-w.ticks:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// ApplicationKey makes world the store of applications' keys.
func (w *world) ApplicationKey(_ context.Context, name string) (*acquire.ApplicationKey, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if key := w.appKeys[name]; key != nil {
		return key, nil
	}
	return nil, noKey{}
}

// noKey is an error that asking again does not change.
type noKey struct{}

func (noKey) Error() string { return "there is no such key" }
func (noKey) Refuses() bool { return true }

func TestAKeyThatComesIsNoticedWithTheNextRequest(t *testing.T) {
	w := newAppWorld(t, certificateEntry(acquire.BoundRequire))
	w.plays(always)
	if _, err := w.get(acquire.Request{Identity: "app"}); err == nil {
		t.Fatal("got a token without a key")
	}
	w.addKey("app")
	w.mustGet(acquire.Request{Identity: "app"})
}

func TestARefusalThatIsRememberedSaysSo(t *testing.T) {
	w := newAppWorld(t, certificateEntry(acquire.BoundRequire))
	w.addKey("app")
	seen := w.plays(func(int, seenRequest) reply { return refusal(401, "invalid_client", 700027) })
	_, first := w.get(acquire.Request{Identity: "app"})
	_, second := w.get(acquire.Request{Identity: "app"})
	if first == nil || second == nil || strings.Contains(first.Error(), "remembered") || !strings.Contains(second.Error(), "remembered; asked again in 5s") || len(*seen) != 1 {
		t.Errorf("got %v, then %v after %d requests", first, second, len(*seen))
	}
	if e, ok := errors.AsType[*entra.Error](second); !ok || !e.Has(700027) {
		t.Error("what Entra said is lost")
	}
}

// A forced refresh notices a certificate that was registered or replaced meanwhile.
func TestARequestPastTheCacheIsNotAnsweredWithARememberedRefusal(t *testing.T) {
	for name, said := range map[string]reply{
		"a certificate that was not registered": refusal(401, "invalid_client", 700027),
		"an unknown resource":                   refusal(400, "invalid_resource", 500011),
		"mutual TLS that was not enabled":       refusal(412, "unauthorized_client", 51000),
	} {
		t.Run(name, func(t *testing.T) {
			w := newAppWorld(t, certificateEntry(acquire.BoundRequire))
			w.addKey("app")
			w.plays(func(int, seenRequest) reply { return said })
			if _, err := w.get(acquire.Request{Identity: "app"}); err == nil {
				t.Fatal("got a token")
			}
			w.plays(always) // the fault has passed
			if _, err := w.get(acquire.Request{Identity: "app"}); err == nil {
				t.Error("the refusal was not remembered")
			}
			if _, err := w.get(acquire.Request{Identity: "app", ForceRefresh: true}); err != nil {
				t.Errorf("past the cache: got %v", err)
			}
		})
	}
}

// A token of a weaker credential does not outlive its cause by its whole life: the better
// credential is tried again.
func TestATokenOfAFallbackIsFetchedAnewSoon(t *testing.T) {
	w := newAppWorld(t, certificateEntry(acquire.BoundPrefer))
	w.addKey("app")
	w.plays(rejects("mtls", refusal(400, "invalid_request", 51000)))
	first := w.mustGet(acquire.Request{Identity: "app"})
	if due := first.RefreshOn.Sub(first.NotBefore); !first.Fallback || due > 30*time.Minute || due < 20*time.Minute {
		t.Errorf("got fallback %v, due after %v", first.Fallback, due)
	}
	if again := w.mustGet(acquire.Request{Identity: "app", Resource: "https://other"}); !again.Fallback {
		t.Errorf("got %+v", again)
	}
	w.plays(always)
	if bound := w.mustGet(acquire.Request{Identity: "app", ForceRefresh: true}); bound.Fallback || bound.RefreshOn.Sub(bound.NotBefore) < 28*time.Minute {
		t.Errorf("got fallback %v, due after %v", bound.Fallback, bound.RefreshOn.Sub(bound.NotBefore))
	}
}

func TestARequestPastTheCacheTriesRestingEntries(t *testing.T) {
	w := newAppWorld(t, certificateEntry(acquire.BoundPrefer))
	w.addKey("app")
	w.plays(rejects("mtls", refusal(400, "invalid_request", 51000)))
	if got := w.mustGet(acquire.Request{Identity: "app"}); got.Bound {
		t.Fatalf("got %+v", got)
	}
	w.plays(always) // the fault has passed
	if got := w.mustGet(acquire.Request{Identity: "app", ForceRefresh: true}); !got.Bound || got.Fallback {
		t.Errorf("got bound %v, fallback %v", got.Bound, got.Fallback)
	}
}

// Replaced compares with the key's certificate now.
func (w *world) Accepted(string, *x509.Certificate) {}

func (w *world) Replaced(name, thumbprint string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	key := w.appKeys[name]
	return key == nil || acquire.Thumbprint(key.Chain[0]) != thumbprint
}

// addKey makes a key with a certificate.
func (w *world) addKey(name string) {
	w.t.Helper()
	key := testKeys(w.t)[1]
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(240 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		w.t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		w.t.Fatal(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.appKeys[name] = &acquire.ApplicationKey{
		Chain: []*x509.Certificate{leaf}, Signer: func(context.Context) crypto.Signer { return key }, PSS: true, Strength: acquire.StrengthTPM,
	}
}

// seenRequest is what a token endpoint saw.
type seenRequest struct {
	face      string // "login" or "mtls", by the path that the authority has
	subject   string // of the client certificate
	assertion string
	kind      string // assertion type
	tokenType string
	scope     string
	claims    string
}

func (s seenRequest) String() string {
	parts := []string{s.face}
	if s.subject != "" {
		parts = append(parts, "as "+s.subject)
	}
	if s.kind != "" {
		parts = append(parts, strings.TrimPrefix(s.kind, "urn:ietf:params:oauth:client-assertion-type:"))
	}
	if s.tokenType != "" {
		parts = append(parts, s.tokenType)
	}
	return strings.Join(append(parts, "for "+s.scope), " ")
}

// reply is what a token endpoint answers; the zero value is a token.
type reply struct {
	status int
	body   string
}

func refusal(status int, oauth string, codes ...int) reply {
	text := strings.Join(strings.Fields(fmt.Sprint(codes)), ",")
	return reply{status, fmt.Sprintf(`{"error":%q,"error_description":"as the test wants","error_codes":%s}`, oauth, text)}
}

// plays answers each request with what play says, and keeps what was seen.
func (w *world) plays(play func(n int, r seenRequest) reply) *[]seenRequest {
	var seen []seenRequest
	w.answerWith(func(rw http.ResponseWriter, r *http.Request) {
		s := seenRequest{face: strings.Split(r.URL.Path, "/")[1], assertion: r.FormValue("client_assertion"),
			kind: r.FormValue("client_assertion_type"), tokenType: r.FormValue("token_type"), scope: r.FormValue("scope"), claims: r.FormValue("claims")}
		thumbprint := ""
		if certificates := r.TLS.PeerCertificates; len(certificates) > 0 {
			s.subject = certificates[0].Subject.CommonName
			thumbprint = (&binding.Certificate{Leaf: certificates[0]}).Thumbprint()
		}
		w.mu.Lock()
		seen = append(seen, s)
		n := len(seen)
		w.mu.Unlock()
		said := play(n, s)
		if said.status != 0 {
			rw.WriteHeader(said.status)
			fmt.Fprint(rw, said.body)
			return
		}
		answer(rw, n, s.tokenType, thumbprint)
	})
	return &seen
}

// answer gives the token of the n-th request; one of type mtls_pop is a JWT that names the
// certificate.
func answer(rw http.ResponseWriter, n int, tokenType, thumbprint string) {
	if tokenType != string(acquire.TypePoP) {
		fmt.Fprintf(rw, `{"token_type":"Bearer","expires_in":3600,"access_token":"secret-token-%d"}`, n)
		return
	}
	part := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	jwt := part(`{"alg":"none"}`) + "." + part(fmt.Sprintf(`{"cnf":{"x5t#S256":%q},"n":%d}`, thumbprint, n)) + ".c2ln"
	fmt.Fprintf(rw, `{"token_type":"mtls_pop","expires_in":3600,"access_token":%q}`, jwt)
}

// always answers with tokens.
func always(int, seenRequest) reply { return reply{} }

// application is an identity with these credentials, whose tenant's endpoints are at the world's
// server.
func application(name string, credentials ...acquire.Credential) acquire.Identity {
	public, _ := cloud.Named(cloud.Public)
	return acquire.Identity{Name: name, Application: &acquire.Application{
		Authority: entra.Authority{Cloud: public, Tenant: tenant}, ClientID: appID, Credentials: credentials,
	}}
}

// newAppWorld is a world with one application, whose credentials the test says.
func newAppWorld(t *testing.T, credentials ...acquire.Credential) *world {
	t.Helper()
	return newWorldWith(t, acquire.StrengthTPM, application("app", credentials...))
}

func certificateEntry(bound acquire.Bound) acquire.Credential {
	return acquire.Credential{Name: "cert", Source: acquire.SourceCertificate, Bound: bound, Key: "app", SendAssertion: acquire.AssertionAlways}
}

func managedEntry(bound acquire.Bound) acquire.Credential {
	return acquire.Credential{Name: "mi", Source: acquire.SourceManagedIdentity, Bound: bound}
}

// v1Token is what IMDS answers.
func v1Token(req imds.TokenRequest) (*imds.Token, error) {
	return &imds.Token{AccessToken: secret.New("v1-" + req.Resource), ExpiresIn: time.Hour, ClientID: "mi-client"}, nil
}

const (
	scope    = resource + "/.default"
	exchange = audience + "/.default"
)

// What each credential sends, in each form, and what is then said about its token.
func TestEachCredentialObtainsAToken(t *testing.T) {
	file := filepath.Join(t.TempDir(), "assertion")
	if err := os.WriteFile(file, []byte("aa.bb.cc\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	certificate := func(bound acquire.Bound, send acquire.SendAssertion) acquire.Identity {
		c := certificateEntry(bound)
		c.SendAssertion = send
		return application("app", c)
	}
	oidc := func(bound acquire.Bound) []acquire.Identity {
		return []acquire.Identity{
			application("app", acquire.Credential{Name: "via", Source: acquire.SourceOIDC, Bound: bound, Identity: "middle"}),
			application("middle", managedEntry(bound)),
		}
	}
	managedIdentity := func(bound acquire.Bound) acquire.Identity {
		return acquire.Identity{Name: "app", ManagedIdentity: &acquire.ManagedIdentity{Bound: bound}}
	}
	for _, tt := range []struct {
		name       string
		identities []acquire.Identity
		tokenType  acquire.TokenType
		want       []string // as Entra sees them
		bound      bool
		strength   acquire.Strength
	}{
		{"managed identity, bound", []acquire.Identity{managedIdentity(acquire.BoundRequire)}, "",
			[]string{"tenant-id as first bearer for " + scope}, true, acquire.StrengthAttested},
		{"managed identity, bound, of type mtls_pop", []acquire.Identity{managedIdentity(acquire.BoundPrefer)}, acquire.TypePoP,
			[]string{"tenant-id as first mtls_pop for " + scope}, true, acquire.StrengthAttested},
		{"managed identity, unbound: IMDS asks Entra", []acquire.Identity{managedIdentity(acquire.BoundNever)}, "", nil, false, acquire.StrengthNone},
		{"certificate over mutual TLS with an assertion (B)", []acquire.Identity{certificate(acquire.BoundRequire, acquire.AssertionAlways)}, "",
			[]string{"mtls as app jwt-bearer for " + scope}, true, acquire.StrengthTPM},
		{"certificate over mutual TLS alone (B')", []acquire.Identity{certificate(acquire.BoundRequire, acquire.AssertionNever)}, "",
			[]string{"mtls as app for " + scope}, true, acquire.StrengthTPM},
		{"certificate, of type mtls_pop (C)", []acquire.Identity{certificate(acquire.BoundRequire, acquire.AssertionAlways)}, acquire.TypePoP,
			[]string{"mtls as app mtls_pop for " + scope}, true, acquire.StrengthTPM},
		{"certificate by assertion alone (A)", []acquire.Identity{certificate(acquire.BoundNever, acquire.AssertionAlways)}, "",
			[]string{"login jwt-bearer for " + scope}, false, acquire.StrengthTPMSigned},
		{"federated, bound: two requests over one certificate", []acquire.Identity{application("app", managedEntry(acquire.BoundRequire))}, "",
			[]string{"tenant-id as first mtls_pop for " + exchange, "mtls as first jwt-pop for " + scope}, true, acquire.StrengthAttested},
		{"federated, bound, of type mtls_pop", []acquire.Identity{application("app", managedEntry(acquire.BoundRequire))}, acquire.TypePoP,
			[]string{"tenant-id as first mtls_pop for " + exchange, "mtls as first jwt-pop mtls_pop for " + scope}, true, acquire.StrengthAttested},
		{"federated, unbound", []acquire.Identity{application("app", managedEntry(acquire.BoundNever))}, "",
			[]string{"login jwt-bearer for " + scope}, false, acquire.StrengthNone},
		{"through another application, bound: three requests over one certificate", oidc(acquire.BoundRequire), "",
			[]string{"tenant-id as first mtls_pop for " + exchange, "mtls as first jwt-pop mtls_pop for " + exchange, "mtls as first jwt-pop for " + scope}, true, acquire.StrengthAttested},
		{"through another application, unbound", oidc(acquire.BoundNever), "",
			[]string{"login jwt-bearer for " + exchange, "login jwt-bearer for " + scope}, false, acquire.StrengthNone},
		{"an assertion that somebody keeps in a file", []acquire.Identity{application("app", acquire.Credential{
			Name: "file", Source: acquire.SourceAssertionFile, Bound: acquire.BoundNever, Path: file,
		})}, "", []string{"login jwt-bearer for " + scope}, false, acquire.StrengthNone},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorldWith(t, acquire.StrengthTPM, tt.identities...)
			w.addKey("app")
			w.unbound = v1Token
			seen := w.plays(always)
			got := w.mustGet(acquire.Request{Identity: "app", Type: tt.tokenType})
			if requests := described(*seen); !slices.Equal(requests, tt.want) {
				t.Errorf("Entra saw\n%s\nwant\n%s", strings.Join(requests, "\n"), strings.Join(tt.want, "\n"))
			}
			if got.Bound != tt.bound || got.Strength != tt.strength || got.Fallback {
				t.Errorf("got bound %v, strength %q, fallback %v", got.Bound, got.Strength, got.Fallback)
			}
			if (got.Binding.Thumbprint != "") != tt.bound {
				t.Errorf("got binding %+v for bound %v", got.Binding, tt.bound)
			}
		})
	}
}

func described(seen []seenRequest) []string {
	var texts []string
	for _, s := range seen {
		texts = append(texts, s.String())
	}
	return texts
}

// The assertion that the first request obtains is what the exchange sends, over the connection of
// the same certificate.
func TestAnAssertionAndItsCertificateStayTogether(t *testing.T) {
	w := newAppWorld(t, managedEntry(acquire.BoundRequire))
	seen := w.plays(func(n int, _ seenRequest) reply {
		if n == 2 { // between the requests, the certificate is renewed
			w.rotate("", "second", true)
			return refusal(400, "invalid_request", 500181)
		}
		return reply{}
	})
	w.mustGet(acquire.Request{Identity: "app"})
	want := []string{
		"tenant-id as first mtls_pop for " + exchange, "mtls as first jwt-pop for " + scope,
		"tenant-id as second mtls_pop for " + exchange, "mtls as second jwt-pop for " + scope,
	}
	if got := described(*seen); !slices.Equal(got, want) {
		t.Errorf("Entra saw\n%s\nwant both requests again, with the new certificate", strings.Join(got, "\n"))
	}
	if (*seen)[1].assertion == (*seen)[3].assertion {
		t.Error("the rejected assertion was sent again")
	}
}

func TestAnAssertionIsKeptForOtherResourcesUntilItsCertificateGoes(t *testing.T) {
	w := newAppWorld(t, managedEntry(acquire.BoundRequire))
	seen := w.plays(always)
	for i := range 3 {
		w.mustGet(acquire.Request{Identity: "app", Resource: fmt.Sprintf("https://r%d", i)})
	}
	if n := len(*seen); n != 4 {
		t.Errorf("got %d requests for three resources, want one assertion request and three exchanges", n)
	}
	w.rotate("", "second", true)
	w.mustGet(acquire.Request{Identity: "app", Resource: "https://r3"})
	if last := described(*seen)[4:]; !slices.Equal(last, []string{"tenant-id as second mtls_pop for " + exchange, "mtls as second jwt-pop for https://r3/.default"}) {
		t.Errorf("after a rotation Entra saw %v", last)
	}
	w.advance(56 * time.Minute)
	w.mustGet(acquire.Request{Identity: "app", Resource: "https://r4"})
	if n := len(*seen); n != 8 {
		t.Errorf("got %d requests, want 8: an assertion that is about to expire is not sent", n)
	}
}

// Which rejection has a certificate replaced: at most once for a request.
func TestARejectedBindingCertificateIsReplacedOnce(t *testing.T) {
	for _, tt := range []struct {
		name string
		said reply
		why  []binding.Reason // none: it is not replaced
	}{
		{"the attestation is outside its time", refusal(401, "invalid_client", 1000610), []binding.Reason{binding.ReasonAttestation}},
		{"the attestation's issuer", refusal(401, "invalid_client", 1000611), []binding.Reason{binding.ReasonAttestation}},
		{"a claim of the attestation", refusal(401, "invalid_client", 1000612), []binding.Reason{binding.ReasonAttestation}},
		{"the attestation's jku", refusal(401, "invalid_client", 1000613), []binding.Reason{binding.ReasonAttestation}},
		{"the attestation's signature", refusal(401, "invalid_client", 1000614), []binding.Reason{binding.ReasonAttestation}},
		{"no reason is given", reply{401, `{"error":"invalid_client"}`}, []binding.Reason{binding.ReasonCertificate}},
		{"token_not_after has passed", refusal(400, "invalid_request", 1000901), []binding.Reason{binding.ReasonCertificate}},
		{"outside its validity", refusal(401, "invalid_client", 1000502), []binding.Reason{binding.ReasonCertificate}},
		{"revoked", refusal(401, "invalid_client", 7000214), []binding.Reason{binding.ReasonCertificate}},
		{"not enabled", refusal(400, "invalid_request", 51000), nil},
		{"the resource takes no bound tokens", refusal(400, "invalid_request", 392196), nil},
		{"the tenant takes no bound tokens", refusal(400, "invalid_request", 3921996), nil},
		{"no federated credential matches", refusal(401, "invalid_client", 70022204), nil},
		{"neither assertion nor secret", refusal(401, "invalid_client", 7000218), nil},
		{"a wrong secret", refusal(401, "invalid_client", 7000215), nil},
		{"unknown application", refusal(400, "unauthorized_client", 700016), nil},
		{"temporarily down", reply{503, ""}, nil},
		{"throttled", reply{429, ""}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			seen := w.plays(func(int, seenRequest) reply { return tt.said })
			if _, err := w.get(acquire.Request{}); err == nil {
				t.Error("got a token")
			}
			if !slices.Equal(w.replaced, tt.why) {
				t.Errorf("replaced for %v, want %v", w.replaced, tt.why)
			}
			if len(tt.why) > 0 && len(*seen) != 2 {
				t.Errorf("got %d requests, want one with each certificate", len(*seen))
			}

			w = newWorld(t)
			w.plays(func(n int, _ seenRequest) reply {
				if n == 1 {
					return tt.said
				}
				return reply{}
			})
			if got, err := w.get(acquire.Request{}); len(tt.why) > 0 && (err != nil || got.Binding.Thumbprint != w.current.Thumbprint()) {
				t.Errorf("got %+v, %v; want a token with the new certificate", got, err)
			}
		})
	}
}

// What the exchange for an application says of the certificate is believed when the managed
// identity's own request says it, too: many share the certificate, and one application must not
// take it away from them.
func TestACertificateRejectedInTheExchangeIsTriedInTheAssertionRequest(t *testing.T) {
	for _, tt := range []struct {
		name     string
		codes    []int
		revoked  bool // for the assertion request as well
		token    bool
		replaced int
		requests int
	}{
		{"it is revoked", []int{7000214}, true, true, 1, 5},
		{"only this application does not take it", []int{7000214}, false, false, 0, 4},
		{"this application is refused without a reason", nil, false, false, 0, 4},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newAppWorld(t, managedEntry(acquire.BoundRequire))
			seen := w.plays(func(n int, r seenRequest) reply {
				first := r.face == "tenant-id"
				if r.subject == "first" && (first && tt.revoked && n > 1 || !first) {
					return refusal(401, "invalid_client", tt.codes...)
				}
				return reply{}
			})
			_, err := w.get(acquire.Request{Identity: "app"})
			if (err == nil) != tt.token || len(w.replaced) != tt.replaced || len(*seen) != tt.requests {
				t.Errorf("got %v after %d replacements and\n%s", err, len(w.replaced), strings.Join(described(*seen), "\n"))
			}
		})
	}
	// Once per request, whichever request it was.
	w := newAppWorld(t, managedEntry(acquire.BoundRequire))
	w.plays(func(int, seenRequest) reply { return refusal(401, "invalid_client", 7000214) })
	if _, err := w.get(acquire.Request{Identity: "app"}); err == nil || len(w.replaced) != 1 {
		t.Errorf("got %v after %d replacements, want an error after one", err, len(w.replaced))
	}
}

func TestABreakerThatIsOpenIsATemporaryFailure(t *testing.T) {
	w := newWorld(t)
	w.replaceErr = &binding.PausedError{RetryAfter: 20 * time.Second}
	w.plays(func(int, seenRequest) reply { return refusal(401, "invalid_client", 7000214) })
	_, err := w.get(acquire.Request{})
	if e, ok := errors.AsType[*acquire.Error](err); !ok || e.Kind != acquire.KindUnavailable || e.RetryAfter != 20*time.Second {
		t.Errorf("got %+v, want KindUnavailable with the breaker's pause", err)
	}
}

// The chain: what gives way, what is final, and what is said about it.
func TestTheListIsTriedInItsOrder(t *testing.T) {
	missing := certificateEntry(acquire.BoundRequire)
	missing.Name, missing.Key = "missing", "not-there"
	unboundMissing := missing
	unboundMissing.Bound = acquire.BoundNever
	for _, tt := range []struct {
		name        string
		credentials []acquire.Credential
		play        func(n int, r seenRequest) reply
		imdsDown    bool
		noV1        bool
		want        string // name of the entry, "" if there is no token
		bound       bool
		kind        acquire.Kind
		requests    int
	}{
		{name: "the first that works", credentials: []acquire.Credential{certificateEntry(acquire.BoundRequire), managedEntry(acquire.BoundRequire)},
			play: always, want: "cert", bound: true, requests: 1},
		{name: "a key that is not there gives way", credentials: []acquire.Credential{missing, certificateEntry(acquire.BoundRequire)},
			play: always, want: "cert", bound: true, requests: 1},
		{name: "a managed identity that cannot be reached gives way", credentials: []acquire.Credential{managedEntry(acquire.BoundRequire), certificateEntry(acquire.BoundRequire)},
			imdsDown: true, play: always, want: "cert", bound: true, requests: 1},
		{name: "a certificate that is not registered gives way", credentials: []acquire.Credential{certificateEntry(acquire.BoundRequire), managedEntry(acquire.BoundRequire)},
			play: rejects("cert", refusal(401, "invalid_client", 700027)), want: "mi", bound: true, requests: 3},
		{name: "a revoked certificate of an application gives way", credentials: []acquire.Credential{certificateEntry(acquire.BoundRequire), managedEntry(acquire.BoundRequire)},
			play: rejects("cert", refusal(401, "invalid_client", 7000214)), want: "mi", bound: true, requests: 3},
		{name: "a certificate that Entra finds outside its validity gives way to a bound entry", credentials: []acquire.Credential{certificateEntry(acquire.BoundRequire), managedEntry(acquire.BoundRequire)},
			play: rejects("cert", refusal(401, "invalid_client", 1000502)), want: "mi", bound: true, requests: 3},
		{name: "and to no other", credentials: []acquire.Credential{certificateEntry(acquire.BoundRequire), managedEntry(acquire.BoundNever)},
			play: rejects("cert", refusal(401, "invalid_client", 1000502)), kind: acquire.KindRefused, requests: 1},
		{name: "an assertion that Entra finds outside its time is made anew, and gives way to a bound entry", credentials: []acquire.Credential{certificateEntry(acquire.BoundRequire), managedEntry(acquire.BoundRequire)},
			play: rejects("cert", refusal(401, "invalid_client", 700024)), want: "mi", bound: true, requests: 4},
		{name: "and to no unbound one", credentials: []acquire.Credential{certificateEntry(acquire.BoundPrefer), managedEntry(acquire.BoundNever)},
			play: rejects("cert", refusal(401, "invalid_client", 700024)), kind: acquire.KindRefused, requests: 2},
		{name: "an unknown application is final", credentials: []acquire.Credential{certificateEntry(acquire.BoundRequire), managedEntry(acquire.BoundRequire)},
			play: rejects("cert", refusal(400, "unauthorized_client", 700016)), kind: acquire.KindRefused, requests: 1},
		{name: "an unknown resource is final", credentials: []acquire.Credential{certificateEntry(acquire.BoundRequire), managedEntry(acquire.BoundRequire)},
			play: rejects("cert", refusal(400, "invalid_resource", 500011)), kind: acquire.KindInvalidResource, requests: 1},
		{name: "a feature that is not enabled is final where the bound form is required", credentials: []acquire.Credential{certificateEntry(acquire.BoundRequire), managedEntry(acquire.BoundRequire)},
			play: rejects("cert", refusal(400, "invalid_request", 51000)), kind: acquire.KindRefused, requests: 1},
		{name: "throttling is final", credentials: []acquire.Credential{certificateEntry(acquire.BoundRequire), managedEntry(acquire.BoundRequire)},
			play: rejects("cert", reply{429, ""}), kind: acquire.KindThrottled, requests: 1},
		{name: "an outage is final", credentials: []acquire.Credential{certificateEntry(acquire.BoundRequire), managedEntry(acquire.BoundRequire)},
			play: rejects("cert", reply{503, ""}), kind: acquire.KindUnavailable, requests: 2},
		{name: "an entry that prefers to be bound is unbound where the feature is not enabled", credentials: []acquire.Credential{certificateEntry(acquire.BoundPrefer)},
			play: rejects("mtls", refusal(400, "invalid_request", 51000)), want: "cert", bound: false, requests: 2},
		{name: "an outage of the bound form does not make it unbound", credentials: []acquire.Credential{certificateEntry(acquire.BoundPrefer)},
			play: rejects("mtls", reply{503, ""}), kind: acquire.KindUnavailable, requests: 2},
		{name: "an unreachable metadata service does not make a managed identity unbound", credentials: []acquire.Credential{managedEntry(acquire.BoundPrefer)},
			imdsDown: true, play: always, kind: acquire.KindUnavailable},
		{name: "an outage of Entra in the first of two requests is final", credentials: []acquire.Credential{managedEntry(acquire.BoundRequire), certificateEntry(acquire.BoundNever)},
			play: rejects("tenant-id", reply{503, ""}), kind: acquire.KindUnavailable, requests: 2},
		{name: "throttling in the first of two requests is final", credentials: []acquire.Credential{managedEntry(acquire.BoundRequire), certificateEntry(acquire.BoundRequire)},
			play: rejects("tenant-id", reply{429, ""}), kind: acquire.KindThrottled, requests: 1},
		{name: "a managed identity that Entra does not know gives way", credentials: []acquire.Credential{managedEntry(acquire.BoundRequire), certificateEntry(acquire.BoundNever)},
			play: rejects("tenant-id", refusal(400, "unauthorized_client", 700016)), kind: acquire.KindRefused, requests: 1},
		{name: "all were tried in vain", credentials: []acquire.Credential{missing, managedEntry(acquire.BoundNever)},
			noV1: true, play: always, kind: acquire.KindRefused},
		{name: "a key that is not there does not make it unbound", credentials: []acquire.Credential{missing, managedEntry(acquire.BoundNever)},
			play: always, kind: acquire.KindRefused},
		{name: "an unbound entry that is not there gives way to any other", credentials: []acquire.Credential{unboundMissing, managedEntry(acquire.BoundNever)},
			play: always, want: "mi", requests: 1},
		{name: "a metadata service that is not there does not make it unbound", credentials: []acquire.Credential{managedEntry(acquire.BoundRequire), certificateEntry(acquire.BoundNever)},
			imdsDown: true, play: always, kind: acquire.KindUnavailable},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newAppWorld(t, tt.credentials...)
			w.addKey("app")
			if tt.imdsDown {
				w.bindingErr = imds.ErrUnreachable
			}
			if !tt.noV1 {
				w.unbound = v1Token
			}
			seen := w.plays(tt.play)
			got, err := w.get(acquire.Request{Identity: "app"})
			if n := len(*seen); n != tt.requests {
				t.Errorf("got %d requests, want %d: %v", n, tt.requests, described(*seen))
			}
			if tt.want == "" {
				if !isKind(err, tt.kind) {
					t.Errorf("got %v, want kind %q", err, tt.kind)
				}
				return
			}
			if err != nil || got.Credential != tt.want || got.Bound != tt.bound {
				t.Errorf("got credential %q, bound %v, %v; want %q", got.Credential, got.Bound, err, tt.want)
			}
			if first := tt.credentials[0].Name == got.Credential && got.Bound; got.Fallback == first {
				t.Errorf("got fallback %v for %q", got.Fallback, got.Credential)
			}
		})
	}
}

// rejects answers so what comes from an entry (by the subject of its certificate) or to a face, and
// gives tokens for the rest.
func rejects(who string, said reply) func(int, seenRequest) reply {
	return func(_ int, r seenRequest) reply {
		if r.face == who || who == "cert" && r.subject == "app" {
			return said
		}
		return reply{}
	}
}

func TestARequestIsRetriedWithTheNextEntryOnce(t *testing.T) {
	second, third := certificateEntry(acquire.BoundRequire), certificateEntry(acquire.BoundRequire)
	second.Name, third.Name = "second", "third"
	w := newAppWorld(t, certificateEntry(acquire.BoundRequire), second, third)
	w.addKey("app")
	seen := w.plays(func(int, seenRequest) reply { return refusal(401, "invalid_client", 700027) })
	_, err := w.get(acquire.Request{Identity: "app"})
	chain, ok := errors.AsType[*acquire.ChainError](err)
	if !ok || len(chain.Attempts) != 2 || len(*seen) != 2 {
		t.Errorf("got %v after %d requests, want two attempts", err, len(*seen))
	}
	for _, name := range []string{"cert (bound)", "second (bound)", "as the test wants"} {
		if err != nil && !strings.Contains(err.Error(), name) {
			t.Errorf("the error does not say %q: %v", name, err)
		}
	}
}

func TestAnEntryThatWasPassedOverRests(t *testing.T) {
	w := newAppWorld(t, certificateEntry(acquire.BoundRequire), managedEntry(acquire.BoundRequire))
	w.addKey("app")
	seen := w.plays(rejects("cert", refusal(401, "invalid_client", 700027)))
	w.mustGet(acquire.Request{Identity: "app"})
	again := w.mustGet(acquire.Request{Identity: "app", Resource: "https://other"})
	if !again.Fallback || again.Credential != "mi" || len(*seen) != 4 {
		t.Errorf("got %q, fallback %v after %v; want the rejected entry left alone for a while, and it said so", again.Credential, again.Fallback, described(*seen))
	}
	w.advance(6 * time.Minute)
	w.plays(always)
	if back := w.mustGet(acquire.Request{Identity: "app", Resource: "https://third"}); back.Fallback || back.Credential != "cert" {
		t.Errorf("got %q, fallback %v; want the first entry again after its rest", back.Credential, back.Fallback)
	}
	if !strings.Contains(w.log.String(), "a credential was passed over") {
		t.Error("the log does not say that a credential was passed over")
	}
}

func TestRequiredMeansBoundOrNothing(t *testing.T) {
	for name, said := range map[string]error{
		"the host has no binding certificates": &imds.Error{Operation: "getplatformmetadata", Status: 404},
		"the attestation service refuses":      fmt.Errorf("%w: %w", binding.ErrAttestation, noEvidence{}),
		"the issuer refuses":                   &imds.Error{Operation: "issuecredential", Status: 400, Code: "invalid_request"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, bound := range []acquire.Bound{acquire.BoundRequire, acquire.BoundPrefer} {
				w := newWorldWith(t, acquire.StrengthTPM, acquire.Identity{Name: "vm", ManagedIdentity: &acquire.ManagedIdentity{Bound: bound}})
				w.unbound, w.bindingErr = v1Token, said
				got, err := w.get(acquire.Request{})
				if bound == acquire.BoundRequire && err == nil {
					t.Errorf("required: got an unbound token")
				}
				if bound == acquire.BoundPrefer && (err != nil || got.Bound || !got.Fallback || got.Strength != acquire.StrengthNone || got.AccessToken.Reveal() != "v1-"+resource) {
					t.Errorf("preferred: got %+v, %v; want the unbound token, marked", got, err)
				}
				if _, err := w.get(acquire.Request{Type: acquire.TypePoP}); err == nil {
					t.Errorf("%s: got a token of type mtls_pop from an unbound credential", bound)
				}
			}
		})
	}
}

// What one entry of an inner list was refused for good must not hide that another one was only
// disturbed.
func TestAListInAListCountsAsAWhole(t *testing.T) {
	inner := application("inner", certificateEntry(acquire.BoundRequire), managedEntry(acquire.BoundRequire))
	via := acquire.Credential{Name: "via", Source: acquire.SourceOIDC, Identity: "inner"}
	for _, tt := range []struct {
		name     string
		disturb  reply // what the inner list's second entry gets
		unbound  bool
		wantKind acquire.Kind
	}{
		{"the second entry is down", reply{503, ""}, false, acquire.KindUnavailable},
		{"the second entry is throttled", reply{429, ""}, false, acquire.KindThrottled},
		{"the second entry is refused, too", refusal(401, "invalid_client", 700027), true, ""},
	} {
		for _, bound := range []acquire.Bound{acquire.BoundPrefer, acquire.BoundRequire} {
			t.Run(tt.name+", "+string(bound), func(t *testing.T) {
				via.Bound = bound
				outer := application("app", via, acquire.Credential{Name: "cert", Source: acquire.SourceCertificate, Bound: acquire.BoundNever, Key: "app"})
				w := newWorldWith(t, acquire.StrengthTPM, outer, inner)
				w.addKey("app")
				w.unbound = v1Token
				w.plays(func(_ int, r seenRequest) reply {
					switch {
					case r.face == "mtls" && r.subject == "app":
						return refusal(401, "invalid_client", 7000274)
					case r.subject != "":
						return tt.disturb
					}
					return reply{}
				})
				got, err := w.get(acquire.Request{Identity: "app"})
				if tt.unbound && (err != nil || got.Bound || !got.Fallback) || !tt.unbound && !isKind(err, tt.wantKind) {
					t.Errorf("got %q, bound %v, fallback %v, %v", got.Credential, got.Bound, got.Fallback, err)
				}
			})
		}
	}
}

// An entry that is too weak for one identity serves another one all the same.
func TestTheFloorOfOneIdentityRestsNobodysEntries(t *testing.T) {
	inner := application("inner", managedEntry(acquire.BoundRequire), certificateEntry(acquire.BoundRequire))
	outer := application("app", acquire.Credential{Name: "via", Source: acquire.SourceOIDC, Bound: acquire.BoundRequire, Identity: "inner"},
		acquire.Credential{Name: "file", Source: acquire.SourceAssertionFile, Bound: acquire.BoundNever, Path: "/nowhere"})
	outer.MinStrength = acquire.StrengthAttested
	w := newWorldWith(t, acquire.StrengthTPM, outer, inner)
	w.addKey("app")
	w.rotate("", "unattested", false)
	w.plays(always)
	if _, err := w.get(acquire.Request{Identity: "app"}); !isKind(err, acquire.KindRefused) {
		t.Errorf("got %v", err)
	}
	if got := w.mustGet(acquire.Request{Identity: "inner"}); got.Fallback || got.Credential != "mi" {
		t.Errorf("got %q, fallback %v; want the entry that is good enough for this identity", got.Credential, got.Fallback)
	}
}

func TestEachManagedIdentitysCertificateIsReplacedOnce(t *testing.T) {
	second := managedEntry(acquire.BoundRequire)
	second.Name, second.Selector = "second", imds.Selector{ClientID: "other"}
	w := newAppWorld(t, managedEntry(acquire.BoundRequire), second)
	w.plays(func(int, seenRequest) reply { return refusal(401, "invalid_client", 1000612) })
	if _, err := w.get(acquire.Request{Identity: "app"}); err == nil || len(w.replaced) != 2 {
		t.Errorf("got %v after %d replacements, want an error after one for each", err, len(w.replaced))
	}
}

// While another certificate may do, an identity that prefers to be bound is not unbound for want of
// it.
func TestARejectionMakesUnboundOnlyWhenNoOtherCertificateWillDo(t *testing.T) {
	for _, tt := range []struct {
		name    string
		failed  error // to obtain another certificate
		unbound bool
		kind    acquire.Kind // where the bound form is required, or where there is no token
	}{
		{"the metadata service is out of reach", imds.ErrUnreachable, false, acquire.KindUnavailable},
		{"the issuer is throttling", &imds.Error{Operation: "issuecredential", Status: 429}, false, acquire.KindThrottled},
		{"attestation is out of reach", fmt.Errorf("%w: %w", binding.ErrAttestation, errors.New("reset")), false, acquire.KindUnavailable},
		{"the issuer refuses", &imds.Error{Operation: "issuecredential", Status: 400}, true, acquire.KindRefused},
		{"the attestation service refuses", fmt.Errorf("%w: %w", binding.ErrAttestation, noEvidence{}), true, acquire.KindRefused},
		{"this machine has no evidence", fmt.Errorf("%w: %w", binding.ErrAttestation, final{}), false, acquire.KindRefused},
		{"the last attempt failed a moment ago", &binding.PausedError{RetryAfter: time.Minute}, false, acquire.KindUnavailable},
		{"what was rejected was a replacement", &binding.PausedError{RetryAfter: time.Minute, Replacement: true}, true, acquire.KindUnavailable},
	} {
		for _, bound := range []acquire.Bound{acquire.BoundRequire, acquire.BoundPrefer} {
			for name, id := range map[string]acquire.Identity{
				"managed identity": {Name: "app", ManagedIdentity: &acquire.ManagedIdentity{Bound: bound}},
				"federated":        application("app", managedEntry(bound)),
			} {
				t.Run(tt.name+", "+name+", "+string(bound), func(t *testing.T) {
					w := newWorldWith(t, acquire.StrengthTPM, id)
					w.unbound, w.replaceErr = v1Token, tt.failed
					w.plays(func(_ int, r seenRequest) reply {
						if r.subject == "" {
							return reply{}
						}
						return refusal(401, "invalid_client", 7000214)
					})
					got, err := w.get(acquire.Request{Identity: "app"})
					if tt.unbound && bound == acquire.BoundPrefer {
						if err != nil || got.Bound || !got.Fallback {
							t.Errorf("got bound %v, fallback %v, %v; want an unbound token, marked", got.Bound, got.Fallback, err)
						}
					} else if !isKind(err, tt.kind) {
						t.Errorf("got bound %v, %v; want kind %q", got.Bound, err, tt.kind)
					}
				})
			}
		}
	}
}

// An alert on the way to the attestation service says nothing about our certificate, which that
// never sees.
func TestAnAlertOfTheAttestationServiceMakesNothingUnbound(t *testing.T) {
	w := newWorldWith(t, acquire.StrengthTPM, acquire.Identity{Name: "vm", ManagedIdentity: &acquire.ManagedIdentity{Bound: acquire.BoundPrefer}})
	w.unbound, w.bindingErr = v1Token, fmt.Errorf("%w: %w", binding.ErrAttestation, &net.OpError{Op: "remote error", Err: tls.AlertError(42)})
	if got, err := w.get(acquire.Request{}); !isKind(err, acquire.KindUnavailable) {
		t.Errorf("got bound %v, %v", got.Bound, err)
	}
}

// Of the unbound forms, only an assertion that a key in the TPM signs reaches a floor, and only its
// own: it is refused wherever it was refused before it had a name.
func TestNoUnboundFormReachesAFloor(t *testing.T) {
	file := filepath.Join(t.TempDir(), "assertion")
	if err := os.WriteFile(file, []byte("aa.bb.cc\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, id := range map[string]acquire.Identity{
		"managed identity": {Name: "app", ManagedIdentity: &acquire.ManagedIdentity{Bound: acquire.BoundPrefer}},
		"certificate":      application("app", certificateEntry(acquire.BoundNever)),
		"federated":        application("app", managedEntry(acquire.BoundNever)),
		"file":             application("app", acquire.Credential{Name: "file", Source: acquire.SourceAssertionFile, Bound: acquire.BoundNever, Path: file}),
	} {
		for _, floor := range []acquire.Strength{acquire.StrengthTPMSigned, acquire.StrengthSoftware, acquire.StrengthTPM, acquire.StrengthAttested} {
			t.Run(name+", "+string(floor), func(t *testing.T) {
				id := id
				id.MinStrength = floor
				w := newWorldWith(t, acquire.StrengthTPM, id)
				w.addKey("app")
				w.unbound, w.bindingErr = v1Token, &imds.Error{Operation: "getplatformmetadata", Status: 404}
				seen := w.plays(always)
				got, err := w.get(acquire.Request{Identity: "app"})
				if name == "certificate" && floor == acquire.StrengthTPMSigned {
					if err != nil || got.Bound || got.Strength != floor {
						t.Errorf("got %+v, %v", got, err)
					}
					return
				}
				if !isKind(err, acquire.KindRefused) || len(*seen) != 0 {
					t.Errorf("got %v after %d requests, want a refusal before anybody is asked", err, len(*seen))
				}
			})
		}
	}
}

// Whatever form an assertion of another identity has, it can be copied on the way: how it was
// obtained makes it no stronger.
func TestAnAssertionThatIsPassedOnIsNotTPMSigned(t *testing.T) {
	w := newWorldWith(t, acquire.StrengthTPM, application("middle", certificateEntry(acquire.BoundNever)),
		application("app", acquire.Credential{Name: "via", Source: acquire.SourceOIDC, Bound: acquire.BoundNever, Identity: "middle"}))
	w.addKey("app")
	w.plays(always)
	if got := w.mustGet(acquire.Request{Identity: "app"}); got.Bound || got.Strength != acquire.StrengthNone {
		t.Errorf("got bound %v, strength %q", got.Bound, got.Strength)
	}
}

// An assertion that the TPM signs is the weaker form of its entry: it needs the same licence as
// before it had a strength, and says that it is a fallback, also where the floor takes it.
func TestAnAssertionThatTheTPMSignsIsAFallbackFromTheBoundForm(t *testing.T) {
	for _, tt := range []struct {
		name  string
		floor acquire.Strength
		play  reply
		want  string // what Entra saw of it; "" is nothing
	}{
		{"mutual TLS is not enabled", acquire.StrengthTPMSigned, refusal(412, "invalid_request", 51000), "login jwt-bearer for " + scope},
		{"the certificate is merely uploaded", acquire.StrengthTPMSigned, refusal(400, "invalid_request", 392189), "login jwt-bearer for " + scope},
		{"no floor", "", refusal(412, "invalid_request", 51000), "login jwt-bearer for " + scope},
		{"the floor is software", acquire.StrengthSoftware, refusal(412, "invalid_request", 51000), ""},
		{"the floor is tpm", acquire.StrengthTPM, refusal(412, "invalid_request", 51000), ""},
		{"an outage", acquire.StrengthTPMSigned, reply{503, ""}, ""},
		{"throttling that says 51000", acquire.StrengthTPMSigned, refusal(429, "invalid_request", 51000), ""},
		{"a wrong time", acquire.StrengthTPMSigned, refusal(401, "invalid_client", 1000502), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			id := application("app", certificateEntry(acquire.BoundPrefer))
			id.MinStrength = tt.floor
			w := newWorldWith(t, acquire.StrengthTPM, id)
			w.addKey("app")
			seen := w.plays(func(_ int, r seenRequest) reply {
				if r.face == "mtls" {
					return tt.play
				}
				return reply{}
			})
			got, err := w.get(acquire.Request{Identity: "app"})
			asked := slices.Contains(described(*seen), "login jwt-bearer for "+scope)
			switch {
			case tt.want == "" && (err == nil || asked):
				t.Errorf("got %+v, %v; Entra saw %v", got, err, described(*seen))
			case tt.want != "" && (err != nil || got.Bound || !got.Fallback || got.Strength != acquire.StrengthTPMSigned || !asked):
				t.Errorf("got %+v, %v; Entra saw %v", got, err, described(*seen))
			}
		})
	}
}

// An assertion of a key in software is what it was: whoever reads the key makes as many as they
// like.
func TestAnAssertionThatSoftwareSignsHasNoStrength(t *testing.T) {
	for _, floor := range []acquire.Strength{"", acquire.StrengthTPMSigned, acquire.StrengthSoftware} {
		id := application("app", certificateEntry(acquire.BoundNever))
		id.MinStrength = floor
		w := newWorldWith(t, acquire.StrengthSoftware, id)
		w.addKey("app")
		w.appKeys["app"].Strength = acquire.StrengthSoftware
		seen := w.plays(always)
		got, err := w.get(acquire.Request{Identity: "app"})
		if floor == "" && (err != nil || got.Bound || got.Strength != acquire.StrengthNone) {
			t.Errorf("got %+v, %v", got, err)
		}
		if floor != "" && (!isKind(err, acquire.KindRefused) || len(*seen) != 0) {
			t.Errorf("floor %s: got %v after %d requests", floor, err, len(*seen))
		}
	}
}

// Two floors of which none is the higher one both hold: what reaches one of them alone is refused.
func TestFloorsOfWhichNoneIsHigherBothHold(t *testing.T) {
	for _, tt := range []struct {
		name              string
		key               acquire.Strength
		outer, inner      acquire.Strength
		refused, attested bool
	}{
		{"software does not reach tpm-signed", acquire.StrengthSoftware, acquire.StrengthTPMSigned, acquire.StrengthSoftware, true, false},
		{"nor the other way round", acquire.StrengthSoftware, acquire.StrengthSoftware, acquire.StrengthTPMSigned, true, false},
		{"tpm reaches both", acquire.StrengthTPM, acquire.StrengthTPMSigned, acquire.StrengthSoftware, false, false},
		{"attested reaches both", acquire.StrengthTPM, acquire.StrengthSoftware, acquire.StrengthTPMSigned, false, true},
		{"a floor that is not known is reached by nothing", acquire.StrengthTPM, "titanium", acquire.StrengthTPM, true, true},
		{"of the inner identity, too", acquire.StrengthTPM, acquire.StrengthTPM, "titanium", true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			middle, app := application("middle", managedEntry(acquire.BoundRequire)), application("app",
				acquire.Credential{Name: "via", Source: acquire.SourceOIDC, Bound: acquire.BoundRequire, Identity: "middle"})
			middle.MinStrength, app.MinStrength = tt.inner, tt.outer
			w := newWorldWith(t, tt.key, middle, app)
			w.rotate("", "subject", tt.attested)
			seen := w.plays(always)
			_, err := w.get(acquire.Request{Identity: "app"})
			if refused := isKind(err, acquire.KindRefused) && len(*seen) == 0; refused != tt.refused || !tt.refused && err != nil {
				t.Errorf("got %v after %d requests", err, len(*seen))
			}
		})
	}
}

// The floor of an identity holds for the assertions that it gives to others, too.
func TestTheFloorOfTheIssuingIdentityHolds(t *testing.T) {
	middle := application("middle", managedEntry(acquire.BoundRequire))
	middle.MinStrength = acquire.StrengthAttested
	w := newWorldWith(t, acquire.StrengthTPM, middle,
		application("app", acquire.Credential{Name: "via", Source: acquire.SourceOIDC, Bound: acquire.BoundRequire, Identity: "middle"}))
	w.rotate("", "unattested", false)
	seen := w.plays(always)
	if _, err := w.get(acquire.Request{Identity: "app"}); !isKind(err, acquire.KindRefused) || len(*seen) != 0 {
		t.Errorf("got %v after %d requests", err, len(*seen))
	}
}

func TestAssertionsOverMutualTLSOnlyWhereEntraAsksForThem(t *testing.T) {
	c := certificateEntry(acquire.BoundRequire)
	c.SendAssertion = acquire.AssertionAuto
	w := newAppWorld(t, c)
	w.addKey("app")
	seen := w.plays(func(_ int, r seenRequest) reply {
		if r.kind == "" {
			return refusal(401, "invalid_client", 7000218)
		}
		return reply{}
	})
	w.mustGet(acquire.Request{Identity: "app"})
	w.mustGet(acquire.Request{Identity: "app", Resource: "https://other"})
	want := []string{"mtls as app for " + scope, "mtls as app jwt-bearer for " + scope, "mtls as app jwt-bearer for https://other/.default"}
	if got := described(*seen); !slices.Equal(got, want) {
		t.Errorf("Entra saw %v, want %v", got, want)
	}
}

func TestAnAssertionThatTheKeySignsIsSentOnce(t *testing.T) {
	for _, bound := range []acquire.Bound{acquire.BoundRequire, acquire.BoundNever} {
		w := newAppWorld(t, certificateEntry(bound))
		w.addKey("app")
		seen := w.plays(func(n int, _ seenRequest) reply {
			switch n {
			case 1:
				return reply{503, ""}
			case 2:
				return refusal(401, "invalid_client", 700024)
			}
			return reply{}
		})
		w.mustGet(acquire.Request{Identity: "app"})
		sent := map[string]bool{}
		for _, s := range *seen {
			sent[s.assertion] = true
		}
		if len(*seen) != 3 || len(sent) != 3 || sent[""] {
			t.Errorf("%s: got %d assertions in %d requests, want a new one in each", bound, len(sent), len(*seen))
		}
	}
}

func TestAnAssertionFileIsReadAgainAndNeverTold(t *testing.T) {
	file := filepath.Join(t.TempDir(), "assertion")
	w := newAppWorld(t, acquire.Credential{Name: "file", Source: acquire.SourceAssertionFile, Bound: acquire.BoundNever, Path: file})
	seen := w.plays(always)
	for _, tt := range []struct {
		content string
		good    bool
	}{{"", false}, {"one.two.three", true}, {"four.five.six\n", true}, {"no jwt but a password", false}, {strings.Repeat("a", 1<<17) + ".b.c", false}} {
		if err := os.WriteFile(file, []byte(tt.content), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := w.get(acquire.Request{Identity: "app", Resource: fmt.Sprintf("https://r%d", len(tt.content))})
		if (err == nil) != tt.good {
			t.Errorf("%.20q: got %v", tt.content, err)
		}
		if err != nil && strings.Contains(err.Error(), "password") {
			t.Errorf("the error tells what is in the file: %v", err)
		}
	}
	if len(*seen) != 2 || (*seen)[0].assertion != "one.two.three" || (*seen)[1].assertion != "four.five.six" {
		t.Errorf("Entra saw %d requests", len(*seen))
	}
}

func TestCredentialsThatDependOnEachOtherAreRefused(t *testing.T) {
	via := func(name, other string) acquire.Identity {
		return application(name, acquire.Credential{Name: "via", Source: acquire.SourceOIDC, Bound: acquire.BoundRequire, Identity: other})
	}
	bad := certificateEntry("sometimes")
	for name, identities := range map[string][]acquire.Identity{
		"on itself":                 {via("a", "a")},
		"in a circle":               {via("a", "b"), via("b", "a")},
		"on nobody":                 {via("a", "b")},
		"bound in an unknown way":   {application("a", bad)},
		"no credentials":            {application("a")},
		"neither nor":               {{Name: "a"}},
		"a bound assertion file":    {application("a", acquire.Credential{Name: "f", Source: acquire.SourceAssertionFile, Bound: acquire.BoundRequire})},
		"two of the same name":      {application("a", certificateEntry(acquire.BoundNever), certificateEntry(acquire.BoundNever))},
		"of an unknown source":      {application("a", acquire.Credential{Name: "x", Source: "secret", Bound: acquire.BoundNever})},
		"managed in an unknown way": {{Name: "a", ManagedIdentity: &acquire.ManagedIdentity{}}},
	} {
		if _, err := acquire.New(acquire.Config{Identities: identities}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// A source that is not known is refused where the entry is checked, and again where it is built: it
// must not be taken for another one.
func TestAnUnknownSourceIsRefusedWhereTheEntryIsBuilt(t *testing.T) {
	entry := acquire.Credential{Name: "x", Source: "assertion-file", Bound: acquire.BoundNever, Path: "/dev/null"}
	id := acquire.Identity{Name: "app", Application: &acquire.Application{Credentials: []acquire.Credential{entry}}}
	const want = `identity "app": credential "x": there is no source "assertion-file"`
	if _, err := acquire.New(acquire.Config{Identities: []acquire.Identity{id}}); err == nil || err.Error() != want {
		t.Errorf("checked: got %v, want %s", err, want)
	}
	if err := acquire.Build(id); err == nil || err.Error() != want {
		t.Errorf("built: got %v, want %s", err, want)
	}
}
