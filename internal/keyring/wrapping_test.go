package keyring_test

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
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keyagent/keyagent/internal/agenttest"
	"github.com/keyagent/keyagent/internal/keyring"
)

// chainOver makes a root, an issuer below it and a certificate over a key.
func chainOver(t *testing.T, public any) (leaf, issuing, root []byte) {
	t.Helper()
	create := func(name string, public any, by *x509.Certificate, signer *ecdsa.PrivateKey) []byte {
		template := &x509.Certificate{
			SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
			BasicConstraintsValid: true, IsCA: name != "app",
		}
		if by == nil {
			by = template
		}
		der, err := x509.CreateCertificate(rand.Reader, template, by, public, signer)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	var keys [2]*ecdsa.PrivateKey
	for i := range keys {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		keys[i] = key
	}
	named := func(name string) *x509.Certificate { return &x509.Certificate{Subject: pkix.Name{CommonName: name}} }
	return create("app", public, named("Issuing"), keys[1]), create("Issuing", keys[1].Public(), named("Root"), keys[0]), create("Root", keys[0].Public(), nil, keys[0])
}

// Whatever order an issuer's portal has them in, the one over the key is kept first, as TLS sends
// it.
func TestCertificatesAreImportedInAnyOrder(t *testing.T) {
	s := agenttest.New(t)
	k := s.Keyring(nil)
	report, err := k.Create(t.Context(), "app", keyring.KeyRequest{Algorithm: "ecdsa-p256"})
	if err != nil {
		t.Fatal(err)
	}
	leaf, issuing, root := chainOver(t, agenttest.PublicKey(t, report.PublicKey))
	text := func(certificates ...[]byte) string {
		var b strings.Builder
		for _, der := range certificates {
			b.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
		}
		return b.String()
	}
	short, long := []string{"CN=Issuing"}, []string{"CN=Issuing", "CN=Root"}
	for _, tt := range []struct {
		name, text string
		chain      []string // that the key has then
	}{
		{"with its mark", "\ufeff" + text(leaf), nil},
		{"in order", text(leaf, issuing), short},
		{"leaf twice", text(leaf, leaf, issuing), short},
		{"on one line", strings.ReplaceAll(text(issuing, leaf), "\n", " "), short},
		{"without the issuer that is there", text(leaf), short},
		{"root first", text(root, issuing, leaf), long},
		{"DER in a row", string(slices.Concat(root, leaf, issuing)), long},
		{"without the root that is there", text(leaf, issuing), long},
		{"without any issuer that is there", text(leaf), long},
	} {
		name := tt.name
		path := filepath.Join(t.TempDir(), "chain.pem")
		if err := os.WriteFile(path, []byte(tt.text), 0o600); err != nil {
			t.Fatal(err)
		}
		imported, err := k.Import(t.Context(), "app", keyring.ImportOptions{File: path})
		if err != nil || imported.Subject != "CN=app" || !slices.Equal(imported.Chain, tt.chain) || imported.Problem != "" {
			t.Errorf("%s: %q above %q, problem %q, %v", name, imported.Chain, imported.Subject, imported.Problem, err)
		}
		if shown, err := k.Certificate("app", false); err != nil || shown.PEM != imported.PEM {
			t.Errorf("%s: what is kept is another: %v", name, err)
		}
	}
}

func TestAKeyIsAdoptedOutOfItsSurroundings(t *testing.T) {
	s := agenttest.New(t)
	k := s.Keyring(nil)
	report, err := k.Create(t.Context(), "app", keyring.KeyRequest{Algorithm: "ecdsa-p256"})
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(report.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	leaf, issuing, _ := chainOver(t, agenttest.PublicKey(t, report.PublicKey))
	var certificates string
	for _, der := range [][]byte{leaf, issuing} {
		certificates += string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	}
	key := string(text)
	software := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("secret")}))
	for name, tt := range map[string]struct{ text, want string }{
		"comment":        {"# of billing\n" + key + "# end\n", ""},
		"certificates":   {key + certificates, ""},
		"in-between":     {certificates + "\ufeff" + key, ""},
		"two":            {key + key, "a second block"},
		"software":       {software, "outside of a TPM"},
		"software-too":   {key + software, "outside of a TPM"},
		"certificate":    {certificates, `only "CERTIFICATE"`},
		"damaged-beside": {key + certificates[:200], "cut off"},
	} {
		path := filepath.Join(t.TempDir(), "key.pem")
		if err := os.WriteFile(path, []byte(tt.text), 0o600); err != nil {
			t.Fatal(err)
		}
		adopted, err := k.Adopt(t.Context(), name, keyring.ForeignFile{Path: path}, keyring.KeyRequest{})
		switch {
		case tt.want == "" && (err != nil || adopted.PublicKey != report.PublicKey):
			t.Errorf("%s: %v", name, err)
		case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want) || !strings.HasPrefix(err.Error(), path+": ")):
			t.Errorf("%s: %v; want %q", name, err, tt.want)
		}
	}
}
