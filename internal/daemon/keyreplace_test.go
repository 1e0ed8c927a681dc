package daemon_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keyagent/keyagent/internal/daemon"
	"github.com/keyagent/keyagent/signer/keystore"
)

// newer makes a certificate that is put nowhere, in a file.
func newer(t *testing.T, k *daemon.Keyring, name string) (path string, r daemon.CertificateReport) {
	t.Helper()
	r, err := k.SelfSign(t.Context(), "app", daemon.SelfSignOptions{NameRequest: subject(name), NoImport: true})
	path = filepath.Join(t.TempDir(), "newer.pem")
	if err == nil {
		err = daemon.WriteFile(path, []byte(r.PEM))
	}
	if err != nil {
		t.Fatal(err)
	}
	return path, r
}

func TestWhoReplacesACertificateIsToldThatEntraAcceptsIt(t *testing.T) {
	c := newDuel(t, "")
	k := c.keyring(c.platform.Clock().Now)
	path, _ := newer(t, k, "newer")
	_, before := k.Import(t.Context(), "app", daemon.ImportOptions{File: path})
	if before == nil || !strings.Contains(before.Error(), "Entra: not known to accept it") {
		t.Errorf("before the agent asked Entra: %v", before)
	}
	if _, err := c.freshToken(); err != nil {
		t.Fatal(err)
	}
	since := c.platform.Clock().Now().UTC().Truncate(time.Second)
	_, imported := k.Import(t.Context(), "app", daemon.ImportOptions{File: path})
	_, selfSigned := k.SelfSign(t.Context(), "app", daemon.SelfSignOptions{NameRequest: subject("newest")})
	for what, err := range map[string]error{"import": imported, "self-sign": selfSigned} {
		_, inUse := errors.AsType[*keystore.InUseError](err)
		if !inUse || !strings.Contains(err.Error(), "Entra: has given tokens for it since "+since.Format(time.RFC3339)) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if imported == nil || selfSigned == nil || imported.Error() != selfSigned.Error() {
		t.Error("the two commands do not say the same")
	}
	r, err := k.Import(t.Context(), "app", daemon.ImportOptions{File: path, Replace: true})
	if err != nil || r.Replaced == nil || r.Replaced.EntraSince == nil || !r.Replaced.EntraSince.Equal(since) {
		t.Fatalf("got %+v, %v", r.Replaced, err)
	}
	if _, err := c.freshToken(); err == nil { // it is not registered
		t.Error("a token for a certificate that nobody registered")
	}
	back, err := k.Import(t.Context(), "app", daemon.ImportOptions{Restore: true})
	if err != nil || back.X5tS256 != r.Replaced.X5tS256 || back.Replaced.EntraSince != nil {
		t.Errorf("got %+v, %v", back, err)
	}
	if _, err := c.freshToken(); err != nil {
		t.Errorf("after the way back: %v", err)
	}
}

func TestBothWaysToACertificateFollowOneRule(t *testing.T) {
	s := newStage(t)
	k := s.keyring(nil)
	if _, err := k.Create(t.Context(), "app", daemon.KeyRequest{}); err != nil {
		t.Fatal(err)
	}
	ways := map[string]func(name string, next, replace bool) (daemon.CertificateReport, error){
		"self-sign": func(name string, next, replace bool) (daemon.CertificateReport, error) {
			return k.SelfSign(t.Context(), "app", daemon.SelfSignOptions{NameRequest: subject(name), Next: next, Replace: replace})
		},
		"import": func(name string, next, replace bool) (daemon.CertificateReport, error) {
			path := filepath.Join(t.TempDir(), "new.pem")
			r, err := k.SelfSign(t.Context(), "app", daemon.SelfSignOptions{NameRequest: subject(name), Next: next, NoImport: true})
			if err = errors.Join(err, daemon.WriteFile(path, []byte(r.PEM))); err != nil {
				t.Fatal(err)
			}
			return k.Import(t.Context(), "app", daemon.ImportOptions{File: path, Next: next, Replace: replace})
		},
	}
	if r, err := ways["import"]("first", false, false); err != nil || r.Replaced != nil {
		t.Fatalf("got %+v, %v", r.Replaced, err)
	}
	for name, way := range ways {
		if _, err := way(name, false, false); err == nil {
			t.Errorf("%s: it replaced what is in use without being told to", name)
		}
		r, err := way(name, false, true)
		if err != nil || r.Replaced == nil || r.Replaced.Restore != "keyagent cert import app --restore" {
			t.Fatalf("%s: got %+v, %v", name, r.Replaced, err)
		}
		if kept, err := os.ReadFile(r.Replaced.File); err != nil || !strings.Contains(string(kept), "BEGIN CERTIFICATE") {
			t.Errorf("%s: the old one was not kept: %v", name, err)
		}
	}
	if _, err := k.BeginRotation(t.Context(), "app", daemon.KeyRequest{}); err != nil {
		t.Fatal(err)
	}
	if _, err := ways["import"]("first", true, false); err != nil {
		t.Fatal(err)
	}
	for name, way := range ways {
		r, err := way(name, true, false)
		if err != nil || r.Replaced == nil || r.Replaced.Restore != "keyagent cert import app --next --restore" {
			t.Errorf("%s, of the next generation: got %+v, %v", name, r.Replaced, err)
		}
	}
}

// What has expired works no more; it is told and kept all the same.
func TestACertificateThatHasExpiredIsReplacedWithoutMoreWords(t *testing.T) {
	s := newStage(t)
	now := time.Now()
	k := s.keyring(func() time.Time { return now })
	if _, err := k.Create(t.Context(), "app", daemon.KeyRequest{Algorithm: "ecdsa-p256"}); err != nil {
		t.Fatal(err)
	}
	if _, err := k.SelfSign(t.Context(), "app", daemon.SelfSignOptions{NameRequest: subject("old"), Days: 10}); err != nil {
		t.Fatal(err)
	}
	now = now.AddDate(0, 0, 11)
	r, err := k.SelfSign(t.Context(), "app", daemon.SelfSignOptions{NameRequest: subject("new")})
	if err != nil || r.Replaced == nil || r.Replaced.Subject != "CN=old" {
		t.Errorf("got %+v, %v", r.Replaced, err)
	}
	if _, err := k.Import(t.Context(), "app", daemon.ImportOptions{Restore: true}); err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("it came back: %v", err)
	}
}
