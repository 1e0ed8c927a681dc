package engine

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keyagent/keyagent/config"
)

// authority makes a certificate authority under parent, nil for a root.
func authority(t *testing.T, name string, parent *x509.Certificate, by *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	if parent == nil {
		parent, by = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), by)
	if err != nil {
		t.Fatal(err)
	}
	made, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return made, key
}

func TestIssuersOfAttestationKeysComeFromADirectory(t *testing.T) {
	root, rootKey := authority(t, "root", nil, nil)
	issuer, _ := authority(t, "issuer", root, rootKey)
	text := func(c *x509.Certificate) []byte {
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
	}
	for name, tt := range map[string]struct {
		files map[string][]byte
		want  int
		err   string
	}{
		"an issuer":    {map[string][]byte{"a.pem": text(issuer), "README": []byte("x")}, 1, ""},
		"two files":    {map[string][]byte{"a.pem": text(issuer), "b.crt": text(issuer)}, 2, ""},
		"none":         {map[string][]byte{}, 0, ""},
		"a root":       {map[string][]byte{"a.pem": text(root)}, 0, "belongs into attestation.vtpm_roots"},
		"what is none": {map[string][]byte{"a.pem": []byte("x")}, 0, "attestation.ak_intermediates"},
		"no directory": {nil, 0, "attestation.ak_intermediates"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config.Default()
			cfg.Attestation.AKIntermediates = filepath.Join(t.TempDir(), "d")
			if tt.files != nil {
				if err := os.Mkdir(cfg.Attestation.AKIntermediates, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			for file, content := range tt.files {
				if err := os.WriteFile(filepath.Join(cfg.Attestation.AKIntermediates, file), content, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			without, err := Resolve(config.Default())
			if err != nil {
				t.Fatal(err)
			}
			plan, err := Resolve(cfg)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("got %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := len(plan.anchors.VTPMIntermediates) - len(without.anchors.VTPMIntermediates); got != tt.want || len(plan.anchors.VTPM) != len(without.anchors.VTPM) {
				t.Errorf("%d issuers, %d roots", got, len(plan.anchors.VTPM))
			}
		})
	}
}
