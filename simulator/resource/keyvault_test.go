package resource_test

import (
	"crypto/tls"
	"net"
	"net/http"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/keyagent/keyagent/simulator/internal/endpoint"
	"github.com/keyagent/keyagent/simulator/pki"
	"github.com/keyagent/keyagent/simulator/resource"
)

// serveAsKeyVault moves the world's resource behind Key Vault's TLS.
func (w *world) serveAsKeyVault(t *testing.T) {
	t.Helper()
	authority, err := pki.NewServerAuthority(epoch())
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := authority.Certificate(epoch())
	if err != nil {
		t.Fatal(err)
	}
	w.roots.AddCert(authority.Root)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: w.server.KeyVault(), ConnContext: endpoint.ConnContext}
	done := make(chan error, 1)
	go func() { done <- server.Serve(resource.KeyVaultListener(ln, certificate)) }()
	t.Cleanup(func() { _ = server.Close(); <-done })
	w.url = "https://" + ln.Addr().String()
}

func TestKeyVaultAsksLate(t *testing.T) {
	w := newWorld(t)
	w.serveAsKeyVault(t)
	own, other := clientCertificate(t), clientCertificate(t)
	bound := "mtls_pop " + sign(t, w.key, jose.RS256, claims("cnf", map[string]any{"x5t#S256": endpoint.Thumbprint(own.Certificate[0])}))
	for _, tt := range []struct {
		name        string
		header      string
		certificate *tls.Certificate
		token       string
		code        string // "": taken
	}{
		{"its certificate and the header", "true", own, bound, ""},
		{"no header", "", own, bound, "MissingClientCertificate"},
		{"another value of the header", "1", own, bound, "MissingClientCertificate"},
		{"no certificate", "true", nil, bound, "MissingClientCertificate"},
		{"another certificate", "true", other, bound, "MtlsCnfClaimRequestDataValidationFailed"},
		{"an unbound token", "", nil, "Bearer " + sign(t, w.key, jose.RS256, claims("", nil)), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := w.callWith(t, "/secrets/x", tt.token, tt.certificate, tt.header)
			if (a.status == 200) != (tt.code == "") || a.Error.Code != tt.code {
				t.Errorf("answer %d %+v, want %q", a.status, a.refusal, tt.code)
			}
		})
	}
}
