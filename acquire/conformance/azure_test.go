package conformance_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/google/uuid"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/acquire/binding"
	"github.com/keyagent/keyagent/acquire/entra"
	"github.com/keyagent/keyagent/acquire/imds"
	"github.com/keyagent/keyagent/internal/cloud"
	"github.com/keyagent/keyagent/internal/secret"
	"github.com/keyagent/keyagent/internal/statefile"
	"github.com/keyagent/keyagent/simulator"
	simentra "github.com/keyagent/keyagent/simulator/entra"
	"github.com/keyagent/keyagent/simulator/fault"
	simimds "github.com/keyagent/keyagent/simulator/imds"
	"github.com/keyagent/keyagent/simulator/journal"
	"github.com/keyagent/keyagent/simulator/pki"
	"github.com/keyagent/keyagent/tlsbridge"
)

const (
	vault      = "https://vault.azure.net"
	management = "https://management.azure.com" // takes no bound tokens
	exchange   = "api://AzureADTokenExchange"

	regionalMTLS = "westeurope.mtlsauth.microsoft.com"
	globalMTLS   = "mtlsauth.microsoft.com"
	globalLogin  = "login.microsoftonline.com"
	attestation  = "https://sharedweu.weu.attest.azure.net"
)

// services are simulated, and the same for all cases: making their keys takes longer than most of
// these.
type services struct {
	clock      *simulator.Clock
	tenant, vm string // GUIDs
	system     simentra.Principal
	user       simentra.Principal
	certApp    string // client id of the application with a certificate
	ficApp     string // client id of the application that trusts user

	imds   *simimds.Server
	entra  *simentra.Server
	issuer *pki.IdentityIssuer
	signer jose.Signer // of attestation tokens

	server tls.Certificate
	roots  *x509.CertPool

	key     *rsa.PrivateKey // that binding certificates are about
	appKey  *rsa.PrivateKey
	appLeaf *x509.Certificate // that certApp trusts by subject and issuer
	appCA   *pki.ApplicationAuthority
}

var sharedServices = sync.OnceValues(newServices)

func newServices() (*services, error) {
	start := time.Date(2026, time.October, 1, 8, 0, 0, 0, time.UTC)
	s := &services{clock: simulator.NewClock(func() time.Time { return start }), tenant: uuid.NewString(), vm: uuid.NewString(), certApp: uuid.NewString(), ficApp: uuid.NewString()}
	const group = "/subscriptions/00000000-0000-4000-8000-00000000cafe/resourcegroups/rg/providers/"
	s.system = simentra.Principal{ClientID: uuid.NewString(), ObjectID: uuid.NewString(), ResourceID: group + "Microsoft.Compute/virtualMachines/vm"}
	s.user = simentra.Principal{ClientID: uuid.NewString(), ObjectID: uuid.NewString(), ResourceID: group + "Microsoft.ManagedIdentity/userAssignedIdentities/u"}
	keys := [3]*rsa.PrivateKey{}
	var err error
	for i := range keys {
		if keys[i], err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
			return nil, err
		}
	}
	s.key, s.appKey = keys[0], keys[1]
	if s.appCA, err = pki.NewApplicationAuthority(start); err != nil {
		return nil, err
	}
	if s.appLeaf, err = s.appCA.Issue(&x509.CertificateRequest{Subject: pkix.Name{CommonName: "app"}, PublicKey: s.appKey.Public()}, start); err != nil {
		return nil, err
	}
	if s.issuer, err = pki.NewIdentityIssuer(start); err != nil {
		return nil, err
	}
	return s, errors.Join(s.newServerCertificate(), s.newEntra(), s.newIMDS(keys[2]))
}

// newServerCertificate makes a certificate for every host of every cloud.
func (s *services) newServerCertificate() error {
	authority, err := pki.NewServerAuthority(s.clock.Now())
	if err != nil {
		return err
	}
	var names []string
	for _, host := range hostsOfAllClouds {
		names = append(names, host, "*."+host)
	}
	s.roots = x509.NewCertPool()
	s.roots.AddCert(authority.Root)
	s.server, err = authority.Certificate(s.clock.Now(), names...)
	return err
}

func (s *services) newEntra() error {
	cfg := simentra.Config{
		MTLSURL: "https://" + globalMTLS, LoginURL: "https://" + globalLogin, TenantID: s.tenant,
		Principals: []simentra.Principal{s.system, s.user},
		Applications: []simentra.Application{
			{ClientID: s.certApp, ObjectID: uuid.NewString(), Name: "cert", Trusted: []simentra.SubjectIssuer{{Subject: "app", Issuer: s.appCA.Certificate}}, ApplicationPolicy: simentra.ApplicationPolicy{MTLSEnabled: true}},
			{ClientID: s.ficApp, ObjectID: uuid.NewString(), Name: "fic", ApplicationPolicy: simentra.ApplicationPolicy{MTLSEnabled: true}, Federated: []simentra.FederatedCredential{
				{Issuer: "https://" + globalLogin + "/" + s.tenant + "/v2.0", Subject: s.user.ObjectID, Audience: exchange},
			}},
		},
		Resources: []string{vault, management}, BearerOnly: []string{management},
		Issuer: s.issuer.Certificate, Now: s.clock.Now,
	}
	cfg.Recorder.Journal, cfg.Recorder.Faults = journal.New(1, s.clock.Now), fault.NewSet()
	var err error
	s.entra, err = simentra.New(cfg)
	return err
}

func (s *services) newIMDS(attestationKey *rsa.PrivateKey) error {
	public := jose.JSONWebKey{Key: attestationKey.Public(), KeyID: "maa", Use: "sig", Algorithm: string(jose.RS256)}
	cfg := simimds.Config{
		TenantID: s.tenant, VMID: s.vm, Location: "westeurope",
		Identities: []simimds.Identity{
			{ClientID: s.system.ClientID, ObjectID: s.system.ObjectID, ResourceID: s.system.ResourceID, SystemAssigned: true},
			{ClientID: s.user.ClientID, ObjectID: s.user.ObjectID, ResourceID: s.user.ResourceID},
		},
		Token: s.entra.ManagedIdentityToken, Reject: func(thumbprint string) { s.entra.Reject(thumbprint, simentra.CodeAttestation) },
		AttestationEndpoint: attestation, AttestationKeys: jose.JSONWebKeySet{Keys: []jose.JSONWebKey{public}},
		MTLSEndpoint: "https://" + regionalMTLS, Issuer: s.issuer, Now: s.clock.Now,
	}
	cfg.Recorder.Journal, cfg.Recorder.Faults = journal.New(1, s.clock.Now), fault.NewSet()
	var err error
	if s.imds, err = simimds.New(cfg); err != nil {
		return err
	}
	options := (&jose.SignerOptions{}).WithType("JWT").WithHeader("kid", "maa").WithHeader("jku", attestation+"/certs")
	s.signer, err = jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: attestationKey}, options)
	return err
}

// attestor vouches for the key as the attestation service would, and keeps its token until it is to
// be discarded.
type attestor struct {
	*services
	mu    sync.Mutex
	made  int
	token string
	end   time.Time // of token
	err   error
}

func (s *attestor) Attest(context.Context, string) (secret.String, time.Time, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil || s.token != "" && s.clock.Now().Before(s.end) {
		return secret.New(s.token), s.end, s.err
	}
	s.end = s.clock.Now().Add(8 * time.Hour)
	encode := base64.RawURLEncoding.EncodeToString
	token, err := jwt.Signed(s.signer).Claims(map[string]any{
		"iss": attestation, "nbf": s.clock.Now().Unix(), "exp": s.end.Unix(), "jti": uuid.NewString(),
		"x-ms-attestation-type": "azurevm", "x-ms-azurevm-vmid": s.vm,
		"x-ms-isolation-tee": map[string]any{"x-ms-attestation-type": "sevsnpvm", "x-ms-compliance-status": "azure-compliant-cvm"},
		"x-ms-runtime": map[string]any{"keys": []any{map[string]any{
			"kid": "BindingKey", "kty": "RSA", "n": encode(s.key.N.Bytes()), "e": encode(big.NewInt(int64(s.key.E)).Bytes()),
		}}},
	}).Serialize()
	s.token = token
	s.made++
	return secret.New(token), s.end, err
}

func (s *attestor) Discard(string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.token = ""
}

// none is an attestor without attestation.
type none struct{}

func (none) Attest(context.Context, string) (secret.String, time.Time, error) {
	return secret.String{}, time.Time{}, nil
}
func (none) Discard(string) {}

// azure is what one case sees: a fresh agent stack, and recorders between it and the services.
type azure struct {
	*services
	t *testing.T

	metadata, mtls, login *recorder
	attestor              *attestor
	cfg                   binding.Config
	client                *imds.Client
	bindings              *binding.Manager
	acquirer              *acquire.Acquirer
	log                   lockedBuffer

	tls       func(*tls.Config) // changes the token endpoints' TLS
	disableV2 bool
	refuse    func(host string) error // of connections to Entra

	mu    sync.Mutex
	slept []time.Duration
	keys  map[string]*acquire.ApplicationKey
}

// lockedBuffer is a log that many goroutines may write.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// newAzure starts everything, with these identities.
func newAzure(t *testing.T, identities ...acquire.Identity) *azure {
	t.Helper()
	return newAzureWith(t, nil, identities...)
}

// newAzureWith is newAzure with changes before the start.
func newAzureWith(t *testing.T, change func(*azure), identities ...acquire.Identity) *azure {
	t.Helper()
	s, err := sharedServices()
	if err != nil {
		t.Fatal(err)
	}
	a := &azure{services: s, t: t, attestor: &attestor{services: s}, keys: map[string]*acquire.ApplicationKey{}, refuse: func(string) error { return nil }}
	a.keys["app"] = &acquire.ApplicationKey{Chain: []*x509.Certificate{s.appLeaf}, Signer: signs(s.appKey), PSS: true, Strength: acquire.StrengthSoftware}
	a.cfg = binding.Config{
		Key: softwareKey{s.key}, KeyName: "000b01", Attestor: a.attestor, Files: statefile.In(t.TempDir()), MTLSHosts: imds.MicrosoftMTLSHosts(),
		Now: a.clock.Now, Wait: a.sleep, Logger: slog.New(slog.NewTextHandler(&a.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	if change != nil {
		change(a)
	}
	a.metadata = newRecorder(t, s.imds, nil)
	mtlsConfig, loginConfig := simentra.TLSConfig(s.server), simentra.LoginTLSConfig(s.server)
	if a.tls != nil {
		a.tls(mtlsConfig)
		a.tls(loginConfig)
	}
	a.mtls, a.login = newRecorder(t, s.entra.MTLS(), mtlsConfig), newRecorder(t, s.entra.Login(), loginConfig)
	a.restart(identities...)
	return a
}

// restart makes the agent anew, with the state directory as it is.
func (a *azure) restart(identities ...acquire.Identity) {
	a.t.Helper()
	var err error
	a.client, err = imds.New(imds.Config{
		Endpoint: a.metadata.url, MTLSHosts: imds.MicrosoftMTLSHosts(), AttestationHosts: imds.MicrosoftAttestationHosts(),
		DisableV2: a.disableV2, Version: "1.2.3", Now: a.clock.Now, Sleep: a.sleep,
	})
	if err != nil {
		a.t.Fatal(err)
	}
	a.cfg.IMDS = a.client
	a.bindings = binding.New(a.cfg)
	a.acquirer, err = acquire.New(acquire.Config{
		Identities: identities, Bindings: a.bindings, IMDS: a.client, Keys: a, Regions: a.client,
		Key:   acquire.BindingKey{Signer: signs(a.key), Strength: acquire.StrengthTPM},
		Entra: entra.New(entra.Config{Version: "1.2.3", Now: a.clock.Now, Sleep: a.sleep}),
		TLS:   tlsbridge.Config{RootCAs: a.roots, Now: a.clock.Now, Dial: a.dial},
		Now:   a.clock.Now, Wait: a.sleep, Jitter: func(time.Duration) time.Duration { return 0 }, Logger: a.cfg.Logger,
	})
	if err != nil {
		a.t.Fatal(err)
	}
	client, acquirer := a.client, a.acquirer
	a.t.Cleanup(func() {
		client.Close()
		if err := acquirer.Close(); err != nil {
			a.t.Error(err)
		}
	})
}

// dial leads every host of Entra to its recorder.
func (a *azure) dial(ctx context.Context, network, address string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if err := a.refuse(host); err != nil {
		return nil, err
	}
	to := a.login.url
	if strings.Contains(host, "mtlsauth") {
		to = a.mtls.url
	}
	u, err := url.Parse(to)
	if err != nil {
		return nil, err
	}
	return new(net.Dialer).DialContext(ctx, network, u.Host)
}

// sleep takes no time: the clock is put forward.
func (a *azure) sleep(ctx context.Context, d time.Duration) error {
	a.mu.Lock()
	a.slept = append(a.slept, d)
	a.mu.Unlock()
	a.advance(d)
	return ctx.Err()
}

func (a *azure) advance(d time.Duration) {
	if err := a.clock.Advance(d); err != nil {
		a.t.Error(err)
	}
}

// Replaced compares with the key's certificate now.
func (a *azure) Accepted(string, *x509.Certificate) {}

func (a *azure) Replaced(name, thumbprint string) bool {
	key, err := a.ApplicationKey(a.t.Context(), name)
	return err != nil || acquire.Thumbprint(key.Chain[0]) != thumbprint
}

// ApplicationKey makes azure the store of application keys.
func (a *azure) ApplicationKey(_ context.Context, name string) (*acquire.ApplicationKey, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if key := a.keys[name]; key != nil {
		return key, nil
	}
	return nil, errors.New("there is no such key")
}

type softwareKey struct{ *rsa.PrivateKey }

func (k softwareKey) WithContext(context.Context) crypto.Signer { return k.PrivateKey }

func signs(key *rsa.PrivateKey) func(context.Context) crypto.Signer {
	return func(context.Context) crypto.Signer { return key }
}

// identities that cases use.
func managedIdentity(bound acquire.Bound, sel imds.Selector) acquire.Identity {
	return acquire.Identity{Name: "id", ManagedIdentity: &acquire.ManagedIdentity{Selector: sel, Bound: bound}}
}

func vmIdentity() acquire.Identity { return managedIdentity(acquire.BoundRequire, imds.Selector{}) }

// v1Identity is the system-assigned identity with unbound tokens.
func v1Identity() acquire.Identity { return managedIdentity(acquire.BoundNever, imds.Selector{}) }

func certificateEntry(bound acquire.Bound) acquire.Credential {
	return acquire.Credential{Name: "cert", Source: acquire.SourceCertificate, Bound: bound, Key: "app", SendAssertion: acquire.AssertionAlways}
}

// userEntry is the managed identity that the application ficApp trusts.
func userEntry(t *testing.T, bound acquire.Bound) acquire.Credential {
	t.Helper()
	s := mustServices(t)
	return acquire.Credential{Name: "mi", Source: acquire.SourceManagedIdentity, Bound: bound, Selector: imds.Selector{ClientID: s.user.ClientID}}
}

func mustServices(t *testing.T) *services {
	t.Helper()
	s, err := sharedServices()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// application is an identity in the public cloud with these credentials.
func application(t *testing.T, clientID func(*services) string, credentials ...acquire.Credential) acquire.Identity {
	t.Helper()
	s := mustServices(t)
	public, ok := cloud.Named(cloud.Public)
	if !ok {
		t.Fatal("no public cloud")
	}
	return acquire.Identity{Name: "id", Application: &acquire.Application{
		Authority: entra.Authority{Cloud: public, Tenant: s.tenant}, ClientID: clientID(s), Credentials: credentials,
	}}
}

func certApp(s *services) string { return s.certApp }
func ficApp(s *services) string  { return s.ficApp }

// get asks for a token of the identity "id".
func (a *azure) get(resource string, kind acquire.TokenType) (acquire.Token, error) {
	a.t.Helper()
	return a.acquirer.Token(a.t.Context(), acquire.Request{Identity: "id", Resource: resource, Type: kind})
}

func (a *azure) bearer() (acquire.Token, error) {
	a.t.Helper()
	return a.get(vault, acquire.TypeBearer)
}

// mustGet is get for cases whose token must come.
func (a *azure) mustGet(resource string, kind acquire.TokenType) acquire.Token {
	a.t.Helper()
	token, err := a.get(resource, kind)
	if err != nil {
		a.t.Fatalf("no token: %v", err)
	}
	return token
}

// traffic counts the requests to each endpoint so far, as in "metadata 1, attest 1, credential 1,
// mtls 1".
func (a *azure) traffic() string {
	a.attestor.mu.Lock()
	attested := a.attestor.made
	a.attestor.mu.Unlock()
	var parts []string
	for _, endpoint := range []struct {
		name  string
		count int
	}{
		{"metadata", len(a.metadata.requestsTo("getplatformmetadata"))},
		{"attest", attested},
		{"credential", len(a.metadata.requestsTo("issuecredential"))},
		{"v1", len(a.metadata.requestsTo("token"))},
		{"compute", len(a.metadata.requestsTo("compute"))},
		{"mtls", len(a.mtls.requestsTo("token"))},
		{"login", len(a.login.requestsTo("token"))},
	} {
		if endpoint.count > 0 {
			parts = append(parts, fmt.Sprintf("%s %d", endpoint.name, endpoint.count))
		}
	}
	return strings.Join(parts, ", ")
}

func (a *azure) wantTraffic(want string) {
	a.t.Helper()
	if got := a.traffic(); got != want {
		a.t.Errorf("traffic is %q, want %q", got, want)
	}
}

func (a *azure) wantSlept(want ...time.Duration) {
	a.t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	if fmt.Sprint(a.slept) != fmt.Sprint(want) {
		a.t.Errorf("paused %v, want %v", a.slept, want)
	}
}

// wantKind checks what a caller is told.
func wantKind(t *testing.T, err error, want acquire.Kind) {
	t.Helper()
	e, ok := errors.AsType[*acquire.Error](err)
	if !ok || e.Kind != want {
		t.Errorf("got %v, want an error of kind %q", err, want)
	}
}

func wantError(t *testing.T, err error, text string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), text) {
		t.Errorf("got %v, want an error with %q", err, text)
	}
}

func x5t(der []byte) string {
	sum := sha256.Sum256(der)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// grants answers a token request with a token of the type that was asked for, bound to the
// certificate that was presented.
func grants(w http.ResponseWriter, r *http.Request) {
	thumbprint := ""
	if len(r.TLS.PeerCertificates) > 0 {
		thumbprint = x5t(r.TLS.PeerCertificates[0].Raw)
	}
	says(http.StatusOK, tokenAnswer(r.FormValue("token_type"), thumbprint))(w, r)
}

func tokenAnswer(kind, thumbprint string) string {
	if kind != "mtls_pop" {
		kind = "Bearer"
	}
	return fmt.Sprintf(`{"token_type":%q,"expires_in":3600,"access_token":%q}`, kind, unsigned(fmt.Sprintf(`{"cnf":{"x5t#S256":%q}}`, thumbprint)))
}

// unsigned is a JWT without signature.
func unsigned(claims string) string {
	part := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	return part(`{"alg":"none"}`) + "." + part(claims) + ".c2ln"
}

// refuses is a refusal of Entra's.
func refuses(status int, oauth string, codes ...int) http.HandlerFunc {
	list := strings.ReplaceAll(strings.Trim(fmt.Sprint(codes), "[]"), " ", ",")
	return says(status, fmt.Sprintf(`{"error":%q,"error_description":"as the case wants","error_codes":[%s]}`, oauth, list))
}
