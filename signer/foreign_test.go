package signer_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/internal/secret"
	"github.com/keyagent/keyagent/internal/tooltest"
	"github.com/keyagent/keyagent/signer"
	"github.com/keyagent/keyagent/signer/internal/signertest"
	"github.com/keyagent/keyagent/tpm"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

// This file adopts keys that other programs made.

// maker makes a key and writes its file, key.pem.
type maker func(t *testing.T, w *tpmtest.Tools)

// genpkey has OpenSSL's tpm2 provider make a key.
func genpkey(algorithm string, options ...string) maker {
	return func(t *testing.T, w *tpmtest.Tools) {
		args := []string{"genpkey", "-provider", "tpm2", "-provider", "default", "-algorithm", algorithm, "-out", "key.pem"}
		for _, o := range options {
			args = append(args, "-pkeyopt", o)
		}
		w.Run(t, tooltest.OpenSSLProvider(t, "tpm2"), args...)
	}
}

// tpm2create has tpm2-tools make a key, and encode its file with or without -p, which is to say
// that it has a password.
func tpm2create(algorithm string, encode []string, options ...string) maker {
	return func(t *testing.T, w *tpmtest.Tools) {
		for _, tool := range []string{"tpm2_createprimary", "tpm2_create", "tpm2_encodeobject"} {
			tooltest.Tool(t, tool)
		}
		w.CreateRoot(t)
		w.Run(t, "tpm2_create", slices.Concat([]string{"-Q", "-C", "root.ctx", "-G", algorithm, "-u", "key.pub", "-r", "key.priv"}, options)...)
		w.Run(t, "tpm2_encodeobject", slices.Concat([]string{"-C", "root.ctx", "-u", "key.pub", "-r", "key.priv", "-o", "key.pem"}, encode)...)
	}
}

func TestAKeyThatAnotherProgramMadeIsAdoptedOnRequest(t *testing.T) {
	t.Parallel()
	const password = "opensesame"
	withPassword := []string{"-p", password}
	signOnly := []string{"-a", "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|sign"}
	decrypts, locks, fixed := "decrypt is set", "noDA is clear", "signature scheme is fixed"
	for _, tt := range []struct {
		name       string
		machine    func(testing.TB) tpmtest.Machine
		make       maker
		password   bool
		algorithm  string
		deviations []string
	}{
		{"openssl genpkey, RSA", tpmtest.BareMachine, genpkey("RSA", "bits:2048"), false, "RSA-2048", []string{decrypts, locks}},
		{"openssl genpkey, P-256", tpmtest.BareMachine, genpkey("EC", "group:P-256"), false, "ECDSA-P256", []string{decrypts, locks}},
		{"openssl genpkey, P-384", tpmtest.BareMachine, genpkey("EC", "group:P-384"), false, "ECDSA-P384", []string{decrypts, locks}},
		{"openssl genpkey, RSA with a password", tpmtest.BareMachine, genpkey("RSA", "bits:2048", "user-auth:"+password), true, "RSA-2048", []string{decrypts, locks}},
		{"tpm2_create, RSA", tpmtest.BareMachine, tpm2create("rsa", nil), false, "RSA-2048", []string{decrypts, locks}},
		{"tpm2_create, P-256", tpmtest.BareMachine, tpm2create("ecc", nil), false, "ECDSA-P256", []string{decrypts, locks}},
		{"tpm2_create, RSA with a password", tpmtest.BareMachine, tpm2create("rsa", nil, withPassword...), true, "RSA-2048", []string{decrypts, locks}},
		{"tpm2_create, P-256 with a password", tpmtest.BareMachine, tpm2create("ecc", nil, withPassword...), true, "ECDSA-P256", []string{decrypts, locks}},
		{"tpm2_create, RSA with a password, encoded with -p", tpmtest.BareMachine, tpm2create("rsa", []string{"-p"}, withPassword...), true, "RSA-2048", []string{decrypts, locks}},
		{"openssl genpkey, RSA, in swtpm", tpmtest.SwtpmMachine, genpkey("RSA", "bits:2048"), false, "RSA-2048", []string{decrypts, locks}},
		{"tpm2_create, P-256, in swtpm", tpmtest.SwtpmMachine, tpm2create("ecc", nil), false, "ECDSA-P256", []string{decrypts, locks}},
		{"tpm2_create, RSA of one scheme", tpmtest.BareMachine, tpm2create("rsa2048:rsassa-sha256:null", nil, signOnly...), false, "RSA-2048", []string{fixed}},
		{"tpm2_create, P-256 of one scheme", tpmtest.BareMachine, tpm2create("ecc256:ecdsa-sha256:null", nil, signOnly...), false, "ECDSA-P256", []string{fixed}},
		{"tpm2_create, P-384 as ours", tpmtest.BareMachine, tpm2create("ecc384", nil, signOnly...), false, "ECDSA-P384", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			machine := tt.machine(t)
			w := tpmtest.NewTools(t, machine)
			tt.make(t, w)
			path := signertest.KeyPath(t)
			if err := os.WriteFile(path, w.Read(t, "key.pem"), 0o600); err != nil {
				t.Fatal(err)
			}
			cfg := signer.Config{TPM: tpmtest.Connect(t, machine.Device()), KeyFile: path, MustExist: true}
			if tt.password {
				refusesWithoutPassword(t, cfg)
				cfg.Options.AuthValue = secret.New(password)
			}
			checkReported(t, cfg, tt.deviations)

			cfg.AnyAttributes = true
			key, err := signer.Open(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			defer key.Close()
			info := key.Info()
			if info.Algorithm != tt.algorithm || info.Strength != signer.StrengthTPM || info.Created || !each(info.Deviations, tt.deviations) {
				t.Errorf("%+v", info)
			}
			checkByOpenSSL(t, key)
		})
	}
}

// each reports whether there are as many sentences as words, and each has its word.
func each(sentences, words []string) bool {
	return slices.EqualFunc(sentences, words, strings.Contains)
}

func refusesWithoutPassword(t *testing.T, cfg signer.Config) {
	t.Helper()
	cfg.AnyAttributes = true
	key, err := signer.Open(t.Context(), cfg)
	if err == nil {
		t.Fatal(key.Close())
	}
	if !errors.Is(err, tpm.ErrAuthValue) {
		t.Errorf("without the password: %v", err)
	}
}

// checkReported loads the key: what is worse than in a key made here is reported, and refused
// unless AnyAttributes is set.
func checkReported(t *testing.T, cfg signer.Config, deviations []string) {
	t.Helper()
	file, err := tpm.DecodeKeyFile(contents(t, cfg.KeyFile))
	if err != nil {
		t.Fatal(err)
	}
	loaded, err := cfg.TPM.LoadKey(t.Context(), file, tpm.LoadOptions{AuthValue: cfg.Options.AuthValue})
	if err != nil {
		t.Fatal(err)
	}
	if got := loaded.Deviations(); !each(got, deviations) {
		t.Errorf("reported %q", got)
	}
	if err := loaded.Close(); err != nil {
		t.Error(err)
	}
	key, err := signer.Open(t.Context(), cfg)
	if err == nil {
		err = key.Close()
	}
	if errors.Is(err, tpm.ErrAttributes) != (deviations != nil) || err != nil && deviations == nil {
		t.Errorf("opened without a request: %v", err)
	}
}

// checkByOpenSSL has the key sign, and OpenSSL verify it with the public key alone.
func checkByOpenSSL(t *testing.T, key *signer.Key) {
	t.Helper()
	hash, flag := crypto.SHA256, "-sha256"
	if public, isECDSA := key.Public().(*ecdsa.PublicKey); isECDSA && public.Params().BitSize == 384 {
		hash, flag = crypto.SHA384, "-sha384"
	}
	signature, err := key.Sign(nil, signertest.Digest(hash, "message"), hash)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	message := signertest.WriteFile(t, "message", []byte("message"))
	verify := func(signature []byte) error {
		return exec.CommandContext(t.Context(), tooltest.Tool(t, "openssl"), "dgst", flag, "-verify", signertest.WriteFile(t, "public.pem", signertest.PEM("PUBLIC KEY", der)), // #nosec G204 -- it checks our work
			"-signature", signertest.WriteFile(t, "signature", signature), message).Run()
	}
	if err := verify(signature); err != nil {
		t.Errorf("openssl dgst -verify: %v", err)
	}
	signature[len(signature)-1] ^= 1
	if verify(signature) == nil {
		t.Error("openssl verifies anything")
	}
}
