package acquire

import (
	"sync"

	"github.com/keyagent/keyagent/acquire/binding"
	"github.com/keyagent/keyagent/tlsbridge"
)

// identityState is what an identity has in use: its certificate, the
// connections that present it, and how its last flight ended.
type identityState struct {
	Identity

	mu          sync.Mutex
	certificate *binding.Certificate
	connections *tlsbridge.Bridge
	lastErr     error
}

// bridge returns the connections of the certificate. A new certificate closes
// those of the old one.
func (s *identityState) bridge(cfg Config, c *binding.Certificate) (*tlsbridge.Bridge, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.connections != nil && s.certificate.Leaf.Equal(c.Leaf) {
		return s.connections, nil
	}
	fresh, err := tlsbridge.New(tlsbridge.Config{RootCAs: cfg.RootCAs, Now: cfg.Now}, tlsbridge.Pair{
		Chain:            [][]byte{c.Leaf.Raw},
		Signer:           cfg.Signer,
		SignatureSchemes: cfg.SignatureSchemes,
	})
	if err != nil {
		return nil, err
	}
	if s.connections != nil {
		s.connections.Close()
	}
	s.certificate, s.connections = c, fresh
	return fresh, nil
}

func (s *identityState) note(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastErr = err
}

func (s *identityState) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.connections != nil {
		s.connections.Close()
	}
}

// IdentityStatus describes an identity for an operator.
type IdentityStatus struct {
	Identity
	Certificate *binding.Certificate // in use; nil before the first token
	Strength    Strength             // of Certificate with the key
	Handshake   tlsbridge.Handshake  // last one with Certificate
	LastError   error                // of the last flight; nil if it got its token
}

// Status describes all identities in the order of the configuration.
func (a *Acquirer) Status() []IdentityStatus {
	list := make([]IdentityStatus, 0, len(a.cfg.Identities))
	for _, id := range a.cfg.Identities {
		list = append(list, a.identities[id.Name].status(a.cfg.KeyStrength))
	}
	return list
}

func (s *identityState) status(key Strength) IdentityStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	status := IdentityStatus{Identity: s.Identity, Certificate: s.certificate, LastError: s.lastErr}
	if s.certificate != nil {
		status.Strength = strengthOf(key, s.certificate)
		status.Handshake = s.connections.Handshake()
	}
	return status
}
