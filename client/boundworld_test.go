package client_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/agentapi"
	"github.com/keyagent/keyagent/agentapi/policy"
	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/client"
	"github.com/keyagent/keyagent/internal/secret"
)

// boundWorld is an authority, an identity whose tokens are bound to its certificate, and an agent
// that gives both to this process.
type boundWorld struct {
	t         testing.TB
	roots     *x509.CertPool
	authority *x509.Certificate
	authKey   *ecdsa.PrivateKey
	key       *rsa.PrivateKey // of the identity
	socket    string
	audit     *auditLog

	mu       sync.Mutex
	pair     *acquire.Pair
	tokens   int
	signed   int
	mismatch func() // called once, between the token and the handshake
	claims   string // of the last request for a token
}

type auditLog struct {
	mu   sync.Mutex
	text strings.Builder
}

func (a *auditLog) Write(p []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.text.Write(p)
}

func (a *auditLog) String() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.text.String()
}

// appKey is made once: to make an RSA key takes long.
var appKey = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) })

func newBoundWorld(t testing.TB) *boundWorld {
	t.Helper()
	w := &boundWorld{t: t, roots: x509.NewCertPool(), audit: new(auditLog)}
	var err error
	if w.authKey, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	if w.key, err = appKey(); err != nil {
		t.Fatal(err)
	}
	w.authority = w.issue("authority", w.authKey.Public(), func(c *x509.Certificate) {
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign
	})
	w.roots.AddCert(w.authority)
	w.rotate()
	w.socket = w.startAgent(&policy.Policy{Rules: []policy.Rule{{
		Name: "test", UIDs: []uint32{uint32(os.Geteuid())}, Identities: []string{"vm"}, Resources: []string{vault},
		TokenTypes: []string{wire.TypePoP}, Hosts: []string{"localhost"}, Sign: true,
	}}})
	return w
}

func (w *boundWorld) issue(name string, key crypto.PublicKey, change func(*x509.Certificate)) *x509.Certificate {
	w.t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, KeyUsage: x509.KeyUsageDigitalSignature,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	change(template)
	parent := w.authority
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key, w.authKey)
	if err != nil {
		w.t.Fatal(err)
	}
	made, err := x509.ParseCertificate(der)
	if err != nil {
		w.t.Fatal(err)
	}
	return made
}

// rotate gives the identity another certificate.
func (w *boundWorld) rotate() {
	leaf := w.issue("vm", w.key.Public(), func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} })
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pair = &acquire.Pair{
		Chain: [][]byte{leaf.Raw}, Thumbprint: acquire.Thumbprint(leaf), Expires: leaf.NotAfter, Strength: acquire.StrengthTPM, Credential: "managed_identity",
		SignatureSchemes: []tls.SignatureScheme{tls.PSSWithSHA256, tls.PKCS1WithSHA256},
		Signer:           func(context.Context) crypto.Signer { return countedKey{w.key, w} },
	}
}

// countedKey counts its signatures.
type countedKey struct {
	crypto.Signer
	w *boundWorld
}

func (k countedKey) Sign(r io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	k.w.mu.Lock()
	k.w.signed++
	k.w.mu.Unlock()
	return k.Signer.Sign(r, digest, opts)
}

// Pair implements agentapi.PairSource.
func (w *boundWorld) Pair(_ context.Context, req acquire.PairRequest) (*acquire.Pair, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if req.Thumbprint != "" && req.Thumbprint != w.pair.Thumbprint {
		return nil, &acquire.Error{Kind: acquire.KindUnavailable, Err: acquire.ErrOtherPair}
	}
	return w.pair, nil
}

// token is bound to the certificate that is current.
func (w *boundWorld) token(req acquire.Request) (acquire.Token, error) {
	w.mu.Lock()
	w.tokens++
	w.claims = req.Claims
	token := acquire.Token{
		AccessToken: secret.New("bound-to." + w.pair.Thumbprint), TokenType: "mtls_pop", ExpiresOn: time.Now().Add(time.Hour),
		Identity: req.Identity, Resource: req.Resource, Strength: acquire.StrengthTPM, Bound: true, Binding: acquire.Binding{Thumbprint: w.pair.Thumbprint},
	}
	if req.Claims != "" {
		token.AccessToken = secret.New("with-claims." + w.pair.Thumbprint)
	}
	between := w.mismatch
	w.mismatch = nil
	w.mu.Unlock()
	if between != nil {
		between()
	}
	return token, nil
}

func (w *boundWorld) startAgent(rules *policy.Policy) string {
	w.t.Helper()
	server, err := agentapi.New(agentapi.Config{
		Tokens: tokens(w.token), Pairs: agentapi.Pairs{Source: w, RootCAs: w.roots},
		Status:       func(context.Context) wire.Status { return wire.Status{} },
		Capabilities: func(context.Context) wire.Capabilities { return wire.Capabilities{} },
		Identities:   []agentapi.Identity{{Name: "vm", Kind: wire.KindManagedIdentity}},
		Policy:       rules, Audit: slog.New(slog.NewJSONHandler(w.audit, nil)),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "client") // t.TempDir is too long for a socket
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "agent.sock")
	ln, err := agentapi.Listen(socket, 0o666)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Serve(ctx, agentapi.Socket(ln)) }()
	w.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
	})
	return socket
}

// boundAPI is an API that takes bound tokens.
type boundAPI struct {
	*httptest.Server
	mu          sync.Mutex
	connections int
	protocols   map[string]int
	challenge   string // refuses the next token
}

// startAPI runs an API that asks for the certificate in the handshake.
func (w *boundWorld) startAPI(version uint16) *boundAPI {
	w.t.Helper()
	a := &boundAPI{protocols: map[string]int{}}
	certificate, key := w.serverCertificate()
	a.Server = httptest.NewUnstartedServer(a)
	a.EnableHTTP2 = true
	a.TLS = &tls.Config{
		MinVersion: version, MaxVersion: version, ClientAuth: tls.RequestClientCert,
		Certificates: []tls.Certificate{{Certificate: [][]byte{certificate.Raw}, PrivateKey: key}},
	}
	a.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			a.mu.Lock()
			a.connections++
			a.mu.Unlock()
		}
	}
	a.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	a.StartTLS()
	w.t.Cleanup(a.Close)
	a.URL = strings.Replace(a.URL, "127.0.0.1", "localhost", 1)
	return a
}

func (w *boundWorld) serverCertificate() (*x509.Certificate, *ecdsa.PrivateKey) {
	w.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		w.t.Fatal(err)
	}
	return w.issue("localhost", key.Public(), func(c *x509.Certificate) {
		c.DNSNames, c.ExtKeyUsage = []string{"localhost"}, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	}), key
}

// serverFiles writes what a server of another implementation needs, and returns the directory.
func (w *boundWorld) serverFiles() string {
	w.t.Helper()
	certificate, key := w.serverCertificate()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		w.t.Fatal(err)
	}
	dir := w.t.(*testing.T).TempDir()
	for name, block := range map[string]*pem.Block{
		"server.pem": {Type: "CERTIFICATE", Bytes: certificate.Raw}, "server.key": {Type: "PRIVATE KEY", Bytes: der},
		"root.pem": {Type: "CERTIFICATE", Bytes: w.authority.Raw},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			w.t.Fatal(err)
		}
	}
	return dir
}

// ServeHTTP answers as Microsoft Graph does, and says which certificate it has seen.
func (a *boundAPI) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	a.protocols[r.Proto]++
	challenge := a.challenge
	a.challenge = ""
	a.mu.Unlock()
	refuse := func(code string) {
		rw.WriteHeader(http.StatusUnauthorized)
		fmt.Fprintf(rw, `{"error":{"code":%q,"message":"[%s] no"}}`, code, code)
	}
	kind, bound, _ := strings.Cut(strings.TrimPrefix(r.Header.Get("Authorization"), "mtls_pop "), ".")
	switch {
	case len(r.TLS.PeerCertificates) == 0:
		refuse("MtlsMissingClientCertificate")
	case acquire.Thumbprint(r.TLS.PeerCertificates[0]) != bound:
		refuse("MtlsCnfClaimRequestDataValidationFailed")
	case r.Header.Get("x-ms-tokenboundauth") != "true":
		refuse("header")
	case challenge != "":
		rw.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="", error="insufficient_claims", claims=%q`, challenge))
		refuse("claims")
	case r.URL.Path == "/redirect":
		http.Redirect(rw, r, "/elsewhere", http.StatusFound)
	default:
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(rw, "%s %s %s", kind, bound, body)
	}
}

// httpClient is a client for an API of the world.
func (w *boundWorld) httpClient(hosts, late []string) *http.Client {
	w.t.Helper()
	agent := client.New(client.Config{Socket: w.socket})
	made, err := agent.HTTPClient(client.BoundConfig{
		Identity: "vm", Resource: vault, Hosts: hosts, Late: late, TLS: &tls.Config{RootCAs: w.roots}, Capabilities: []string{wire.CapabilityCP1},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { made.CloseIdleConnections(); _ = agent.Close() })
	return made
}

func fetch(c *http.Client, url string) (string, error) {
	resp, err := c.Get(url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	refusal := client.BoundRefusal(resp)
	body, err := io.ReadAll(resp.Body)
	return string(body), errors.Join(refusal, err)
}

// counts are what has happened so far.
type counts struct{ tokens, signed int }

func (w *boundWorld) so() counts {
	w.mu.Lock()
	defer w.mu.Unlock()
	return counts{w.tokens, w.signed}
}

// thumbprint is that of the certificate now.
func (w *boundWorld) thumbprint() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.pair.Thumbprint
}

func (a *boundAPI) connectionCount() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.connections
}
