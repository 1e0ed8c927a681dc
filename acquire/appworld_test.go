package acquire_test

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"fmt"
	"math/big"
	"net/http"
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

func described(seen []seenRequest) []string {
	var texts []string
	for _, s := range seen {
		texts = append(texts, s.String())
	}
	return texts
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
