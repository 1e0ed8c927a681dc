package daemon_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keyagent/keyagent/config"
)

// The tokens in memory may have come from the host or authority that is not trusted any more, so none
// of them is given out any more.
func TestTokensGoWithTheTrustThatTheyCameBy(t *testing.T) {
	s := newStage(t)
	authority, err := os.ReadFile(s.cfg.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "authorities.pem")
	write := func(pem ...[]byte) {
		if err := os.WriteFile(file, slices.Concat(pem...), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	another := otherAuthority(t)
	write(authority, another)
	s.cfg.CAFile = file
	s.cfg.TrustedHosts.MTLS = append(slices.Clone(s.cfg.TrustedHosts.MTLS), "other.example:443")
	s.cfg.TrustedHosts.Attestation = append(slices.Clone(s.cfg.TrustedHosts.Attestation), "other.example:443")
	s.start()
	for _, tt := range []struct {
		name      string
		change    func(*config.Config)
		withdrawn bool
	}{
		{"nothing", nothing, false},
		{"a host more", func(c *config.Config) { c.TrustedHosts.MTLS = append(c.TrustedHosts.MTLS, "third.example:443") }, false},
		{"and gone again", nothing, true},
		{"other hosts in their order", func(c *config.Config) { slices.Reverse(c.TrustedHosts.MTLS) }, false},
		{"a host of Entra less", func(c *config.Config) { c.TrustedHosts.MTLS = c.TrustedHosts.MTLS[:len(c.TrustedHosts.MTLS)-1] }, true},
		{"and there again", nothing, false},
		{"a host of attestation less", func(c *config.Config) {
			c.TrustedHosts.Attestation = c.TrustedHosts.Attestation[:len(c.TrustedHosts.Attestation)-1]
		}, true},
		{"and there again", nothing, false},
		{"an authority less in the file", func(*config.Config) { write(authority) }, true},
		{"the file is another one, with more in it", func(c *config.Config) { write(another, authority) }, false},
		{"a proxy", func(c *config.Config) { c.Proxy.URL = "http://127.0.0.1:1" }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := s.mustToken()
			handshakes := s.status().Identities[0].TLS.Handshakes
			told := len(s.log.String())
			s.mustReload(tt.change)
			after := s.mustToken()
			if kept := after.AccessToken.Reveal() == before.AccessToken.Reveal(); kept == tt.withdrawn {
				t.Errorf("the token is the same one: %v", kept)
			}
			log := s.log.String()[told:]
			if !strings.Contains(log, fmt.Sprintf("trust_withdrawn=%v", tt.withdrawn)) || strings.Contains(log, `tokens_dropped_of=""`) == tt.withdrawn {
				t.Errorf("the log has\n%s", log)
			}
			if tt.withdrawn && s.status().Identities[0].TLS.Handshakes != 1 {
				t.Errorf("%d handshakes, before %d: the connections of before are used", s.status().Identities[0].TLS.Handshakes, handshakes)
			}
		})
	}
	s.mustReload(func(c *config.Config) { c.CAFile = "" })
	if _, err := s.token(); err == nil || !strings.Contains(err.Error(), "unknown authority") {
		t.Errorf("without the authority: %v", err)
	}
}

// otherAuthority is a certificate authority that has issued no certificate of the platform.
func otherAuthority(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "another authority"}, NotAfter: time.Now().AddDate(1, 0, 0),
		BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}
