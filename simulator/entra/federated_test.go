package entra_test

import (
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"maps"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/keyagent/keyagent/simulator/entra"
	"github.com/keyagent/keyagent/simulator/internal/endpoint"
	"github.com/keyagent/keyagent/simulator/pki"
)

const cluster = "https://cluster.example/issuer"

// newFederatedWorld is a world whose application trusts the managed identity with clientID, the
// other application, and a workload of another issuer; the other application has a certificate.
func newFederatedWorld(t *testing.T) *world {
	t.Helper()
	key, err := clientKey()
	if err != nil {
		t.Fatal(err)
	}
	return newWorldWith(t, func(cfg *entra.Config) {
		issuer := cfg.LoginURL + "/" + tenantID + "/v2.0"
		cfg.Applications[0].Federated = []entra.FederatedCredential{
			{Issuer: issuer, Subject: objectID, Audience: exchange},
			{Issuer: issuer, Subject: otherAppObjectID, Audience: exchange},
			{Issuer: cluster, Subject: "system:serviceaccount:ns:app", Audience: exchange},
		}
		cfg.Applications[1].Federated = []entra.FederatedCredential{{Issuer: issuer, Subject: appObjectID, Audience: exchange}}
		cfg.ExternalIssuers = map[string]jose.JSONWebKeySet{
			cluster:                         {Keys: []jose.JSONWebKey{{KeyID: "c", Key: key.Public()}}},
			"https://unused.example/issuer": {Keys: []jose.JSONWebKey{{KeyID: "c", Key: key.Public()}}},
		}
	})
}

// assertion gets a token for the exchange from the mutual-TLS face.
func (w *world) assertion(t *testing.T, certificate *x509.Certificate, client, tokenType string) string {
	t.Helper()
	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {client}, "scope": {exchange + "/.default"}, "token_type": {tokenType}}
	a, err := w.post(t, w.client(t, certificate, w.key), tokenPath, form)
	if err != nil || a.status != 200 {
		t.Fatalf("the assertion: %d %s: %v", a.status, a.body, err)
	}
	return a.fields.AccessToken
}

func exchangeForm(client, assertion, kind string) url.Values {
	form := appForm(assertion)
	form.Set("client_id", client)
	form.Set("client_assertion_type", kind)
	return form
}

func TestAnApplicationByAManagedIdentitysToken(t *testing.T) {
	w := newFederatedWorld(t)
	certificate := w.issue(t, nil)
	bound, unbound := w.assertion(t, certificate, clientID, "mtls_pop"), w.assertion(t, certificate, clientID, "bearer")
	fromMetadata, _, err := w.server.ManagedIdentityToken(clientID, exchange)
	if err != nil {
		t.Fatal(err)
	}
	thumbprint := endpoint.Thumbprint(certificate.Raw)
	for name, x := range map[string]struct {
		face, assertion, kind, tokenType string
		policy                           entra.TenantPolicy
		cnf                              any
	}{
		"unbound at login":                       {face: w.login, assertion: unbound, kind: bearerType},
		"of the metadata service at login":       {face: w.login, assertion: fromMetadata, kind: bearerType},
		"bound, for a Bearer token":              {face: w.url, assertion: bound, kind: popType},
		"bound, for a bound token":               {face: w.url, assertion: bound, kind: popType, tokenType: "mtls_pop", cnf: thumbprint},
		"bound, for a Bearer token that is, too": {face: w.url, assertion: bound, kind: popType, policy: entra.TenantPolicy{BoundBearer: true}, cnf: thumbprint},
		"unbound at login of a tenant whose Bearer tokens are bound where they can be": {
			face: w.login, assertion: unbound, kind: bearerType, policy: entra.TenantPolicy{BoundBearer: true},
		},
	} {
		t.Run(name, func(t *testing.T) {
			w.server.SetTenant(x.policy)
			form, want := exchangeForm(appID, x.assertion, x.kind), "Bearer"
			if x.tokenType != "" {
				form.Set("token_type", x.tokenType)
				want = x.tokenType
			}
			a, err := send(t, w.client(t, certificate, w.key), x.face+tokenPath, form)
			if err != nil || a.status != 200 || a.fields.TokenType != want {
				t.Fatalf("answer %d %s: %v", a.status, a.body, err)
			}
			claims := w.claims(t, a.fields.AccessToken)
			cnf, _ := claims["cnf"].(map[string]any)
			if claims["appid"] != appID || claims["oid"] != appObjectID || cnf["x5t#S256"] != x.cnf {
				t.Errorf("claims %v", claims)
			}
		})
	}
	e := w.journal.Operation(entra.OpToken)
	last := e[len(e)-1].Detail
	if assertion, _ := last["assertion"].(map[string]any); last["flow"] != "federated" || last["assertion_type"] != "jwt-pop" || assertion["has_cnf"] != true {
		t.Errorf("journal: %v", last)
	}
}

func TestAssertionsOfAManagedIdentityAreRefused(t *testing.T) {
	w := newFederatedWorld(t)
	certificate := w.issue(t, nil)
	second := w.issue(t, nil)
	revoked := w.issue(t, nil)
	bound, unbound := w.assertion(t, certificate, clientID, "mtls_pop"), w.assertion(t, certificate, clientID, "bearer")
	ofRevoked := w.assertion(t, revoked, clientID, "mtls_pop")
	w.server.Revoke(endpoint.Thumbprint(revoked.Raw))
	forVault, err := w.post(t, w.client(t, certificate, w.key), tokenPath, goodForm())
	if err != nil {
		t.Fatal(err)
	}
	for name, x := range map[string]struct {
		face, assertion, kind string
		client                string // "": appID
		tokenType             string
		certificate           *x509.Certificate
		status                int
		oauth                 string
		code                  int
	}{
		"bound, by another certificate":      {w.url, bound, popType, "", "", second, 400, "invalid_request", 500181},
		"bound, without certificate":         {w.url, bound, popType, "", "", nil, 400, "invalid_request", 500181},
		"bound, as jwt-bearer":               {w.url, bound, bearerType, "", "", certificate, 400, "invalid_request", 500181},
		"bound, at login as jwt-pop":         {w.login, bound, popType, "", "", certificate, 400, "invalid_request", 500181},
		"bound, at login as jwt-bearer":      {w.login, bound, bearerType, "", "", certificate, 400, "invalid_request", 500181},
		"unbound, as jwt-pop":                {w.url, unbound, popType, "", "", certificate, 400, "invalid_request", 500181},
		"unbound, at login as jwt-pop":       {w.login, unbound, popType, "", "", certificate, 400, "invalid_request", 500181},
		"unbound, over mutual TLS":           {w.url, unbound, bearerType, "", "", certificate, 400, "invalid_request", 500181},
		"unbound, for a bound token":         {w.url, unbound, bearerType, "", "mtls_pop", certificate, 400, "invalid_request", 500181},
		"unbound, for a bound one at login":  {w.login, unbound, bearerType, "", "mtls_pop", certificate, 400, "invalid_request", 90023},
		"bound to a revoked certificate":     {w.url, ofRevoked, popType, "", "", revoked, 401, "invalid_client", 7000214},
		"for another audience":               {w.login, forVault.fields.AccessToken, bearerType, "", "", nil, 401, "invalid_client", 70022204},
		"for an application without trust":   {w.login, unbound, bearerType, otherAppID, "", nil, 401, "invalid_client", 700213},
		"for an application that is unknown": {w.login, unbound, bearerType, requestID, "", nil, 400, "unauthorized_client", 700016},
		"for a managed identity":             {w.login, unbound, bearerType, clientID, "", nil, 400, "invalid_request", 90023},
		"changed on the way":                 {w.login, unbound[:len(unbound)-8] + "AAAAAAAA", bearerType, "", "", nil, 401, "invalid_client", 700027},
	} {
		t.Run(name, func(t *testing.T) {
			if x.client == "" {
				x.client = appID
			}
			form := exchangeForm(x.client, x.assertion, x.kind)
			if x.tokenType != "" {
				form.Set("token_type", x.tokenType)
			}
			a, err := send(t, w.client(t, x.certificate, w.key), x.face+tokenPath, form)
			if err != nil {
				t.Fatal(err)
			}
			checkRefusal(t, a, x.status, x.oauth, x.code)
		})
	}
	w.clock.Store(int64(25 * time.Hour / time.Second))
	a, err := send(t, w.client(t, nil, nil), w.login+tokenPath, exchangeForm(appID, unbound, bearerType))
	if err != nil {
		t.Fatal(err)
	}
	checkRefusal(t, a, 401, "invalid_client", 700024)
}

func TestAnApplicationByAnotherApplicationsToken(t *testing.T) {
	w := newFederatedWorld(t)
	certificate := selfSigned(t, w.key)
	if err := w.server.RegisterCertificate(otherAppID, certificate); err != nil {
		t.Fatal(err)
	}
	assertion := w.assertion(t, certificate, otherAppID, "mtls_pop")
	c := w.client(t, certificate, w.key)
	a, err := w.post(t, c, tokenPath, exchangeForm(appID, assertion, popType))
	if err != nil || a.status != 200 || w.claims(t, a.fields.AccessToken)["appid"] != appID {
		t.Fatalf("answer %d %s: %v", a.status, a.body, err)
	}
	// Three requests: the application that got its token for an assertion asks for an assertion
	// itself.
	form := exchangeForm(appID, assertion, popType)
	form.Set("scope", exchange+"/.default")
	form.Set("token_type", "mtls_pop")
	if a, err = w.post(t, c, tokenPath, form); err != nil || a.status != 200 {
		t.Fatalf("answer %d %s: %v", a.status, a.body, err)
	}
	a, err = w.post(t, c, tokenPath, exchangeForm(otherAppID, a.fields.AccessToken, popType))
	if err != nil || a.status != 200 || w.claims(t, a.fields.AccessToken)["appid"] != otherAppID {
		t.Errorf("answer %d %s: %v", a.status, a.body, err)
	}
}

func TestTokensOfOtherIssuers(t *testing.T) {
	w := newFederatedWorld(t)
	good := map[string]any{
		"iss": cluster, "sub": "system:serviceaccount:ns:app", "aud": []string{exchange}, "nbf": epoch().Unix(), "exp": epoch().Add(time.Hour).Unix(),
	}
	for name, x := range map[string]struct {
		change func(map[string]any)
		key    *rsa.PrivateKey
		kid    string
		code   int // 0: taken
	}{
		"that the application trusts":       {},
		"without nbf":                       {change: func(m map[string]any) { delete(m, "nbf") }},
		"of a clock four minutes ahead":     {change: func(m map[string]any) { m["nbf"] = epoch().Unix() + 240 }},
		"of another subject":                {change: func(m map[string]any) { m["sub"] = "system:serviceaccount:ns:other" }, code: 700213},
		"without subject":                   {change: func(m map[string]any) { delete(m, "sub") }, code: 700213},
		"for another audience":              {change: func(m map[string]any) { m["aud"] = "https://cluster.example" }, code: 70022204},
		"for two audiences":                 {change: func(m map[string]any) { m["aud"] = []string{exchange, "x"} }, code: 70022204},
		"without audience":                  {change: func(m map[string]any) { delete(m, "aud") }, code: 70022204},
		"of an issuer that nobody knows":    {change: func(m map[string]any) { m["iss"] = "https://other.example" }, code: 700211},
		"of an issuer that is not trusted":  {change: func(m map[string]any) { m["iss"] = "https://unused.example/issuer" }, code: 700211},
		"of the tenant, with another's key": {change: func(m map[string]any) { m["iss"], m["sub"] = w.server.FederationIssuer(), objectID }, code: 700027},
		"by another key":                    {key: rsaKey(t), code: 700027},
		"by a key that is not listed":       {kid: "d", code: 700027},
		"that has expired":                  {change: func(m map[string]any) { m["exp"] = epoch().Unix() - 301 }, code: 700024},
		"of the future":                     {change: func(m map[string]any) { m["nbf"] = epoch().Unix() + 301 }, code: 700024},
		"without expiry":                    {change: func(m map[string]any) { delete(m, "exp") }, code: 700024},
		"bound to a certificate":            {change: func(m map[string]any) { m["cnf"] = map[string]any{"x5t#S256": "x"} }, code: 500181},
	} {
		t.Run(name, func(t *testing.T) {
			claims, key, kid := maps.Clone(good), w.key, "c"
			if x.change != nil {
				x.change(claims)
			}
			if x.key != nil {
				key = x.key
			}
			if x.kid != "" {
				kid = x.kid
			}
			a, err := send(t, w.client(t, nil, nil), w.login+tokenPath, exchangeForm(appID, external(t, key, kid, claims), bearerType))
			if err != nil {
				t.Fatal(err)
			}
			if x.code == 0 && a.status == 200 {
				return
			}
			if x.code == 500181 {
				checkRefusal(t, a, 400, "invalid_request", x.code)
				return
			}
			checkRefusal(t, a, 401, "invalid_client", x.code)
			if x.code == 700211 || x.code == 700213 { // an operator compares it with the registered credential
				subject, _ := claims["sub"].(string)
				presented := fmt.Sprintf("subject '%s', issuer '%s'", subject, claims["iss"])
				if !strings.Contains(a.fields.Description, presented) {
					t.Errorf("%q does not name %s", a.fields.Description, presented)
				}
			}
		})
	}
}

// external signs claims as an issuer other than Entra does.
func external(t *testing.T, key *rsa.PrivateKey, kid string, claims map[string]any) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: key}, (&jose.SignerOptions{}).WithHeader("kid", kid))
	if err != nil {
		t.Fatal(err)
	}
	token, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func TestFederatedCredentialsCanBeAdded(t *testing.T) {
	w := newWorld(t)
	certificate := w.issue(t, func(b *pki.BindingCertificate) { b.ClientID = otherID })
	assertion := w.assertion(t, certificate, otherID, "bearer")
	form := exchangeForm(appID, assertion, bearerType)
	a, err := send(t, w.client(t, nil, nil), w.login+tokenPath, form)
	if err != nil {
		t.Fatal(err)
	}
	checkRefusal(t, a, 401, "invalid_client", 70022204)
	credential := entra.FederatedCredential{Issuer: w.server.FederationIssuer(), Subject: objectID, Audience: exchange}
	if err := w.server.Federate(appID, credential, nil); err != nil {
		t.Fatal(err)
	}
	if a, err = send(t, w.client(t, nil, nil), w.login+tokenPath, form); err != nil || a.status != 200 {
		t.Errorf("answer %d %s: %v", a.status, a.body, err)
	}
	keys := &jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{KeyID: "c", Key: w.key.Public()}}}
	if err := w.server.Federate(appID, entra.FederatedCredential{Issuer: cluster, Subject: "s", Audience: exchange}, keys); err != nil {
		t.Fatal(err)
	}
	claims := map[string]any{"iss": cluster, "sub": "s", "aud": exchange, "exp": epoch().Unix() + 60}
	if a, err = send(t, w.client(t, nil, nil), w.login+tokenPath, exchangeForm(appID, external(t, w.key, "c", claims), bearerType)); err != nil || a.status != 200 {
		t.Errorf("another issuer: %d %s: %v", a.status, a.body, err)
	}
}
