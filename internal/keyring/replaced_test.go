package keyring_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keyagent/keyagent/internal/agenttest"
	"github.com/keyagent/keyagent/internal/keyring"
)

func TestBothWaysToACertificateFollowOneRule(t *testing.T) {
	s := agenttest.New(t)
	k := s.Keyring(nil)
	if _, err := k.Create(t.Context(), "app", keyring.KeyRequest{}); err != nil {
		t.Fatal(err)
	}
	ways := map[string]func(name string, next, replace bool) (keyring.CertificateReport, error){
		"self-sign": func(name string, next, replace bool) (keyring.CertificateReport, error) {
			return k.SelfSign(t.Context(), "app", keyring.SelfSignOptions{NameRequest: agenttest.Subject(name), Next: next, Replace: replace})
		},
		"import": func(name string, next, replace bool) (keyring.CertificateReport, error) {
			path := filepath.Join(t.TempDir(), "new.pem")
			r, err := k.SelfSign(t.Context(), "app", keyring.SelfSignOptions{NameRequest: agenttest.Subject(name), Next: next, NoImport: true})
			if err = errors.Join(err, keyring.WriteFile(path, []byte(r.PEM))); err != nil {
				t.Fatal(err)
			}
			return k.Import(t.Context(), "app", keyring.ImportOptions{File: path, Next: next, Replace: replace})
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
		if err != nil || r.Replaced == nil || r.Replaced.Restore != "[import the certificate of key app, restore]" {
			t.Fatalf("%s: got %+v, %v", name, r.Replaced, err)
		}
		if kept, err := os.ReadFile(r.Replaced.File); err != nil || !strings.Contains(string(kept), "BEGIN CERTIFICATE") {
			t.Errorf("%s: the old one was not kept: %v", name, err)
		}
	}
	if _, err := k.BeginRotation(t.Context(), "app", keyring.KeyRequest{}); err != nil {
		t.Fatal(err)
	}
	if _, err := ways["import"]("first", true, false); err != nil {
		t.Fatal(err)
	}
	for name, way := range ways {
		r, err := way(name, true, false)
		if err != nil || r.Replaced == nil || r.Replaced.Restore != "[import the certificate of key app, the next generation, restore]" {
			t.Errorf("%s, of the next generation: got %+v, %v", name, r.Replaced, err)
		}
	}
}

// What has expired works no more; it is told and kept all the same.
func TestACertificateThatHasExpiredIsReplacedWithoutMoreWords(t *testing.T) {
	s := agenttest.New(t)
	now := time.Now()
	k := s.Keyring(func() time.Time { return now })
	if _, err := k.Create(t.Context(), "app", keyring.KeyRequest{Algorithm: "ecdsa-p256"}); err != nil {
		t.Fatal(err)
	}
	if _, err := k.SelfSign(t.Context(), "app", keyring.SelfSignOptions{NameRequest: agenttest.Subject("old"), Days: 10}); err != nil {
		t.Fatal(err)
	}
	now = now.AddDate(0, 0, 11)
	r, err := k.SelfSign(t.Context(), "app", keyring.SelfSignOptions{NameRequest: agenttest.Subject("new")})
	if err != nil || r.Replaced == nil || r.Replaced.Subject != "CN=old" {
		t.Errorf("got %+v, %v", r.Replaced, err)
	}
	if _, err := k.Import(t.Context(), "app", keyring.ImportOptions{Restore: true}); err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("it came back: %v", err)
	}
}
