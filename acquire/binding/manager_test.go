package binding_test

import (
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyagent/keyagent/acquire/binding"
	"github.com/keyagent/keyagent/acquire/imds"
)

func TestCertificateIsIssuedOnceAndReusedAfterARestart(t *testing.T) {
	w := newWorld(t)
	m := w.start()
	first := w.certificate(t, m)
	if !first.Attested || first.MTLSEndpoint != "https://centralus.mtlsauth.microsoft.com" || first.ClientID != metadata.ClientID {
		t.Errorf("got %+v", first)
	}
	if got, want := first.EffectiveExpiry(), w.now().Add(7*24*time.Hour); !got.Equal(want) {
		t.Errorf("effective expiry %v, want token_not_after %v", got, want)
	}
	w.certificate(t, m)
	second := w.certificate(t, w.start())
	if w.issued != 1 || first.Thumbprint() != second.Thumbprint() || !second.Attested {
		t.Errorf("got %d issuances, thumbprints %s and %s, want one certificate", w.issued, first.Thumbprint(), second.Thumbprint())
	}
	info, err := os.Stat(w.file())
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
			if _, err := m.Certificate(t.Context(), system); err != nil {
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
		{"when the key has another name", func(_ *testing.T, w *world) { w.keyName = "000b02" }},
		{"when only the key's name was carried over", func(t *testing.T, w *world) { w.key = softKey{newKey(t)} }},
		{"when token_not_after is near", func(_ *testing.T, w *world) { w.advance(7*24*time.Hour - 4*time.Minute) }},
		{"when the clock went back before notBefore", func(_ *testing.T, w *world) { w.advance(-time.Hour) }},
		{"when its file is torn", func(t *testing.T, w *world) {
			w.tear(t, func(s string) string { return s[:len(s)/2] })
		}},
		{"when its file is empty", func(t *testing.T, w *world) {
			w.tear(t, func(string) string { return "" })
		}},
		{"when its file belongs to another identity", func(t *testing.T, w *world) {
			w.tear(t, func(s string) string { return strings.Replace(s, `"selector": "system"`, `"selector": "other"`, 1) })
		}},
		{"when its endpoint is no longer trusted", func(t *testing.T, w *world) {
			w.tear(t, func(s string) string { return strings.Replace(s, "mtlsauth.microsoft.com", "mtlsauth.example.com", 1) })
		}},
		{"when others could have written its file", func(t *testing.T, w *world) {
			if err := os.Chmod(w.file(), 0o666); err != nil {
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

func TestTornFileIsKeptAside(t *testing.T) {
	w := newWorld(t)
	path := w.file()
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

func TestIssuedCertificateIsCheckedBeforeItIsBelieved(t *testing.T) {
	other := newKey(t)
	for _, tc := range []struct {
		name, want string
		spoil      func(*world)
	}{
		{"another key", "another key", func(w *world) { w.public = &other.PublicKey }},
		{"a key that takes long", "8192 bits", func(w *world) { w.public = &rsa.PublicKey{N: new(big.Int).Lsh(big.NewInt(3), 8192), E: 65537} }},
		{"another subject", "subject", func(w *world) { w.edit = func(c *x509.Certificate) { c.Subject.CommonName = "other" } }},
		{"no clientAuth", "clientAuth", func(w *world) { w.edit = func(c *x509.Certificate) { c.ExtKeyUsage = nil } }},
		{"no digitalSignature", "digitalSignature", func(w *world) { w.edit = func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment } }},
		{"a certificate authority", "authority", func(w *world) {
			w.edit = func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true }
		}},
		{"expired", "check this machine's clock", func(w *world) { w.edit = func(c *x509.Certificate) { c.NotAfter = w.now() } }},
		{"not yet valid", "check this machine's clock", func(w *world) { w.edit = func(c *x509.Certificate) { c.NotBefore = w.now().Add(time.Hour) } }},
		{"token_not_after is nonsense", "token_not_after", func(w *world) {
			w.edit = func(c *x509.Certificate) { c.ExtraExtensions[0].Value = []byte{0x05, 0x00} }
		}},
		{"not a certificate", "cannot be read", func(w *world) { w.answer = func(c *imds.Credential) { c.Certificate = []byte{1} } }},
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
			_, err := w.start().Certificate(t.Context(), system)
			if !errors.Is(err, imds.ErrBadAnswer) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want ErrBadAnswer with %q", err, tc.want)
			}
			if _, err := os.Stat(w.file()); err == nil {
				t.Error("the refused certificate was stored")
			}
		})
	}
}

func TestErrorsPassThrough(t *testing.T) {
	w := newWorld(t)
	w.attestor.err = errors.New("evidence refused")
	if _, err := w.start().Certificate(t.Context(), system); !errors.Is(err, binding.ErrAttestation) || w.issued != 0 {
		t.Errorf("got %v and %d issuances, want ErrAttestation and none: no fallback without attestation", err, w.issued)
	}
	w.metaErr = imds.ErrUnreachable
	if _, err := w.start().Certificate(t.Context(), system); !errors.Is(err, imds.ErrUnreachable) {
		t.Errorf("got %v, want ErrUnreachable", err)
	}
	w.metaErr = nil
	w.attestor.err = nil
	m := w.start()
	if _, err := m.Certificate(t.Context(), system); err != nil {
		t.Errorf("after the faults: %v", err)
	}
}

// How long an attestation token is good is compared with this machine's clock. If that is behind,
// IMDS refuses a token that is over: that is no word about this machine until a new token was
// refused, too.
func TestARefusalOfAKeptAttestationIsNotBelievedYet(t *testing.T) {
	refusal := &imds.Error{Operation: "issuecredential", Status: 400, Code: "invalid_request"}
	user := imds.Selector{ClientID: metadata.ClientID}
	for _, tt := range []struct {
		name     string
		refused  map[string]bool // by token
		err      error
		ok       bool
		tokens   []string // that the second identity's requests had
		discards int
	}{
		{"the kept one is over", map[string]bool{"attestation-token-0": true}, refusal, true, []string{"attestation-token-0", "attestation-token-1"}, 1},
		{"a new one is refused, too", map[string]bool{"attestation-token-0": true, "attestation-token-1": true}, refusal, false,
			[]string{"attestation-token-0", "attestation-token-1"}, 1},
		{"IMDS is throttling", map[string]bool{"attestation-token-0": true}, &imds.Error{Operation: "issuecredential", Status: 429}, false,
			[]string{"attestation-token-0"}, 0},
		{"the identity is not there", map[string]bool{"attestation-token-0": true}, &imds.Error{Operation: "issuecredential", Status: 400, Code: imds.CodeIdentityNotFound}, false,
			[]string{"attestation-token-0"}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			m := w.start()
			w.certificate(t, m)
			w.refuse = func(token string) error {
				if tt.refused[token] {
					return tt.err
				}
				return nil
			}
			_, err := m.Certificate(t.Context(), user)
			if (err == nil) != tt.ok || !tt.ok && !errors.Is(err, tt.err) {
				t.Errorf("got %v", err)
			}
			var tokens []string
			for _, r := range w.asked[1:] {
				tokens = append(tokens, r.token)
			}
			if !slices.Equal(tokens, tt.tokens) || len(w.attestor.discarded) != tt.discards {
				t.Errorf("asked with %q after %d discards, want %q", tokens, len(w.attestor.discarded), tt.tokens)
			}
		})
	}
	w := newWorld(t)
	w.refuse = func(string) error { return refusal }
	if _, err := w.start().Certificate(t.Context(), system); !errors.Is(err, refusal) || len(w.asked) != 1 {
		t.Errorf("got %v after %d requests, want the refusal of a new token believed at once", err, len(w.asked))
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
	w.replace(t, m, m.Current(system))
	if !strings.Contains(w.log.String(), "Entra rejected the binding certificate") {
		t.Errorf("the log does not mention the rejection:\n%s", w.log.String())
	}
}
