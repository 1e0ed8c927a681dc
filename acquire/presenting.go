package acquire

import (
	"errors"
	"net/http"

	"github.com/keyagent/keyagent/internal/cloud"
	"github.com/keyagent/keyagent/tlsbridge"
)

// Presenting is [Roster.Presenting] of the identities that are in force now.
func (a *Acquirer) Presenting(token Token) (http.RoundTripper, error) {
	return a.roster.Load().Presenting(token)
}

// Presenting returns what makes requests over TLS connections that present the certificate that a
// token of this roster is bound to. They go where the request says: the caller decides about hosts.
// Connections are shared by all requests for which Presenting returns the same; they are closed
// when another certificate takes this one's place, once the requests on them are done.
//
// It does no I/O. It fails if the token is bound to no certificate, or to one that was replaced:
// then there is another token.
func (r *Roster) Presenting(token Token) (http.RoundTripper, error) {
	if token.Binding.Thumbprint == "" {
		return nil, errors.New("the token is bound to no certificate")
	}
	asks := tlsbridge.AsksAtOnce
	if cloud.IsVault(token.Resource) {
		asks = tlsbridge.AsksLater
	}
	for h := range r.holders() {
		bridge, err := h.forResource(r.acquirer.cfg.transport.Load(), token.Binding.Thumbprint, asks)
		if err != nil {
			return nil, err
		}
		if bridge != nil {
			return bridge.Client().Transport, nil
		}
	}
	return nil, errors.New("the certificate that the token is bound to is not in use any more")
}

// forResource returns the connections to resources that present the certificate with this x5t#S256;
// nil if that is not the one in use.
func (h *holder) forResource(transport *transport, thumbprint string, asks tlsbridge.Resource) (*tlsbridge.Bridge, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.inUse == nil || h.ended || h.inUse.Thumbprint() != thumbprint {
		return nil, nil
	}
	if h.resources.transport != transport {
		h.closeResources()
		h.resources.transport = transport
	}
	if made := h.resources.bridges[asks]; made != nil {
		return made, nil
	}
	made, err := tlsbridge.NewForResource(transport.tls, h.inUse.Pair(), asks)
	if err != nil {
		return nil, err
	}
	if h.resources.bridges == nil {
		h.resources.bridges = map[tlsbridge.Resource]*tlsbridge.Bridge{}
	}
	h.resources.bridges[asks] = made
	return made, nil
}

// resourceBridges are the connections to resources that present a holder's certificate, by how a
// resource asks for it.
type resourceBridges struct {
	transport *transport // that they were made with
	bridges   map[tlsbridge.Resource]*tlsbridge.Bridge
}

// closeResources closes the connections to resources once the requests on them are done. The
// holder's lock is held.
func (h *holder) closeResources() {
	for _, bridge := range h.resources.bridges {
		bridge.Close()
	}
	h.resources.bridges = nil
}
