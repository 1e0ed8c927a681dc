package daemon_test

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keyagent/keyagent/internal/agenttest"
	"github.com/keyagent/keyagent/internal/keyring"
	"github.com/keyagent/keyagent/signer/keystore"
)

// newer makes a certificate that is put nowhere, in a file.
func newer(t *testing.T, k *keyring.Keyring, name string) (path string, r keyring.CertificateReport) {
	t.Helper()
	r, err := k.SelfSign(t.Context(), "app", keyring.SelfSignOptions{NameRequest: agenttest.Subject(name), NoImport: true})
	path = filepath.Join(t.TempDir(), "newer.pem")
	if err == nil {
		err = keyring.WriteFile(path, []byte(r.PEM))
	}
	if err != nil {
		t.Fatal(err)
	}
	return path, r
}

func TestReplacingACertificateSaysThatEntraAcceptsIt(t *testing.T) {
	c := newDuel(t, "")
	k := c.keyring(c.platform.Clock().Now)
	path, _ := newer(t, k, "newer")
	_, before := k.Import(t.Context(), "app", keyring.ImportOptions{File: path})
	if before == nil || !strings.Contains(before.Error(), "Entra: not known to accept it") {
		t.Errorf("before the agent asked Entra: %v", before)
	}
	if _, err := c.freshToken(); err != nil {
		t.Fatal(err)
	}
	since := c.platform.Clock().Now().UTC().Truncate(time.Second)
	_, imported := k.Import(t.Context(), "app", keyring.ImportOptions{File: path})
	_, selfSigned := k.SelfSign(t.Context(), "app", keyring.SelfSignOptions{NameRequest: agenttest.Subject("newest")})
	for what, err := range map[string]error{"import": imported, "self-sign": selfSigned} {
		_, inUse := errors.AsType[*keystore.InUseError](err)
		if !inUse || !strings.Contains(err.Error(), "Entra: has given tokens for it since "+since.Format(time.RFC3339)) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if imported == nil || selfSigned == nil || imported.Error() != selfSigned.Error() {
		t.Error("the two commands do not say the same")
	}
	r, err := k.Import(t.Context(), "app", keyring.ImportOptions{File: path, Replace: true})
	if err != nil || r.Replaced == nil || r.Replaced.EntraSince == nil || !r.Replaced.EntraSince.Equal(since) {
		t.Fatalf("got %+v, %v", r.Replaced, err)
	}
	if _, err := c.freshToken(); err == nil { // it is not registered
		t.Error("a token for a certificate that nobody registered")
	}
	back, err := k.Import(t.Context(), "app", keyring.ImportOptions{Restore: true})
	if err != nil || back.X5tS256 != r.Replaced.X5tS256 || back.Replaced.EntraSince != nil {
		t.Errorf("got %+v, %v", back, err)
	}
	if _, err := c.freshToken(); err != nil {
		t.Errorf("after the way back: %v", err)
	}
}
