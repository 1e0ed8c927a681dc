package binding

import (
	"context"
	"crypto"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/keyagent/keyagent/acquire/imds"
	"github.com/keyagent/keyagent/internal/secret"
	"github.com/keyagent/keyagent/internal/waiting"
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

// Attestor turns evidence about the binding key into an attestation token for the instance of Azure
// Attestation at endpoint. The zero token means that no attestation is configured. An error with a
// method RefusesEvidence that returns true is the service's own refusal of this VM's evidence; one
// with a method Refuses that returns true will not go away by itself (see package
// internal/errinfo).
type Attestor interface {
	Attest(ctx context.Context, endpoint string) (token secret.String, expires time.Time, err error)
	// Discard drops a token that was not accepted: the next Attest gets a new one.
	Discard(endpoint string)
}

// Config configures a [Manager].
type Config struct {
	IMDS      MetadataService
	Key       Key
	KeyName   string // hex TPM Name of Key; a stored certificate is bound to it
	Attestor  Attestor
	Files     Files            // where certificates are kept
	MTLSHosts imds.HostList    // the endpoint of a certificate must be trusted whenever it is used; see [Manager.SetMTLSHosts]
	Now       func() time.Time // nil means time.Now
	Logger    *slog.Logger     // nil means no log

	// Wait ends after d, or with the context's error. Nil means a timer.
	Wait func(ctx context.Context, d time.Duration) error
	// Jitter moves a duration by up to a tenth, so that many machines do not come to
	// IMDS at once. Nil draws at random.
	Jitter func(d time.Duration) time.Duration
}

// ErrAttestation wraps every failure to have the key attested.
var ErrAttestation = errors.New("attesting the binding key")

// Manager keeps the binding certificates of all identities. It is safe for
// concurrent use.
type Manager struct {
	cfg   Config
	store store

	mu     sync.Mutex
	slots  map[name]*slot
	wanted map[name]bool // identities whose certificates are renewed; nil: all
	hosts  imds.HostList
	// attestation is the attestation token of the last request for a certificate.
	attestation secret.String
	wake        func() // ends the wait of Run, which a new certificate may have made too long
}

// New returns a manager. It does no I/O, and renews nothing unless
// [Manager.Run] does.
func New(cfg Config) *Manager {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Wait == nil {
		cfg.Wait = waiting.Sleep
	}
	if cfg.Jitter == nil {
		cfg.Jitter = tenth
	}
	return &Manager{
		cfg:   cfg,
		store: store{files: cfg.Files},
		slots: map[name]*slot{},
		hosts: cfg.MTLSHosts,
		wake:  func() {},
	}
}

// SetMTLSHosts changes which token endpoints are trusted. A certificate with another one is not
// used from then on, nor is one that is being obtained.
func (m *Manager) SetMTLSHosts(hosts imds.HostList) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.hosts = hosts
}

func (m *Manager) trusts(endpoint string) error {
	m.mu.Lock()
	hosts := m.hosts
	m.mu.Unlock()
	_, err := hosts.Check(endpoint)
	return err
}

// Want says which identities' certificates are renewed; others are used until they expire. A
// rejection of those by Entra, and the pause before the next replacement, are kept: they may be
// wanted again.
func (m *Manager) Want(selectors []imds.Selector) {
	wanted := map[name]bool{}
	for _, sel := range selectors {
		if n, err := newName(sel); err == nil {
			wanted[n] = true
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.wanted = wanted
	m.wake()
}

// Certificate returns a usable certificate for the identity: the one in memory or on disk if it
// still belongs to the identity, else a new one. It asks IMDS in any case. Without a usable
// certificate it blocks for as long as attestation and issuance take, even if another caller began
// them; it does not wait for a renewal under way.
//
// While the certificate that Entra rejected has not been replaced, the error may be [*PausedError].
func (m *Manager) Certificate(ctx context.Context, sel imds.Selector) (*Certificate, error) {
	s, err := m.slot(sel)
	if err != nil {
		return nil, err
	}
	meta, err := m.metadata(ctx, s)
	if err != nil {
		return nil, err
	}
	if c := m.usable(s, meta); c != nil {
		return c, nil
	}
	if err := s.lock(ctx); err != nil {
		return nil, err
	}
	defer s.unlock()
	m.settle(s)
	if c := m.usable(s, meta); c != nil {
		return c, nil
	}
	return m.obtain(ctx, s, meta)
}

// Current returns the certificate that is in use for the identity, or nil. It does no I/O: a
// certificate on disk that was not used since the start is not known here.
func (m *Manager) Current(sel imds.Selector) *Certificate {
	n, err := newName(sel)
	if err != nil {
		return nil
	}
	m.mu.Lock()
	s := m.slots[n]
	m.mu.Unlock()
	if s == nil {
		return nil
	}
	return m.held(s)
}
