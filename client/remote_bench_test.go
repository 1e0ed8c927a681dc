package client_test

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/internal/statefile"
	"github.com/keyagent/keyagent/signer"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

// BenchmarkRemoteSignature compares a signature that a program has made over the socket (the
// message is looked at, the rules are asked, a record is written) with one that the agent makes for
// itself. The key is in a TPM behind 20 ms. The two take turns; what is reported are medians.
func BenchmarkRemoteSignature(b *testing.B) {
	key := slowKey(b, 20*time.Millisecond)
	w := newBoundWorld(b)
	leaf := w.issue("vm", key.Public(), func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} })
	w.pair.Chain, w.pair.Thumbprint, w.pair.Signer = [][]byte{leaf.Raw}, acquire.Thumbprint(leaf), key.WithContext
	agent := newClient(b, w.socket)
	binding, err := agent.Binding(b.Context(), "vm")
	if err != nil {
		b.Fatal(err)
	}
	message := []byte(strings.Repeat(" ", 64) + "TLS 1.3, client CertificateVerify\x00" + strings.Repeat("h", 32))
	pss := &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256}
	remote, local := binding.Signer(b.Context()), key.WithContext(b.Context())
	var ours, reference []time.Duration
	timed := func(sign func() ([]byte, error)) time.Duration {
		began := time.Now()
		if _, err := sign(); err != nil {
			b.Fatal(err)
		}
		return time.Since(began)
	}
	for b.Loop() {
		ours = append(ours, timed(func() ([]byte, error) { return remote.SignMessage(nil, message, pss) }))
		reference = append(reference, timed(func() ([]byte, error) {
			digest := sha256.Sum256(message)
			return local.Sign(nil, digest[:], pss)
		}))
	}
	slices.Sort(ours)
	slices.Sort(reference)
	median := len(ours) / 2
	b.ReportMetric(float64(ours[median]), "ours-ns")
	b.ReportMetric(float64(reference[median]), "reference-ns")
	b.ReportMetric(float64(ours[median])/float64(reference[median]), "ratio")
}

// slowKey is a key in a TPM that takes longer for each signature.
func slowKey(b *testing.B, delay time.Duration) *signer.Key {
	b.Helper()
	proxy := tpmtest.NewProxy(b, tpmtest.Swtpm(b).Device())
	proxy.Handle(func(command []byte, forward tpmtest.Forward) ([]byte, error) {
		if tpm2.TPMCC(tpmtest.CommandCode(command)) == tpm2.TPMCCSign {
			<-time.After(delay) // as a slower TPM would take
		}
		return forward(command)
	})
	dir := filepath.Join(b.TempDir(), "state")
	if err := statefile.EnsureDir(dir); err != nil {
		b.Fatal(err)
	}
	key, err := signer.Open(b.Context(), signer.Config{TPM: tpmtest.Connect(b, proxy.Device()), KeyFile: filepath.Join(dir, "key.pem")})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = key.Close() })
	return key
}
