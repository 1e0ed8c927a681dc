package resource

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/keyagent/keyagent/simulator/internal/endpoint"
	"github.com/keyagent/keyagent/simulator/internal/latetls"
)

// headerTokenBound is "true" in a request whose token is bound to a certificate.
const headerTokenBound = "X-Ms-Tokenboundauth"

const (
	maxRequestBytes = 1 << 20
	renegotiateTime = 10 * time.Second
)

// KeyVaultListener is the TLS side of [Server.KeyVault]: TLS 1.2, without a certificate of the
// client at first. The certificate is the server's, with a P-256 key.
func KeyVaultListener(l net.Listener, certificate tls.Certificate) net.Listener {
	return latetls.Listen(l, certificate)
}

// KeyVault is the resource as Azure Key Vault serves it, on a [KeyVaultListener]. The certificate
// is asked for by renegotiation, once a request has come that says in a header that its token is
// bound; without the header, none is asked for, and a bound token is refused.
func (s *Server) KeyVault() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequestBytes)) // before the renegotiation
		if err != nil {
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		state := &tls.ConnectionState{Version: tls.VersionTLS12, HandshakeComplete: true}
		conn, late := endpoint.Conn(r.Context()).(*latetls.Conn)
		if late && r.Header.Get(headerTokenBound) == "true" {
			ctx, cancel := context.WithTimeout(r.Context(), renegotiateTime)
			defer cancel()
			if state.PeerCertificates, err = conn.RequestCertificate(ctx); err != nil {
				return // the connection has ended
			}
		}
		r.TLS = state
		s.ServeHTTP(w, r)
	})
}
