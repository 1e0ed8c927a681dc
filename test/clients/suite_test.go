package clients_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" // MSAL's older thumbprint
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/google/uuid"

	"github.com/keyagent/keyagent/simulator/entra"
	"github.com/keyagent/keyagent/simulator/imds"
	"github.com/keyagent/keyagent/simulator/journal"
	"github.com/keyagent/keyagent/simulator/pki"
)

// suiteCase is what a library is asked for, and what has to come of it.
type suiteCase struct {
	name string
	request
	want     string // client id that the resource sees, or ""
	refusal  string // part of the error, where want is ""
	requests int    // that the token service has to see; 0: not counted
	saw      func(journal.Entry) bool
	claim    func(claims) bool // of the token
}

// suite is all of it.
func (w *world) suite(t *testing.T, l library) []suiteCase {
	t.Helper()
	s := &suiteMaker{world: w, t: t, library: l, good: w.registered(t, certificateApp)}
	return slices.Concat(s.certificates(), s.regions(), s.claims(), s.federated(), s.refusals(), s.refusedAssertions(), s.identities())
}

// suiteMaker makes the cases of one library.
type suiteMaker struct {
	*world
	t *testing.T
	library
	good pair // uploaded for certificateApp
}

// fresh passes the cache over; twice asks again as apps do.
func fresh() []bool { return []bool{true} }
func twice() []bool { return []bool{false, false} }

// app is a request for a token of an application for the vault.
func (s *suiteMaker) app(name string) request {
	tenant := s.info.TenantID
	return request{
		Authority: "https://login.microsoftonline.com/" + tenant, Tenant: tenant, ClientID: s.application(name).ClientID,
		Scope: vaultScope, Calls: fresh(),
	}
}

// with is certificateApp with this pair.
func (s *suiteMaker) with(p pair, change ...func(*request)) request {
	r := s.app(certificateApp)
	key, err := x509.MarshalPKCS8PrivateKey(p.key)
	if err != nil {
		s.t.Fatal(err)
	}
	sum := sha256.Sum256(p.certificate.Raw)
	r.Kind, r.Thumbprint = byCertificate, hex.EncodeToString(sum[:])
	r.Key = string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}))
	r.Certificate = string(pki.EncodePEM(append([]*x509.Certificate{p.certificate}, p.issuers...)...))
	for _, c := range change {
		c(&r)
	}
	return r
}

// asserting is federatedApp with this token as its assertion.
func (s *suiteMaker) asserting(assertion string, change ...func(*request)) request {
	r := s.app(federatedApp)
	r.Kind, r.Assertion = byAssertion, assertion
	for _, c := range change {
		c(&r)
	}
	return r
}

func chain(r *request)               { r.X5C = true }
func region(r *request)              { r.Region = "westeurope" }
func fromFile(r *request)            { r.Kind = byAssertionFile }
func askTwice(r *request)            { r.Calls = twice() }
func capable(r *request)             { r.Capabilities = []string{"cp1"} }
func anewTwice(r *request)           { r.Calls = []bool{true, true} }
func stepUp(r *request)              { r.Claims = `{"access_token":{"acrs":{"essential":true,"value":"c1"}}}` }
func scope(to string) func(*request) { return func(r *request) { r.Scope = to } }
func olderThumbprint(p pair) func(*request) {
	sum := sha1.Sum(p.certificate.Raw)
	return func(r *request) { r.SHA1, r.Thumbprint = true, hex.EncodeToString(sum[:]) }
}

// header says whether the assertion's header had these members, or had them not.
func header(name string, there bool) func(journal.Entry) bool {
	return func(e journal.Entry) bool {
		assertion, _ := e.Detail["assertion"].(map[string]any)
		names, _ := assertion["headers"].([]string)
		return slices.Contains(names, name) == there
	}
}

func (s *suiteMaker) certificates() []suiteCase {
	id := s.application(certificateApp).ClientID
	trusted := s.trusted(s.t, certificateApp, "suite")
	return []suiteCase{
		{name: "certificate", request: s.with(s.good), want: id, requests: 1, saw: header("x5t#S256", true)},
		{name: "certificate, and the token is kept", request: s.with(s.good, askTwice), want: id, requests: 1},
		{name: "certificate, anew each time", request: s.with(s.good, anewTwice), want: id},
		{name: "certificate by its older thumbprint", request: s.with(s.good, olderThumbprint(s.good)), want: id, saw: header("x5t", true)},
		{name: "certificate for Graph", request: s.with(s.good, scope("https://graph.microsoft.com/.default")), want: "-", claim: forAudience("https://graph.microsoft.com")},
		{name: "certificate for management", request: s.with(s.good, scope("https://management.azure.com/.default")), want: "-", claim: forAudience("https://management.azure.com")},
		{name: "x5c of an uploaded certificate", request: s.with(s.good, chain), want: id, saw: header("x5c", true)},
		{name: "x5c of a certificate trusted by subject and issuer", request: s.with(trusted, chain), want: id, saw: header("x5c", true)},
		{name: "x5c, and the token is kept", request: s.with(trusted, chain, askTwice), want: id, requests: 1},
		{name: "x5c of another app's subject", request: s.with(s.trusted(s.t, federatedApp, "another"), chain), refusal: "AADSTS700027"},
		{name: "a trusted certificate without x5c", request: s.with(trusted), refusal: "AADSTS700027"},
	}
}

func forAudience(want string) func(claims) bool {
	return func(c claims) bool { return c.Audience == want }
}

func (s *suiteMaker) regions() []suiteCase {
	id := s.application(certificateApp).ClientID
	return []suiteCase{
		{name: "region", request: s.with(s.good, region), want: id},
		{name: "region with x5c", request: s.with(s.good, region, chain), want: id},
		{name: "region, and the token is kept", request: s.with(s.good, region, askTwice), want: id, requests: 1},
		{name: "region, an assertion", request: s.asserting(s.fromVM(1), region), want: s.application(federatedApp).ClientID},
		{name: "region, an unknown certificate", request: s.with(newPair(s.t, time.Hour), region), refusal: "AADSTS700027"},
	}
}

func (s *suiteMaker) claims() []suiteCase {
	id := s.application(certificateApp).ClientID
	return []suiteCase{
		{name: "capabilities", request: s.with(s.good, capable), want: id, claim: func(c claims) bool { return slices.Contains(c.Capabilities, "cp1") }},
		{name: "claims that a resource asks for", request: s.with(s.good, stepUp), want: id, claim: func(c claims) bool { return slices.Contains(c.Contexts, "c1") }},
		{name: "claims in a region", request: s.with(s.good, stepUp, region), want: id, claim: func(c claims) bool { return slices.Contains(c.Contexts, "c1") }},
		{name: "claims and capabilities", request: s.with(s.good, stepUp, capable), want: id, claim: func(c claims) bool {
			return slices.Contains(c.Contexts, "c1") && slices.Contains(c.Capabilities, "cp1")
		}},
	}
}

// fromVM is a token of one of the VM's identities for the exchange.
func (s *suiteMaker) fromVM(identity int) string {
	s.t.Helper()
	return s.fromIMDS(identity, entra.TokenExchange)
}

func (s *suiteMaker) fromIMDS(identity int, resource string) string {
	s.t.Helper()
	ask := azidentityManagedIdentity(s.azure(), azidentity.ClientID(s.info.Identities[identity].ClientID), resource+"/.default")
	token, err := ask(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	return token
}

func (s *suiteMaker) federated() []suiteCase {
	id := s.application(federatedApp).ClientID
	fromIssuer, err := s.trustedIssuer(s.t)(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	return []suiteCase{
		{name: "federated, the VM's identity", request: s.asserting(s.fromVM(1)), want: id, requests: 1},
		{name: "federated, another issuer", request: s.asserting(fromIssuer), want: id},
		{name: "federated, and the token is kept", request: s.asserting(s.fromVM(1), askTwice), want: id, requests: 1},
		{name: "federated, the same assertion again", request: s.asserting(s.fromVM(1), anewTwice), want: id},
		{name: "federated, from a file", request: s.asserting(fromIssuer, fromFile), want: id},
		{name: "federated, with capabilities", request: s.asserting(s.fromVM(1), capable), want: id, claim: func(c claims) bool { return slices.Contains(c.Capabilities, "cp1") }},
	}
}

func (s *suiteMaker) refusals() []suiteCase {
	expired, revoked := newPair(s.t, -time.Hour), s.registered(s.t, certificateApp)
	if err := s.RegisterCertificate(certificateApp, expired.certificate); err != nil {
		s.t.Fatal(err)
	}
	s.Revoke(revoked.thumbprint())
	nobody := uuid.NewString()
	otherTenant := func(r *request) { r.Tenant, r.Authority = nobody, "https://login.microsoftonline.com/"+nobody }
	return []suiteCase{
		{name: "refused, another certificate", request: s.with(newPair(s.t, time.Hour)), refusal: "AADSTS700027"},
		{name: "refused, another certificate with x5c", request: s.with(newPair(s.t, time.Hour), chain), refusal: "AADSTS700027"},
		{name: "refused, another app's certificate", request: s.with(s.good, func(r *request) { r.ClientID = s.application(federatedApp).ClientID }), refusal: "AADSTS700027"},
		{name: "refused, an expired certificate", request: s.with(expired), refusal: "AADSTS1000502"},
		{name: "refused, a revoked certificate", request: s.with(revoked), refusal: "AADSTS7000214"},
		{name: "refused, an unknown app", request: s.with(s.good, func(r *request) { r.ClientID = nobody }), refusal: "AADSTS700016"},
		{name: "refused, an unknown tenant", request: s.with(s.good, otherTenant), refusal: "AADSTS90002"},
		{name: "refused, an unknown resource", request: s.with(s.good, scope("https://nobody.example/.default")), refusal: "AADSTS500011"},
	}
}

func (s *suiteMaker) refusedAssertions() []suiteCase {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		s.t.Fatal(err)
	}
	from := func(issuer string, valid time.Duration) string {
		now := time.Now()
		text, err := sign(key, map[string]any{"alg": "PS256", "typ": "JWT", "kid": "1"}, map[string]any{
			"iss": issuer, "sub": "somebody", "aud": entra.TokenExchange, "nbf": now.Add(-time.Hour).Unix(), "exp": now.Add(valid).Unix(),
		})
		if err != nil {
			s.t.Fatal(err)
		}
		return text
	}
	return []suiteCase{
		{name: "refused, another identity's token", request: s.asserting(s.fromVM(0)), refusal: "AADSTS700213"},
		{name: "refused, a token for another resource", request: s.asserting(s.fromIMDS(1, vault)), refusal: "AADSTS70022204"},
		{name: "refused, an issuer that nobody knows", request: s.asserting(from("https://nobody.example", time.Hour)), refusal: "AADSTS700211"},
		{name: "refused, an issuer's name with another key", request: s.asserting(from("https://cluster.example", time.Hour)), refusal: "AADSTS700027"},
		{name: "refused, no assertion at all", request: s.asserting("x.y.z"), refusal: "AADSTS50027"},
	}
}

// managed is a request for a token of one of the VM's identities.
func (s *suiteMaker) managed(id *selector, resource string) request {
	return request{Kind: byIdentity, Identity: id, Scope: s.scope(resource), Calls: fresh()}
}

func (s *suiteMaker) identities() []suiteCase {
	vm, user := s.info.Identities[0], s.info.Identities[1]
	again := s.managed(&selector{ClientID: user.ClientID}, "https://graph.microsoft.com")
	again.Calls = twice()
	return []suiteCase{
		{name: "managed identity, system-assigned", request: s.managed(nil, vault), want: vm.ClientID, requests: 1},
		{name: "managed identity, by client id", request: s.managed(&selector{ClientID: user.ClientID}, vault), want: user.ClientID, requests: 1},
		{name: "managed identity, by object id", request: s.managed(&selector{ObjectID: user.ObjectID}, vault), want: user.ClientID, requests: 1},
		{name: "managed identity, by resource id", request: s.managed(&selector{ResourceID: user.ResourceID}, vault), want: user.ClientID, requests: 1},
		{name: "managed identity, in capital letters", request: s.managed(&selector{ClientID: strings.ToUpper(user.ClientID)}, vault), want: user.ClientID, requests: 1},
		{name: "managed identity, and the token is kept", request: again, want: "-", requests: 1, claim: forAudience("https://graph.microsoft.com")},
		{name: "refused, an identity that the VM does not have", request: s.managed(&selector{ClientID: uuid.NewString()}, vault), refusal: s.unknown, requests: 1},
		{name: "refused, a managed identity for an unknown resource", request: s.managed(nil, "https://nobody.example"), refusal: "AADSTS500011", requests: 1},
	}
}

func TestTheSuite(t *testing.T) {
	for _, l := range suiteLibraries() {
		t.Run(l.name, func(t *testing.T) {
			w := newWorld(t)
			cases := w.suite(t, l)
			at := l.start(t, w)
			for _, c := range cases {
				if l.fits(c.request) {
					t.Run(c.name, func(t *testing.T) { w.check(t, at, c) })
				}
			}
		})
	}
}

// check is one case.
func (w *world) check(t *testing.T, at *runner, c suiteCase) {
	t.Helper()
	asked := entra.OpLogin
	if c.Kind == byIdentity {
		asked = imds.OpToken
	}
	before := len(w.Journal().Operation(asked))
	got, err := at.ask(c.request)
	if err != nil {
		t.Fatal(err)
	}
	seen := w.Journal().Operation(asked)[before:]
	if c.requests > 0 && len(seen) != c.requests {
		t.Errorf("%d requests for a token, want %d", len(seen), c.requests)
	}
	if c.want == "" {
		if len(got.Tokens) > 0 || !strings.Contains(got.Error, c.refusal) {
			t.Errorf("%d tokens, error %q, want %s", len(got.Tokens), got.Error, c.refusal)
		}
		return
	}
	if got.Error != "" || len(got.Tokens) != len(c.Calls) {
		t.Fatalf("%d tokens, error %s", len(got.Tokens), got.Error)
	}
	if c.saw != nil && (len(seen) == 0 || !c.saw(seen[len(seen)-1])) {
		t.Errorf("Entra saw %+v", seen)
	}
	w.checkToken(t, c, got.Tokens[len(got.Tokens)-1])
}

func (w *world) checkToken(t *testing.T, c suiteCase, token string) {
	t.Helper()
	if c.claim != nil && !c.claim(claimsOf(t, token)) {
		t.Errorf("the token says %+v", claimsOf(t, token))
	}
	if c.want == "-" { // the resource does not take it: it is for another one
		return
	}
	if caller := w.caller(t, token); caller.ClientID != c.want || caller.Bound {
		t.Errorf("the resource saw %+v, want %s", caller, c.want)
	}
}
