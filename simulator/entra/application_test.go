package entra_test

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/keyagent/keyagent/simulator/entra"
	"github.com/keyagent/keyagent/simulator/internal/endpoint"
)

const (
	appID            = "8b0c3d0e-0000-4000-8000-00000000a001"
	appObjectID      = "9d0c3d0e-0000-4000-8000-00000000a0b1"
	otherAppID       = "8b0c3d0e-0000-4000-8000-00000000a002"
	otherAppObjectID = "9d0c3d0e-0000-4000-8000-00000000a0b2"

	bearerType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
	popType    = "urn:ietf:params:oauth:client-assertion-type:jwt-pop"
)

// draft is a client assertion before it is signed.
type draft struct {
	header, claims map[string]any
	key            *rsa.PrivateKey
	pkcs1          bool // padding of PKCS#1 v1.5, whatever alg says
}

// newDraft is an assertion that is in order, for the token endpoint audience.
func newDraft(audience string, certificate *x509.Certificate, key *rsa.PrivateKey) draft {
	return draft{
		header: map[string]any{
			"alg": "PS256", "typ": "JWT", "x5t#S256": endpoint.Thumbprint(certificate.Raw),
			"x5c": []string{base64.StdEncoding.EncodeToString(certificate.Raw)},
		},
		claims: map[string]any{
			"iss": appID, "sub": appID, "aud": audience, "jti": uuid.NewString(), "nbf": epoch().Unix(), "exp": epoch().Add(10 * time.Minute).Unix(),
		},
		key: key,
	}
}

func (d draft) sign(t *testing.T) string {
	t.Helper()
	header, errHeader := json.Marshal(d.header)
	claims, errClaims := json.Marshal(d.claims)
	if errHeader != nil || errClaims != nil {
		t.Fatal(errHeader, errClaims)
	}
	b64 := base64.RawURLEncoding.EncodeToString
	signed := b64(header) + "." + b64(claims)
	digest := sha256.Sum256([]byte(signed))
	var signature []byte
	var err error
	if d.header["alg"] == "PS256" && !d.pkcs1 {
		signature, err = rsa.SignPSS(rand.Reader, d.key, crypto.SHA256, digest[:], &rsa.PSSOptions{SaltLength: 32})
	} else {
		signature, err = rsa.SignPKCS1v15(nil, d.key, crypto.SHA256, digest[:])
	}
	if err != nil {
		t.Fatal(err)
	}
	return signed + "." + b64(signature)
}

// appForm is an application's request with an assertion; "" means none.
func appForm(assertion string) url.Values {
	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {appID}, "scope": {vault + "/.default"}}
	if assertion != "" {
		form.Set("client_assertion", assertion)
		form.Set("client_assertion_type", bearerType)
	}
	return form
}

// register makes a self-signed certificate over w.key and uploads it.
func (w *world) register(t *testing.T) *x509.Certificate {
	t.Helper()
	certificate := selfSigned(t, w.key)
	if err := w.server.RegisterCertificate(appID, certificate); err != nil {
		t.Fatal(err)
	}
	return certificate
}

func thumbprintSHA1(c *x509.Certificate) string {
	sum := sha1.Sum(c.Raw)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// without removes members.
func without(m map[string]any, names ...string) {
	for _, name := range names {
		delete(m, name)
	}
}

func TestAssertionsOfAnApplicationAreTaken(t *testing.T) {
	w := newWorld(t)
	certificate := w.register(t)
	c := w.client(t, nil, nil)
	for name, change := range map[string]func(draft, url.Values){
		"PS256 with x5t#S256 and x5c": func(draft, url.Values) {},
		"without x5c":                 func(d draft, _ url.Values) { without(d.header, "x5c") },
		"x5c as one string":           func(d draft, _ url.Values) { d.header["x5c"] = d.header["x5c"].([]string)[0] },
		"x5t#S256 in standard base64": func(d draft, _ url.Values) {
			sum := sha256.Sum256(certificate.Raw)
			d.header["x5t#S256"] = base64.StdEncoding.EncodeToString(sum[:])
		},
		"RS256 with x5t": func(d draft, _ url.Values) {
			d.header["alg"], d.header["x5t"] = "RS256", thumbprintSHA1(certificate)
			without(d.header, "x5t#S256", "x5c")
		},
		"with a kid, which counts for nothing": func(d draft, _ url.Values) { d.header["kid"] = "x" },
		"of two days":                          func(d draft, _ url.Values) { d.claims["exp"] = epoch().Add(48 * time.Hour).Unix() },
		"without nbf":                          func(d draft, _ url.Values) { without(d.claims, "nbf") },
		"without jti":                          func(d draft, _ url.Values) { without(d.claims, "jti") },
		"with times as strings": func(d draft, _ url.Values) {
			d.claims["nbf"], d.claims["exp"] = strconv.FormatInt(epoch().Unix(), 10), strconv.FormatInt(epoch().Unix()+600, 10)
		},
		"with fractions of a second": func(d draft, _ url.Values) { d.claims["nbf"], d.claims["exp"] = 1780315200.5, "1780315800.5" },
		"of a clock four minutes ahead": func(d draft, _ url.Values) {
			d.claims["nbf"], d.claims["exp"] = epoch().Unix()+240, epoch().Unix()+840
		},
		"of a clock that is behind": func(d draft, _ url.Values) {
			d.claims["nbf"], d.claims["exp"] = epoch().Unix()-840, epoch().Unix()-240
		},
		"for the cloud's name":           func(d draft, _ url.Values) { d.claims["aud"] = "https://login.microsoftonline.com" + tokenPath },
		"for a region":                   func(d draft, _ url.Values) { d.claims["aud"] = "https://westeurope.login.microsoft.com" + tokenPath },
		"for a URL with a slash":         func(d draft, _ url.Values) { d.claims["aud"] = w.login + tokenPath + "/" },
		"for the issuer":                 func(d draft, _ url.Values) { d.claims["aud"] = w.login + "/" + tenantID + "/v2.0" },
		"for two audiences":              func(d draft, _ url.Values) { d.claims["aud"] = []string{"x", w.login + tokenPath} },
		"with token type bearer":         func(_ draft, f url.Values) { f.Set("token_type", "bearer") },
		"with a field that nobody knows": func(_ draft, f url.Values) { f.Set("x", "y") },
		"with an empty claims":           func(_ draft, f url.Values) { f.Set("claims", "") },
		"with what clients say of themselves": func(_ draft, f url.Values) {
			for _, name := range []string{"x-client-SKU", "x-client-VER", "x-client-OS", "x-client-CPU", "x-ms-lib-capability", "client-request-id"} {
				f.Set(name, "x")
			}
		},
		"with the scopes that MSAL Go adds": func(_ draft, f url.Values) {
			f.Set("scope", vault+"/.default openid offline_access profile")
			f.Set("client_info", "1")
		},
		"with an fmi_path": func(_ draft, f url.Values) { f.Set("fmi_path", "a/b") },
	} {
		t.Run(name, func(t *testing.T) {
			d := newDraft(w.login+tokenPath, certificate, w.key)
			form := appForm("")
			change(d, form)
			form.Set("client_assertion", d.sign(t))
			form.Set("client_assertion_type", bearerType)
			a, err := send(t, c, w.login+tokenPath, form)
			if err != nil || a.status != 200 || a.fields.TokenType != "Bearer" {
				t.Fatalf("answer %d %s: %v", a.status, a.body, err)
			}
			claims := w.claims(t, a.fields.AccessToken)
			if claims["appid"] != appID || claims["oid"] != appObjectID || claims["aud"] != vault || claims["cnf"] != nil || claims["xms_mirid"] != nil {
				t.Errorf("claims %v", claims)
			}
		})
	}
	form := appForm("")
	form.Set("client_assertion", newDraft(w.login+tokenPath, certificate, w.key).sign(t))
	form.Set("client_assertion_type", bearerType)
	if a, err := send(t, c, w.login+tokenPath, form); err != nil || a.status != 200 {
		t.Fatalf("answer %d %s: %v", a.status, a.body, err)
	}
	seen := w.journal.Operation(entra.OpLogin)
	e := seen[len(seen)-1]
	assertion, _ := e.Detail["assertion"].(map[string]any)
	if e.Detail["flow"] != "certificate" || e.Detail["assertion_type"] != "jwt-bearer" || e.ClientCertThumbprint != "" ||
		assertion["has_cnf"] != false || !reflect.DeepEqual(assertion["aud"], []string{w.login + tokenPath}) {
		t.Errorf("journal: %+v", e)
	}
}

func TestAssertionsOfAnApplicationAreRefused(t *testing.T) {
	w := newWorld(t)
	certificate := w.register(t)
	revoked, expired, stranger := selfSigned(t, w.key), expiredCertificate(t, w.key), selfSigned(t, w.key)
	for _, c := range []*x509.Certificate{revoked, expired} {
		if err := w.server.RegisterCertificate(appID, c); err != nil {
			t.Fatal(err)
		}
	}
	w.server.Revoke(endpoint.Thumbprint(revoked.Raw))
	use := func(d draft, c *x509.Certificate) {
		d.header["x5t#S256"] = endpoint.Thumbprint(c.Raw)
		d.header["x5c"] = []string{base64.StdEncoding.EncodeToString(c.Raw)}
	}
	c := w.client(t, nil, nil)
	for name, x := range map[string]struct {
		change func(*draft)
		code   int
	}{
		"by another key":                        {func(d *draft) { d.key = rsaKey(t) }, 700027},
		"with a certificate not registered":     {func(d *draft) { use(*d, stranger) }, 700027},
		"without thumbprint":                    {func(d *draft) { without(d.header, "x5t#S256") }, 700027},
		"PS256 with x5t alone":                  {func(d *draft) { without(d.header, "x5t#S256"); d.header["x5t"] = thumbprintSHA1(certificate) }, 700027},
		"RS256 with x5t#S256 alone":             {func(d *draft) { d.header["alg"] = "RS256" }, 700027},
		"PS256 with another padding":            {func(d *draft) { d.pkcs1 = true }, 700027},
		"x5c of another certificate":            {func(d *draft) { d.header["x5c"] = []string{base64.StdEncoding.EncodeToString(stranger.Raw)} }, 700027},
		"x5c without certificate":               {func(d *draft) { d.header["x5c"] = []string{"AAAA"} }, 50027},
		"x5c that is empty":                     {func(d *draft) { d.header["x5c"] = []string{} }, 50027},
		"x5c that is null":                      {func(d *draft) { d.header["x5c"] = nil }, 50027},
		"unsigned":                              {func(d *draft) { d.header["alg"] = "none" }, 50027},
		"HS256":                                 {func(d *draft) { d.header["alg"] = "HS256" }, 50027},
		"without typ":                           {func(d *draft) { without(d.header, "typ") }, 50027},
		"with a critical extension":             {func(d *draft) { d.header["crit"] = []string{"b64"} }, 50027},
		"with ALG beside alg":                   {func(d *draft) { d.header["ALG"] = "PS256" }, 50027},
		"with EXP beside exp":                   {func(d *draft) { d.claims["EXP"] = epoch().Add(time.Hour).Unix() }, 50027},
		"of another client":                     {func(d *draft) { d.claims["iss"], d.claims["sub"] = otherAppID, otherAppID }, 700021},
		"with another subject":                  {func(d *draft) { d.claims["sub"] = otherAppID }, 700021},
		"without issuer":                        {func(d *draft) { without(d.claims, "iss") }, 700021},
		"for mutual TLS":                        {func(d *draft) { d.claims["aud"] = w.url + tokenPath }, 700023},
		"for another tenant":                    {func(d *draft) { d.claims["aud"] = w.login + "/" + otherID + "/oauth2/v2.0/token" }, 700023},
		"for another host":                      {func(d *draft) { d.claims["aud"] = "https://login.example" + tokenPath }, 700023},
		"for another path":                      {func(d *draft) { d.claims["aud"] = w.login + "/" + tenantID }, 700023},
		"for plain HTTP":                        {func(d *draft) { d.claims["aud"] = strings.Replace(w.login, "https", "http", 1) + tokenPath }, 700023},
		"with words for exp":                    {func(d *draft) { d.claims["exp"] = "tomorrow" }, 50027},
		"with NaN for exp":                      {func(d *draft) { d.claims["exp"] = "NaN" }, 50027},
		"with a list for nbf":                   {func(d *draft) { d.claims["nbf"] = []int64{epoch().Unix()} }, 50027},
		"that has expired":                      {func(d *draft) { d.claims["nbf"], d.claims["exp"] = epoch().Unix()-700, epoch().Unix()-301 }, 700024},
		"of the future":                         {func(d *draft) { d.claims["nbf"] = epoch().Unix() + 301 }, 700024},
		"of the future, as text":                {func(d *draft) { d.claims["nbf"] = strconv.FormatInt(epoch().Unix()+301, 10) }, 700024},
		"without audience":                      {func(d *draft) { without(d.claims, "aud") }, 700023},
		"without exp":                           {func(d *draft) { without(d.claims, "exp") }, 50027},
		"of a revoked certificate":              {func(d *draft) { use(*d, revoked) }, 7000214},
		"of a certificate outside its validity": {func(d *draft) { use(*d, expired) }, 1000502},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDraft(w.login+tokenPath, certificate, w.key)
			x.change(&d)
			a, err := send(t, c, w.login+tokenPath, appForm(d.sign(t)))
			if err != nil {
				t.Fatal(err)
			}
			checkRefusal(t, a, 401, "invalid_client", x.code)
		})
	}
}

func expiredCertificate(t *testing.T, key *rsa.PrivateKey) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(3), NotBefore: epoch().Add(-2 * time.Hour), NotAfter: epoch().Add(-time.Hour)}
	return signed(t, template, template, key, key)
}

// MSAL for JavaScript and for Python keep an assertion and send it until it expires.
func TestAnAssertionIsGoodUntilItExpires(t *testing.T) {
	w := newWorld(t)
	c := w.client(t, nil, nil)
	assertion := newDraft(w.login+tokenPath, w.register(t), w.key).sign(t) // ten minutes
	for _, after := range []int64{0, 1, 600} {
		w.clock.Store(after)
		if a, err := send(t, c, w.login+tokenPath, appForm(assertion)); err != nil || a.status != 200 {
			t.Errorf("after %d s: %d: %v", after, a.status, err)
		}
	}
	w.clock.Store(901)
	a, err := send(t, c, w.login+tokenPath, appForm(assertion))
	if err != nil {
		t.Fatal(err)
	}
	checkRefusal(t, a, 401, "invalid_client", 700024)
}

// MSAL for JavaScript puts its request id into the query, and a slash after a regional endpoint.
func TestTheURLOfATokenRequest(t *testing.T) {
	w := newWorld(t)
	certificate := w.register(t)
	trusting := w.issue(t, nil)
	for path, status := range map[string]int{
		tokenPath + "/": 200,
		tokenPath + "?client-request-id=" + requestID:   200,
		tokenPath + "/?client-request-id=" + requestID:  200,
		tokenPath + "?scope=x&client_id=x&grant_type=x": 200,
		tokenPath + "?a;b=%zz":                          200,
		tokenPath + "//":                                404,
		tokenPath + "/x":                                404,
	} {
		t.Run(path, func(t *testing.T) {
			form := appForm(newDraft(w.login+tokenPath, certificate, w.key).sign(t))
			if a, err := send(t, w.client(t, nil, nil), w.login+path, form); err != nil || a.status != status {
				t.Errorf("login: %d, want %d: %v", a.status, status, err)
			}
			if a, err := w.post(t, w.client(t, trusting, w.key), path, goodForm()); err != nil || a.status != status {
				t.Errorf("mutual TLS: %d, want %d: %v", a.status, status, err)
			}
		})
	}
	noted := false
	for _, e := range w.journal.Entries() {
		noted = noted || reflect.DeepEqual(e.Detail["query"], []string{"client-request-id"})
	}
	if !noted {
		t.Errorf("the journal has nothing of the query")
	}
}

func TestFormsOfAnApplicationAreRefused(t *testing.T) {
	w := newWorld(t)
	certificate := w.register(t)
	for name, x := range map[string]struct {
		face   string
		change func(url.Values)
		status int
		oauth  string
		code   int
	}{
		"a secret":                     {w.login, func(f url.Values) { f.Del("client_assertion"); f.Set("client_secret", "x") }, 401, "invalid_client", 7000215},
		"nothing":                      {w.login, func(f url.Values) { f.Del("client_assertion"); f.Del("client_assertion_type") }, 401, "invalid_client", 7000218},
		"a type without assertion":     {w.login, func(f url.Values) { f.Del("client_assertion") }, 400, "invalid_request", 900144},
		"an assertion without type":    {w.login, func(f url.Values) { f.Del("client_assertion_type") }, 400, "invalid_request", 900144},
		"another type":                 {w.login, func(f url.Values) { f.Set("client_assertion_type", "saml") }, 400, "invalid_request", 900144},
		"no JWT":                       {w.login, func(f url.Values) { f.Set("client_assertion", "x.y") }, 401, "invalid_client", 50027},
		"an unknown application":       {w.login, func(f url.Values) { f.Set("client_id", requestID) }, 400, "unauthorized_client", 700016},
		"a secret beside an assertion": {w.login, func(f url.Values) { f.Set("client_secret", "x") }, 400, "invalid_request", 90023},
		"a token type that is signed":  {w.login, func(f url.Values) { f.Set("token_type", "pop") }, 400, "invalid_request", 90023},
		"a scope without a value":      {w.login, func(f url.Values) { f.Set("scope", "") }, 400, "invalid_request", 900144},
		"a field twice":                {w.login, func(f url.Values) { f["x"] = []string{"y", "z"} }, 400, "invalid_request", 90023},
		"bound at login":               {w.login, func(f url.Values) { f.Set("token_type", "mtls_pop") }, 400, "invalid_request", 90023},
		"jwt-pop at login":             {w.login, func(f url.Values) { f.Set("client_assertion_type", popType) }, 400, "invalid_request", 500181},
		"two resources":                {w.login, func(f url.Values) { f.Set("scope", vault+"/.default "+management+"/.default") }, 400, "invalid_scope", 1002012},
		"no resource":                  {w.login, func(f url.Values) { f.Set("scope", "openid profile") }, 400, "invalid_scope", 1002012},
		"bound with an assertion":      {w.url, func(f url.Values) { f.Set("token_type", "mtls_pop") }, 400, "invalid_request", 90023},
		"jwt-pop of its own":           {w.url, func(f url.Values) { f.Set("client_assertion_type", popType) }, 400, "invalid_request", 500181},
	} {
		t.Run(name, func(t *testing.T) {
			form := appForm(newDraft(x.face+tokenPath, certificate, w.key).sign(t))
			x.change(form)
			a, err := send(t, w.client(t, certificate, w.key), x.face+tokenPath, form)
			if err != nil {
				t.Fatal(err)
			}
			checkRefusal(t, a, x.status, x.oauth, x.code)
		})
	}
}

func TestAnApplicationOverMutualTLS(t *testing.T) {
	w := newWorld(t)
	certificate := w.register(t)
	second := selfSigned(t, w.key)
	if err := w.server.RegisterCertificate(appID, second); err != nil {
		t.Fatal(err)
	}
	forServers := signed(t, &x509.Certificate{
		SerialNumber: big.NewInt(4), NotBefore: epoch(), NotAfter: epoch().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, &x509.Certificate{}, w.key, w.key)
	forEncryption := signed(t, &x509.Certificate{
		SerialNumber: big.NewInt(5), NotBefore: epoch(), NotAfter: epoch().Add(time.Hour), KeyUsage: x509.KeyUsageKeyEncipherment,
	}, &x509.Certificate{}, w.key, w.key)
	for _, c := range []*x509.Certificate{forServers, forEncryption} {
		if err := w.server.RegisterCertificate(appID, c); err != nil {
			t.Fatal(err)
		}
	}
	assertion := func(t *testing.T, c *x509.Certificate, dropped ...string) string {
		d := newDraft(w.url+tokenPath, c, w.key)
		without(d.header, dropped...)
		return d.sign(t)
	}
	disabled, unlisted := entra.ApplicationPolicy{}, entra.ApplicationPolicy{MTLSRefusal: 700027}
	usual, optional := entra.ApplicationPolicy{MTLSEnabled: true}, plain()
	optional.AssertionOverMTLS = entra.AssertionOptional
	for name, x := range map[string]struct {
		policy      *entra.ApplicationPolicy
		certificate *x509.Certificate
		assertion   func(t *testing.T) string
		bound       bool
		tokenType   string // of the answer
		status      int
		oauth       string
		code        int
	}{
		"certificate and assertion": {
			certificate: certificate, assertion: func(t *testing.T) string { return assertion(t, certificate) }, tokenType: "Bearer",
		},
		"an assertion for login": {
			certificate: certificate, tokenType: "Bearer",
			assertion: func(t *testing.T) string { return newDraft(w.login+tokenPath, certificate, w.key).sign(t) },
		},
		"an assertion for a region's mutual TLS": {
			certificate: certificate, tokenType: "Bearer",
			assertion: func(t *testing.T) string {
				return newDraft("https://westeurope.mtlsauth.microsoft.com"+tokenPath, certificate, w.key).sign(t)
			},
		},
		"a certificate alone, bound":                {certificate: certificate, bound: true, tokenType: "mtls_pop"},
		"a certificate alone, where that is enough": {policy: &optional, certificate: certificate, tokenType: "Bearer"},
		"a certificate alone":                       {certificate: certificate, status: 401, oauth: "invalid_client", code: 7000218},
		"nothing, where a certificate is enough":    {policy: &optional, status: 401, oauth: "invalid_client", code: 7000218},
		"nothing, bound":                            {bound: true, status: 401, oauth: "invalid_client", code: 7000218},
		"an application that may not":               {policy: &disabled, certificate: certificate, bound: true, status: 412, oauth: "invalid_request", code: 51000},
		"an application that is not on the list":    {policy: &unlisted, certificate: certificate, bound: true, status: 401, oauth: "invalid_client", code: 700027},
		"an application that may not, with an assertion": {
			policy: &disabled, certificate: certificate, assertion: func(t *testing.T) string { return assertion(t, certificate) }, status: 412, oauth: "invalid_request", code: 51000,
		},
		"a certificate that was merely uploaded": {policy: &usual, certificate: certificate, bound: true, status: 400, oauth: "invalid_request", code: 392189},
		"a certificate that was merely uploaded, and an assertion": {
			policy: &usual, certificate: certificate, assertion: func(t *testing.T) string { return assertion(t, certificate) }, status: 400, oauth: "invalid_request", code: 392189,
		},
		"a certificate that nobody has uploaded": {policy: &usual, certificate: selfSigned(t, w.key), bound: true, status: 401, oauth: "invalid_client", code: 700027},
		"a certificate not registered":           {certificate: selfSigned(t, w.key), bound: true, status: 401, oauth: "invalid_client", code: 700027},
		"a managed identity's certificate":       {certificate: w.issue(t, nil), bound: true, status: 401, oauth: "invalid_client", code: 700027},
		"a certificate for servers":              {certificate: forServers, bound: true, status: 401, oauth: "invalid_client", code: 7000277},
		"a certificate for encryption":           {certificate: forEncryption, bound: true, status: 401, oauth: "invalid_client", code: 7000277},
		"an assertion without x5c": {
			certificate: certificate, assertion: func(t *testing.T) string { return assertion(t, certificate, "x5c") }, tokenType: "Bearer",
		},
		"an assertion by another of its certificates": {
			certificate: certificate, assertion: func(t *testing.T) string { return assertion(t, second) }, status: 400, oauth: "invalid_request", code: 500181,
		},
		"an assertion without certificate": {
			assertion: func(t *testing.T) string { return assertion(t, certificate) }, status: 400, oauth: "invalid_request", code: 500181,
		},
	} {
		t.Run(name, func(t *testing.T) {
			policy := plain()
			if x.policy != nil {
				policy = *x.policy
			}
			if err := w.server.SetPolicy(appID, policy); err != nil {
				t.Fatal(err)
			}
			form := appForm("")
			if x.assertion != nil {
				form = appForm(x.assertion(t))
			}
			if x.bound {
				form.Set("token_type", "mtls_pop")
			}
			a, err := w.post(t, w.client(t, x.certificate, w.key), tokenPath, form)
			if err != nil {
				t.Fatal(err)
			}
			if x.status != 0 {
				checkRefusal(t, a, x.status, x.oauth, x.code)
				return
			}
			if a.status != 200 || a.fields.TokenType != x.tokenType {
				t.Fatalf("answer %d %s", a.status, a.body)
			}
			cnf, _ := w.claims(t, a.fields.AccessToken)["cnf"].(map[string]any)
			if x.bound != (cnf["x5t#S256"] == endpoint.Thumbprint(certificate.Raw)) {
				t.Errorf("cnf %v", cnf)
			}
		})
	}
}

func TestRevocationOfAnApplicationsCertificate(t *testing.T) {
	w := newWorld(t)
	certificate := w.register(t)
	w.server.Revoke(endpoint.Thumbprint(certificate.Raw))
	form := appForm("")
	form.Set("token_type", "mtls_pop")
	a, err := w.post(t, w.client(t, certificate, w.key), tokenPath, form)
	if err != nil {
		t.Fatal(err)
	}
	checkRefusal(t, a, 401, "invalid_client", 7000214)
	w.server.Reject(endpoint.Thumbprint(certificate.Raw), 0)
	if a, err := w.post(t, w.client(t, certificate, w.key), tokenPath, form); err != nil || a.status != 200 {
		t.Errorf("after the revocation was taken back: %d %s: %v", a.status, a.body, err)
	}
}

func TestCertificatesRegisteredBySubjectAndIssuer(t *testing.T) {
	authorityKey := rsaKey(t)
	authority := certificateAuthority(t, authorityKey, "Corporate CA")
	impostorKey := rsaKey(t)
	impostor := certificateAuthority(t, impostorKey, "Corporate CA")
	w := newWorldWith(t, func(cfg *entra.Config) {
		cfg.Applications[0].ApplicationPolicy = entra.ApplicationPolicy{MTLSEnabled: true}
		cfg.Applications[0].Trusted = []entra.SubjectIssuer{{Subject: "app.example", Issuer: authority}}
	})
	leaf := func(name string, parent *x509.Certificate, parentKey *rsa.PrivateKey, isCA bool) *x509.Certificate {
		template := &x509.Certificate{
			SerialNumber: big.NewInt(9), NotBefore: epoch(), NotAfter: epoch().Add(time.Hour), IsCA: isCA, BasicConstraintsValid: true,
			KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		}
		template.Subject.CommonName = name
		return signed(t, template, parent, w.key, parentKey)
	}
	for name, x := range map[string]struct {
		certificate *x509.Certificate
		ok          bool
	}{
		"of the subject and the issuer": {leaf("app.example", authority, authorityKey, false), true},
		"of another subject":            {leaf("other.example", authority, authorityKey, false), false},
		"of an issuer of the same name": {leaf("app.example", impostor, impostorKey, false), false},
		"that is an authority's":        {leaf("app.example", authority, authorityKey, true), false},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDraft(w.login+tokenPath, x.certificate, w.key)
			a, err := send(t, w.client(t, nil, nil), w.login+tokenPath, appForm(d.sign(t)))
			if err != nil || (a.status == 200) != x.ok {
				t.Errorf("assertion with x5c: %d %s: %v", a.status, a.body, err)
			}
			form := appForm("")
			form.Set("token_type", "mtls_pop")
			if a, err = w.post(t, w.client(t, x.certificate, w.key), tokenPath, form); err != nil || (a.status == 200) != x.ok {
				t.Errorf("bound: %d %s: %v", a.status, a.body, err)
			}
			without(d.header, "x5c")
			d.claims["jti"] = uuid.NewString()
			if a, err = send(t, w.client(t, nil, nil), w.login+tokenPath, appForm(d.sign(t))); err != nil || a.status == 200 {
				t.Errorf("an assertion without x5c, of a certificate that is not uploaded: %d %s: %v", a.status, a.body, err)
			}
		})
	}
}

func certificateAuthority(t *testing.T, key *rsa.PrivateKey, name string) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: epoch().Add(-time.Hour), NotAfter: epoch().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	template.Subject.CommonName = name
	return signed(t, template, template, key, key)
}

func TestWhatCannotBeRegistered(t *testing.T) {
	w := newWorld(t)
	if err := w.server.RegisterCertificate(appID, w.servers.Root); err == nil || !strings.Contains(err.Error(), "RSA") {
		t.Errorf("a certificate with an EC key: %v", err)
	}
	if err := w.server.RegisterCertificate(requestID, selfSigned(t, w.key)); err == nil {
		t.Error("a certificate of an application that does not exist")
	}
	if err := w.server.SetPolicy(appID, entra.ApplicationPolicy{AssertionOverMTLS: "never"}); err == nil {
		t.Error("a policy that does not exist")
	}
}

func TestNoAssertionIsInTheJournal(t *testing.T) {
	w := newWorld(t)
	assertion := newDraft(w.login+tokenPath, w.register(t), w.key).sign(t)
	if _, err := send(t, w.client(t, nil, nil), w.login+tokenPath, appForm(assertion)); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(w.journal.Entries())
	if err != nil || strings.Contains(string(text), strings.Split(assertion, ".")[1]) {
		t.Errorf("journal: %v", err)
	}
	names := w.journal.Entries()[0].Detail["assertion"].(map[string]any)["headers"].([]string)
	if !slices.Equal(names, []string{"alg", "typ", "x5c", "x5t#S256"}) {
		t.Errorf("headers %v", names)
	}
}

func TestFacesSpeakHTTP2(t *testing.T) {
	w := newWorld(t)
	for _, face := range []string{w.url, w.login} {
		resp, err := w.client(t, nil, nil).Get(face + "/" + tenantID + "/discovery/v2.0/keys")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK || resp.ProtoMajor != 2 {
			t.Errorf("%s: %d %s", face, resp.StatusCode, resp.Proto)
		}
	}
}
