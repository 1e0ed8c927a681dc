package signer_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/keyagent/keyagent/signer"
	"github.com/keyagent/keyagent/signer/internal/signertest"
	"github.com/keyagent/keyagent/tpm"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

func TestSign(t *testing.T) {
	t.Parallel()
	k := signertest.Open(t, tpmtest.Open(t), signertest.KeyPath(t))
	public := k.Public().(*rsa.PublicKey)
	verifyPSS := func(h crypto.Hash, d, sig []byte) error {
		return rsa.VerifyPSS(public, h, d, sig, &rsa.PSSOptions{SaltLength: h.Size()})
	}
	verifyPKCS1 := func(h crypto.Hash, d, sig []byte) error { return rsa.VerifyPKCS1v15(public, h, d, sig) }
	for _, h := range []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512} {
		for _, tt := range []struct {
			name   string
			opts   crypto.SignerOpts
			verify func(h crypto.Hash, d, sig []byte) error
		}{
			{"PKCS #1 v1.5", h, verifyPKCS1},
			{"PSS with salt as long as the hash, as crypto/tls asks", &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: h}, verifyPSS},
			{"PSS with any salt", &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthAuto, Hash: h}, verifyPSS},
			{"PSS with the length written out", &rsa.PSSOptions{SaltLength: h.Size(), Hash: h}, verifyPSS},
		} {
			t.Run(h.String()+"/"+tt.name, func(t *testing.T) {
				d := signertest.Digest(h, "message")
				for name, s := range map[string]crypto.Signer{"key": k, "view": k.WithContext(t.Context())} {
					sig, err := s.Sign(nil, d, tt.opts)
					if err != nil {
						t.Fatalf("%s: %v", name, err)
					}
					if err := tt.verify(h, d, sig); err != nil {
						t.Errorf("%s: %v", name, err)
					}
				}
			})
		}
	}
}

func TestSignRefuses(t *testing.T) {
	t.Parallel()
	k := signertest.Open(t, tpmtest.Open(t), signertest.KeyPath(t))
	for _, tt := range []struct {
		name string
		opts crypto.SignerOpts
	}{
		{"no options", nil},
		{"data that was not hashed", crypto.Hash(0)},
		{"SHA-1", crypto.SHA1},
		{"MD5 and SHA-1 of old TLS", crypto.MD5SHA1},
		{"PSS with SHA-1", &rsa.PSSOptions{Hash: crypto.SHA1, SaltLength: rsa.PSSSaltLengthEqualsHash}},
		{"PSS without a hash", &rsa.PSSOptions{SaltLength: 32}},
		{"PSS with a longer salt", &rsa.PSSOptions{Hash: crypto.SHA256, SaltLength: 222}},
		{"PSS with a shorter salt", &rsa.PSSOptions{Hash: crypto.SHA256, SaltLength: 20}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := k.Sign(nil, make([]byte, 32), tt.opts)
			if !errors.Is(err, signer.ErrUnsupported) {
				t.Errorf("got %v", err)
			}
		})
	}
	if _, err := k.Sign(nil, make([]byte, 31), crypto.SHA256); err == nil {
		t.Error("a digest of 31 bytes was signed")
	}
}

func TestInfo(t *testing.T) {
	t.Parallel()
	on, path := tpmtest.Open(t), signertest.KeyPath(t)
	k := signertest.Open(t, on, path)
	got := k.Info()
	want := []string{"fixedTPM", "fixedParent", "sensitiveDataOrigin", "userWithAuth", "noDA", "sign"}
	if got.Algorithm != "RSA-2048" || !slices.Equal(got.Attributes, want) || got.PSSSaltLength != 32 || !got.Created ||
		got.KeyFile != path || got.Name != hex.EncodeToString(k.TPMKey().Name()) {
		t.Errorf("%+v", got)
	}
	schemes := []tls.SignatureScheme{tls.PSSWithSHA256, tls.PSSWithSHA384, tls.PSSWithSHA512, tls.PKCS1WithSHA256, tls.PKCS1WithSHA384, tls.PKCS1WithSHA512}
	if got := k.SignatureSchemes(t.Context()); !slices.Equal(got, schemes) {
		t.Errorf("%v", got)
	}
	if again := signertest.Open(t, on, path).Info(); again.Created || again.Name != got.Name {
		t.Errorf("opened again: %+v", again)
	}
}

func TestSigningEndsWithItsContext(t *testing.T) {
	t.Parallel()
	k := signertest.Open(t, tpmtest.Open(t), signertest.KeyPath(t))
	ctx, cancel := context.WithCancel(t.Context())
	view := k.WithContext(ctx)
	if _, err := view.Sign(nil, make([]byte, 32), crypto.SHA256); err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := view.Sign(nil, make([]byte, 32), crypto.SHA256); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Sign(nil, make([]byte, 32), crypto.SHA256); err == nil {
		t.Error("a closed key signed")
	}
}

// Another user has the TPM for as long as they like. Close does not wait for them, and a signature
// waits no longer than its context, or than the key is open.
func TestCloseEndsSignaturesThatWait(t *testing.T) {
	on := tpmtest.Open(t)
	sign := func(k *signer.Key) error {
		_, err := k.Sign(nil, signertest.Digest(crypto.SHA256, "message"), crypto.SHA256)
		return err
	}
	for name, check := range map[string]func(t *testing.T, k *signer.Key){
		"closing": func(t *testing.T, k *signer.Key) {
			for range 2 {
				soon(t, "Close", k.Close)
			}
		},
		"signing while it is closed": func(t *testing.T, k *signer.Key) {
			go k.Close()
			for range 3 {
				if err := soon(t, "Sign", func() error { return sign(k) }); !errors.Is(err, context.Canceled) && !errors.Is(err, tpm.ErrClosed) {
					t.Errorf("got %v", err)
				}
			}
		},
		"a signature that waits when it is closed": func(t *testing.T, k *signer.Key) {
			signing := make(chan error, 1)
			go func() { signing <- sign(k) }()
			soon(t, "Close", k.Close)
			if err := soon(t, "Sign", func() error { return <-signing }); !errors.Is(err, context.Canceled) && !errors.Is(err, tpm.ErrClosed) {
				t.Errorf("got %v", err)
			}
		},
		"signing with a context that has ended": func(t *testing.T, k *signer.Key) {
			go k.Close()
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			err := soon(t, "Sign", func() error {
				_, err := k.SignContext(ctx, signertest.Digest(crypto.SHA256, "message"), crypto.SHA256)
				return err
			})
			if !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			k := signertest.Open(t, on, signertest.KeyPath(t))
			held, release, done := make(chan struct{}), make(chan struct{}), make(chan struct{})
			go func() {
				defer close(done)
				_ = on.Do(t.Context(), func(transport.TPM) error { close(held); <-release; return nil })
			}()
			<-held
			defer func() { close(release); <-done }()
			check(t, k)
		})
	}
	err := on.Do(t.Context(), func(c transport.TPM) error {
		rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: uint32(tpm2.TPMHTTransient) << 24, PropertyCount: 8}.Execute(c)
		if err != nil {
			return err
		}
		list, err := rsp.CapabilityData.Data.Handles()
		if err == nil && len(list.Handle) != 0 {
			t.Errorf("%x stayed loaded", list.Handle)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// soon runs what should not wait.
func soon(t *testing.T, what string, f func() error) error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		return err
	case <-time.After(20 * time.Second):
		t.Fatalf("%s waits for the TPM", what)
		return nil
	}
}

func TestManySignAtOnce(t *testing.T) {
	t.Parallel()
	k := signertest.Open(t, tpmtest.Open(t), signertest.KeyPath(t))
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			if _, err := k.Sign(nil, make([]byte, 32), crypto.SHA256); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// A fault in the TPM must not make a wrong signature leave. In plain sessions, what changes a
// signature on its way looks the same.
func TestAWrongSignatureDoesNotLeave(t *testing.T) {
	t.Parallel()
	proxy := tpmtest.NewProxy(t, tpmtest.Simulator(t).Device())
	k := signertest.Open(t, tpmtest.ConnectWith(t, tpm.Config{Device: proxy.Device(), PlainSessions: true}), signertest.KeyPath(t))
	d := signertest.Digest(crypto.SHA256, "ours")
	for _, tt := range []struct {
		name  string
		treat func(command []byte, forward tpmtest.Forward) ([]byte, error)
	}{
		{"one bit of the response", func(command []byte, forward tpmtest.Forward) ([]byte, error) {
			rsp, err := forward(command)
			rsp[100] ^= 1
			return rsp, err
		}},
		{"the digest in the command", func(command []byte, forward tpmtest.Forward) ([]byte, error) {
			changed := bytes.Replace(command, d, signertest.Digest(crypto.SHA256, "theirs"), 1)
			return forward(changed)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			proxy.Handle(func(command []byte, forward tpmtest.Forward) ([]byte, error) {
				if tpm2.TPMCC(tpmtest.CommandCode(command)) == tpm2.TPMCCSign {
					return tt.treat(command, forward)
				}
				return forward(command)
			})
			for _, opts := range []crypto.SignerOpts{crypto.SHA256, &rsa.PSSOptions{Hash: crypto.SHA256, SaltLength: rsa.PSSSaltLengthEqualsHash}} {
				sig, err := k.Sign(nil, d, opts)
				if sig != nil || !errors.Is(err, signer.ErrFault) {
					t.Errorf("%d bytes, %v", len(sig), err)
				}
			}
		})
	}
}

func TestAKeySurvivesAResetOfTheTPM(t *testing.T) {
	t.Parallel()
	v := tpmtest.Simulator(t)
	k := signertest.Open(t, tpmtest.Connect(t, v.Device()), signertest.KeyPath(t))
	if err := v.Reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Sign(nil, make([]byte, 32), crypto.SHA256); err != nil {
		t.Error(err)
	}
}
