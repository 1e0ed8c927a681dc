package daemon_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/client"
	"github.com/keyagent/keyagent/internal/daemon"
	"github.com/keyagent/keyagent/internal/keyring"
)

// direct is a client for direct calls of the simulated API as an identity.
func (s *stage) direct(identity string, version uint16) *http.Client {
	s.t.Helper()
	return s.directTo(s.platform.Info().Resource, identity, version, false)
}

// directTo is direct for one of the ways to the API, which asks for the certificate late or in the
// handshake.
func (s *stage) directTo(api, identity string, version uint16, late bool) *http.Client {
	s.t.Helper()
	text, err := os.ReadFile(s.platform.Info().CAFile)
	if err != nil {
		s.t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(text)
	hosts := map[bool][]string{true: {onLocalhost(api)}, false: {}}
	made, err := s.client.HTTPClient(client.BoundConfig{
		Identity: identity, Resource: resource, Hosts: []string{onLocalhost(api)}, Late: hosts[late],
		TLS: &tls.Config{RootCAs: roots, MinVersion: version, MaxVersion: version, Time: s.clock()},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(made.CloseIdleConnections)
	return made
}

// onLocalhost is a server of the platform by a name that its certificate has.
func onLocalhost(address string) string {
	return strings.Replace(address, "https://127.0.0.1", "localhost", 1)
}

func (s *stage) callAPI(c *http.Client) (string, error) {
	s.t.Helper()
	return callSecret(c, s.platform.Info().Resource)
}

func callSecret(c *http.Client, api string) (string, error) {
	resp, err := c.Get("https://" + onLocalhost(api) + "/secrets/x")
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if err := client.BoundRefusal(resp); err != nil {
		return "", err
	}
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}

// An app calls an API with a bound token, and the TPM signs its handshake.
func TestAppsUseBoundTokensThemselves(t *testing.T) {
	s := newStage(t)
	keys := s.keyring(s.clock())
	if _, err := keys.Create(t.Context(), "app", keyring.KeyRequest{Algorithm: "ecdsa-p256"}); err != nil {
		t.Fatal(err)
	}
	s.certify(keys)
	if err := keys.Close(); err != nil {
		t.Fatal(err)
	}
	s.cfg.Rules[0].Sign, s.cfg.Rules[0].Hosts = true, []string{"localhost"}
	s.start()
	for _, identity := range []string{"vm", "app-fic", "app-cert"} {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			t.Run(identity+" over "+tls.VersionName(version), func(t *testing.T) {
				if got, err := s.callAPI(s.direct(identity, version)); err != nil || !strings.Contains(got, `"bound":true`) {
					t.Errorf("got %s, %v", got, err)
				}
				audit := s.audit.String()
				record := audit[strings.LastIndex(strings.TrimSpace(audit), "\n")+1:]
				for _, want := range []string{`"decision":"signed"`, `"identity":"` + identity + `"`, `"tls_version":"` + tls.VersionName(version) + `"`, `"rule":"demo"`, `"thumbprint":"`} {
					if !strings.Contains(record, want) {
						t.Errorf("the record does not have %s: %s", want, record)
					}
				}
				if strings.Contains(record, `"server":"localhost"`) != (version == tls.VersionTLS12) {
					t.Errorf("the record of %s: %s", tls.VersionName(version), record)
				}
			})
		}
	}
	t.Run("of an API that asks for the certificate late", func(t *testing.T) {
		vault := s.platform.Info().KeyVault
		if got, err := callSecret(s.directTo(vault, "vm", tls.VersionTLS12, true), vault); err != nil || !strings.Contains(got, `"bound":true`) {
			t.Errorf("got %s, %v", got, err)
		}
	})
	t.Run("over a restart of the agent", func(t *testing.T) {
		s.stop()
		s.start()
		if got, err := s.callAPI(s.direct("vm", tls.VersionTLS13)); err != nil || !strings.Contains(got, `"bound":true`) {
			t.Errorf("got %s, %v", got, err)
		}
	})
}

func TestAppsThatMayNotSign(t *testing.T) {
	for _, tt := range []struct {
		name    string
		sign    bool
		hosts   []string
		only    bool // hosts
		version uint16
		refused bool
	}{
		{"without sign", false, []string{"localhost"}, false, tls.VersionTLS13, true},
		{"without sign, TLS 1.2", false, []string{"localhost"}, false, tls.VersionTLS12, true},
		{"another host, TLS 1.2", true, []string{"vault.azure.net"}, false, tls.VersionTLS12, true},
		{"no host, TLS 1.2", true, nil, false, tls.VersionTLS12, true},
		{"another host, TLS 1.3, which does not show it", true, []string{"vault.azure.net"}, false, tls.VersionTLS13, false},
		{"its hosts only, TLS 1.3", true, []string{"localhost"}, true, tls.VersionTLS13, true},
		{"its hosts only, TLS 1.2", true, []string{"localhost"}, true, tls.VersionTLS12, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newStage(t)
			s.cfg.Rules[0].Sign, s.cfg.Rules[0].Hosts, s.cfg.Rules[0].SignHostsOnly = tt.sign, tt.hosts, tt.only
			s.start()
			got, err := s.callAPI(s.direct("vm", tt.version))
			if tt.refused != errors.Is(err, client.ErrRefused) || !tt.refused && err != nil {
				t.Errorf("got %s, %v", got, err)
			}
			if signed := strings.Contains(s.audit.String(), `"decision":"signed"`); signed == tt.refused {
				t.Errorf("audit:\n%s", s.audit.String())
			}
		})
	}
}

func TestNoticesSayWhatSigningGives(t *testing.T) {
	s := newStage(t)
	s.cfg.Rules[0].Resources = []string{resource}
	rule := &s.cfg.Rules[0]
	for _, tt := range []struct {
		sign, only bool
		hosts      []string
		want       []string
	}{
		{false, false, nil, nil},
		{true, false, []string{"localhost"}, []string{"which hides the server"}},
		{true, false, nil, []string{"which hides the server", "no hosts to sign for in TLS 1.2"}},
		{true, true, []string{"localhost"}, nil},
	} {
		rule.Sign, rule.SignHostsOnly, rule.Hosts = tt.sign, tt.only, tt.hosts
		notices := daemon.Notices(s.cfg)
		if len(notices) != len(tt.want) {
			t.Errorf("%+v: got %q", tt, notices)
			continue
		}
		for i, want := range tt.want {
			if !strings.Contains(notices[i], want) {
				t.Errorf("%q does not have %q", notices[i], want)
			}
		}
	}
}
