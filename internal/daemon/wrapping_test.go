package daemon_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/daemon"
)

// Of two authorities, the second must not be left out in silence: connections would fail, or
// evidence, and the cause would be hard to find.
func TestAFileOfAnchorsThatIsReadInPartStopsTheConfiguration(t *testing.T) {
	s := newStage(t)
	info := s.platform.Info()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	secret := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))
	for setting, file := range map[string]string{
		"ca_file": info.CAFile, "attestation.amd_roots": info.AMDRootsFile, "attestation.vtpm_roots": info.VTPMRootsFile,
	} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		good := string(text)
		for name, tt := range map[string]struct{ text, want string }{
			"as it is":                    {good, ""},
			"indented":                    {"  " + strings.ReplaceAll(good, "\n", "\n  "), ""},
			"the second is cut off":       {good + good[:400], "cut off"},
			"the second is damaged":       {good + strings.Replace(good, "MII", "M!I", 1), "is not base64"},
			"the second is commented out": {good + "# " + good, "commented out"},
			"a private key is beside it":  {good + secret, "private key"},
			"trust settings":              {good + strings.ReplaceAll(good, " CERT", " TRUSTED CERT"), "trust settings"},
		} {
			path := filepath.Join(t.TempDir(), "anchors.pem")
			if err := os.WriteFile(path, []byte(tt.text), 0o600); err != nil {
				t.Fatal(err)
			}
			cfg := *s.cfg
			*map[string]*string{
				"ca_file": &cfg.CAFile, "attestation.amd_roots": &cfg.Attestation.AMDRoots, "attestation.vtpm_roots": &cfg.Attestation.VTPMRoots,
			}[setting] = path
			checkAnchors(t, &cfg, setting+", "+name, tt.want, setting+": "+path+": line ")
		}
	}
}

func checkAnchors(t *testing.T, cfg *config.Config, what, want, place string) {
	t.Helper()
	err := daemon.Check(t.Context(), cfg)
	switch {
	case want == "":
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	case err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), place):
		t.Errorf("%s: %v; want %q and %q", what, err, place, want)
	}
}
