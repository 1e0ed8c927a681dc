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
	"errors"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyagent/keyagent/acquire/binding"
	"github.com/keyagent/keyagent/acquire/imds"
	"github.com/keyagent/keyagent/internal/secret"
	"github.com/keyagent/keyagent/internal/statefile"
)

// softKey stands in for the TPM key: what is tested here is the life of the
// certificate.
type softKey struct{ *rsa.PrivateKey }

func (k softKey) WithContext(context.Context) crypto.Signer { return k.PrivateKey }

// issuer plays IMDS with a certificate authority of its own.
type issuer struct {
	t   *testing.T
	key *ecdsa.PrivateKey
	now func() time.Time

	mu       sync.Mutex
	meta     imds.PlatformMetadata
	edit     func(*x509.Certificate)
	answer   func(*imds.Credential)
	public   crypto.PublicKey // certify this key instead of the one in the request
	metaErr  error
	issueErr error
	issued   int
	tokens   []string
}

func (i *issuer) PlatformMetadata(context.Context, imds.Selector) (*imds.PlatformMetadata, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	meta := i.meta
	return &meta, i.metaErr
}

func (i *issuer) IssueCredential(_ context.Context, _ imds.Selector, req imds.CredentialRequest) (*imds.Credential, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.issueErr != nil {
		return nil, i.issueErr
	}
	i.issued++
	i.tokens = append(i.tokens, req.AttestationToken.Reveal())
	csr, err := x509.ParseCertificateRequest(req.CSR)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(int64(i.issued)),
		Subject:      pkix.Name{CommonName: i.meta.ClientID},
		NotBefore:    i.now().Add(-time.Minute),
		NotAfter:     i.now().Add(14 * 24 * time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		ExtraExtensions: []pkix.Extension{
			tokenNotAfter(i.t, i.now().Add(7*24*time.Hour)),
		},
	}
	if i.edit != nil {
		i.edit(template)
	}
	public := csr.PublicKey
	if i.public != nil {
		public = i.public
	}
	der, err := x509.CreateCertificate(rand.Reader, template, &x509.Certificate{Subject: pkix.Name{CommonName: "issuer"}}, public, i.key)
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

func tokenNotAfter(t *testing.T, at time.Time) pkix.Extension {
	t.Helper()
	value, err := asn1.MarshalWithParams(at.UTC().Truncate(time.Second), "generalized")
	if err != nil {
		t.Fatal(err)
	}
	return pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 90, 2, 1}, Value: value}
}

// attestor hands out one attestation token, or an error.
type attestor struct {
	token string
	err   error
}

func (a *attestor) Attest(context.Context, string) (secret.String, time.Time, error) {
	return secret.New(a.token), time.Time{}, a.err
}

// world is everything around a manager.
type world struct {
	*issuer
	attestor *attestor
	key      softKey
	keyName  string
	dir      string
	clock    time.Time
	log      strings.Builder
}

func newWorld(t *testing.T) *world {
	t.Helper()
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{
		attestor: &attestor{token: "attestation-token"},
		key:      softKey{newKey(t)},
		keyName:  "000b01",
		dir:      filepath.Join(t.TempDir(), "state"),
		clock:    time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC),
	}
	if err := statefile.EnsureDir(w.dir); err != nil {
		t.Fatal(err)
	}
	w.issuer = &issuer{t: t, key: caKey, meta: *metadata, now: func() time.Time { return w.clock }}
	return w
}

// start makes a manager, as a start of the agent would.
func (w *world) start() *binding.Manager {
	return binding.New(binding.Config{
		IMDS: w.issuer, Key: w.key, KeyName: w.keyName, Attestor: w.attestor, StateDir: w.dir,
		MTLSHosts: imds.MicrosoftMTLSHosts(), Now: w.now,
		Logger: slog.New(slog.NewTextHandler(&w.log, nil)),
	})
}

func (w *world) certificate(t *testing.T, m *binding.Manager) *binding.Certificate {
	t.Helper()
	c, err := m.Certificate(t.Context(), "vm", imds.Selector{})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestCertificateIsIssuedOnceAndReusedAfterARestart(t *testing.T) {
	w := newWorld(t)
	m := w.start()
	first := w.certificate(t, m)
	if !first.Attested || first.MTLSEndpoint != "https://centralus.mtlsauth.microsoft.com" || first.ClientID != metadata.ClientID {
		t.Errorf("got %+v", first)
	}
	if got, want := first.EffectiveExpiry(), w.clock.Add(7*24*time.Hour); !got.Equal(want) {
		t.Errorf("effective expiry %v, want token_not_after %v", got, want)
	}
	w.certificate(t, m)
	second := w.certificate(t, w.start())
	if w.issued != 1 || first.Thumbprint() != second.Thumbprint() || !second.Attested {
		t.Errorf("got %d issuances, thumbprints %s and %s, want one certificate", w.issued, first.Thumbprint(), second.Thumbprint())
	}
	info, err := os.Stat(filepath.Join(w.dir, "binding-vm.json"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("state file: %v, %v; want mode 0600", info, err)
	}
}

func TestWithoutAttestationTheCertificateSaysSo(t *testing.T) {
	w := newWorld(t)
	w.attestor.token = ""
	if c := w.certificate(t, w.start()); c.Attested {
		t.Error("a certificate issued without attestation token claims to be attested")
	}
	if c := w.certificate(t, w.start()); c.Attested {
		t.Error("the claim appeared after a restart")
	}
}

func TestManyCallersCauseOneIssuance(t *testing.T) {
	w := newWorld(t)
	m := w.start()
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if _, err := m.Certificate(t.Context(), "vm", imds.Selector{}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if w.issued != 1 {
		t.Errorf("got %d issuances, want 1", w.issued)
	}
}

func TestStoredCertificateIsDiscarded(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*testing.T, *world)
	}{
		{"when the VM has another identity", func(_ *testing.T, w *world) { w.meta.ClientID = "8b0c3d0e-0000-4000-8000-00000000c1d2" }},
		{"when the tenant changed", func(_ *testing.T, w *world) { w.meta.TenantID = "8b0c3d0e-0000-4000-8000-00000000c1d2" }},
		{"when the VM is another one", func(_ *testing.T, w *world) { w.meta.ComputeUnitID = `{"vmId":"other"}` }},
		{"when the key is another one", func(t *testing.T, w *world) { w.key, w.keyName = softKey{newKey(t)}, "000b02" }},
		{"when only the key's name was carried over", func(t *testing.T, w *world) { w.key = softKey{newKey(t)} }},
		{"when token_not_after is near", func(_ *testing.T, w *world) { w.clock = w.clock.Add(7*24*time.Hour - 4*time.Minute) }},
		{"when the clock went back before notBefore", func(_ *testing.T, w *world) { w.clock = w.clock.Add(-time.Hour) }},
		{"when its file is torn", func(t *testing.T, w *world) {
			tear(t, filepath.Join(w.dir, "binding-vm.json"), func(b []byte) []byte { return b[:len(b)/2] })
		}},
		{"when its file is empty", func(t *testing.T, w *world) {
			tear(t, filepath.Join(w.dir, "binding-vm.json"), func([]byte) []byte { return nil })
		}},
		{"when its file belongs to another identity", func(t *testing.T, w *world) {
			tear(t, filepath.Join(w.dir, "binding-vm.json"), func(b []byte) []byte {
				return []byte(strings.Replace(string(b), `"identity": "vm"`, `"identity": "xx"`, 1))
			})
		}},
		{"when its endpoint is no longer trusted", func(t *testing.T, w *world) {
			tear(t, filepath.Join(w.dir, "binding-vm.json"), func(b []byte) []byte {
				return []byte(strings.Replace(string(b), "mtlsauth.microsoft.com", "mtlsauth.example.com", 1))
			})
		}},
		{"when others could have written its file", func(t *testing.T, w *world) {
			if err := os.Chmod(filepath.Join(w.dir, "binding-vm.json"), 0o666); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			before := w.certificate(t, w.start())
			tc.change(t, w)
			after := w.certificate(t, w.start())
			if w.issued != 2 || before.Thumbprint() == after.Thumbprint() {
				t.Errorf("got %d issuances, want a second one\n%s", w.issued, w.log.String())
			}
		})
	}
}

func tear(t *testing.T, path string, change func([]byte) []byte) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, change(data), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestTornFileIsKeptAside(t *testing.T) {
	w := newWorld(t)
	path := filepath.Join(w.dir, "binding-vm.json")
	if err := os.WriteFile(path, []byte("{torn"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.certificate(t, w.start())
	aside, err := filepath.Glob(path + ".torn*")
	if err != nil || len(aside) != 1 {
		t.Errorf("got %v, %v; want the torn file under another name", aside, err)
	}
	if !strings.Contains(w.log.String(), aside[0]) {
		t.Errorf("the log does not name %s:\n%s", aside[0], w.log.String())
	}
}

func TestRenewalFromHalfLifeOn(t *testing.T) {
	w := newWorld(t)
	m := w.start()
	first := w.certificate(t, m)
	w.clock = first.RenewAt().Add(-time.Second)
	if w.certificate(t, m); w.issued != 1 {
		t.Errorf("renewed before half of the life")
	}
	w.clock = first.RenewAt()
	w.issueErr = errors.New("issuer is down")
	if c := w.certificate(t, m); c.Thumbprint() != first.Thumbprint() {
		t.Errorf("a failed renewal lost the good certificate")
	}
	w.issueErr = nil
	if c := w.certificate(t, m); c.Thumbprint() == first.Thumbprint() || w.issued != 2 {
		t.Errorf("not renewed at half of the life: %d issuances", w.issued)
	}
}

func TestIssuedCertificateIsCheckedBeforeItIsBelieved(t *testing.T) {
	other := newKey(t)
	for _, tc := range []struct {
		name, want string
		spoil      func(*world)
	}{
		{"another key", "another key", func(w *world) { w.public = &other.PublicKey }},
		{"another subject", "subject", func(w *world) { w.edit = func(c *x509.Certificate) { c.Subject.CommonName = "other" } }},
		{"no clientAuth", "clientAuth", func(w *world) { w.edit = func(c *x509.Certificate) { c.ExtKeyUsage = nil } }},
		{"no digitalSignature", "digitalSignature", func(w *world) { w.edit = func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment } }},
		{"a certificate authority", "authority", func(w *world) {
			w.edit = func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true }
		}},
		{"expired", "check this machine's clock", func(w *world) { w.edit = func(c *x509.Certificate) { c.NotAfter = w.clock } }},
		{"not yet valid", "check this machine's clock", func(w *world) { w.edit = func(c *x509.Certificate) { c.NotBefore = w.clock.Add(time.Hour) } }},
		{"token_not_after is nonsense", "token_not_after", func(w *world) {
			w.edit = func(c *x509.Certificate) { c.ExtraExtensions[0].Value = []byte{0x05, 0x00} }
		}},
		{"not a certificate", "parsing", func(w *world) { w.answer = func(c *imds.Credential) { c.Certificate = []byte{1} } }},
		{"for another client", "getplatformmetadata for", func(w *world) {
			w.answer = func(c *imds.Credential) { c.ClientID = "8b0c3d0e-0000-4000-8000-00000000c1d2" }
		}},
		{"for another tenant", "getplatformmetadata for", func(w *world) {
			w.answer = func(c *imds.Credential) { c.TenantID = "8b0c3d0e-0000-4000-8000-00000000c1d2" }
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			tc.spoil(w)
			_, err := w.start().Certificate(t.Context(), "vm", imds.Selector{})
			if !errors.Is(err, imds.ErrBadAnswer) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want ErrBadAnswer with %q", err, tc.want)
			}
			if _, err := os.Stat(filepath.Join(w.dir, "binding-vm.json")); err == nil {
				t.Error("the refused certificate was stored")
			}
		})
	}
}

func TestErrorsPassThrough(t *testing.T) {
	w := newWorld(t)
	w.attestor.err = errors.New("evidence refused")
	if _, err := w.start().Certificate(t.Context(), "vm", imds.Selector{}); !errors.Is(err, binding.ErrAttestation) || w.issued != 0 {
		t.Errorf("got %v and %d issuances, want ErrAttestation and none: no fallback without attestation", err, w.issued)
	}
	w.metaErr = imds.ErrUnreachable
	if _, err := w.start().Certificate(t.Context(), "vm", imds.Selector{}); !errors.Is(err, imds.ErrUnreachable) {
		t.Errorf("got %v, want ErrUnreachable", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	w.metaErr = nil
	w.attestor.err = nil
	m := w.start()
	if _, err := m.Certificate(t.Context(), "vm", imds.Selector{}); err != nil {
		t.Errorf("after the faults: %v", err)
	}
	if _, err := m.Certificate(ctx, "other", imds.Selector{}); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: got %v", err)
	}
}

func TestFullDiskCostsNothingNow(t *testing.T) {
	w := newWorld(t)
	w.dir = "/dev/full" // no file can be made below a device
	m := w.start()
	w.certificate(t, m)
	if !strings.Contains(w.log.String(), "could not be stored") {
		t.Errorf("the log does not mention it:\n%s", w.log.String())
	}
	if w.certificate(t, m); w.issued != 1 {
		t.Errorf("got %d issuances, want 1: the certificate in memory serves", w.issued)
	}
}
