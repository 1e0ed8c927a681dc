package peers_test

import (
	"crypto"
	"net"
	"os"
	"sync/atomic"
	"testing"

	keyfile "github.com/foxboron/go-tpm-keyfiles"
	"github.com/google/go-attestation/attest"
	"github.com/google/go-tpm-tools/client"
	legacy "github.com/google/go-tpm/legacy/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	steptpm "go.step.sm/crypto/tpm"
	"go.step.sm/crypto/tpm/storage"

	"github.com/keyagent/keyagent/bench/peers"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

// A peer opens another project's signer on the machine. It is there until the benchmark ends.
type peer func(tb testing.TB, m machine, s scheme) crypto.Signer

// goTPMTools signs with whatever scheme the key was made for, so each needs a key of its own.
func goTPMTools(tb testing.TB, m machine, s scheme) crypto.Signer {
	tb.Helper()
	key, err := client.NewKey(m.dial(tb), legacy.HandleOwner, goTPMToolsTemplate(s))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(key.Close)
	by, err := key.GetSigner()
	if err != nil {
		tb.Fatal(err)
	}
	return by
}

func goTPMToolsTemplate(s scheme) legacy.Public {
	t := legacy.Public{NameAlg: legacy.AlgSHA256, Attributes: legacy.FlagSignerDefault &^ legacy.FlagRestricted}
	sign := &legacy.SigScheme{Alg: legacy.AlgRSASSA, Hash: legacy.AlgSHA256}
	switch {
	case s.isECDSA():
		sign.Alg = legacy.AlgECDSA
		t.Type, t.ECCParameters = legacy.AlgECC, &legacy.ECCParams{Sign: sign, CurveID: legacy.CurveNISTP256}
		return t
	case s.isPSS():
		sign.Alg = legacy.AlgRSAPSS
	}
	t.Type, t.RSAParameters = legacy.AlgRSA, &legacy.RSAParams{Sign: sign, KeyBits: 2048}
	return t
}

// A channel is how go-attestation and step reach a TPM that is no device. Closing it does nothing:
// step does so after each signature, and opening it again is not what is compared.
type channel struct{ net.Conn }

func (channel) MeasurementLog() ([]byte, error) { return nil, nil }
func (channel) Close() error                    { return nil }

// goAttestation needs an attestation key to make others with. It is flushed then, so that there is
// a slot for our key.
func goAttestation(tb testing.TB, m machine, s scheme) crypto.Signer {
	tb.Helper()
	on, err := attest.OpenTPM(&attest.OpenConfig{CommandChannel: channel{m.dial(tb)}})
	if err != nil {
		tb.Fatal(err)
	}
	ak, err := on.NewAK(nil)
	if err != nil {
		tb.Fatal(err)
	}
	cfg := &attest.KeyConfig{Algorithm: attest.RSA, Size: 2048}
	if s.isECDSA() {
		cfg = &attest.KeyConfig{Algorithm: attest.ECDSA, Size: 256}
	}
	key, err := on.NewKey(ak, cfg)
	if err != nil {
		tb.Fatal(err)
	}
	if err := ak.Close(on); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { mustClose(tb, key) })
	private, err := key.Private(key.Public())
	if err != nil {
		tb.Fatal(err)
	}
	return private.(crypto.Signer)
}

// step makes keys over the device and signs over the channel.
func step(tb testing.TB, m machine, s scheme) crypto.Signer {
	tb.Helper()
	on, err := steptpm.New(steptpm.WithDeviceName(m.socket()), steptpm.WithCommandChannel(channel{m.dial(tb)}),
		steptpm.WithStore(storage.NewDirstore(tb.TempDir())))
	if err != nil {
		tb.Fatal(err)
	}
	cfg := steptpm.CreateKeyConfig{Algorithm: "RSA", Size: 2048}
	if s.isECDSA() {
		cfg = steptpm.CreateKeyConfig{Algorithm: "ECDSA", Size: 256}
	}
	if _, err := on.CreateKey(tb.Context(), "benchmark", cfg); err != nil {
		tb.Fatal(err)
	}
	by, err := on.GetSigner(tb.Context(), "benchmark")
	if err != nil {
		tb.Fatal(err)
	}
	return by
}

// keyfilesKeySigner signs with our key, from our key file.
func keyfilesKeySigner(tb testing.TB, m machine, s scheme) crypto.Signer {
	tb.Helper()
	on := transport.FromReadWriteCloser(m.dial(tb))
	noAuth := func() ([]byte, error) { return nil, nil }
	return keyfile.NewTPMKeySigner(readKeyFile(tb, m.keyFile(s)), noAuth,
		func() transport.TPMCloser { return on },
		func(*keyfile.TPMKey) ([]byte, error) { return nil, nil })
}

// keyfilesHandleSigner signs with our key, loaded once.
func keyfilesHandleSigner(tb testing.TB, m machine, s scheme) crypto.Signer {
	tb.Helper()
	on := transport.FromReadWriteCloser(m.dial(tb))
	file := readKeyFile(tb, m.keyFile(s))
	handle, _, err := keyfile.LoadKey(keyfile.NewTPMSession(on), file, nil)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { keyfile.FlushHandle(on, handle) })
	by := keyfile.NewTPMHandleSignerFromKey(on, file, handle)
	return &by
}

func readKeyFile(tb testing.TB, path string) *keyfile.TPMKey {
	tb.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	file, err := keyfile.Decode(text)
	if err != nil {
		tb.Fatal(err)
	}
	return file
}

// What is compared must be the same thing: a signature that verifies, by each signer and with each
// scheme. How many commands it takes decides on a TPM that is slower than this one.
func TestEverySignerMakesSignaturesThatVerify(t *testing.T) {
	for _, tt := range []struct {
		name     string
		open     peer
		commands int64
	}{
		{"go-tpm-tools", goTPMTools, 1},
		{"go-attestation", goAttestation, 1},
		{"step", step, 4},
		{"go-tpm-keyfiles, key file", keyfilesKeySigner, 7},
		{"go-tpm-keyfiles, loaded key", keyfilesHandleSigner, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := start(t)
			for _, s := range schemes() {
				t.Run(s.name, func(t *testing.T) {
					seen, commands := counted(t, m)
					reference := tt.open(t, seen, s)
					commands.Store(0)
					check(t, reference, s)
					if n := commands.Load(); n != tt.commands {
						t.Errorf("%d commands for a signature, doc.go says %d", n, tt.commands)
					}
					for _, f := range peers.Forms() {
						t.Run(f.Name, func(t *testing.T) { check(t, openOurs(t, m, f, s), s) })
					}
				})
			}
		})
	}
}

// counted puts a counter of commands before a machine.
func counted(t *testing.T, m machine) (machine, *atomic.Int64) {
	t.Helper()
	commands := new(atomic.Int64)
	proxy := tpmtest.NewProxy(t, m.device)
	proxy.Handle(func(command []byte, forward tpmtest.Forward) ([]byte, error) {
		commands.Add(1)
		return forward(command)
	})
	m.device = proxy.Device()
	return m, commands
}
