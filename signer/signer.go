package signer

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyagent/keyagent/tpm"
)

// A signature that is made without a context has at least signTimeout, about what a TLS server waits for a handshake, and at
// most signTimeoutSpan more.
const (
	signTimeout     = 30 * time.Second
	signTimeoutSpan = 15 * time.Second
)

var (
	// ErrFault is in the error for a signature of the TPM that does not verify. It was not given out.
	ErrFault = errors.New("the TPM made a wrong signature")

	// ErrUnsupported is in the error for a signature that the key cannot make. It is final.
	ErrUnsupported = errors.New("signature not supported by the TPM key")
)

// Strength says where a private key is. It is found out, never configured.
type Strength string

// The strengths of a key by itself, the stronger first. That a key was also attested is a fact of whoever verified the
// evidence.
const (
	StrengthTPM      Strength = "tpm"      // in a TPM that does not let it out
	StrengthSoftware Strength = "software" // in this process' memory and in a file
)

// Config says where the key is, and what to make if it is not there.
type Config struct {
	TPM     *tpm.TPM
	KeyFile string // path; the directory must exist
	Logger  *slog.Logger

	// Options are those of a key that has to be made. Its AuthValue is needed for one that is there, too.
	Options tpm.KeyOptions
	// MustExist makes a missing key file an error, in place of a new key.
	MustExist bool
	// AnyAttributes takes a key that is bound to the TPM and may do more than sign, as other programs make them. It is
	// reported in [Info.Deviations].
	AnyAttributes bool
	// Persistent is a handle where the key may be besides its file; 0: nowhere.
	Persistent tpm2.TPMHandle
	// PCRValues are the values that the key was bound to, if they are known.
	PCRValues tpm.PCRValues
	// Created says that the caller has made the key just now, for [Info.Created].
	Created bool
	// ParentName is the Name of the storage key that the key is under, if it is known.
	ParentName []byte
}

// Info describes a key for status and logs.
type Info struct {
	Algorithm     string   // "RSA-2048", "ECDSA-P256"
	Strength      Strength // where the private key is
	Attributes    []string // as the TPM reports them, in the TCG's spelling
	Deviations    []string // sentences about what is worse than in a key made here; none as a rule
	Name          string   // the TPM's Name of the key, hexadecimal; empty for a software key
	Created       bool     // by this Open, not loaded from an older file
	PSSSaltLength int      // bytes, measured with SHA-256; 32 is right; -1: no PSS with this key
	KeyFile       string   // path
}

// Key is a key in a TPM. It is a crypto.Signer and safe for concurrent use; the TPM makes one signature at a time.
type Key struct {
	key     *tpm.Key
	on      *tpm.TPM // that the key is in
	public  crypto.PublicKey
	info    Info
	offered offer

	lifetime context.Context // of signatures without a context; ends with Close
	end      context.CancelFunc

	mu       sync.Mutex
	patience context.Context // under mu: ends with its deadline, or with lifetime
	expire   context.CancelFunc
}

var _ crypto.Signer = (*Key)(nil)

// Open loads the key of a key file, or creates both, and tests it. The context bounds the opening only. Close the key before
// the TPM.
func Open(ctx context.Context, cfg Config) (*Key, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
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

// OpenFile is Open for the content of a key file, wherever that came from. KeyFile is only what messages call it.
func OpenFile(ctx context.Context, cfg Config, file *tpm.KeyFile) (*Key, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	loaded, err := loadKeyFile(ctx, cfg, file)
	if err != nil {
		return nil, err
	}
	return start(ctx, cfg, loaded)
}

// start tests a loaded key and begins its life here.
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
	properties, err := cfg.TPM.Properties(ctx)
	if err != nil {
		return nil, err
	}
	k := &Key{key: loaded, on: cfg.TPM, public: loaded.PublicKey()}
	if k.offered, err = k.selfTest(ctx, properties.Hashes); err != nil {
		return nil, fmt.Errorf("self-test: %w", err)
	}
	k.info = Info{
		Algorithm:     algorithmName(k.public),
		Strength:      StrengthTPM, // LoadKey takes no other
		Attributes:    tpm.AttributeNames(loaded.Public().ObjectAttributes),
		Deviations:    loaded.Deviations(),
		Name:          hex.EncodeToString(loaded.Name()),
		PSSSaltLength: k.offered.salt(crypto.SHA256),
		KeyFile:       cfg.KeyFile,
	}
	if _, rsaKey := k.public.(*rsa.PublicKey); rsaKey && len(k.offered.hashes[pss]) == 0 {
		cfg.Logger.Warn("TPM key cannot be used for PSS: TLS 1.3 is out of reach, TLS 1.2 uses PKCS #1 v1.5",
			"key_file", cfg.KeyFile, "pss_salt_length", k.info.PSSSaltLength, "needed", crypto.SHA256.Size())
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

// TPMKey returns the key as the TPM has it, for attestation, and for who demands attributes of it.
func (k *Key) TPMKey() *tpm.Key { return k.key }

// TPM returns the TPM that the key is in.
func (k *Key) TPM() *tpm.TPM { return k.on }

// Info describes the key.
func (k *Key) Info() Info {
	info := k.info
	info.Attributes = append([]string(nil), info.Attributes...)
	info.Deviations = append([]string(nil), info.Deviations...)
	return info
}

// Close gives the key up: it is flushed from the TPM as soon as nobody else uses that. Signatures
// that wait end at once. Further calls do nothing.
func (k *Key) Close() error {
	k.end()
	k.mu.Lock()
	expire := k.expire
	k.mu.Unlock()
	if expire != nil {
		expire()
	}
	return k.key.Close()
}

// Sign signs a digest. Opts choose the hash and, for an RSA key, the padding: PSS with *rsa.PSSOptions, else PKCS #1 v1.5. The
// salt of PSS is as long as the hash; PSSSaltLengthAuto is taken to mean that. An ECDSA signature is an ECDSA-Sig-Value
// (RFC 3279, 2.2.3). The first argument is not used, randomness is the TPM's.
//
// It waits for the TPM, 30 to 45 seconds at most. Where a context is at hand, use [Key.WithContext].
func (k *Key) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return k.SignContext(k.limited(), digest, opts)
}

// limited returns a context with time enough for one signature. It is shared by those of 15 seconds: a timer for each would
// cost a hundredth of the fastest TPM's time.
func (k *Key) limited() context.Context {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.patience != nil {
		if deadline, _ := k.patience.Deadline(); time.Until(deadline) >= signTimeout {
			return k.patience
		}
	}
	// The one before ends by itself: who has it has time left.
	k.patience, k.expire = context.WithTimeout(k.lifetime, signTimeout+signTimeoutSpan)
	return k.patience
}

// SignContext is Sign, bounded by a context instead. A signature that the TPM has begun is finished there all the same.
func (k *Key) SignContext(ctx context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if opts == nil {
		return nil, fmt.Errorf("%w: without a hash", ErrUnsupported)
	}
	hash := opts.HashFunc()
	f, err := k.formFor(opts)
	if err == nil {
		err = k.offered.check(hash, f)
	}
	if err != nil {
		return nil, err
	}
	return k.sign(ctx, hash, f, digest)
}

// formFor reads the form out of the options, as Go's own keys do.
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

// checkSaltOption accepts what means "as long as the hash".
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

// sign lets the TPM sign and verifies what it made.
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
	return fmt.Errorf("a %T cannot be verified with", public)
}

// WithContext returns a view of the key that signs within ctx. It serves as tls.Certificate.PrivateKey for one handshake:
// CertificateRequestInfo.Context has that handshake's context.
func (k *Key) WithContext(ctx context.Context) crypto.Signer { return contextSigner{k, ctx} }

type contextSigner struct {
	key *Key
	ctx context.Context
}

func (s contextSigner) Public() crypto.PublicKey { return s.key.Public() }

func (s contextSigner) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return s.key.SignContext(s.ctx, digest, opts)
}
