package binding_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/keyagent/keyagent/acquire/binding"
	"github.com/keyagent/keyagent/acquire/imds"
	"github.com/keyagent/keyagent/internal/secret"
	"github.com/keyagent/keyagent/internal/statefile"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// softKey stands in for the TPM key: what is tested here is the life of the
// certificate.
type softKey struct{ *rsa.PrivateKey }

func (k softKey) WithContext(context.Context) crypto.Signer { return k.PrivateKey }

// The keys of all worlds that need no other: making them takes longer than the tests.
var (
	ourKey = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) })
	caKey  = sync.OnceValues(func() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) })
)

// issuer plays IMDS with a certificate authority of its own.
type issuer struct {
	t    *testing.T
	now  func() time.Time
	hold chan struct{} // if not nil, each issuance waits for one value

	mu       sync.Mutex
	meta     imds.PlatformMetadata
	edit     func(*x509.Certificate)
	answer   func(*imds.Credential)
	public   crypto.PublicKey // certify this key instead of the one in the request
	metaErr  error
	looks    int // at meta
	issueErr error
	refuse   func(attestationToken string) error // nil refuses none
	asked    []request
	issued   int
}

// request is an attempt at an issuance.
type request struct {
	at     time.Time
	sel    imds.Selector
	token  string
	bypass bool
}

func (i *issuer) PlatformMetadata(context.Context, imds.Selector) (*imds.PlatformMetadata, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.looks++
	meta := i.meta
	return &meta, i.metaErr
}

func (i *issuer) IssueCredential(ctx context.Context, sel imds.Selector, req imds.CredentialRequest) (*imds.Credential, error) {
	if i.hold != nil {
		select {
		case <-i.hold:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.asked = append(i.asked, request{i.now(), sel, req.AttestationToken.Reveal(), req.BypassCache})
	if i.refuse != nil {
		if err := i.refuse(req.AttestationToken.Reveal()); err != nil {
			return nil, err
		}
	}
	if i.issueErr != nil {
		return nil, i.issueErr
	}
	i.issued++
	der, err := i.sign(req.CSR)
	if err != nil {
		return nil, err
	}
	cred := &imds.Credential{ClientID: i.meta.ClientID, TenantID: i.meta.TenantID, Certificate: der,
		IdentityType: "SystemAssigned", MTLSEndpoint: "https://centralus.mtlsauth.microsoft.com"}
	if i.answer != nil {
		i.answer(cred)
	}
	return cred, nil
}

// sign issues for 14 days, of which Entra gives tokens for 7.
func (i *issuer) sign(request []byte) ([]byte, error) {
	csr, err := x509.ParseCertificateRequest(request)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:    big.NewInt(int64(i.issued)),
		Subject:         pkix.Name{CommonName: i.meta.ClientID},
		NotBefore:       i.now().Add(-time.Minute),
		NotAfter:        i.now().Add(14 * 24 * time.Hour),
		KeyUsage:        x509.KeyUsageDigitalSignature,
		ExtKeyUsage:     []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		ExtraExtensions: []pkix.Extension{tokenNotAfter(i.t, i.now().Add(7*24*time.Hour))},
	}
	if i.edit != nil {
		i.edit(template)
	}
	public := csr.PublicKey
	if i.public != nil {
		public = i.public
	}
	ca, err := caKey()
	if err != nil {
		return nil, err
	}
	return x509.CreateCertificate(rand.Reader, template, &x509.Certificate{Subject: pkix.Name{CommonName: "issuer"}}, public, ca)
}

// fail makes all issuances fail, or none.
func (i *issuer) fail(err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.issueErr = err
}

// describe changes what IMDS says of the identity.
func (i *issuer) describe(change func()) {
	i.mu.Lock()
	defer i.mu.Unlock()
	change()
}

func (i *issuer) count() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.issued
}

func (i *issuer) requests() []request {
	i.mu.Lock()
	defer i.mu.Unlock()
	return append([]request{}, i.asked...)
}

func tokenNotAfter(t *testing.T, at time.Time) pkix.Extension {
	t.Helper()
	value, err := asn1.MarshalWithParams(at.UTC().Truncate(time.Second), "generalized")
	if err != nil {
		t.Fatal(err)
	}
	return pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 90, 2, 1}, Value: value}
}

// attestor hands out one attestation token until it is discarded, or an error.
type attestor struct {
	mu        sync.Mutex
	token     string // with the number of discards behind it; empty: no attestation
	err       error
	panics    bool
	discarded []string
}

func (a *attestor) Attest(context.Context, string) (secret.String, time.Time, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.panics:
		panic("broken")
	case a.token == "":
		return secret.String{}, time.Time{}, a.err
	}
	return secret.New(fmt.Sprint(a.token, len(a.discarded))), time.Time{}, a.err
}

func (a *attestor) breakDown(panics bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.panics = panics
}

func (a *attestor) Discard(endpoint string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.discarded = append(a.discarded, endpoint)
}

// world is everything around a manager.
type world struct {
	*issuer
	attestor *attestor
	key      softKey
	keyName  string
	dir      string
	log      lockedBuilder
	jitter   func(time.Duration) time.Duration

	mu    sync.Mutex
	base  func() time.Time
	shift time.Duration // of this machine's clock against base
}

// lockedBuilder is a log that Run may write.
type lockedBuilder struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *lockedBuilder) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuilder) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// newWorld makes a world whose time stands still unless it is advanced.
func newWorld(t *testing.T) *world {
	t.Helper()
	return newWorldAt(t, func() time.Time { return time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC) })
}

// newWorldAt makes a world whose time is that of base until it is advanced.
func newWorldAt(t *testing.T, base func() time.Time) *world {
	t.Helper()
	key, err := ourKey()
	if err != nil {
		t.Fatal(err)
	}
	w := &world{
		attestor: &attestor{token: "attestation-token-"},
		key:      softKey{key},
		keyName:  "000b01",
		dir:      filepath.Join(t.TempDir(), "state"),
		base:     base,
		jitter:   func(d time.Duration) time.Duration { return d },
	}
	if err := statefile.EnsureDir(w.dir); err != nil {
		t.Fatal(err)
	}
	w.issuer = &issuer{t: t, meta: *metadata, now: w.now}
	return w
}

func (w *world) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.base().Add(w.shift)
}

// advance sets this machine's clock.
func (w *world) advance(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.shift += d
}

// start makes a manager, as a start of the agent would.
func (w *world) start() *binding.Manager {
	return binding.New(binding.Config{
		IMDS: w.issuer, Key: w.key, KeyName: w.keyName, Attestor: w.attestor, Files: statefile.In(w.dir),
		MTLSHosts: imds.MicrosoftMTLSHosts(), Now: w.now, Jitter: w.jitter,
		Logger: slog.New(slog.NewTextHandler(&w.log, nil)),
	})
}

var system = imds.Selector{}

func (w *world) certificate(t *testing.T, m *binding.Manager) *binding.Certificate {
	t.Helper()
	return w.certificateOf(t, m, system)
}

func (w *world) certificateOf(t *testing.T, m *binding.Manager, sel imds.Selector) *binding.Certificate {
	t.Helper()
	c, err := m.Certificate(t.Context(), sel)
	if err != nil {
		t.Fatalf("%v\n%s", err, w.log.String())
	}
	return c
}

// file is the system-assigned identity's state file.
func (w *world) file() string { return filepath.Join(w.dir, "binding-system.json") }

func (w *world) tear(t *testing.T, change func(string) string) {
	t.Helper()
	data, err := os.ReadFile(w.file())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(w.file(), []byte(change(string(data))), 0o600); err != nil {
		t.Fatal(err)
	}
}
