package signer

import (
	"context"
	"crypto"
	"crypto/rsa"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyagent/keyagent/tpm"
)

// signTimeout bounds a signature that is made without a context. A TLS server waits about as long for a handshake.
const signTimeout = 30 * time.Second

var (
	// ErrFault is in the error for a signature of the TPM that does not verify. It was not given out.
	ErrFault = errors.New("the TPM made a wrong signature")

	// ErrUnsupported is in the error for a signature that the key cannot make. It is final.
	ErrUnsupported = errors.New("signature not supported by the TPM key")
)

// Config says where the key is.
type Config struct {
	TPM     *tpm.TPM
	KeyFile string // path; the directory must exist
	Logger  *slog.Logger
}

// Info describes a key for status and logs.
type Info struct {
	Algorithm     string   // "RSA-2048"
	Attributes    []string // as the TPM reports them, in the TCG's spelling
	Name          string   // the TPM's Name of the key, hexadecimal
	Created       bool     // by this Open, not loaded from an older file
	PSSSaltLength int      // bytes, measured with SHA-256; 32 is right; -1: the TPM cannot sign with PSS
	KeyFile       string   // path
}

// Key is an RSA key in a TPM. It is a crypto.Signer and safe for concurrent use; the TPM makes one signature at a time.
type Key struct {
	key     *tpm.Key
	public  *rsa.PublicKey
	info    Info
	offered offer

	lifetime context.Context // of signatures without a context; ends with Close
	end      context.CancelFunc
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
	k, err := test(ctx, cfg, loaded)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("TPM key %q: %w", cfg.KeyFile, err), loaded.Close())
	}
	k.info.Created = created
	k.lifetime, k.end = context.WithCancel(context.WithoutCancel(ctx))
	return k, nil
}

// test finds out what a loaded key can do.
func test(ctx context.Context, cfg Config, loaded *tpm.Key) (*Key, error) {
	public, ok := loaded.PublicKey().(*rsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("it is a %T, only RSA keys are supported", loaded.PublicKey())
	}
	properties, err := cfg.TPM.Properties(ctx)
	if err != nil {
		return nil, err
	}
	k := &Key{key: loaded, public: public}
	if k.offered, err = k.selfTest(ctx, properties.Hashes); err != nil {
		return nil, fmt.Errorf("self-test: %w", err)
	}
	k.info = Info{
		Algorithm:     fmt.Sprintf("RSA-%d", public.N.BitLen()),
		Attributes:    tpm.AttributeNames(loaded.Public().ObjectAttributes),
		Name:          hex.EncodeToString(loaded.Name()),
		PSSSaltLength: k.offered.salt(crypto.SHA256),
		KeyFile:       cfg.KeyFile,
	}
	if len(k.offered.pss) == 0 {
		cfg.Logger.Warn("TPM key cannot be used for PSS: TLS 1.3 is out of reach, TLS 1.2 uses PKCS #1 v1.5",
			"key_file", cfg.KeyFile, "pss_salt_length", k.info.PSSSaltLength, "needed", crypto.SHA256.Size())
	}
	return k, nil
}

// Public returns the public key, an *rsa.PublicKey.
func (k *Key) Public() crypto.PublicKey { return k.public }

// TPMKey returns the key as the TPM has it, for attestation.
func (k *Key) TPMKey() *tpm.Key { return k.key }

// Info describes the key.
func (k *Key) Info() Info {
	info := k.info
	info.Attributes = append([]string(nil), info.Attributes...)
	return info
}

// Close flushes the key from the TPM. Signing is over then. Further calls do nothing.
func (k *Key) Close() error {
	k.end()
	return k.key.Close()
}

// Sign signs a digest. Opts choose the hash and the padding: PSS with *rsa.PSSOptions, else PKCS #1 v1.5. The salt of PSS is as
// long as the hash; PSSSaltLengthAuto is taken to mean that. The first argument is not used, randomness is the TPM's.
//
// It waits for the TPM, 30 seconds at most. Where a context is at hand, use [Key.WithContext].
func (k *Key) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	ctx, cancel := context.WithTimeout(k.lifetime, signTimeout)
	defer cancel()
	return k.SignContext(ctx, digest, opts)
}

// SignContext is Sign, bounded by a context instead. A signature that the TPM has begun is finished there all the same.
func (k *Key) SignContext(ctx context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if opts == nil {
		return nil, fmt.Errorf("%w: without a hash", ErrUnsupported)
	}
	hash := opts.HashFunc()
	pss, ok := opts.(*rsa.PSSOptions)
	if err := k.offered.check(hash, ok); err != nil {
		return nil, err
	}
	if ok {
		if err := checkSaltOption(pss.SaltLength, hash); err != nil {
			return nil, err
		}
	}
	return k.sign(ctx, hash, ok, digest)
}

// checkSaltOption accepts what means "as long as the hash".
func checkSaltOption(length int, h crypto.Hash) error {
	switch length {
	case rsa.PSSSaltLengthEqualsHash, rsa.PSSSaltLengthAuto, h.Size():
		return nil
	}
	return fmt.Errorf("%w: PSS with a salt of %d bytes, only the hash's length is possible", ErrUnsupported, length)
}

// sign lets the TPM sign and verifies what it made.
func (k *Key) sign(ctx context.Context, hash crypto.Hash, pss bool, digest []byte) ([]byte, error) {
	scheme := tpm2.TPMAlgRSASSA
	if pss {
		scheme = tpm2.TPMAlgRSAPSS
	}
	signature, err := k.key.Sign(ctx, scheme, hash, digest)
	if err != nil {
		return nil, err
	}
	if pss {
		err = rsa.VerifyPSS(k.public, hash, digest, signature, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
	} else {
		err = rsa.VerifyPKCS1v15(k.public, hash, digest, signature)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFault, err)
	}
	return signature, nil
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
