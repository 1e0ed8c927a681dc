package signer

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyagent/keyagent/internal/waiting"
	"github.com/keyagent/keyagent/tpm"
)

// A signature without a context is given at least signTimeout, about as long as a TLS server waits
// for a handshake, and at most signTimeoutSpan more.
const (
	signTimeout     = 30 * time.Second
	signTimeoutSpan = 15 * time.Second
)

var (
	// ErrFault means that a signature of the TPM did not verify. The signature is not returned.
	ErrFault = errors.New("the TPM made a wrong signature")

	// ErrUnsupported means that the key cannot make such a signature. Trying again at once does not
	// help. That the TPM refused to make one is no proof that it cannot: after a minute it is asked
	// again.
	ErrUnsupported = errors.New("signature not supported by the TPM key")
)

// Strength says where a private key is. It is observed, never configured.
type Strength string

// The strengths of a key by itself, the stronger first. Whether a key was attested as well is known
// to the verifier of the evidence only.
const (
	StrengthTPM      Strength = "tpm"      // in a TPM, which does not export it
	StrengthSoftware Strength = "software" // in this process's memory and in a file
)

// Config says where the key is, and what key to make if there is none.
type Config struct {
	TPM     *tpm.TPM
	KeyFile string       // path; the directory must exist
	Logger  *slog.Logger // nil: no log

	// Options are those of a key that has to be made. Their AuthValue is also needed to load a key
	// that exists.
	Options tpm.KeyOptions
	// MustExist makes a missing key file an error, in place of a new key.
	MustExist bool
	// AnyAttributes accepts a key that is bound to the TPM and may do more than sign, as other
	// programs make them. [Info.Deviations] reports what differs.
	AnyAttributes bool
	// Persistent is the persistent handle at which the key may be besides its file; 0: at none.
	Persistent tpm2.TPMHandle
	// PCRValues are the values that the key was bound to, if they are known.
	PCRValues tpm.PCRValues
	// Created says that the caller has just made the key; it is copied to [Info.Created].
	Created bool
	// Outcome keeps the outcome of the self-test from one start to the next. Nil: it is found out
	// anew.
	Outcome Outcome
	// Now is the clock by which a signature that the TPM refused to make is tried again. Nil:
	// time.Now.
	Now func() time.Time
	// ParentName is the Name of the parent, the storage key that wraps this key, if it is known.
	ParentName []byte
}

// Info describes a key for status and logs.
type Info struct {
	Algorithm     string   // "RSA-2048", "ECDSA-P256"
	Strength      Strength // where the private key is
	Attributes    []string // as the TPM reports them, in the TCG's spelling
	Deviations    []string // a sentence for each way in which it is weaker than a key made here
	Name          string   // the TPM's Name of the key, hexadecimal; empty for a software key
	Created       bool     // by this Open, not loaded from an older file
	PSSSaltLength int      // bytes, measured with SHA-256; 32 is right; -1: no PSS with this key
	KeyFile       string   // path
}

// Key is a key in a TPM. It is a [crypto.Signer], safe for concurrent use; the TPM makes one
// signature at a time.
type Key struct {
	key    *tpm.Key
	on     *tpm.TPM // holds the key
	public crypto.PublicKey
	info   Info
	offer  atomic.Pointer[offer]
	kept   keeper
	now    func() time.Time

	trying  waiting.Lock        // a form or hash that is wanted first
	refused map[trial]time.Time // under trying: when the TPM last refused to sign

	lifetime context.Context // of signatures without a context; ends with Close
	end      context.CancelFunc

	mu       sync.Mutex
	limit    context.Context // under mu: ends at its deadline, or with lifetime
	endLimit context.CancelFunc
}

var _ crypto.Signer = (*Key)(nil)

// Open loads the key of a key file, or creates both, and tests the key. The context bounds the
// opening only. Close the key before the TPM.
func Open(ctx context.Context, cfg Config) (*Key, error) {
	cfg = cfg.withDefaults()
	loaded, created, err := openKeyFile(ctx, cfg)
	if err != nil {
		return nil, err
	}
	k, err := start(ctx, cfg, loaded)
	if err != nil {
		return nil, err
	}
	k.info.Created = created || cfg.Created
	return k, nil
}

// OpenFile is Open for the content of a key file, wherever it was read. cfg.KeyFile only names it
// in messages.
func OpenFile(ctx context.Context, cfg Config, file *tpm.KeyFile) (*Key, error) {
	cfg = cfg.withDefaults()
	loaded, err := loadKeyFile(ctx, cfg, file)
	if err != nil {
		return nil, err
	}
	return start(ctx, cfg, loaded)
}

func (c Config) withDefaults() Config {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return c
}

// start tests a loaded key and makes a Key of it.
func start(ctx context.Context, cfg Config, loaded *tpm.Key) (*Key, error) {
	k, err := test(ctx, cfg, loaded)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("TPM key %q: %w", cfg.KeyFile, err), loaded.Close())
	}
	k.lifetime, k.end = context.WithCancel(context.WithoutCancel(ctx))
	return k, nil
}

// test finds out what a loaded key can do.
func test(ctx context.Context, cfg Config, loaded *tpm.Key) (*Key, error) {
	identity, err := cfg.TPM.Identity(ctx)
	if err != nil {
		return nil, err
	}
	k := &Key{
		key: loaded, on: cfg.TPM, public: loaded.PublicKey(), kept: newKeeper(cfg, loaded, identity), now: cfg.Now,
		trying: waiting.NewLock(), refused: make(map[trial]time.Time),
	}
	earlier := k.kept.load()
	offered, err := k.selfTest(ctx, earlier)
	if err != nil {
		return nil, fmt.Errorf("self-test: %w", err)
	}
	k.offer.Store(&offered)
	if !maps.Equal(offered, earlier) {
		k.kept.save(offered)
	}
	k.info = Info{
		Algorithm:  algorithmName(k.public),
		Strength:   StrengthTPM, // LoadKey takes no other
		Attributes: tpm.AttributeNames(loaded.Public().ObjectAttributes),
		Deviations: loaded.Deviations(),
		Name:       hex.EncodeToString(loaded.Name()),
		KeyFile:    cfg.KeyFile,
	}
	if _, rsaKey := k.public.(*rsa.PublicKey); rsaKey && !slices.Contains(k.TLSVersions(), tls.VersionTLS13) {
		cfg.Logger.Warn("TPM key cannot be used for PSS: TLS 1.3 is not possible, TLS 1.2 uses PKCS #1 v1.5",
			"key_file", cfg.KeyFile, "pss_salt_length", offered.salt(crypto.SHA256), "needed", crypto.SHA256.Size())
	}
	return k, nil
}

func algorithmName(public crypto.PublicKey) string {
	switch key := public.(type) {
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA-%d", key.N.BitLen())
	case *ecdsa.PublicKey:
		return fmt.Sprintf("ECDSA-P%d", key.Params().BitSize)
	}
	return fmt.Sprintf("%T", public)
}

// Public returns the public key, an *rsa.PublicKey or *ecdsa.PublicKey.
func (k *Key) Public() crypto.PublicKey { return k.public }

// TPMKey returns the key as the TPM has it, for attestation and for checks of its attributes.
func (k *Key) TPMKey() *tpm.Key { return k.key }

// TPM returns the TPM that holds the key.
func (k *Key) TPM() *tpm.TPM { return k.on }

// Info describes the key.
func (k *Key) Info() Info {
	info := k.info
	info.PSSSaltLength = k.offered().salt(crypto.SHA256) // known later where the TPM refused at first
	info.Attributes = append([]string(nil), info.Attributes...)
	info.Deviations = append([]string(nil), info.Deviations...)
	return info
}

// Close ends the signatures that wait, and has the key flushed from the TPM when the commands under
// way there are done. Further calls do nothing.
func (k *Key) Close() error {
	k.end()
	k.mu.Lock()
	endLimit := k.endLimit
	k.mu.Unlock()
	if endLimit != nil {
		endLimit()
	}
	return k.key.Close()
}

// Sign signs a digest. Opts choose the hash and, for an RSA key, the padding: PSS with
// *rsa.PSSOptions, else PKCS #1 v1.5. The salt of PSS is as long as the hash; PSSSaltLengthAuto is
// taken to mean that. An ECDSA signature is an ECDSA-Sig-Value (RFC 3279, 2.2.3). The first
// argument is not used: the TPM has its own randomness.
//
// It waits for the TPM, at most 30 to 45 seconds. With a context, use [Key.SignContext] or
// [Key.WithContext].
func (k *Key) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return k.SignContext(k.limited(), digest, opts)
}

// limited returns a context with enough time for one signature. The signatures of 15 seconds share
// it: a timer for each would add a hundredth to the time of the fastest TPM.
func (k *Key) limited() context.Context {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.limit != nil {
		if deadline, _ := k.limit.Deadline(); time.Until(deadline) >= signTimeout {
			return k.limit
		}
	}
	// The previous context ends by itself: its users have time left.
	k.limit, k.endLimit = context.WithTimeout(k.lifetime, signTimeout+signTimeoutSpan)
	return k.limit
}

// SignContext is Sign, bounded by a context instead. A signature that the TPM has begun is finished
// there even if the context ends.
func (k *Key) SignContext(ctx context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if opts == nil {
		return nil, fmt.Errorf("%w: without a hash", ErrUnsupported)
	}
	hash := opts.HashFunc()
	f, err := k.formFor(opts)
	if err == nil {
		err = k.want(ctx, trial{f, hash})
	}
	if err == nil {
		err = k.offered().check(trial{f, hash})
	}
	if err != nil {
		return nil, err
	}
	return k.sign(ctx, hash, f, digest)
}

// formFor derives the form from the options, as the keys of Go's library do.
func (k *Key) formFor(opts crypto.SignerOpts) (form, error) {
	options, asPSS := opts.(*rsa.PSSOptions)
	_, rsaKey := k.public.(*rsa.PublicKey)
	switch {
	case asPSS && !rsaKey:
		return 0, fmt.Errorf("%w: PSS with an elliptic curve key", ErrUnsupported)
	case asPSS:
		return pss, checkSaltOption(options.SaltLength, opts.HashFunc())
	case rsaKey:
		return pkcs1, nil
	}
	return ec, nil
}

// checkSaltOption accepts the values that mean "as long as the hash".
func checkSaltOption(length int, h crypto.Hash) error {
	switch length {
	case rsa.PSSSaltLengthEqualsHash, rsa.PSSSaltLengthAuto:
		return nil
	}
	if h.Available() && length == h.Size() {
		return nil
	}
	return fmt.Errorf("%w: PSS with a salt of %d bytes, only the hash's length is possible", ErrUnsupported, length)
}

// sign has the TPM sign, and verifies the signature.
func (k *Key) sign(ctx context.Context, hash crypto.Hash, f form, digest []byte) ([]byte, error) {
	signature, err := k.key.Sign(ctx, f, hash, digest)
	if err != nil {
		return nil, err
	}
	if err := verify(k.public, hash, f, digest, signature); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFault, err)
	}
	return signature, nil
}

func verify(public crypto.PublicKey, hash crypto.Hash, f form, digest, signature []byte) error {
	switch key := public.(type) {
	case *rsa.PublicKey:
		if f == pss {
			return rsa.VerifyPSS(key, hash, digest, signature, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
		}
		return rsa.VerifyPKCS1v15(key, hash, digest, signature)
	case *ecdsa.PublicKey:
		if !ecdsa.VerifyASN1(key, digest, signature) {
			return errors.New("ECDSA verification error")
		}
		return nil
	}
	return fmt.Errorf("there is no way to verify with a %T", public)
}

// WithContext returns a view of the key whose signatures are bounded by ctx. It serves as
// tls.Certificate.PrivateKey for one handshake: CertificateRequestInfo.Context returns that
// handshake's context.
func (k *Key) WithContext(ctx context.Context) crypto.Signer { return contextSigner{k, ctx} }

type contextSigner struct {
	key *Key
	ctx context.Context
}

func (s contextSigner) Public() crypto.PublicKey { return s.key.Public() }

// SchemesFor is [Key.SchemesFor].
func (s contextSigner) SchemesFor(server []tls.SignatureScheme) []tls.SignatureScheme {
	return s.key.SchemesFor(s.ctx, server)
}

func (s contextSigner) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return s.key.SignContext(s.ctx, digest, opts)
}
