package acquire_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/acquire/binding"
	"github.com/keyagent/keyagent/acquire/entra"
	"github.com/keyagent/keyagent/acquire/imds"
	"github.com/keyagent/keyagent/tlsbridge"
)

const resource = "https://vault.azure.net"

// world is an acquirer, a token endpoint on real TLS and the certificate that
// the endpoint sees.
type world struct {
	t        testing.TB
	acquirer *acquire.Acquirer
	log      bytes.Buffer
	requests atomic.Int64
	tls      tlsbridge.Config // towards the endpoint
	arrived  chan struct{}    // one value for each request at the endpoint

	mu         sync.Mutex
	clock      time.Time
	key        *rsa.PrivateKey
	current    *binding.Certificate
	bindingErr error
	replaceErr error
	replaced   []binding.Reason
	unbound    func(imds.TokenRequest) (*imds.Token, error)
	region     string
	appKeys    map[string]*acquire.ApplicationKey
	ticks      chan struct{}
	answer     http.HandlerFunc
	seen       []string // subject of the client certificate of each request
	fetched    []string // identity and outcome of each flight
}

func newWorld(t testing.TB) *world {
	t.Helper()
	return newWorldWith(t, acquire.StrengthTPM, managed("vm"), acquire.Identity{
		Name:            "other",
		ManagedIdentity: &acquire.ManagedIdentity{Selector: imds.Selector{ClientID: "other"}, Bound: acquire.BoundRequire},
	})
}

// managed is the system-assigned identity under a name.
func managed(name string) acquire.Identity {
	return acquire.Identity{Name: name, ManagedIdentity: &acquire.ManagedIdentity{Bound: acquire.BoundRequire}}
}

// testKeys are two keys: making them takes longer than any test.
func testKeys(t testing.TB) [2]*rsa.PrivateKey {
	t.Helper()
	keys, err := madeKeys()
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

var madeKeys = sync.OnceValues(func() (keys [2]*rsa.PrivateKey, err error) {
	for i := range keys {
		if keys[i], err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
			return keys, err
		}
	}
	return keys, nil
})

// newWorldWith is newWorld with a key of another strength and other identities.
func newWorldWith(t testing.TB, strength acquire.Strength, identities ...acquire.Identity) *world {
	t.Helper()
	var err error
	key := testKeys(t)[0]
	w := &world{t: t, key: key, clock: time.Now(), arrived: make(chan struct{}, 10000), ticks: make(chan struct{}), appKeys: map[string]*acquire.ApplicationKey{}}
	w.answer = w.token(time.Hour)
	server := httptest.NewUnstartedServer(http.HandlerFunc(w.serve))
	server.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	server.StartTLS()
	t.Cleanup(server.Close)
	w.rotate(server.URL, "first", true)

	for _, id := range identities {
		if id.Application != nil {
			id.Application.Authority.LoginURL, id.Application.Authority.MTLSURL = server.URL+"/login", server.URL+"/mtls"
		}
	}
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	w.tls = tlsbridge.Config{RootCAs: roots, Now: w.now}
	w.acquirer, err = acquire.New(acquire.Config{
		Identities: identities,
		Bindings:   w,
		Key:        acquire.BindingKey{Signer: w.signer, Strength: strength},
		IMDS:       w,
		Keys:       w,
		Regions:    w,
		Entra:      entra.New(entra.Config{Now: w.now, Sleep: func(context.Context, time.Duration) error { return nil }}),
		TLS:        w.tls,
		Now:        w.now,
		Wait:       w.wait,
		Jitter:     func(time.Duration) time.Duration { return 0 },
		Logger:     slog.New(slog.NewTextHandler(&w.log, nil)),
		Observer:   w,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.acquirer.Close() })
	return w
}

func (w *world) signer(context.Context) crypto.Signer { return w.key }

func (w *world) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.clock
}

func (w *world) advance(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.clock = w.clock.Add(d)
}

func (w *world) answerWith(h http.HandlerFunc) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answer = h
}

// rotate makes a new certificate for the identity.
func (w *world) rotate(endpoint, subject string, attested bool) {
	w.t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: subject},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(240 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &w.key.PublicKey, w.key)
	if err != nil {
		w.t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		w.t.Fatal(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if endpoint == "" {
		endpoint = w.current.MTLSEndpoint
	}
	w.current = &binding.Certificate{Leaf: leaf, ClientID: "client-id", TenantID: "tenant-id", MTLSEndpoint: endpoint, Attested: attested}
}

func (w *world) Certificate(context.Context, imds.Selector) (*binding.Certificate, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.current, w.bindingErr
}

func (w *world) Current(imds.Selector) *binding.Certificate {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.current
}

// Replace gives the certificate that the test has prepared, or makes one.
func (w *world) Replace(_ context.Context, _ imds.Selector, rejected *binding.Certificate, why binding.Reason) (*binding.Certificate, error) {
	w.mu.Lock()
	w.replaced = append(w.replaced, why)
	err, same := w.replaceErr, w.current == rejected
	w.mu.Unlock()
	if err == nil && same {
		w.rotate("", fmt.Sprintf("replacement %d", len(w.replaced)), true)
	}
	return w.Current(imds.Selector{}), err
}

func (w *world) serve(rw http.ResponseWriter, r *http.Request) {
	w.requests.Add(1)
	w.mu.Lock()
	answer := w.answer
	if len(r.TLS.PeerCertificates) > 0 {
		w.seen = append(w.seen, r.TLS.PeerCertificates[0].Subject.CommonName)
	}
	w.mu.Unlock()
	w.arrived <- struct{}{}
	answer(rw, r)
}

// token answers with tokens that carry the request's number.
func (w *world) token(life time.Duration) http.HandlerFunc {
	return func(rw http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(rw, `{"token_type":"Bearer","expires_in":%d,"access_token":"secret-token-%d"}`, int(life.Seconds()), w.requests.Load())
	}
}

func refuse(status int, body string, headers ...string) http.HandlerFunc {
	return func(rw http.ResponseWriter, _ *http.Request) {
		for i := 0; i+1 < len(headers); i += 2 {
			rw.Header().Set(headers[i], headers[i+1])
		}
		rw.WriteHeader(status)
		_, _ = io.WriteString(rw, body)
	}
}

func (w *world) get(req acquire.Request) (acquire.Token, error) {
	w.t.Helper()
	if req.Identity == "" {
		req.Identity = "vm"
	}
	if req.Resource == "" {
		req.Resource = resource
	}
	if req.Type == "" {
		req.Type = acquire.TypeBearer
	}
	return w.acquirer.Token(w.t.Context(), req)
}

func (w *world) mustGet(req acquire.Request) acquire.Token {
	w.t.Helper()
	token, err := w.get(req)
	if err != nil {
		w.t.Fatal(err)
	}
	return token
}

func TestATokenAndItsDescription(t *testing.T) {
	w := newWorld(t)
	got := w.mustGet(acquire.Request{})
	if got.AccessToken.Reveal() != "secret-token-1" || got.TokenType != "Bearer" || got.Identity != "vm" || got.Resource != resource ||
		got.ClientID != "client-id" || got.Credential != "managed_identity" || got.Strength != acquire.StrengthAttested || got.FromCache {
		t.Errorf("got %+v", got)
	}
	if got.Binding.Thumbprint != w.current.Thumbprint() || got.Binding.TLSVersion != "TLS 1.3" || got.Binding.SignatureAlgorithm != "rsa_pss_rsae_sha256" {
		t.Errorf("got binding %+v", got.Binding)
	}
	if life := got.ExpiresOn.Sub(w.now()); life != time.Hour {
		t.Errorf("got a life of %v, want 1h", life)
	}
	again := w.mustGet(acquire.Request{})
	if !again.FromCache || again.AccessToken.Reveal() != "secret-token-1" || w.requests.Load() != 1 {
		t.Errorf("second request: got %+v after %d requests, want the cached token", again, w.requests.Load())
	}
	if fresh := w.mustGet(acquire.Request{ForceRefresh: true}); fresh.AccessToken.Reveal() != "secret-token-2" || fresh.FromCache {
		t.Errorf("forced: got %+v, want a new token", fresh)
	}
	if cached := w.mustGet(acquire.Request{}); cached.AccessToken.Reveal() != "secret-token-2" {
		t.Error("the forced token did not replace the cached one")
	}
	if other := w.mustGet(acquire.Request{Identity: "other"}); other.AccessToken.Reveal() == "secret-token-2" {
		t.Error("another identity got this one's token")
	}
	if strings.Contains(w.log.String(), "secret-token") || strings.Contains(fmt.Sprintf("%v %+v %#v", got, got, got), "secret-token") {
		t.Error("the token shows when it is logged or printed")
	}
}

func TestStrengthIsWhatHappened(t *testing.T) {
	w := newWorld(t)
	w.rotate("", "unattested", false)
	if got := w.mustGet(acquire.Request{}); got.Strength != acquire.StrengthTPM {
		t.Errorf("got strength %q for a certificate issued without attestation, want %q", got.Strength, acquire.StrengthTPM)
	}
}

func TestManyCallersOneFlight(t *testing.T) {
	w := newWorld(t)
	release := make(chan struct{})
	issue := w.token(time.Hour)
	w.answerWith(func(rw http.ResponseWriter, r *http.Request) {
		<-release
		issue(rw, r)
	})
	cancelled, cancel := context.WithCancel(t.Context())
	first := make(chan error, 1)
	go func() {
		_, err := w.acquirer.Token(cancelled, acquire.Request{Identity: "vm", Resource: resource, Type: acquire.TypeBearer})
		first <- err
	}()
	<-w.arrived // the flight belongs to the first caller …
	cancel()    // … who goes away
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled caller: got %v", err)
	}
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if got, err := w.get(acquire.Request{}); err != nil || got.AccessToken.Reveal() != "secret-token-1" {
				t.Errorf("got %v, %v", got, err)
			}
		})
	}
	close(release)
	wg.Wait()
	if n := w.requests.Load(); n != 1 {
		t.Errorf("got %d requests for 51 callers, want 1", n)
	}
}

func TestRefreshAheadOfNeedInTheBackground(t *testing.T) {
	w := newWorld(t)
	w.mustGet(acquire.Request{})
	<-w.arrived

	w.advance(31 * time.Minute) // past half of the life
	w.answerWith(refuse(503, "", "Retry-After", "1"))
	if got := w.mustGet(acquire.Request{}); got.AccessToken.Reveal() != "secret-token-1" {
		t.Errorf("got %+v, want the token that is still good", got)
	}
	<-w.arrived
	acquire.WaitFlight(w.acquirer, "vm", resource)
	for range 10 {
		if got := w.mustGet(acquire.Request{}); got.AccessToken.Reveal() != "secret-token-1" {
			t.Error("a failed refresh cost the good token")
		}
	}
	if n := w.requests.Load(); n != 2 {
		t.Errorf("got %d requests, want 2: a failed refresh rests a while", n)
	}

	w.advance(31 * time.Second)
	w.answerWith(w.token(time.Hour))
	w.mustGet(acquire.Request{})
	<-w.arrived
	acquire.WaitFlight(w.acquirer, "vm", resource)
	if got := w.mustGet(acquire.Request{}); got.AccessToken.Reveal() != "secret-token-3" || !got.FromCache {
		t.Errorf("got %+v, want the token that was refreshed meanwhile", got)
	}
}

func TestServedUntilItExpiresAndNotLonger(t *testing.T) {
	w := newWorld(t)
	token := w.mustGet(acquire.Request{})
	w.answerWith(refuse(500, ""))
	w.advance(token.ExpiresOn.Sub(w.now()) - time.Second)
	if _, err := w.get(acquire.Request{}); err != nil {
		t.Errorf("a second before it expires: %v", err)
	}
	acquire.WaitFlight(w.acquirer, "vm", resource)
	w.advance(time.Second)
	_, err := w.get(acquire.Request{})
	if e, ok := errors.AsType[*acquire.Error](err); !ok || e.Kind != acquire.KindUnavailable {
		t.Errorf("expired: got %v, want KindUnavailable and no token", err)
	}
}

func TestRotatedCertificateTakesOver(t *testing.T) {
	w := newWorld(t)
	before := w.mustGet(acquire.Request{})
	w.rotate("", "second", true)
	after := w.mustGet(acquire.Request{ForceRefresh: true})
	if before.Binding.Thumbprint == after.Binding.Thumbprint || w.seen[0] != "first" || w.seen[1] != "second" {
		t.Errorf("the endpoint saw %v; want the new certificate on a new connection", w.seen)
	}
	status := w.acquirer.Status()
	if len(status) != 2 || status[0].Name != "vm" || status[0].Certificate.Leaf.Subject.CommonName != "second" || status[0].Handshake.Count != 1 || status[0].LastError != nil {
		t.Errorf("got status %+v", status)
	}
	if credentials := status[1].Credentials; len(credentials) != 1 || credentials[0].Tried {
		t.Errorf("the unused identity has %+v", credentials)
	}
}

func TestErrorsByKindWithWhatToDo(t *testing.T) {
	imdsError := func(status int, code string) error {
		return &imds.Error{Operation: "issuecredential", Status: status, Code: code}
	}
	for _, tc := range []struct {
		name string
		err  error
		want acquire.Kind
	}{
		{"IMDS unreachable", fmt.Errorf("x: %w", imds.ErrUnreachable), acquire.KindUnavailable},
		{"IMDS 500", imdsError(500, ""), acquire.KindUnavailable},
		{"IMDS 410", imdsError(410, ""), acquire.KindUnavailable},
		{"IMDS 429", imdsError(429, ""), acquire.KindThrottled},
		{"IMDS without MSI v2", &imds.Error{Operation: "getplatformmetadata", Status: 404}, acquire.KindRefused},
		{"an issuer that is not there", imdsError(404, ""), acquire.KindUnavailable},
		{"MSI v2 switched off on this machine", fmt.Errorf("x: %w", imds.ErrNotSupported), acquire.KindRefused},
		{"IMDS does not know the identity", imdsError(400, "identity_not_found"), acquire.KindUnknownIdentity},
		{"IMDS refuses the request", imdsError(400, "invalid_request"), acquire.KindRefused},
		{"somebody else answers for IMDS", imds.ErrBadAnswer, acquire.KindRefused},
		{"attestation down", fmt.Errorf("%w: %w", binding.ErrAttestation, errors.New("down")), acquire.KindUnavailable},
		{"the attestation service refuses", fmt.Errorf("%w: %w", binding.ErrAttestation, noEvidence{}), acquire.KindRefused},
		{"this machine has no evidence", fmt.Errorf("%w: %w", binding.ErrAttestation, final{}), acquire.KindRefused},
		{"Entra unreachable", entra.ErrUnreachable, acquire.KindUnavailable},
		{"Entra answers nonsense", entra.ErrBadAnswer, acquire.KindRefused},
		{"Entra 503", &entra.Error{Status: 503}, acquire.KindUnavailable},
		{"Entra 429", &entra.Error{Status: 429, RetryAfter: 5 * time.Second}, acquire.KindThrottled},
		{"Entra does not know the resource", &entra.Error{Status: 400, Code: "invalid_resource", Codes: []int{500011}}, acquire.KindInvalidResource},
		{"Entra refuses the client", &entra.Error{Status: 401, Code: "invalid_client"}, acquire.KindRefused},
		{"a TPM error", errors.New("TPM_RC_FAILURE"), acquire.KindUnavailable},
		{"the deadline of the flight", context.DeadlineExceeded, acquire.KindUnavailable},
	} {
		got := acquire.Classify("vm", tc.err)
		if got.Kind != tc.want || got.Identity != "vm" || got.Hint == "" || !errors.Is(got, tc.err) {
			t.Errorf("%s: got %+v, want kind %q and a hint", tc.name, got, tc.want)
		}
	}
	if got := acquire.Classify("vm", &entra.Error{Status: 429, RetryAfter: 5 * time.Second}); got.RetryAfter != 5*time.Second {
		t.Errorf("Retry-After is lost: %+v", got)
	}
}

// final is an attestation error that will not go away.
type final struct{}

func (final) Error() string { return "policy failed" }
func (final) Refuses() bool { return true }

// noEvidence is the attestation service's own answer that it does not accept this machine's
// evidence.
type noEvidence struct{ final }

func (noEvidence) RefusesEvidence() bool { return true }

func TestErrorsReachTheCaller(t *testing.T) {
	w := newWorld(t)
	if _, err := w.get(acquire.Request{Identity: "nobody"}); !isKind(err, acquire.KindUnknownIdentity) {
		t.Errorf("unknown identity: got %v", err)
	}
	w.bindingErr = imds.ErrUnreachable
	if _, err := w.get(acquire.Request{}); !isKind(err, acquire.KindUnavailable) || !errors.Is(err, imds.ErrUnreachable) {
		t.Errorf("IMDS down: got %v", err)
	}
	if w.acquirer.Status()[0].LastError == nil {
		t.Error("the status does not show the error")
	}
	w.bindingErr = nil
	if _, err := w.get(acquire.Request{}); err != nil {
		t.Errorf("IMDS is back: %v", err)
	}
	if err := w.acquirer.Status()[0].LastError; err != nil {
		t.Errorf("the status still shows %v", err)
	}
}

func isKind(err error, kind acquire.Kind) bool {
	e, ok := errors.AsType[*acquire.Error](err)
	return ok && e.Kind == kind
}

func TestRetryAfterAndRefusalsAreHonoured(t *testing.T) {
	w := newWorld(t)
	w.answerWith(refuse(429, `{"error":"temporarily_unavailable"}`, "Retry-After", "60"))
	for i := range 20 {
		_, err := w.get(acquire.Request{Resource: fmt.Sprintf("https://r%d", i), ForceRefresh: i%2 == 0})
		if e, ok := errors.AsType[*acquire.Error](err); !ok || e.Kind != acquire.KindThrottled || e.RetryAfter <= 0 || e.RetryAfter > time.Minute {
			t.Fatalf("got %+v, want KindThrottled with what is left of a minute", err)
		}
	}
	if n := w.requests.Load(); n != 1 {
		t.Errorf("a throttled identity made %d requests, want 1: the other resources wait, too", n)
	}
	if _, err := w.get(acquire.Request{Identity: "other"}); !isKind(err, acquire.KindThrottled) || w.requests.Load() != 2 {
		t.Errorf("another identity: got %v after %d requests, want its own attempt", err, w.requests.Load())
	}

	w.advance(61 * time.Second)
	w.answerWith(refuse(401, `{"error":"invalid_client","error_codes":[51000]}`))
	for range 20 {
		if _, err := w.get(acquire.Request{}); !isKind(err, acquire.KindRefused) {
			t.Fatalf("got %v, want KindRefused", err)
		}
	}
	if n := w.requests.Load(); n != 3 {
		t.Errorf("a refusal was asked for again: %d requests, want 3", n)
	}
	w.advance(6 * time.Second)
	w.answerWith(w.token(time.Hour))
	w.mustGet(acquire.Request{})
}

func TestPanicOnTheWayIsThatFlightsError(t *testing.T) {
	w := newWorld(t)
	w.current = nil // nothing expects this
	if _, err := w.get(acquire.Request{}); !isKind(err, acquire.KindUnavailable) {
		t.Errorf("got %v, want KindUnavailable", err)
	}
	if !strings.Contains(w.log.String(), "panic while obtaining a token") {
		t.Errorf("the log does not say so:\n%s", w.log.String())
	}
}

func TestCloseEndsFlights(t *testing.T) {
	w := newWorld(t)
	w.answerWith(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // the server notices a client that went away only then
		<-r.Context().Done()
	})
	result := make(chan error, 1)
	go func() {
		_, err := w.get(acquire.Request{})
		result <- err
	}()
	<-w.arrived
	if err := w.acquirer.Close(); err != nil {
		t.Error(err)
	}
	if err := <-result; !isKind(err, acquire.KindUnavailable) {
		t.Errorf("got %v, want KindUnavailable", err)
	}
	w.acquirer.Close()
	if _, err := w.get(acquire.Request{Resource: "https://x"}); !isKind(err, acquire.KindUnavailable) {
		t.Errorf("after Close: got %v, want KindUnavailable", err)
	}
}

func TestIdentityConfiguredTwice(t *testing.T) {
	if _, err := acquire.New(acquire.Config{Identities: []acquire.Identity{managed("vm"), managed("vm")}}); err == nil {
		t.Error("accepted")
	}
}
