package binding

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/keyagent/keyagent/acquire/imds"
	"github.com/keyagent/keyagent/internal/secret"
)

// MetadataService is what a [Manager] needs of IMDS.
type MetadataService interface {
	PlatformMetadata(ctx context.Context, sel imds.Selector) (*imds.PlatformMetadata, error)
	IssueCredential(ctx context.Context, sel imds.Selector, req imds.CredentialRequest) (*imds.Credential, error)
}

// Key is the binding key.
type Key interface {
	Public() crypto.PublicKey
	// WithContext returns a view of the key whose signatures honour ctx.
	WithContext(ctx context.Context) crypto.Signer
}

// Attestor turns evidence about the binding key into an attestation token for
// the instance of Azure Attestation at endpoint. The zero token means that no
// attestation is configured. An error with a method Temporary that says false will
// not go away by itself.
type Attestor interface {
	Attest(ctx context.Context, endpoint string) (token secret.String, expires time.Time, err error)
}

// Config configures a [Manager].
type Config struct {
	IMDS      MetadataService
	Key       Key
	KeyName   string // hex TPM Name of Key; a stored certificate is bound to it
	Attestor  Attestor
	StateDir  string           // where certificates are kept, 0700
	MTLSHosts imds.HostList    // a stored endpoint must still be trusted
	Now       func() time.Time // nil means time.Now
	Logger    *slog.Logger     // nil means no log
}

// ErrAttestation wraps every failure to have the key attested.
var ErrAttestation = errors.New("attesting the binding key")

// Manager keeps the binding certificates of all identities. It is safe for
// concurrent use.
type Manager struct {
	cfg   Config
	store store

	mu    sync.Mutex
	slots map[string]*slot // by identity
}

// slot serialises the work on one identity's certificate. The one-element
// channel is its lock: waiting for it honours a context.
type slot struct {
	lock    chan struct{}
	current *Certificate // guarded by lock
	record  *record      // what current belongs to; guarded by lock
}

// New returns a manager. It does no I/O.
func New(cfg Config) *Manager {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Manager{
		cfg:   cfg,
		store: store{dir: cfg.StateDir, logger: cfg.Logger},
		slots: map[string]*slot{},
	}
}

// Certificate returns a usable certificate for the identity: the one in memory
// or on disk if it still belongs to the identity, else a new one. It asks IMDS
// in any case, and blocks for as long as IMDS and attestation take.
func (m *Manager) Certificate(ctx context.Context, identity string, sel imds.Selector) (*Certificate, error) {
	s := m.slot(identity)
	select {
	case s.lock <- struct{}{}:
		defer func() { <-s.lock }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	meta, err := m.cfg.IMDS.PlatformMetadata(ctx, sel)
	if err != nil {
		return nil, err
	}
	m.restore(s, identity)
	current := m.valid(s, identity, meta)
	if current != nil && m.cfg.Now().Before(current.RenewAt()) {
		return current, nil
	}
	fresh, err := m.issue(ctx, s, identity, sel, meta)
	if err != nil && current != nil {
		m.cfg.Logger.Warn("renewing the binding certificate did not work; the current one serves on",
			"identity", identity, "expires", current.EffectiveExpiry(), "error", err)
		return current, nil
	}
	return fresh, err
}

func (m *Manager) slot(identity string) *slot {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.slots[identity]
	if s == nil {
		s = &slot{lock: make(chan struct{}, 1)}
		m.slots[identity] = s
	}
	return s
}

// restore fills an empty slot from disk.
func (m *Manager) restore(s *slot, identity string) {
	if s.record == nil {
		s.record = m.store.load(identity)
	}
}

// valid returns the slot's certificate if it may be used for meta, or nil.
func (m *Manager) valid(s *slot, identity string, meta *imds.PlatformMetadata) *Certificate {
	if s.record == nil {
		return nil
	}
	if !s.record.belongs(meta, m.cfg.KeyName) {
		m.cfg.Logger.Info("identity, VM or key is not the one of the stored binding certificate; it is discarded", "identity", identity)
		s.record, s.current = nil, nil
		return nil
	}
	if s.current != nil && s.current.usable(m.cfg.Now()) {
		return s.current
	}
	if _, err := m.cfg.MTLSHosts.Check(s.record.MTLSEndpoint); err != nil {
		m.cfg.Logger.Info("stored binding certificate names a host that is no longer trusted; it is discarded", "identity", identity, "error", err)
		s.record, s.current = nil, nil
		return nil
	}
	c, err := s.record.certificate(m.cfg.Key.Public(), m.cfg.Now())
	if err != nil {
		m.cfg.Logger.Info("stored binding certificate is not usable; it is discarded", "identity", identity, "error", err)
		s.record, s.current = nil, nil
		return nil
	}
	s.current = c
	return c
}

// issue obtains a new certificate and puts it into the slot.
func (m *Manager) issue(ctx context.Context, s *slot, identity string, sel imds.Selector, meta *imds.PlatformMetadata) (*Certificate, error) {
	attestation, _, err := m.cfg.Attestor.Attest(ctx, meta.AttestationEndpoint)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrAttestation, err)
	}
	csr, err := newCertificateRequest(m.cfg.Key.WithContext(ctx), meta)
	if err != nil {
		return nil, err
	}
	cred, err := m.cfg.IMDS.IssueCredential(ctx, sel, imds.CredentialRequest{CSR: csr, AttestationToken: attestation})
	if err != nil {
		return nil, err
	}
	r := record{
		Identity:     identity,
		KeyName:      m.cfg.KeyName,
		ClientID:     cred.ClientID,
		TenantID:     cred.TenantID,
		ComputeUnit:  meta.ComputeUnitID,
		IdentityType: cred.IdentityType,
		MTLSEndpoint: cred.MTLSEndpoint,
		Attested:     !attestation.IsZero(),
		Certificate:  cred.Certificate,
	}
	if !r.belongs(meta, m.cfg.KeyName) {
		return nil, fmt.Errorf("%w: issuecredential answered for client %q of tenant %q, getplatformmetadata for %q of %q",
			imds.ErrBadAnswer, cred.ClientID, cred.TenantID, meta.ClientID, meta.TenantID)
	}
	c, err := r.certificate(m.cfg.Key.Public(), m.cfg.Now())
	if err != nil {
		return nil, fmt.Errorf("%w: issued certificate: %w", imds.ErrBadAnswer, err)
	}
	s.current, s.record = c, &r
	m.save(r)
	m.cfg.Logger.Info("binding certificate issued", "identity", identity, "thumbprint", c.Thumbprint(),
		"attested", c.Attested, "expires", c.EffectiveExpiry(), "renew_at", c.RenewAt())
	return c, nil
}

// save keeps the certificate for the next start. Failing to (a full disk, say)
// costs an issuance then, and nothing now.
func (m *Manager) save(r record) {
	if err := m.store.save(r); err != nil {
		m.cfg.Logger.Warn("binding certificate could not be stored; the next start will have to obtain a new one",
			"identity", r.Identity, "error", err)
	}
}
